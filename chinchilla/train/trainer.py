"""Train one RunSpec to the end of its schedule and say what came out.

A run is a pure function of its spec and data: batches follow from (seed, step), the learning rate
from the step, and a resumed run goes through the same bits on a CPU as one that never stopped.
Several ranks (`ranks`) cut each batch into equal parts, in its order, and share the weights
(`sharding`); every decision is the same on all of them.
"""

import gc
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chinchilla.config import RuntimeConfig
from chinchilla.core.errors import InputError
from chinchilla.model import Transformer
from chinchilla.plan.records import Curve, RunResult, RunSpec
from chinchilla.tracking.metrics_writer import Logbook
from chinchilla.train import device as devices
from chinchilla.train import divergence
from chinchilla.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from chinchilla.train.checkpoint_files import LOSSES
from chinchilla.train.dataloader import Feed
from chinchilla.train.distributed import SINGLE, RankGroup
from chinchilla.train.evaluate import evaluation_steps, validation_loss
from chinchilla.train.fsdp import clip_gradients, fill, local, shard_model, sum_over_copies
from chinchilla.train.optim import build_optimizer, set_learning_rate
from chinchilla.train.preflight import claim_folder, open_data, rows_per_rank
from chinchilla.train.schedule import learning_rate
from chinchilla.train.stable_phases import load_stable_phase, save_stable_phase
from chinchilla.train.summary import summarize
from chinchilla.train.train_step import Passes, rows_at_once


