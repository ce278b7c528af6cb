"""Train one RunSpec to the end of its schedule. `Trainer.train` is the loop.

A run is a pure function of its spec and data: each batch follows from (seed, step), the learning
rate from the step. On a CPU a resumed run gives the same bits as an uninterrupted one. Several ranks
(`distributed`) divide each batch into equal parts and shard the weights (`fsdp`); every decision is
the same on all of them.
"""

import functools
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chinchilla.config import RuntimeConfig
from chinchilla.plan.ranks import rows_per_rank
from chinchilla.plan.records import Curve, RunResult, RunSpec
from chinchilla.plan.unwritten import save_curve_or_keep
from chinchilla.tracking.metrics_writer import MetricsWriter
from chinchilla.train import device as devices
from chinchilla.train.dataloader import BatchLoader
from chinchilla.train.distributed import SINGLE, RankGroup
from chinchilla.train.divergence import DIVERGENCE_STEPS, divergence
from chinchilla.train.evaluate import evaluation_rows, evaluation_steps, validation_loss
from chinchilla.train.forward_backward import ForwardBackward
from chinchilla.train.fsdp import build_model, reduce_copies
from chinchilla.train.optim import Update, build_optimizer
from chinchilla.train.preflight import check_run_folder, micro_batch_rows, open_data
from chinchilla.train.result import build_result
from chinchilla.train.saving import Saving
from chinchilla.train.schedule import learning_rate


