"""Which run a worker takes next: the order of what is missing, and what fits into its job's time.

Order. Runs that failed less often first; then longest first (largest C), so that the sweep's tail is
short; but among runs nearly as long as the longest, those with the width the worker has just trained:
its kernels are compiled and its memory is laid out for it. Nearly as long is C >= 0.8 of the longest
left, so what a worker puts off is at most 1.25 times as long as what it takes instead.

Runs that share a stable phase (`train.schedule`) are taken from the shortest to the longest, each where the one
before left it, and stand in the order as their longest does. While a worker is still on the stable phase that a
longer one would go on from, that one is left to it (`waits`): the others take another stable phase, or end.

Time. A worker whose job ends takes no run that it would have to leave half-way and that a whole job
could finish: it skips it for a shorter one that fits, and goes when none does. No run starves: one that
takes (nearly) a whole job or longer is started whatever is left and goes on from its checkpoint in
the next job, only the last tenth of a job being too little for that; and what a worker takes first is
never skipped, nor is a run of unknown length.
"""

import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from chinchilla.core.shapes import flops_per_token
from chinchilla.plan.records import RunSpec
from chinchilla.sweep.signals import warning_seconds

NEARLY = 0.8  # C over that of the longest run left, above which a worker may keep to its width
LEAST_SHARE = 0.1  # of a job's time: enough to begin a run that takes the rest of it or longer


def in_order(
    specs: Sequence[RunSpec], width: int | None, n_errors: Callable[[RunSpec], int] = lambda s: 0
) -> list[RunSpec]:
    """The runs in the order in which a worker should try to claim them.

    Args:
        specs: what is missing.
        width: d_model of the run that the worker trained last; None before its first.
        n_errors: how often a run has failed so far.
    """
    by_errors: dict[int, list[RunSpec]] = {}
    longest: dict[str, float] = {}  # stable phase -> C of its longest run
    for spec in specs:
        longest[spec.stable_phase_id] = max(spec.C, longest.get(spec.stable_phase_id, 0.0))

    def length(s: RunSpec) -> float:
        return longest[s.stable_phase_id] if s.stable_phase_id else s.C

    for spec in sorted(
        specs, key=lambda s: (-length(s), s.stable_phase_id, s.stable_steps, s.run_id)
    ):
        by_errors.setdefault(n_errors(spec), []).append(spec)
    return [spec for n in sorted(by_errors) for spec in _keeping_width(by_errors[n], width, length)]


def waits(spec: RunSpec, step: int, under_way: Iterable[RunSpec]) -> bool:
    """Whether a run is better left until one under way has left more of their stable phase.

    Args:
        spec: the run, which nobody holds.
        step: where it could start now: the newest of its stable phase.
        under_way: runs that somebody is training.
    """
    return any(
        step < other.stable_steps <= spec.stable_steps
        for other in under_way
        if spec.stable_phase_id and other.stable_phase_id == spec.stable_phase_id
    )


def _keeping_width(
    longest_first: Sequence[RunSpec], width: int | None, length: Callable[[RunSpec], float]
) -> list[RunSpec]:
    same = [s for s in longest_first if s.model.d_model == width]
    others = [s for s in longest_first if s.model.d_model != width]
    merged: list[RunSpec] = []
    i = j = 0
    while i < len(same) and j < len(others):
        if length(same[i]) >= NEARLY * length(others[j]):
            merged.append(same[i])
            i += 1
        else:
            merged.append(others[j])
            j += 1
    return [*merged, *same[i:], *others[j:]]


@dataclass(frozen=True)
class JobTime:
    """When a worker's job began and when it will be told to stop, UNIX seconds."""

    start: float
    end: float

    def fits(self, needed: float | None, now: float | None = None) -> bool:
        """Whether a run that needs so many seconds (None: not known) should be started now."""
        left = self.end - (time.time() if now is None else now)
        if left <= 0 or needed is None or needed <= left:
            return left > 0
        whole = self.end - self.start
        return needed > (1 - LEAST_SHARE) * whole and left >= LEAST_SHARE * whole


def job_time(deadline: float = 0.0) -> JobTime | None:
    """The time that this process has: until `deadline`, else until Slurm's warning; None = any.

    Args:
        deadline: UNIX seconds; 0 asks SLURM_JOB_END_TIME, the end that Slurm (22.05 and later)
            tells a job when it starts.
    """
    try:
        start = float(os.environ.get("SLURM_JOB_START_TIME") or time.time())
        end = float(os.environ.get("SLURM_JOB_END_TIME") or 0.0)
    except ValueError:
        start, end = time.time(), 0.0
    if deadline:
        return JobTime(min(start, time.time()), deadline)
    return JobTime(start, end - warning_seconds(end - start)) if end > start else None


class Pace:
    """How fast this worker trains, as measured on the runs that it has brought to an end."""

    def __init__(self) -> None:
        self._measured: list[tuple[float, float]] = []  # FLOPs a token, tokens a second

    def note(self, spec: RunSpec, steps: int, seconds: float) -> None:
        """Remember that `steps` of `spec` took `seconds`, evaluations and checkpoints included."""
        if steps > 0 and seconds > 0:
            self._measured.append((_per_token(spec), steps * spec.batch_tokens / seconds))

    def seconds(self, spec: RunSpec, step: int, tokens_per_second: float | None) -> float | None:
        """What the rest of a run will take.

        By the run measured here whose FLOPs per token are nearest, scaled by them; else by the
        run's own speed so far; None if neither is known.

        Args:
            spec: the run.
            step: updates done, as far as a checkpoint holds them.
            tokens_per_second: the run's own speed, wherever it was measured.
        """
        rate, own = tokens_per_second, _per_token(spec)
        if self._measured:
            per_token, speed = min(self._measured, key=lambda m: abs(math.log(m[0] / own)))
            rate = speed * per_token / own
        return (spec.steps - step) * spec.batch_tokens / rate if rate else None


def _per_token(spec: RunSpec) -> float:
    return flops_per_token(spec.model, spec.flop_convention)
