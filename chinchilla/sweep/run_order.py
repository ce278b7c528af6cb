"""The order in which workers claim runs.

Runs with fewer failed attempts first, then the largest C first, so that no long run starts
last. Among runs nearly as long as the longest (C >= 0.8 of it), a worker prefers those with the width
that it has just trained, because its kernels are compiled and its memory is allocated for it.

Runs that share a stable phase (`train.schedule`) are placed together, where the longest of them
belongs, and are ordered from shortest to longest: each resumes where the one before left the stable
phase. While a worker trains the part of the stable phase that a longer run would resume from, other
workers do not claim that run (`should_wait`).
"""

from collections.abc import Callable, Iterable, Sequence

from chinchilla.plan.records import RunSpec

SIMILAR_C = 0.8  # share of the longest run's C from which a worker prefers its own width


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
