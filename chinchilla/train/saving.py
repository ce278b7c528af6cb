"""When a run saves its state, what is kept, and how it resumes."""

import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from chinchilla.core.errors import error_summary, one_line
from chinchilla.core.files import folders
from chinchilla.core.files.owners import PERMISSION_ERRORS, ownership
from chinchilla.core.terminal import print_message
from chinchilla.plan.checkpoint_names import KEPT_CHECKPOINTS
from chinchilla.plan.records import RunSpec
from chinchilla.train.checkpoint import Checkpoint, CheckpointWriter, load_checkpoint
from chinchilla.train.checkpoint.files import LOSSES
from chinchilla.train.distributed import PeerError
from chinchilla.train.fsdp import init_weights
from chinchilla.train.optim import load_state, state_of

if TYPE_CHECKING:
    from chinchilla.train.trainer import Trainer

# Of a shared stable phase, which must not depend on the run that trained it.
NO_PROGRESS = {"train_seconds": 0.0, "evaluations": []}
ALL = os.R_OK | os.W_OK | os.X_OK


class Saving:
    """The checkpoints of one run. All ranks call its methods at the same points.

    The functions that save return False if another worker has taken over the run; then nothing is
    written, or what was written is discarded.

    Args:
        run: the trainer, whose state is saved and restored.
        stable_phases: folder in which runs share stable phases; None = do not share.
    """

    def __init__(self, run: "Trainer", stable_phases: Path | None) -> None:
        self.run, self.folder = run, run.run_dir / "checkpoints"
        stable_phase_id = run.spec.stable_phase_id
        self.stable_phase_dir = (
            stable_phases / stable_phase_id if stable_phases and stable_phase_id else None
        )
        self.writer = CheckpointWriter(run.group)
        self.saved_step = 0  # step of the last checkpoint, which may still be being written
        self.saved_at = time.perf_counter()

    def before_step(
        self, should_stop: Callable[[], bool], still_mine: Callable[[], bool]
    ) -> tuple[bool, bool]:
        """Save what is due before the next update.

        Returns:
            Whether to stop, and whether the run is still this worker's.
        """
        run = self.run
        waited = time.perf_counter() - self.saved_at
        # Ranks have to act together, so a signal or an elapsed interval on one counts for all.
        stop, due, writing = run.group.any_rank(
            should_stop(), waited > 60 * run.runtime.checkpoint_minutes, self.writer.busy
        )
        if not self.writer.advance(still_mine, writing):
            return stop, False
        if stop:
            return True, self.save(still_mine, wait=True)
        # A checkpoint that is still being written delays the next one, not training.
        if due and not self.writer.pending and not self.save(still_mine):
            return False, False
        at_cooldown = self.stable_phase_dir is not None and run.step == run.spec.stable_steps
        if at_cooldown and run.reused_steps < run.step:  # unless this very checkpoint was reused
            return False, self.save_stable_phase(still_mine)
        return False, True

    def save(self, still_mine: Callable[[], bool], wait: bool = False) -> bool:
        """Save everything that the next update depends on, unless that is already saved.

        Of a run that has done all its updates, what runtime.keep_checkpoints names is saved.

        Args:
            still_mine: checked before anything is written, and before the checkpoint is committed.
            wait: return when the checkpoint is complete; otherwise it is written while training
                continues.
        """
        run = self.run
        kept, ended = run.runtime.keep_checkpoints, run.step == run.spec.steps
        # A diverged run is never resumed.
        nothing_new = (
            run.step == self.saved_step or bool(run.diverged) or (ended and kept == "none")
        )
        if nothing_new and not self.writer.pending:
            return True
        with run.apart("save"):
            if wait and not self.writer.finish(still_mine):
                return False
            if nothing_new:
                return True
            if any(run.group.any_rank(not still_mine())):
                return False
            self.saved_step, self.saved_at = run.step, time.perf_counter()
            state = self._state()
            if ended and kept == "weights":
                state = state.weights_only
            keep = None if kept == "all" else 1 if ended else KEPT_CHECKPOINTS
            return self._write(self.folder, run.spec, state, keep, still_mine, wait)

    def save_last(self, should_stop: Callable[[], bool], still_mine: Callable[[], bool]) -> bool:
        """Save at the end of the run, as `save`.

        In the folder of a sweep, which may be full or away for a while, it is tried again for up to
        `folders.WAIT_SECONDS`; then the run ends without this checkpoint, and with its result. Permission
        that is refused is not waited for.
        """
        group, deadline = self.run.group, time.monotonic() + folders.WAIT_SECONDS
        while True:
            try:
                return self.save(still_mine, wait=True)
            except (OSError, PeerError) as error:
                problem = getattr(error, "reported", "") or error_summary(error)
                of_files = re.match(r"\w+: \[Errno (\d+)\]", problem)  # the same on all ranks
                if not of_files or group.broken or folders.guard_of(self.folder) is None:
                    raise
            self.writer.close()
            self.saved_step = -1  # nothing is saved
            lasting = problem.startswith("FolderGone") or int(of_files[1]) in PERMISSION_ERRORS
            waited = time.monotonic() > deadline
            if any(group.any_rank(lasting or waited or should_stop())):
                text = f"warning: the last checkpoint in {self.folder} cannot be written"
                print_message(f"{text} ({one_line(problem)}).", file=sys.stderr)
                return True
            time.sleep(folders.POLL_SECONDS)

    def save_stable_phase(self, still_mine: Callable[[], bool]) -> bool:
        """Save the state at the start of the cool-down for runs of other lengths."""
        folder, stable_phase = self.stable_phase_dir, self.run.spec.stable_phase
        assert folder is not None
        assert stable_phase is not None
        with self.run.apart("save"):
            if not self.writer.finish(still_mine):
                return False
            state = replace(self._state(), progress=NO_PROGRESS)  # equal for all runs that save it
            return self._write(folder, stable_phase, state, None, still_mine)

    def _check_sharing(self) -> None:
        """Train without sharing if a rank may not use the folder of the stable phase."""
        folder = self.stable_phase_dir
        places = (folder.parent, folder) if folder else ()
        refused = [p for p in places if os.path.exists(p) and not os.access(p, ALL)]
        if not any(self.run.group.any_rank(bool(refused))):
            return
        for path in refused[:1]:
            text = f"warning: the run is trained without the shared stable phase {folder}"
            print_message(f"{text}: permission denied. {ownership(path)}.", file=sys.stderr)
        self.stable_phase_dir = None

    def _write(
        self,
        folder: Path,
        spec: RunSpec,
        state: Checkpoint,
        keep: int | None,
        still_mine: Callable[[], bool],
        wait: bool = False,
    ) -> bool:
        """Write a copy of `state` while training continues, or wait if memory has no room for it."""
        group = self.run.group
        # Decided before any copy is made, and by all ranks. Other ranks than these write no tensors.
        [wait] = group.any_rank(wait or (group.saves_shard and not state.fits_host(group)))
        copies = group.saves_shard and not wait
        self.writer.start(folder, spec, state.staged() if copies else state, keep)
        return not wait or self.writer.finish(still_mine)

    def _state(self) -> Checkpoint:
        """This rank's part of the state; its tensors are those that training changes."""
        run = self.run
        progress = {
            "train_seconds": run.timer.seconds,
            "other_seconds": dict(run.other_seconds),
            "evaluations": list(run.evaluations),
        }
        if run.reused_steps:
            progress["reused_steps"] = run.reused_steps
        run.sum_losses()
        weights, optimizer = state_of(run.model, run.optimizer, run.group.rank)
        if run.group.rank == 0:
            optimizer[LOSSES] = run.losses[: run.step]
        return Checkpoint(run.step, weights, optimizer, progress)

    def restore(self) -> None:
        """Load this run's newest checkpoint, else a shared stable phase, else initial weights."""
        run, spec, group = self.run, self.run.spec, self.run.group
        checkpoint, warnings = load_checkpoint(self.folder, spec, group)
        self._check_sharing()
        if checkpoint is None and self.stable_phase_dir and spec.stable_phase:
            checkpoint, more_warnings = load_checkpoint(
                self.stable_phase_dir, spec.stable_phase, group, max_step=spec.stable_steps
            )
            warnings += more_warnings
            run.reused_steps = checkpoint.step if checkpoint else 0
        for line in warnings if group.rank == 0 else ():
            print_message(f"warning: {line}", file=sys.stderr)
        with group.raise_together():
            if checkpoint is None:
                init_weights(run.model, spec.seed, group)
            else:
                load_state(run.model, run.optimizer, checkpoint.weights, checkpoint.optimizer)
        if checkpoint is None:
            return
        run.step = run.summed_step = self.saved_step = checkpoint.step
        run.losses[: run.step] = checkpoint.optimizer[LOSSES].to(run.device)
        run.evaluations = checkpoint.progress["evaluations"]
        run.timer.seconds = checkpoint.progress["train_seconds"]
        run.other_seconds |= checkpoint.progress.get("other_seconds", {})
        run.reused_steps = checkpoint.progress.get("reused_steps", run.reused_steps)
