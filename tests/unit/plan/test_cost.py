"""Expected cost of a plan, with and without shared stable phases."""

from pathlib import Path

import pytest
from planned import one_run
from train_world import make_spec

from chinchilla.config import ClusterConfig
from chinchilla.plan.cost import plan_cost, reused_steps
from chinchilla.plan.records import RunSpec

COOLDOWN = {"schedule": "cooldown", "final_lr_ratio": 0.0, "warmup_steps": 3}


def horizons(data_dir: Path | None, *steps: int, **recipe) -> list[RunSpec]:
    return [make_spec(data_dir, n, **COOLDOWN, **recipe) for n in steps]


def test_cost_is_flops_over_achieved_speed():
    cluster = ClusterConfig(peak_flops=1e15, mfu=0.4, price_per_device_hour=2.0)
    specs = [one_run(budget_flops=b) for b in (6e18, 6e18, 2.4e19)]
    cost = plan_cost(specs, cluster, workers=2)
    seconds = 3.6e19 / 4e14
    assert cost.device_hours == pytest.approx(seconds / 3600, rel=1e-4)
    assert cost.price == 2 * cost.device_hours
    # Two workers would halve it, but the longest run is two thirds of everything.
    assert cost.seconds == cost.longest_run_seconds == pytest.approx(2 / 3 * seconds, rel=1e-4)
    assert plan_cost(specs, cluster, workers=1).seconds == pytest.approx(seconds, rel=1e-4)


def test_an_empty_plan_costs_nothing():
    cost = plan_cost([], ClusterConfig(), workers=4)
    assert (cost.flops, cost.price, cost.seconds) == (0, 0, 0)


def cost(specs: list[RunSpec]) -> float:
    return plan_cost(specs, ClusterConfig(), 1).flops


@pytest.mark.parametrize("ladder", [(100, 200, 400, 800), (100, 200, 400), (100, 200, 300, 400)])
def test_sharing_stable_phases_costs_at_most_seven_tenths_of_cosine_runs(ladder):
    """Each cool-down (20%), and the longest stable phase once."""
    shared = horizons(None, *ladder)
    whole = cost([make_spec(None, n) for n in ladder])
    expected = (0.8 * max(ladder) + 0.2 * sum(ladder)) / sum(ladder)
    assert cost(shared) / whole == pytest.approx(expected, rel=1e-12)
    assert cost(shared) <= 0.7 * whole


def test_the_remaining_plan_reuses_finished_stable_phases():
    specs = horizons(None, 100, 200, 400)
    left = plan_cost(specs[1:], ClusterConfig(), 8, plan=[*specs, *specs])
    assert left.flops == pytest.approx((120 + 240) / 200 * specs[1].C)
    assert left.flops + left.shared_flops == pytest.approx(sum(s.C for s in specs[1:]))
    # The runs of one stable phase are consecutive for any number of workers.
    assert left.seconds == left.longest_run_seconds > specs[2].C / (989e12 * 0.4) * 0.8


def test_runs_of_other_stable_phases_and_schedules_reuse_nothing():
    specs = [make_spec(None, 100), make_spec(None, 200), *horizons(None, 100),
             *horizons(None, 200, seed=1)]  # fmt: skip
    assert set(reused_steps(specs).values()) == {0}
    assert cost(specs) == sum(s.C for s in specs)