def train_run(
    spec: RunSpec,
    run_dir: Path,
    data_dir: Path,
    runtime: RuntimeConfig,
    *,
    attempts: int = 1,
    on_start: Callable[[int], None] | None = None,
    on_progress: Callable[[int, float], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    still_mine: Callable[[], bool] | None = None,
    ranks: RankGroup = SINGLE,
    stable_phases: Path | None = None,
) -> RunResult | None:
    """Train `spec` in the folder `run_dir`, resuming from its checkpoints.

    With several ranks, each calls this with the same spec, run, data_dir, runtime and attempts.
    What any of them answers to `should_stop` and `still_mine` counts for all; rank 0 alone writes,
    but for the shards of checkpoints.

    Args:
        spec: what to train.
        run: the run's folder; receives spec.json, metrics.jsonl, curve.npz, checkpoints/.
        data_dir: folder of `chinchilla data`; its data_id must be the spec's.
        runtime: device and habits; none of it changes a loss.
        attempts: how often this run was started, for the record.
        on_start: called with the tokens of a forward pass, before the first update.
        on_progress: called with (updates done, mean loss since the last call) at log points.
        should_stop: asked before every update; when true, a checkpoint is saved and None returned.
        still_mine: asked before a checkpoint or the curve is written; when false, None is returned.
        ranks: the processes that train this run together.
        stable phases: folder of stable phases to start from and to leave (`train.stable_phases`); None = train alone.

    Returns:
        The result, finished or diverged, not yet saved; None when stopped.

    Raises:
        DataError: the data is not the spec's, or is damaged.
        InputError: the folder or its checkpoint belongs to another spec, data set, tokenizer or
            version.
        OSError: no room for a checkpoint; says how much is needed. Older ones are untouched.
        PeerError: another rank failed or ended. If `ranks.broken`, no run can be trained with them
            any more.
    """
    try:
        return _train(
            _Run(spec, run_dir, data_dir, runtime, ranks, stable_phases),
            attempts,
            on_start or (lambda micro_batch_tokens: None),
            on_progress or (lambda step, loss: None),
            should_stop or (lambda: False),
            still_mine or (lambda: True),
        )
    except Exception as error:
        if (failure := ranks.failure(error)) is error:
            raise
        raise failure from error


def _train(
    run: "_Run",
    attempts: int,
    on_start: Callable[[int], None],
    on_progress: Callable[[int, float], None],
    should_stop: Callable[[], bool],
    still_mine: Callable[[], bool],
) -> RunResult | None:
    spec, ranks = run.spec, run.ranks

    def lost() -> bool:
        return any(ranks.any_rank(not still_mine()))

    gc.collect()
    gc.freeze()  # what is there stays; looking through it again and again would hold up updates
    try:
        on_start(run.micro_rows * spec.model.seq_len)
        while run.step < spec.steps and not run.diverged:
            stop, due = ranks.any_rank(should_stop(), run.checkpoint_due())
            if run.step > run.saved and (stop or due):
                if lost():
                    return None
                run.save()
            if stop:
                return None
            run.save_stable_phase()
            run.update()
            if run.at_log_point():
                on_progress(run.step, run.log())
        if run.step > run.saved and not run.diverged:
            if lost():
                return None
            run.save()
        return None if lost() else run.finish(attempts)
    finally:
        gc.unfreeze()
        devices.free_as_usual(run.device)
        run.feed.close()
        if run.logbook:
            run.logbook.close()


class _Run:
    """The state of a run between two updates."""

    def __init__(
        self,
        spec: RunSpec,
        run_dir: Path,
        data_dir: Path,
        runtime: RuntimeConfig,
        ranks: RankGroup = SINGLE,
        stable_phases: Path | None = None,
    ) -> None:
        self.spec, self.run_dir, self.runtime, self.ranks = spec, run_dir, runtime, ranks
        self.stable_phases = stable_phases if spec.stable_phase else None
        self.started = datetime.now(UTC)
        with ranks.raise_together():
            self.data = open_data(spec, run_dir, data_dir)
            self.rows = rows_per_rank(spec, ranks.world_size)
            self.held_out = self.data.held_out(runtime.validation_tokens, spec.model.seq_len)
            if ranks.rank == 0:
                claim_folder(run_dir, spec)
            self.device = ranks.device or devices.pick_device(runtime.device)
            devices.keep_freed_memory(self.device)
            self.model = self._build_model()
            devices.reset_peak_memory(self.device)
            self.optimizer = build_optimizer(self.model, spec)
        self.tokenizer = self.data.manifest.tokenizer.sha256
        self.micro_rows = rows_at_once(spec, self.rows, runtime, self.device, ranks)
        self.passes = Passes(
            self.model,
            self.micro_rows,
            share=1 / (self.rows * ranks.world_size * spec.model.seq_len),
            # A graph keeps its memory: a smaller last micro-batch would need its own beside it.
            graphs=runtime.cuda_graphs
            and self.device.type == "cuda"
            and ranks.world_size == 1
            and self.rows % self.micro_rows == 0,
            may_fall_back=ranks.world_size == 1,
        )
        self.feed = Feed(self.data, spec, self.rows, self.device, ranks)
        self.evaluate_at = set(
            evaluation_steps(spec.steps, runtime.validation_evals, spec.stable_steps)
        )
        # One rank's share of each loss, until they are summed; on the device until asked for.
        self.losses = torch.zeros(spec.steps, device=self.device)
        self.summed = 0  # updates done whose losses are those of the whole batch
        self.step = 0  # updates done
        self.saved = 0  # updates done at the last checkpoint
        self.logged = 0  # updates done at the last log point
        self.evaluations: list[list[float]] = []  # [updates done, validation loss]
        self.train_seconds = 0.0
        self.stable_steps = 0  # of the updates done, those that another run did
        self.diverged = ""
        self._start_or_resume()
        self.logbook: Logbook | None = None
        with ranks.raise_together():
            if ranks.rank == 0:
                self.logbook = Logbook(run_dir, spec, runtime, self.step)
        self.first_step, self.start_seconds = self.step, self.train_seconds
        self.clock = self.saved_at = time.perf_counter()

    def update(self) -> None:
        """One optimizer step on the batch that belongs to this step."""
        spec, ranks, n = self.spec, self.ranks, self.rows
        tokens = self.feed.batch(self.step)
        if not self.passes.prepared:
            self._lap()
            self.passes.prepare(tokens)
            self._wait()
            self.clock = time.perf_counter()  # compiling is not training time
        set_learning_rate(self.optimizer, learning_rate(spec, self.step))
        for start in range(0, n, self.micro_rows):
            micro = tokens[start : start + self.micro_rows]
            if ranks.shards < ranks.world_size:
                sum_over_copies(self.model, start + self.micro_rows >= n)
            self.losses[self.step] += self.passes.add(micro)
        if spec.grad_clip:
            clip_gradients(self.model.parameters(), spec.grad_clip, ranks)
        self.optimizer.step()
        self.passes.clear()
        self.step += 1
        if self.step in self.evaluate_at:
            self._lap()
            held_out = validation_loss(self.model, self.held_out, self.micro_rows, ranks)
            if np.isfinite(held_out):
                self.evaluations.append([self.step, held_out])
            else:  # this update broke the weights; no later loss can be finite
                self.diverged = f"validation loss is not finite after step {self.step}"
            self.clock = time.perf_counter()  # evaluation is not training time

    def at_log_point(self) -> bool:
        """Whether the losses since the last log point are to be looked at."""
        at_end = self.step == self.spec.steps or bool(self.diverged)
        return at_end or self.step % self.runtime.log_every_steps == 0

    def log(self) -> float:
        """Write one metrics line; notice divergence. Gives the mean loss of the last few steps."""
        self._sum_losses()
        window = self.losses[max(0, self.step - self.runtime.log_every_steps) : self.step]
        loss = float(window.mean())  # waits for the device
        self._lap()
        done = (self.step - self.first_step) * self.spec.batch_tokens
        speed = done / max(1e-9, self.train_seconds - self.start_seconds)
        line: dict[str, Any] = {"step": self.step, "tokens": self.step * self.spec.batch_tokens}
        line |= {"loss": loss if np.isfinite(loss) else None}
        line |= {
            "lr": learning_rate(self.spec, self.step - 1),
            "tokens_per_second": round(speed, 1),
        }
        if self.evaluations and self.evaluations[-1][0] > self.logged:
            line["validation_loss"] = self.evaluations[-1][1]
        if self.logbook:
            self.logbook.write(**line)
        self.logged = self.step
        begin = max(0, self.step - len(window) - divergence.STEPS + 1)
        self.diverged = self.diverged or divergence.reason(
            self.losses[begin : self.step].double().cpu().numpy(),
            begin,
            self.spec.model.vocab_size,
            self.spec.warmup_steps,
        )
        return loss

    def _sum_losses(self) -> None:
        """Make the losses since the last time those of whole batches; all ranks come by here."""
        if self.ranks.world_size > 1:
            new = self.losses[self.summed : self.step]
            new.copy_(self.ranks.reduce_sum(new))
        self.summed = self.step

    def checkpoint_due(self) -> bool:
        """Whether the last checkpoint is old enough."""
        return time.perf_counter() - self.saved_at > 60 * self.runtime.checkpoint_minutes

    def save_stable_phase(self) -> None:
        """Let other horizons go on from here, where this one's cool-down begins."""
        here = self.step == self.spec.stable_steps
        if self.stable_phases and here and self.step > self.stable_steps:
            save_stable_phase(
                self.stable_phases, self.spec, self._state(), self.tokenizer, self.ranks
            )
            self.clock = time.perf_counter()

    def save(self) -> None:
        """Commit a checkpoint of everything that the next update depends on."""
        save_checkpoint(
            self.run_dir / "checkpoints", self.spec, self._state(), self.tokenizer, self.ranks
        )
        self.saved = self.step
        self.clock = self.saved_at = time.perf_counter()

    def _state(self) -> Checkpoint:
        """Everything that the next update depends on; this rank's part."""
        self._lap()
        self._sum_losses()
        state = {
            f"{key}.{name}": local(value).cpu().contiguous()
            for name, p in self.model.named_parameters()
            for key, value in self.optimizer.state[p].items()
            if value.dim() or self.ranks.shard == 0
        }
        if self.ranks.shard == 0:
            state[LOSSES] = self.losses[: self.step].cpu().clone()
        weights = {n: local(p).cpu().contiguous() for n, p in self.model.named_parameters()}
        progress = {"train_seconds": self.train_seconds, "evaluations": self.evaluations}
        if self.stable_steps:
            progress["stable_steps"] = self.stable_steps
        return Checkpoint(self.step, weights, state, progress)

    def finish(self, attempts: int) -> RunResult:
        """Write curve.npz and sum the run up."""
        evals = np.array(self.evaluations, float).reshape(-1, 2)
        losses = self.losses[: self.step].double().cpu().numpy()
        curve = Curve(np.arange(self.step), losses, evals[:, 0], evals[:, 1])
        with self.ranks.raise_together():
            if self.ranks.rank == 0:
                curve.save(self.run_dir)
        return summarize(
            self.spec,
            curve,
            self.diverged,
            data=self.data,
            validation_tokens=len(self.held_out) * self.spec.model.seq_len,
            model=self.model,
            device=self.device,
            ranks=self.ranks,
            train_seconds=self.train_seconds,
            started=self.started,
            attempts=attempts,
            stable_steps=self.stable_steps,
        )

    def _build_model(self) -> Transformer:
        """The model, on its device, its weights not filled yet."""
        settings = (
            self.spec.model,
            devices.DTYPES[self.spec.precision],
            self.runtime.activation_checkpointing,
            self.spec.multipliers,
            devices.compiles(self.runtime.compile_blocks, self.device),
        )
        if self.ranks.world_size == 1:
            return devices.cast_weights(Transformer(*settings), self.spec).to(self.device)
        with torch.device("meta"):
            model = devices.cast_weights(Transformer(*settings), self.spec)
        shard_model(model, self.ranks)
        return model

    def _start_or_resume(self) -> None:
        folder, ranks = self.run_dir / "checkpoints", self.ranks
        found, complaints = load_checkpoint(folder, self.spec, self.tokenizer, ranks)
        if found is None and self.stable_phases:
            folder = self.stable_phases / self.spec.stable_phase_id
            found, more = load_stable_phase(self.stable_phases, self.spec, self.tokenizer, ranks)
            complaints += more
            self.stable_steps = found.step if found else 0
        for line in complaints if ranks.rank == 0 else ():
            print(f"warning: {line}", flush=True)
        if found is None:
            with ranks.raise_together():
                fill(self.model, self.spec.seed, ranks)
            return
        with ranks.raise_together():
            try:
                self._restore(found)
            except (RuntimeError, KeyError) as error:
                why = " ".join(str(error).split())[:200]
                raise InputError(
                    f"checkpoint {folder / f'step-{found.step:08d}'} does not fit its own spec "
                    f"({why}). Delete it and launch again."
                ) from None
        self.step = self.saved = self.summed = found.step
        self.logged = found.step - found.step % self.runtime.log_every_steps
        self.evaluations = found.progress["evaluations"]
        self.train_seconds = found.progress["train_seconds"]
        self.stable_steps = found.progress.get("stable_steps", self.stable_steps)

    def _restore(self, found: Checkpoint) -> None:
        parameters = dict(self.model.named_parameters())
        if more := set(found.weights) - set(parameters):
            raise KeyError(f"unknown weights {sorted(more)}")
        for name, p in parameters.items():
            moments = {key: torch.zeros_like(p) for key in ("exp_avg", "exp_avg_sq")}
            _copy(found.weights[name], p)
            for key, moment in moments.items():
                _copy(found.optimizer[f"{key}.{name}"], moment)
            step = found.optimizer[f"step.{name}"].to(self.device, copy=True)
            self.optimizer.state[p] = {"step": step, **moments}
        self.losses[: found.step] = found.optimizer[LOSSES].to(self.device)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _lap(self) -> None:
        self._wait()  # updates under way are training time
        now = time.perf_counter()
        self.train_seconds += now - self.clock
        self.clock = now


def _copy(rows: torch.Tensor, to: torch.Tensor) -> None:
    if rows.shape != local(to).shape:
        raise KeyError(f"{tuple(rows.shape)} where {tuple(local(to).shape)} belongs")
    local(to).copy_(rows)
