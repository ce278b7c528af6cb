"""The recommended answer: right on sweeps whose law is known, with limits on how far it goes."""

import numpy as np
import pytest
from recommended import BUDGETS, best, fitted, inside, starved

from chinchilla.core.errors import InputError, Refusal
from chinchilla.fit.loss_law import six_nd_frontier
from chinchilla.recommend.evaluate import (
    budget_for,
    default_budget,
    headline,
    local_law,
    recommendation,
)


def test_the_answer_is_that_of_the_law_if_it_holds(isoflop_runs, law):
    fits = fitted(isoflop_runs(BUDGETS, noise=1e-3))
    r = recommendation(fits, 1e22)
    N, L = best(law, 1e22)
    assert abs(np.log(r.N / N)) < 0.06
    assert abs(np.log(r.L / L)) < 3e-3
    assert inside(N, r.N_interval80)
    assert inside(L, r.L_interval80)
    assert r.D == pytest.approx(1e22 / (6 * r.N))
    assert inside(r.D, r.D_interval80)
    assert r.D_interval80[0] == pytest.approx(1e22 / (6 * r.N_interval80[1]))
    assert r.beyond == pytest.approx(10, rel=0.01)
    assert default_budget(fits) == pytest.approx(1e22)


def test_approaches_that_disagree_beyond_their_intervals_are_named_first(isoflop_runs):
    runs = starved(isoflop_runs(BUDGETS, n_sizes=15, half_width=30, noise=1e-3))
    fits = fitted(runs, n_bootstrap=100)
    r = recommendation(fits, 1e20)
    assert r.disagreement.startswith(
        "The approaches disagree beyond their 80% intervals: N_opt from"
    )
    assert headline(r).startswith(r.disagreement)
    assert r.reasons[0] == r.disagreement


def test_far_beyond_the_runs_only_a_range_is_stated(isoflop_runs):
    fits = fitted(isoflop_runs(BUDGETS, noise=1e-3))
    near, far = recommendation(fits, 1e24), recommendation(fits, 2e24)
    assert not near.range_only
    assert far.range_only
    said = headline(far)
    assert "N between" in said
    assert "do not support" in said
    assert f"{far.N:.3g}" not in said
    with pytest.raises(Refusal, match="beyond the largest run"):
        recommendation(fits, 2e27)


def test_far_below_the_runs_only_a_range_is_stated(isoflop_runs):
    fits = fitted(isoflop_runs(BUDGETS, noise=1e-3))
    low = recommendation(fits, 5e14)
    assert low.range_only
    assert "below the compute of the smallest run" in low.reasons[-1]
    with pytest.raises(Refusal, match="beyond the smallest run"):
        recommendation(fits, 1e3)


@pytest.mark.parametrize("C", ["1e21", None, [1e20], True, 0, -1.0, float("nan"), float("inf")])
def test_a_budget_that_is_no_number_of_flops_is_one_line(isoflop_runs, C):
    with pytest.raises(InputError, match="FLOPs"):
        recommendation(fitted(isoflop_runs(BUDGETS)), C)


def test_intervals_widen_with_the_distance(isoflop_runs):
    fits = fitted(isoflop_runs(BUDGETS, noise=3e-3))
    widths = [
        np.log(r.N_interval80[1] / r.N_interval80[0])
        for r in (recommendation(fits, C) for C in (1e20, 1e21, 1e22, 1e23, 1e24))
    ]
    assert widths[0] == pytest.approx(widths[1], rel=0.3)
    assert widths[1] < widths[2] < widths[3] < widths[4]


def test_the_local_law_has_the_recommended_answer_and_slope(isoflop_runs):
    fits = fitted(starved(isoflop_runs(BUDGETS, n_sizes=15, half_width=30, noise=1e-3)))
    r, law = recommendation(fits, 1e22), local_law(fits, 1e22)
    (log_k, a), _, _ = six_nd_frontier(law)
    assert np.exp(log_k) * 1e22**a == pytest.approx(r.N, rel=1e-9)
    assert float(law(r.N, r.D)) == pytest.approx(r.L, rel=1e-9)
    step = 1.01
    ahead = recommendation(fits, 1e22 * step)
    N = np.exp(log_k) * (1e22 * step) ** a
    assert float(law(N, 1e22 * step / (6 * N))) - r.L == pytest.approx(ahead.L - r.L, rel=0.02)


def test_a_target_loss_is_the_forecast_inverted(isoflop_runs):
    fits = fitted(isoflop_runs(BUDGETS, noise=1e-3))
    r = recommendation(fits, 1e22)
    C, (low, high) = budget_for(fits, r.L)
    assert pytest.approx(1e22, rel=0.01) == C
    assert low < C < high
    assert recommendation(fits, low).L_interval80[0] == pytest.approx(r.L, rel=1e-3)
    with pytest.raises(Refusal, match="is not reached by the recommended forecast"):
        budget_for(fits, 0.5)
