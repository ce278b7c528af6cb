"""The runs of a sweep that a worker can claim next, found with few operations on the shared file system.

Two listings describe the whole sweep: `runs/` has a folder for every run that was ever claimed, and
`ended/` has an empty file for every run with a result (`run_files.mark_ended`). Runs without a folder can
be claimed without looking at any file. Runs with a folder and no mark are in training, released or dead. Of
these a worker examines N_CHECKED at random for each claim, or all if there are no more, and up to N_MORE if it
finds nothing else. So each is examined by some worker about once per N_CHECKED claims of as many workers,
and the last workers of a sweep examine all that are left.

Marks are hints. A run with a result and no mark is examined, found to have ended, and marked. A mark without a
result can only remain if a process dies in the middle of `retry`, or if someone deletes the result or restores
an older copy of runs/. The next launch removes it, and so does a worker that finds nothing to do at its start.
"""

import errno
import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from chinchilla.plan.plan_file import read_plan
from chinchilla.plan.records import RunSpec
from chinchilla.sweep.claims import (
    STALE_SECONDS,
    Claim,
    ClaimStatus,
    acquire,
    claim_status,
    file_system_now,
    heartbeat_factor,
)
from chinchilla.sweep.damage.access import BLOCKED, blocked_reason, restore_access
from chinchilla.sweep.damage.repair import ALL, MIRRORS, repair_run
from chinchilla.sweep.failures import count_stalls, is_of_one_run, n_attempts
from chinchilla.sweep.run_files import (
    RunFilter,
    correct_marks,
    ended_runs,
    has_result,
    mark_ended,
    run_dir_of,
    saved_step,
    stable_phase_step,
    started_runs,
)
from chinchilla.sweep.run_order import RunOrder, should_wait

N_CHECKED = 6  # runs in training that are examined for each claim
N_MORE = 64  # the same if there is nothing else to claim
WAIT_SECONDS = 5.0  # between attempts to claim while a holder is silent
log = logging.getLogger("chinchilla.sweep")


class _Open(NamedTuple):
    """Runs of the plan without a mark."""

    fresh: list[RunSpec]  # never claimed
    begun: list[RunSpec]  # with a folder: in training, released, dead, or ended without a mark
    n_workers: int  # all runs of the folder in that state, and one more


class RunQueue:
    """Claims the runs of one sweep for one worker.

    Args:
        sweep_dir: the sweep's folder; its plan may grow meanwhile.
        name: the worker's name in claims.
        only: selects the runs; default: the whole plan.
        stale_seconds: age of the heartbeat from which a worker on another machine counts as dead.
    """

    def __init__(
        self,
        sweep_dir: Path,
        name: str,
        only: RunFilter | None = None,
        stale_seconds: float = STALE_SECONDS,
    ) -> None:
        self.sweep_dir, self.name, self.only = sweep_dir, name, only
        self.stale_seconds = stale_seconds
        self.random = random.Random(name)  # workers draw different runs
        self.wait_seconds = min(WAIT_SECONDS, stale_seconds / 4)
        self.checks_marks = True  # before the first claim
        self.left_out: dict[str, str] = {}  # run_id -> why this worker leaves the run to others
        self._plan_read: tuple[int, ...] = ()
        self._order = RunOrder([])

    def claim_next(self, width: int | None) -> tuple[tuple[RunSpec, Claim] | None, bool]:
        """Claim the next run in the order of `run_order`.

        Args:
            width: d_model of the worker's last run; None before its first.

        Returns:
            The run and its claim, or None; and, without a run, whether a holder is silent.
        """
        found = self._list_open()
        pause = min(WAIT_SECONDS, self.stale_seconds / 4)
        self.wait_seconds = pause * heartbeat_factor(found.n_workers)
        look = _Look(self, found)
        for n_checked in (N_CHECKED, N_MORE):
            look.examine(n_checked)
            for spec in self._tried(look, width):
                n_lost = look.n_lost
                if claim := self._claim(spec, look):
                    self.checks_marks = False
                    return (spec, claim), False
                if look.n_lost > n_lost:  # others may only have to wait for a run not examined yet
                    look.tried.add(spec.run_id)
        if self.checks_marks:
            self.checks_marks = False
            if correct_marks(self.sweep_dir, self._order.specs):
                return self.claim_next(width)
        return None, look.silent

    @contextmanager
    def problems_of(self, spec: RunSpec) -> Iterator[None]:
        """Leave a run out if its own files cause an error of the system in this context.

        Raises:
            OSError: the error concerns the whole sweep or this machine.
        """
        try:
            yield
        except OSError as error:
            if not is_of_one_run(error, self.sweep_dir):
                raise
            reason = blocked_reason(error, run_dir_of(self.sweep_dir, spec))
            log.warning("%s is left out: %s", spec.run_id, reason)
            self.left_out[spec.run_id] = f"run {spec.run_id} is left out: {reason}"

    def _order_of_plan(self) -> RunOrder:
        """The plan in order, read again if the file has changed."""
        about = os.stat(self.sweep_dir / "plan.jsonl")
        read = (about.st_ino, about.st_size, about.st_mtime_ns)
        if read != self._plan_read:
            specs, problems = read_plan(self.sweep_dir / "plan.jsonl")
            for problem in problems:
                log.warning("%s", problem)
            self._order = RunOrder([s for s in specs if self.only is None or self.only(s)])
            self._plan_read = read
        return self._order

    def _list_open(self) -> _Open:
        order = self._order_of_plan()
        started = started_runs(self.sweep_dir)  # listed first: a run gets its mark after its folder
        ended = ended_runs(self.sweep_dir)
        fresh = [s for s in order.specs if s.run_id not in started]
        ranks = sorted(order.rank[i] for i in started - ended if i in order.rank)
        begun = [order.specs[rank] for rank in ranks]
        return _Open(fresh, begun, len(started) - len(ended) + 1)

    def _tried(self, look: "_Look", width: int | None) -> Iterator[RunSpec]:
        """Runs to try, in order; after each lost race one of four times as many, so that workers separate."""
        fresh = (s for s in look.found.fresh if s.run_id not in look.tried)
        ordered = self._order.of(fresh, look.available(), width, look.n_failures)
        window, ahead = 1, list[RunSpec]()
        while True:
            ahead += islice(ordered, window - len(ahead))
            if not ahead:
                return
            n_lost = look.n_lost
            yield ahead.pop(self.random.randrange(len(ahead)) if window > 1 else 0)
            window *= 4 if look.n_lost > n_lost else 1

    def _claim(self, spec: RunSpec, look: "_Look") -> Claim | None:
        """Claim a run that looked available; None if it must wait or another worker was faster."""
        run_dir = run_dir_of(self.sweep_dir, spec)
        status = look.statuses.get(spec.run_id)  # None: never claimed
        step = saved_step(run_dir) if status else 0
        # A run with a checkpoint of its own resumes from it and need not wait.
        if spec.stable_phase and not step:
            siblings = look.in_training(spec)
            if siblings and should_wait(spec, stable_phase_step(self.sweep_dir, spec), siblings):
                return None
        with self.problems_of(spec):
            claim = acquire(
                run_dir,
                self.name,
                step=step,
                stalls=count_stalls(run_dir, status.record if status else None, step),
                now=look.now,
                stale_seconds=self.stale_seconds,
                count_workers=self._n_in_training,
                n_workers=look.found.n_workers,
                fresh=status is None,
            )
            if claim and has_result(run_dir):  # finished between listing and claiming
                claim.release()
                mark_ended(run_dir)
                claim = None
            if claim and status:
                try:
                    repair_run(run_dir, spec, log.warning)
                except OSError as error:
                    reason = blocked_reason(error, run_dir)
                    claim.release(f"{BLOCKED}{reason}", excused=True)  # for `status`
                    raise
            look.n_lost += claim is None
            return claim
        return None

    def _n_in_training(self) -> int:
        """Number of runs with a folder and no mark."""
        return len(started_runs(self.sweep_dir)) - len(ended_runs(self.sweep_dir))


