"""Train one RunSpec to the end of its schedule and say what came out.

A run is a pure function of its spec and data: batches follow from (seed, step), the learning rate
from the step, and a resumed run goes through the same bits on a CPU as one that never stopped.
"""

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chinchilla.config import RuntimeConfig
from chinchilla.data.tokens import TokenData
from chinchilla.errors import DataError, InputError
from chinchilla.files import make_dirs, read_json, write_json
from chinchilla.model import Transformer, token_losses
from chinchilla.plan import peak_memory_bytes
from chinchilla.records import Curve, RunResult, RunSpec
from chinchilla.shapes import flops_per_token
from chinchilla.train import device as devices
from chinchilla.train.checkpoint import (
    Checkpoint,
    load_checkpoint,
    recorded_tokenizer,
    save_checkpoint,
)
from chinchilla.train.evaluate import evaluation_steps, held_out_loss
from chinchilla.train.logbook import Logbook
from chinchilla.train.optimizer import build_optimizer
from chinchilla.train.schedule import learning_rate

# The final loss is the mean over this last share of a run. The same share for every run: a fixed
# number of steps would lag further behind the end of short runs and tilt the exponents.
FINAL_SHARE = 0.02
DIVERGED_NATS = 1.0  # above guessing evenly ...
DIVERGED_STEPS = 10  # ... on average over so many steps after the warm-up: the run has diverged


