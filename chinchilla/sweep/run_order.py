"""The order in which workers claim runs.

Runs with fewer failed attempts first, then the largest C first, so that no long run starts
last. Among runs nearly as long as the longest (C >= 0.8 of it), a worker prefers those with the width
that it has just trained, because its kernels are compiled and its memory is allocated for it.

Runs that share a stable phase (`train.schedule`) are placed together, where the longest of them
belongs, and are ordered from shortest to longest: each resumes where the one before left the stable
phase. While a worker trains the part of the stable phase that a longer run would resume from, other
workers do not claim that run (`should_wait`).
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import tee

from chinchilla.plan.records import RunSpec

SIMILAR_C = 0.8  # share of the longest run's C from which a worker prefers its own width


class RunOrder:
    """A plan in the order of its lengths, computed once."""

    def __init__(self, specs: Sequence[RunSpec]) -> None:
        C = {s.run_id: s.C for s in specs}
        longest: dict[str, float] = {}  # stable phase -> C of its longest run
        for s in specs:
            longest[s.stable_phase_id] = max(C[s.run_id], longest.get(s.stable_phase_id, 0.0))
        self.length = {
            s.run_id: longest[s.stable_phase_id] if s.stable_phase_id else C[s.run_id]
            for s in specs
        }
        self.specs = sorted(
            specs,
            key=lambda s: (-self.length[s.run_id], s.stable_phase_id, s.stable_steps, s.run_id),
        )

        self.rank = {s.run_id: i for i, s in enumerate(self.specs)}

    def of(
        self,
        fresh: Iterable[RunSpec],
        begun: Iterable[RunSpec],
        width: int | None,
        n_failures: Callable[[RunSpec], int],
    ) -> Iterator[RunSpec]:
        """Runs in the order in which a worker tries to claim them, computed as far as they are taken.

        Args:
            fresh: runs without failed attempts, in the order of `specs`.
            begun: other runs, in any order.
            width: d_model of the worker's last run; None before its first.
            n_failures: number of failed attempts at a run that was begun.
        """
        by_failures: dict[int, list[RunSpec]] = {0: []}
        for spec in sorted(begun, key=self._rank):
            by_failures.setdefault(n_failures(spec), []).append(spec)
        first = heapq.merge(fresh, by_failures.pop(0), key=self._rank)
        for group in (first, *(by_failures[n] for n in sorted(by_failures))):
            yield from self._prefer_width(group, width)

    def _rank(self, spec: RunSpec) -> int:
        return self.rank[spec.run_id]

    def _prefer_width(
        self, longest_first: Iterable[RunSpec], width: int | None
    ) -> Iterator[RunSpec]:
        a, b = tee(longest_first)
        own = (s for s in a if s.model.d_model == width)
        others = (s for s in b if s.model.d_model != width)
        x, y = next(own, None), next(others, None)
        while x and y:
            if self.length[x.run_id] >= SIMILAR_C * self.length[y.run_id]:
                yield x
                x = next(own, None)
            else:
                yield y
                y = next(others, None)
        yield from (s for s in (x, y) if s)
        yield from own
        yield from others


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