def train_run(
    spec: RunSpec,
    run_dir: Path,
    data_dir: Path,
    runtime: RuntimeConfig,
    *,
    starts: int = 1,
    on_start: Callable[[int], None] | None = None,
    on_progress: Callable[[int, float], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    still_mine: Callable[[], bool] | None = None,
    group: RankGroup = SINGLE,
    stable_phases: Path | None = None,
) -> RunResult | None:
    """Train `spec` in the folder `run_dir`, resuming from its checkpoints.

    With several ranks, each calls this with the same spec, run_dir, data_dir, runtime and starts.
    If any rank's `should_stop` or `still_mine` fires, all ranks act on it. Only rank 0 writes,
    except for checkpoint shards.

    Args:
        spec: what to train.
        run_dir: receives spec.json, metrics.jsonl, curve.npz and checkpoints/.
        data_dir: folder of `chinchilla data`; its data_id must be the spec's.
        runtime: device, logging, checkpoint intervals. Nothing in it changes a training loss beyond
            rounding; validation_tokens are those of the validation loss.
        starts: how often this run was started, for the result.
        on_start: called with the tokens of a micro-batch before the first update.
        on_progress: called with (updates done, mean loss of the last log_every_steps steps) at log points.
        should_stop: checked before every micro-batch; if true, an incomplete update is discarded, a
            checkpoint is saved and None is returned.
        still_mine: checked before anything is written or renamed into place; if false, return None.
        group: the processes that train this run together.
        stable_phases: folder in which runs share stable phases (`train.schedule`); None = do not
            share.

    Returns:
        The result, finished or diverged, not yet saved; None when stopped.

    Raises:
        DataError: the data is not the spec's, or is damaged.
        InputError: the folder or its checkpoint belongs to another spec or version, the batch does
            not divide among the ranks, or this machine does not have the device or enough memory.
        OSError: a checkpoint cannot be written. Older ones are untouched.
        PeerError: another rank failed or ended. If `group.broken`, it cannot train further runs.
    """
    try:
        freeze_modules()
        trainer = Trainer(spec, run_dir, data_dir, runtime, group, stable_phases)
        try:
            if on_start:
                on_start(trainer.micro_rows * spec.model.seq_len)
            if not trainer.train(
                on_progress or (lambda step, loss: None),
                should_stop or (lambda: False),
                still_mine or (lambda: True),
            ):
                return None
            return trainer.finish(starts)
        finally:
            trainer.close()
    except Exception as error:
        cause = group.failure(error)  # a collective fails on this rank if another rank has failed
        if cause is error:
            raise
        raise cause from error


@functools.cache
def freeze_modules() -> None:
    """Exempt the objects of loaded modules from garbage collection, once per process.

    A collection would visit all of them, which takes .15 s, during training and between runs.
    """
    import torch._dynamo  # noqa: F401 (the first optimizer would import it)

    gc.collect()
    gc.freeze()


class Trainer:
    """A run in progress: model, optimizer, data and what has been measured so far."""

    def __init__(
        self,
        spec: RunSpec,
        run_dir: Path,
        data_dir: Path,
        runtime: RuntimeConfig,
        group: RankGroup = SINGLE,
        stable_phases: Path | None = None,
    ) -> None:
        self.spec, self.run_dir, self.runtime, self.group = spec, run_dir, runtime, group
        self.started = datetime.now(UTC)
        with group.raise_together():
            self.data = open_data(spec, data_dir)
            self.rows = rows_per_rank(spec, group.world_size)
            self.validation_rows = self.data.validation_rows(
                runtime.validation_tokens, spec.model.seq_len
            )
            if group.rank == 0:
                check_run_folder(run_dir, spec)
            self.device = group.device or devices.pick_device(runtime.device)
            if self.device.index is not None:
                torch.cuda.set_device(
                    self.device
                )  # streams and graphs are created on the current one
        self.micro_rows = micro_batch_rows(spec, self.rows, runtime, self.device, group)
        self.threads_before = devices.prepare(self.device, spec, self.micro_rows)
        with group.raise_together():
            self.model = build_model(spec, runtime, self.device, group)
            self.optimizer = build_optimizer(self.model, spec)
        self.evaluation_rows = evaluation_rows(
            spec, self.micro_rows, runtime, devices.memory_room(self.device), self.device, group
        )
        single = group.world_size == 1
        self.forward_backward = ForwardBackward(
            self.model,
            self.micro_rows,
            loss_scale=1 / spec.batch_tokens,
            cuda_graphs=runtime.cuda_graphs and self.device.type == "cuda" and single,
            may_fall_back=single,
        )
        self.update = Update(self.model, self.optimizer, spec.grad_clip, group)
        devices.warn_of_slow_settings(self.device, spec, runtime, single)
        self.loader = BatchLoader(self.data, spec, self.rows, self.device, group)
        self.evaluation_steps = set(evaluation_steps(spec, runtime))
        # Losses stay on the device until a log point, so that no step waits for it. They are this
        # rank's part of each loss until `sum_losses`.
        self.losses = torch.zeros(spec.steps, device=self.device)
        self.step = 0  # updates done
        self.summed_step = 0  # self.step when losses were last summed over ranks
        self.reused_steps = 0  # updates of a stable phase that another run trained
        self.evaluations: list[list[float]] = []  # [updates done, validation loss]
        self.diverged = ""  # reason, if so
        self.timer = devices.Timer(self.device)
        self.other_seconds = {"save": 0.0, "evaluate": 0.0, "compile": 0.0}
        self.saving = Saving(self, stable_phases)
        self.saving.restore()
        self.logbook: MetricsWriter | None = None
        with group.raise_together():
            if group.rank == 0:
                self.logbook = MetricsWriter(run_dir, spec, runtime, self.step)
        self.first_step, self.first_seconds = self.step, self.timer.seconds
        self.timer.start()

    def train(
        self,
        on_progress: Callable[[int, float], None],
        should_stop: Callable[[], bool],
        still_mine: Callable[[], bool],
    ) -> bool:
        """Train to the last step or to divergence; arguments as in `train_run`.

        Returns:
            False if stopped, or if another worker has taken over the run.
        """
        spec, log_every = self.spec, self.runtime.log_every_steps
        while self.step < spec.steps and not self.diverged:
            stop, mine = self.saving.before_step(should_stop, still_mine)
            if stop or not mine:
                return False

            if not self.train_step(should_stop):
                continue  # stops above, after the last complete update

            if self.step in self.evaluation_steps:
                self.evaluate()
            if self.step % log_every == 0 or self.step == spec.steps or self.diverged:
                on_progress(self.step, self.log())
        if not self.saving.save_last(should_stop, still_mine):
            return False
        return not any(self.group.any_rank(not still_mine()))

    def train_step(self, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """One update of the weights; False if it was discarded, because the run should stop."""
        spec = self.spec

        # The batch is a function of (seed, step): a resumed run reads the same tokens.
        tokens = self.loader.batch(self.step)  # (rows, seq_len + 1), this rank's part
        if not self.forward_backward.prepared:
            with self.apart("compile"):
                self.forward_backward.prepare(tokens)

        # Forward and backward. Micro-batches bound the memory of activations: their gradients add
        # up to those of the whole batch, because each loss is divided by the batch's tokens.
        micro_batches = tokens.split(self.micro_rows)
        for i, micro_batch in enumerate(micro_batches, 1):
            if i > 1 and any(self.group.any_rank(should_stop())):
                self.forward_backward.zero_grad()
                self.losses[self.step] = 0
                return False
            if self.group.shards < self.group.world_size:  # sum over copies once per batch
                reduce_copies(self.model, i == len(micro_batches))
            self.losses[self.step] += self.forward_backward(micro_batch)

        # Clip, and update with the learning rate of this step.
        self.update(learning_rate(spec, self.step), self.forward_backward.keeps_gradients)
        self.step += 1
        return True

    def evaluate(self) -> None:
        """Measure the validation loss."""
        with self.apart("evaluate"):
            loss = validation_loss(
                self.model, self.validation_rows, self.evaluation_rows, self.group
            )
        if np.isfinite(loss):
            self.evaluations.append([self.step, loss])
        else:  # the weights are not finite either, so all later losses would be the same
            self.diverged = f"validation loss is not finite after step {self.step}"

    def log(self) -> float:
        """Write a line of metrics and set `diverged`; returns the mean loss of the last steps."""
        log_every = self.runtime.log_every_steps
        self.sum_losses()
        window = self.losses[max(0, self.step - log_every) : self.step]
        loss = float(window.mean())  # waits for the device
        seconds = self.timer.read() - self.first_seconds
        tokens_done = (self.step - self.first_step) * self.spec.batch_tokens
        previous = (self.step - 1) // log_every * log_every  # log point
        new = [loss for step, loss in self.evaluations[-1:] if step > previous]
        if self.logbook:
            self.logbook.write(
                step=self.step,
                tokens=self.step * self.spec.batch_tokens,
                loss=loss if np.isfinite(loss) else None,
                lr=learning_rate(self.spec, self.step - 1),
                **self.gradient_norm(),
                tokens_per_second=round(tokens_done / max(1e-9, seconds), 1),
                **({"validation_loss": new[0]} if new else {}),
            )
        # The new steps and the DIVERGENCE_STEPS - 1 before them, see `divergence`.
        begin = max(0, self.step - len(window) - DIVERGENCE_STEPS + 1)
        self.diverged = self.diverged or divergence(
            self.losses[begin : self.step].double().cpu().numpy(),
            begin,
            self.spec.model.vocab_size,
            self.spec.warmup_steps,
        )
        return loss

    def gradient_norm(self) -> dict[str, float | None]:
        """Of the last update, before clipping; the device is not waited for again."""
        if self.update.norm is None:
            return {}
        norm = float(self.update.norm)
        return {"gradient_norm": norm if np.isfinite(norm) else None}

    @contextmanager
    def apart(self, activity: str) -> Iterator[None]:
        """Count the time spent in the with block as `activity`, not as training."""
        with self.timer.paused():
            began = time.perf_counter()
            yield
            self.other_seconds[activity] += time.perf_counter() - began

    def finish(self, starts: int) -> RunResult:
        """Build the result, and write curve.npz or keep it for the worker."""
        evaluations = np.array(self.evaluations, float).reshape(-1, 2)
        losses = self.losses[: self.step].double().cpu().numpy()
        curve = Curve(np.arange(self.step), losses, evaluations[:, 0], evaluations[:, 1])
        curve_file: dict[str, Any] = {}
        with self.group.raise_together():
            if self.group.rank == 0:
                curve_file = save_curve_or_keep(self.run_dir, curve)
        return build_result(self, curve, starts, curve_file)

    def close(self) -> None:
        """Stop the threads and release what the run has changed in this process."""
        self.saving.writer.close()
        devices.keep_freed_memory(self.device, False)
        torch.set_num_threads(self.threads_before)
        self.loader.close()
        if self.logbook:
            self.logbook.close()

    def sum_losses(self) -> None:
        """Sum the latest losses over ranks; all ranks call this."""
        if self.group.world_size > 1:
            new = self.losses[self.summed_step : self.step]
            new.copy_(self.group.reduce_sum(new))
        self.summed_step = self.step