class _Look:
    """What one attempt to claim has found out about the runs."""

    def __init__(self, queue: RunQueue, found: _Open) -> None:
        self.queue, self.found = queue, found
        self.now = file_system_now(queue.sweep_dir / "runs")
        self.statuses: dict[str, ClaimStatus] = {}  # run_id -> of the runs examined
        self.failures: dict[str, int] = {}
        self.ended: set[str] = set()  # found to have a result
        self.tried = set(queue.left_out)  # without success, now or before
        self.n_lost = 0  # races lost to other workers
        self.budget = 0  # runs that may still be examined
        self.unseen = [s for s in found.begun if s.run_id not in queue.left_out]
        if len(self.unseen) > N_CHECKED:
            queue.random.shuffle(self.unseen)

    @property
    def silent(self) -> bool:
        """Whether the heartbeat of some holder is late."""
        return any(status.state == "silent" for status in self.statuses.values())

    def examine(self, n: int) -> None:
        """Examine up to n further runs that were begun."""
        self.budget = n
        while self.budget and self.unseen:
            self._status(self.unseen.pop())

    def _status(self, spec: RunSpec) -> ClaimStatus | None:
        """State of a run that was begun; None if it has ended, or may not be examined any more."""
        if spec.run_id in self.statuses or spec.run_id in self.ended or not self.budget:
            return self.statuses.get(spec.run_id)
        with self.queue.problems_of(spec):
            return self._look_at(spec, run_dir_of(self.queue.sweep_dir, spec))
        return None

    def _look_at(self, spec: RunSpec, run_dir: Path) -> ClaimStatus | None:
        if not os.access(run_dir, ALL):
            restore_access(run_dir, skip=MIRRORS)
        try:
            names = os.listdir(run_dir)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE) or os.path.islink(run_dir):
                raise
            self.found.fresh.append(spec)  # the folder was removed
            self.found.begun.remove(spec)
            return None
        if "result.json" in names:
            mark_ended(run_dir)
            self.ended.add(spec.run_id)
            return None
        self.budget -= 1
        status = claim_status(run_dir, self.now, self.queue.stale_seconds, names)
        self.statuses[spec.run_id] = status
        if "attempts" in names:
            self.failures[spec.run_id] = n_attempts(run_dir)
        return status

    def available(self) -> list[RunSpec]:
        """Runs that were examined, can be claimed and have not been tried."""
        free = {run_id for run_id, status in self.statuses.items() if status.available}
        return [s for s in self.found.begun if s.run_id in free - self.tried]

    def n_failures(self, spec: RunSpec) -> int:
        return self.failures.get(spec.run_id, 0)

    def in_training(self, like: RunSpec) -> list[RunSpec]:
        """Runs with the same stable phase that other workers train, or that were not examined."""
        same = [
            s
            for s in self.found.begun
            if s.stable_phase_id == like.stable_phase_id
            and s.run_id != like.run_id
            and s.run_id not in self.ended
        ]
        found = [(s, self._status(s)) for s in same]
        return [
            s
            for s, status in found
            if s.run_id not in self.ended
            and (not status.available if status else s.run_id not in self.queue.left_out)
        ]