def train_run(
    spec: RunSpec,
    cell: Path,
    data_dir: Path,
    runtime: RuntimeConfig,
    *,
    attempts: int = 1,
    on_start: Callable[[int], None] | None = None,
    on_progress: Callable[[int, float], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    still_mine: Callable[[], bool] | None = None,
) -> RunResult | None:
    """Train `spec` in the folder `cell`, resuming from its checkpoints.

    Args:
        spec: what to train.
        cell: the run's folder; receives spec.json, metrics.jsonl, curve.npz, checkpoints/.
        data_dir: folder of `chinchilla data`; its data_id must be the spec's.
        runtime: device and habits; none of it changes a loss.
        attempts: how often this run was started, for the record.
        on_start: called with the tokens of a forward pass, before the first update.
        on_progress: called with (updates done, mean loss since the last call) at log points.
        should_stop: asked before every update; when true, a checkpoint is saved and None returned.
        still_mine: asked before a checkpoint or the curve is written; when false, None is returned.

    Returns:
        The result, finished or diverged, not yet saved; None when stopped.

    Raises:
        DataError: the data is not the spec's, or is damaged.
        InputError: the folder or its checkpoint belongs to another spec, data set, tokenizer or
            version.
        OSError: no room for a checkpoint; says how much is needed. Older ones are untouched.
    """
    run = _Run(spec, cell, data_dir, runtime)
    try:
        if on_start:
            on_start(run.micro_rows * spec.model.seq_len)
        while run.step < spec.steps and not run.diverged:
            if should_stop and should_stop():
                if run.step > run.saved and (still_mine is None or still_mine()):
                    run.save()
                return None
            run.update()
            if run.at_log_point():
                loss = run.log()
                if on_progress:
                    on_progress(run.step, loss)
            if run.checkpoint_due():
                if still_mine and not still_mine():
                    return None
                run.save()
        if still_mine and not still_mine():
            return None
        return run.finish(attempts)
    finally:
        run.logbook.close()


class _Run:
    """The state of a run between two updates."""

    def __init__(self, spec: RunSpec, cell: Path, data_dir: Path, runtime: RuntimeConfig) -> None:
        self.spec, self.cell, self.runtime = spec, cell, runtime
        self.started = datetime.now(UTC)
        self.data = TokenData.open(data_dir)
        self.tokenizer = self.data.manifest.tokenizer.sha256
        if self.data.data_id != spec.data_id:
            trained_with = recorded_tokenizer(cell / "checkpoints") or self.tokenizer
            also = (
                f" (tokenizer {self.tokenizer[:12]}, not {trained_with[:12]})"
                if trained_with != self.tokenizer
                else ""
            )
            raise DataError(
                f"run {spec.run_id} was planned on data {spec.data_id}, but {data_dir} holds "
                f"{self.data.data_id}{also}. Give the data_dir it was planned on, or plan again."
            )
        if self.data.vocab_size > spec.model.vocab_size:
            raise DataError(
                f"model.vocab_size={spec.model.vocab_size} is below the {self.data.vocab_size} pieces of {data_dir}. "
                "Leave it 0 to take the tokenizer's."
            )
        _claim_folder(cell, spec)
        self.device = devices.pick_device(runtime.device)
        self.model = Transformer(spec.model, devices.DTYPES[spec.precision]).init_weights(spec.seed)
        self.model.to(self.device)
        devices.reset_peak_memory(self.device)
        self.optimizer = build_optimizer(self.model, spec)
        self.rows = spec.batch_tokens // spec.model.seq_len
        self.micro_rows = self._micro_rows()
        self.held_out = self.data.held_out(runtime.held_out_tokens, spec.model.seq_len)
        self.evaluate_at = set(evaluation_steps(spec.steps, runtime.held_out_evals))
        self.losses = torch.zeros(spec.steps, device=self.device)  # stays on the device until asked
        self.step = 0  # updates done
        self.saved = 0  # updates done at the last checkpoint
        self.logged = 0  # updates done at the last log point
        self.evaluations: list[list[float]] = []  # [updates done, held-out loss]
        self.train_seconds = 0.0
        self.diverged = ""
        self._resume()
        self.logbook = Logbook(cell, spec, runtime, self.step)
        self.first_step, self.start_seconds = self.step, self.train_seconds
        self.clock = self.saved_at = time.perf_counter()

    def update(self) -> None:
        """One optimizer step on the batch that belongs to this step."""
        spec, n = self.spec, self.rows
        batch = self.data.batch(spec.seed, self.step, n, spec.model.seq_len)
        tokens = torch.from_numpy(batch.astype(np.int64)).to(self.device, non_blocking=True)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(spec, self.step)
        for start in range(0, n, self.micro_rows):
            micro = tokens[start : start + self.micro_rows]
            share = len(micro) / n
            loss = token_losses(self.model(micro[:, :-1]), micro[:, 1:]).mean() * share
            loss.backward()
            self.losses[self.step] += loss.detach()
        if spec.grad_clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), spec.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.step in self.evaluate_at:
            self._lap()
            held_out = self._held_out_loss()
            if np.isfinite(held_out):
                self.evaluations.append([self.step, held_out])
            else:  # this update broke the weights; no later loss can be finite
                self.diverged = f"held-out loss is not finite after step {self.step}"
            self.clock = time.perf_counter()  # evaluation is not training time

    def at_log_point(self) -> bool:
        """Whether the losses since the last log point are to be looked at."""
        at_end = self.step == self.spec.steps or bool(self.diverged)
        return at_end or self.step % self.runtime.log_every_steps == 0

    def log(self) -> float:
        """Write one metrics line; notice divergence. Gives the mean loss of the last few steps."""
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
            line["held_out_loss"] = self.evaluations[-1][1]
        self.logbook.write(**line)
        self.logged = self.step
        self.diverged = self.diverged or self._divergence(len(window))
        return loss

    def _divergence(self, n_new: int) -> str:
        """Why the last n_new steps mean divergence, or nothing; how often one looks changes nothing."""
        begin = max(0, self.step - n_new - DIVERGED_STEPS + 1)
        losses = self.losses[begin : self.step].double().cpu().numpy()
        bad = np.flatnonzero(~np.isfinite(losses))
        if len(bad):
            return f"loss is not finite at step {begin + bad[0] + 1}"
        if len(losses) < DIVERGED_STEPS:
            return ""
        means = np.convolve(losses, np.full(DIVERGED_STEPS, 1 / DIVERGED_STEPS), "valid")
        last = begin + DIVERGED_STEPS + np.arange(len(means))  # updates done at each mean's end
        even = float(np.log(self.spec.model.vocab_size))
        high = np.flatnonzero(
            (means > even + DIVERGED_NATS) & (last - DIVERGED_STEPS >= self.spec.warmup_steps)
        )
        if not len(high):
            return ""
        return (
            f"loss {means[high[0]]:.2f} over the {DIVERGED_STEPS} steps to step {last[high[0]]} is more than "
            f"{DIVERGED_NATS:g} nat above guessing evenly (ln V = {even:.2f})"
        )

    def checkpoint_due(self) -> bool:
        """Whether the last checkpoint is old enough, or the run has just ended."""
        if self.diverged:
            return False
        age = time.perf_counter() - self.saved_at
        return age > 60 * self.runtime.checkpoint_minutes or self.step == self.spec.steps

    def save(self) -> None:
        """Commit a checkpoint of everything that the next update depends on."""
        self._lap()
        state = {
            f"{key}.{name}": value.detach().cpu().contiguous()
            for name, p in self.model.named_parameters()
            for key, value in self.optimizer.state[p].items()
        }
        state["losses"] = self.losses[: self.step].cpu().clone()
        weights = {name: p.detach().cpu().contiguous() for name, p in self.model.named_parameters()}
        progress = {"train_seconds": self.train_seconds, "evaluations": self.evaluations}
        checkpoint = Checkpoint(self.step, weights, state, progress)
        save_checkpoint(self.cell / "checkpoints", self.spec, checkpoint, self.tokenizer)
        self.saved = self.step
        self.clock = self.saved_at = time.perf_counter()

    def finish(self, attempts: int) -> RunResult:
        """Write curve.npz and sum the run up."""
        spec, done = self.spec, self.step
        losses = self.losses[:done].double().cpu().numpy()
        evals = np.array(self.evaluations, float).reshape(-1, 2)
        curve = Curve(np.arange(done), losses, evals[:, 0], evals[:, 1])
        curve.save(self.cell)
        window = max(1, round(FINAL_SHARE * done))
        tail = losses[-window:]
        finished = not self.diverged
        speed = done * spec.batch_tokens / max(1e-9, self.train_seconds)
        peak = devices.peak_flops(self.device)
        model_flops = flops_per_token(spec.model, "with_head")
        held_out = {"heldout": float(evals[-1, 1])} if finished else {}
        n_embedding = self.model.embedding.numel()
        n_params = sum(p.numel() for p in self.model.parameters())
        return RunResult(
            spec=spec,
            status="finished" if finished else "diverged",
            reason=self.diverged,
            final_loss=float(tail.mean()) if finished else None,
            final_loss_se=float(tail.std(ddof=1) / np.sqrt(window))
            if finished and window > 1
            else None,
            final_loss_steps=window,
            held_out_loss=held_out,
            held_out_tokens={"heldout": self.held_out.shape[0] * spec.model.seq_len},
            bits_per_byte={
                k: v / math.log(2) / self.data.bytes_per_token("heldout")
                for k, v in held_out.items()
            },
            n_params=n_params,
            n_params_non_embedding=n_params - n_embedding,
            steps_done=done,
            flops_spent=flops_per_token(spec.model, spec.flop_convention)
            * done
            * spec.batch_tokens,
            wall_seconds=self.train_seconds,
            tokens_per_second=speed,
            mfu=model_flops * speed / peak if peak else None,
            peak_memory_bytes=devices.peak_memory(self.device),
            device=devices.device_name(self.device),
            versions=devices.versions(),
            git=devices.git_commit(),
            started_utc=self.started.isoformat(timespec="seconds"),
            finished_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            attempts=attempts,
        )

    def _resume(self) -> None:
        folder = self.cell / "checkpoints"
        found, complaints = load_checkpoint(folder, self.spec, self.tokenizer)
        for line in complaints:
            print(f"warning: {line}", flush=True)
        if found is None:
            return
        try:
            self.model.load_state_dict(found.weights, strict=True)
            for name, p in self.model.named_parameters():
                self.optimizer.state[p] = {  # copied: what was loaded is a map of the file
                    key: found.optimizer[f"{key}.{name}"].to(self.device, copy=True)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }
            self.losses[: found.step] = found.optimizer["losses"].to(self.device)
        except (RuntimeError, KeyError) as error:
            why = " ".join(str(error).split())[:200]
            raise InputError(
                f"checkpoint {folder / f'step-{found.step:08d}'} does not fit its own spec ({why}). "
                "Delete it and launch again."
            ) from None
        self.step = self.saved = found.step
        self.logged = found.step - found.step % self.runtime.log_every_steps
        self.evaluations = found.progress["evaluations"]
        self.train_seconds = found.progress["train_seconds"]

    def _lap(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # updates under way are training time
        now = time.perf_counter()
        self.train_seconds += now - self.clock
        self.clock = now

    def _held_out_loss(self) -> float:
        return held_out_loss(self.model, self.held_out, self.micro_rows)

    def _micro_rows(self) -> int:
        seq_len = self.spec.model.seq_len
        if self.runtime.micro_batch_tokens:
            return max(1, min(self.rows, self.runtime.micro_batch_tokens // seq_len))
        rows = self.rows
        room = devices.memory_room(self.device)
        while rows > 1 and peak_memory_bytes(self.spec, rows * seq_len) > room:
            rows = (rows + 1) // 2
        return rows


def _claim_folder(cell: Path, spec: RunSpec) -> None:
    """Write spec.json, or check that the one there is ours."""
    path = cell / "spec.json"
    make_dirs(cell)
    if path.exists():
        held = RunSpec.from_dict(read_json(path, "run spec"), str(path))
        if held.run_id != spec.run_id:
            raise InputError(
                f"{cell} belongs to run {held.run_id}, not {spec.run_id}. Use another folder."
            )
    else:
        write_json(path, spec.to_dict())
