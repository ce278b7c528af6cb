"""The order in which workers claim runs, and which runs fit into the time left of a job.

Order: runs with fewer failed attempts first, then the largest C first, so that no long run starts
last. Among runs nearly as long as the longest (C >= 0.8 of it), a worker prefers those with the width
that it has just trained, because its kernels are compiled and its memory is allocated for it.

Runs that share a stable phase (`train.schedule`) are placed together, where the longest of them
belongs, and are ordered from shortest to longest: each resumes where the one before left the stable
phase. While a worker trains the part of the stable phase that a longer run would resume from, other
workers do not claim that run (`should_wait`).

Time: a worker does not start a run that a whole job could finish but that does not fit into the time
left of this job; it takes a shorter run that fits, or exits. A run that needs (nearly) a whole job or
longer is started if at least a tenth of a job is left, and resumes from its checkpoint in the next
job. A worker's first run and runs of unknown duration are never skipped, so that every run is
eventually started.
"""

import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from chinchilla.core.shapes import flops_per_token
from chinchilla.plan.records import RunSpec
from chinchilla.sweep.signals import warning_seconds

SIMILAR_C = 0.8  # share of the longest run's C from which a worker prefers its own width
MIN_SHARE = 0.1  # of a job's time, which must be left to start a run that needs a whole job


def in_order(
    specs: Sequence[RunSpec], width: int | None, n_failures: Callable[[RunSpec], int] = lambda s: 0
) -> list[RunSpec]:
    """The runs in the order in which a worker tries to claim them.

    Args:
        specs: runs without a result.
        width: d_model of the worker's last run; None before its first.
        n_failures: number of failed attempts at a run.
    """
    by_failures: dict[int, list[RunSpec]] = {}
    longest: dict[str, float] = {}  # stable phase -> C of its longest run
    for spec in specs:
        longest[spec.stable_phase_id] = max(spec.C, longest.get(spec.stable_phase_id, 0.0))

    def length(s: RunSpec) -> float:
        return longest[s.stable_phase_id] if s.stable_phase_id else s.C

    for spec in sorted(
        specs, key=lambda s: (-length(s), s.stable_phase_id, s.stable_steps, s.run_id)
    ):
        by_failures.setdefault(n_failures(spec), []).append(spec)
    return [
        spec for n in sorted(by_failures) for spec in _prefer_width(by_failures[n], width, length)
    ]


def should_wait(spec: RunSpec, step: int, in_training: Iterable[RunSpec]) -> bool:
    """Whether to postpone a run until another has saved more of their common stable phase.

    Args:
        spec: an unclaimed run.
        step: step at which it could start now, from the newest checkpoint of its stable phase.
        in_training: runs that other workers are training.
    """
    return any(
        step < other.stable_steps <= spec.stable_steps
        for other in in_training
        if spec.stable_phase_id and other.stable_phase_id == spec.stable_phase_id
    )


def _prefer_width(
    longest_first: Sequence[RunSpec], width: int | None, length: Callable[[RunSpec], float]
) -> list[RunSpec]:
    same = [s for s in longest_first if s.model.d_model == width]
    others = [s for s in longest_first if s.model.d_model != width]
    merged: list[RunSpec] = []
    i = j = 0
    while i < len(same) and j < len(others):
        if length(same[i]) >= SIMILAR_C * length(others[j]):
            merged.append(same[i])
            i += 1
        else:
            merged.append(others[j])
            j += 1
    return [*merged, *same[i:], *others[j:]]


@dataclass(frozen=True)
class JobTime:
    """When a worker's job began and when it will be stopped, UNIX seconds."""

    start: float
    end: float

    def fits(self, needed: float | None, now: float | None = None) -> bool:
        """Whether to start a run that needs this many seconds (None: unknown)."""
        left = self.end - (time.time() if now is None else now)
        if left <= 0 or needed is None or needed <= left:
            return left > 0
        whole = self.end - self.start
        return needed > (1 - MIN_SHARE) * whole and left >= MIN_SHARE * whole


def job_time(deadline: float = 0.0) -> JobTime | None:
    """Time available to this process: until `deadline`, or Slurm's warning; None if unlimited.

    Args:
        deadline: UNIX seconds; 0: use SLURM_JOB_END_TIME, which Slurm sets from version 22.05 on.
    """
    try:
        start = float(os.environ.get("SLURM_JOB_START_TIME") or time.time())
        end = float(os.environ.get("SLURM_JOB_END_TIME") or 0.0)
    except ValueError:
        start, end = time.time(), 0.0
    if deadline:
        return JobTime(min(start, time.time()), deadline)
    return JobTime(start, end - warning_seconds(end - start)) if end > start else None


class Throughput:
    """Training speed of this worker, measured on the runs that it has completed."""

    def __init__(self) -> None:
        self._measured: list[tuple[float, float]] = []  # FLOPs a token, tokens a second

    def add(self, spec: RunSpec, steps: int, seconds: float) -> None:
        """Add a measurement: `steps` of `spec` took `seconds`, with evaluations and checkpoints."""
        if steps > 0 and seconds > 0:
            self._measured.append((_per_token(spec), steps * spec.batch_tokens / seconds))

    def seconds(self, spec: RunSpec, step: int, tokens_per_second: float | None) -> float | None:
        """Expected time for the rest of a run; None if no speed is known.

        The speed is that of the measured run with the nearest FLOPs per token, scaled to those of
        this run. Without measurements, it is the run's own speed so far.

        Args:
            spec: the run.
            step: step of the checkpoint that it resumes from.
            tokens_per_second: the run's own speed, perhaps from another machine.
        """
        rate, flops = tokens_per_second, _per_token(spec)
        if self._measured:
            per_token, speed = min(self._measured, key=lambda m: abs(math.log(m[0] / flops)))
            rate = speed * per_token / flops
        return (spec.steps - step) * spec.batch_tokens / rate if rate else None


def _per_token(spec: RunSpec) -> float:
    return flops_per_token(spec.model, spec.flop_convention)
