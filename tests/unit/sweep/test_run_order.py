"""The order in which workers claim runs."""

import heapq
from dataclasses import replace

import pytest
from sweep_fakes import make_specs

from chinchilla.plan.records import RunSpec
from chinchilla.sweep.run_order import SIMILAR_C, RunOrder


def runs(*settings: tuple[int, float]) -> list[RunSpec]:
    """Runs of these widths and training FLOPs, rounded to whole steps."""
    [base] = make_specs(1)
    made = []
    for i, (width, flops) in enumerate(settings):
        model = replace(base.model, d_model=width, ffw_size=4 * width, n_heads=width // 32)
        one = replace(base, model=model, steps=1, cosine_steps=1, seed=i)
        made.append(replace(one, steps=round(flops / one.C), cosine_steps=round(flops / one.C)))
    return made


def in_order(
    specs: list[RunSpec], width: int | None, failed: RunSpec | None = None
) -> list[RunSpec]:
    return list(RunOrder(specs).of((), specs, width, lambda s: int(s is failed)))


def test_longest_runs_first_and_failed_runs_last():
    short, long, failed = make_specs(3)  # each longer than the one before
    ordered = in_order([short, failed, long], None, failed)
    assert ordered == [long, short, failed]


def test_a_worker_prefers_its_width_among_runs_of_similar_length():
    long, same, other = runs((128, 1e12), (64, 0.85e12), (96, 0.1e12))
    assert SIMILAR_C < same.C / long.C < 1
    assert in_order([other, same, long], width=64) == [same, long, other]
    assert in_order([other, same, long], width=None) == [long, same, other]


def test_a_worker_changes_its_width_for_a_much_longer_run():
    long, same = runs((128, 1e12), (64, 0.75e12))
    assert same.C < SIMILAR_C * long.C
    assert in_order([same, long], width=64) == [long, same]


def test_failures_take_precedence_over_width():
    failed, fresh = runs((64, 0.9e12), (128, 1e12))
    assert in_order([failed, fresh], 64, failed) == [fresh, failed]


def simulate(specs: list[RunSpec], n_workers: int, keep: bool) -> tuple[float, int]:
    """When the last run ends, in FLOPs of one worker, and how often a worker changed its width."""
    left, width, changes = list(specs), dict.fromkeys(range(n_workers)), 0
    free = [(0.0, i) for i in range(n_workers)]
    while left:
        now, i = heapq.heappop(free)
        spec = in_order(left, width[i] if keep else None)[0]
        left.remove(spec)
        changes += width[i] != spec.model.d_model
        width[i] = spec.model.d_model
        heapq.heappush(free, (now + spec.C, i))
    return max(now for now, _ in free), changes


@pytest.mark.parametrize("n_workers", [1, 2, 3, 4, 8, 16])
def test_preferring_a_width_saves_changes_and_no_sweep_takes_longer(n_workers: int):
    """An IsoFLOP grid of 4 budgets and 10 widths; all runs of a budget have the same C."""
    specs = runs(*((w, C) for C in (1e13, 2e13, 4e13, 8e13) for w in range(64, 704, 64)))
    end, changes = simulate(specs, n_workers, keep=True)
    end_longest_first, changes_longest_first = simulate(specs, n_workers, keep=False)
    assert end <= 1.001 * end_longest_first
    assert changes < changes_longest_first
    most = max(sum(s.C for s in specs) / n_workers, max(s.C for s in specs))
    assert end <= most + max(s.C for s in specs)
