"""Expected precision of a planned grid, from simulated sweeps."""

import dataclasses

import pytest

from chinchilla.config import GridConfig, RecipeConfig
from chinchilla.core.errors import FitError
from chinchilla.decide.power import FAR, expected_precision
from chinchilla.plan.grid import plan_grid
from chinchilla.plan.propose import propose_grid

RECIPE = RecipeConfig(lr_batch_rule="step_law", peak_lr=0, batch_tokens=0, final_lr_ratio=0)


def specs(flops: float = 1e18, vocab_size: int = 4096, **change):
    grid = propose_grid(flops, RECIPE, vocab_size=vocab_size)
    grid = dataclasses.replace(grid, **change)
    return plan_grid(grid, RECIPE, vocab_size=vocab_size, data_id="d", precision="bf16")


def test_estimates_of_a_proposed_grid_are_unbiased_and_their_spread_grows_with_the_noise():
    plan = specs()
    quiet, noisy = (expected_precision(plan, noise=x, n_sweeps=10) for x in (2e-3, 8e-3))
    assert quiet.n_failed == noisy.n_failed == 0
    assert quiet.a[1] == pytest.approx(quiet.true_a, abs=0.01)
    assert quiet.N_opt[1] == pytest.approx(quiet.true_N_opt, rel=0.05)
    assert quiet.C == FAR * max(s.budget_flops or 0 for s in plan)
    exact_a, exact_N_opt = quiet.systematic[1.0]
    assert abs(exact_a) < 0.01
    assert abs(exact_N_opt) < 0.05
    ratio = (noisy.a[2] - noisy.a[0]) / (quiet.a[2] - quiet.a[0])
    assert 2 < ratio < 8  # 4 times the noise
    budgets = sorted({s.budget_flops for s in plan if s.budget_flops})[-3:]
    three = expected_precision(specs(budgets=budgets), noise=2e-3, n_sweeps=10)
    assert three.a[2] - three.a[0] > 1.5 * (quiet.a[2] - quiet.a[0])  # fewer budgets determine less


def test_losses_of_small_budgets_are_those_of_a_law_moved_to_1e19():
    """The published law has 25 nats at 5,000 parameters."""
    power = expected_precision(specs(2e13, 512), noise=1e-3, n_sweeps=5)
    assert power.true_a == pytest.approx(0.52, abs=0.02)


def test_one_budget_cannot_be_simulated():
    grid = GridConfig(budgets=[1e17], models=["256x4", "320x5", "384x6", "512x6", "512x8"])
    grid = dataclasses.replace(grid, min_side=0, seq_len=512)
    plan = plan_grid(grid, RECIPE, vocab_size=4096, data_id="d", precision="bf16")
    with pytest.raises(FitError, match="second budget"):
        expected_precision(plan, n_sweeps=4)


def test_a_grid_around_a_wrong_guess_has_a_larger_error_without_noise_or_no_answer():
    narrow = dataclasses.replace(propose_grid(1e18, RECIPE, vocab_size=4096), span=1.8)
    plan = plan_grid(narrow, RECIPE, vocab_size=4096, data_id="d", precision="bf16")
    found = expected_precision(plan, n_sweeps=2).systematic
    assert found[1.0] is not None
    assert all(e is None or abs(e[1]) > 0.2 for shift, e in found.items() if shift != 1), found
