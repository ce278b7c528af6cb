"""Approach 2: valleys are found where they are, and refused where they are not."""

import re
from dataclasses import replace

import numpy as np
import pytest

from chinchilla.errors import FitError
from chinchilla.fit.isoflop import fit_isoflop, parabolas
from chinchilla.fit.loss_law import named_law, six_nd_frontier
from chinchilla.paper import ISOFLOP_BUDGETS


@pytest.mark.parametrize("half_width", [2.0, 4.0, 16.0])
def test_exponent_is_exact_and_coefficient_is_off_by_the_known_bias(isoflop_runs, law, half_width):
    """Bottom of the parabola = optimum + (alpha-beta)/6 * m4/m2 in ln N, at every budget."""
    fit = fit_isoflop(isoflop_runs(ISOFLOP_BUDGETS, half_width=half_width), n_bootstrap=0)
    (log_k, a), (_, b), _ = six_nd_frontier(law)
    assert fit.N_opt.exponent == pytest.approx(a, abs=1e-9)
    assert fit.D_opt.exponent == pytest.approx(b, abs=1e-9)
    w = np.log(np.geomspace(1 / half_width, half_width, 9))
    bias = (law.alpha - law.beta) / 6 * (w**4).mean() / (w**2).mean()
    shift = np.log(fit.N_opt.coefficient) - log_k
    assert shift == pytest.approx(bias, rel=0.03)


def test_equal_exponents_leave_no_bias(isoflop_runs):
    law = named_law("muennighoff")
    fit = fit_isoflop(isoflop_runs([1e19, 1e20, 1e21], law=law), n_bootstrap=0)
    (log_k, a), _, _ = six_nd_frontier(law)
    assert fit.N_opt.exponent == pytest.approx(a, abs=1e-9)
    assert np.log(fit.N_opt.coefficient) == pytest.approx(log_k, abs=1e-8)


def test_points_lie_at_the_C_achieved_not_the_C_asked_for(isoflop_runs, law, observe):
    """Runs that stop 3% short: same frontier, points 3% to the left, budgets as labels."""
    full = isoflop_runs([1e19, 1e20, 1e21])
    D = 0.97 * full.D
    short = observe(full.N, D, law(full.N, D), budget=full.budget_flops)
    fit = fit_isoflop(short, n_bootstrap=0)
    assert [p.budget_flops for p in fit.points] == [1e19, 1e20, 1e21]
    assert [p.C for p in fit.points] == pytest.approx([0.97e19, 0.97e20, 0.97e21], rel=1e-9)
    whole = fit_isoflop(full, n_bootstrap=0)
    assert fit.N_opt(1e20) == pytest.approx(whole.N_opt(1e20), rel=3e-3)
    assert any("spent up to 3%" in w for w in fit.warnings)


def test_rounding_to_whole_steps_moves_the_exponent_by_less_than_a_thousandth(
    isoflop_runs, law, observe
):
    """The largest model of each budget makes about 100 steps, so rounding costs it up to 1%."""
    full = isoflop_runs(ISOFLOP_BUDGETS, half_width=4)
    batch = np.repeat(full.D.reshape(9, 9).min(axis=1) / 100.7, 9)
    D = np.floor(full.D / batch) * batch
    fit = fit_isoflop(observe(full.N, D, law(full.N, D), budget=full.budget_flops), n_bootstrap=0)
    assert fit.N_opt.exponent == pytest.approx(law.beta / (law.alpha + law.beta), abs=1e-3)
    assert not fit.warnings


def test_tokens_follow_the_flops_per_token_of_the_runs(isoflop_runs, law, observe):
    full = isoflop_runs([1e19, 1e20, 1e21])
    per_token = 6 * full.N**1.1
    D = full.budget_flops / per_token
    obs = observe(full.N, D, law(full.N, D), C=full.budget_flops, budget=full.budget_flops)
    for point in fit_isoflop(obs, n_bootstrap=0).points:
        assert point.D == pytest.approx(point.C / (6 * point.N**1.1), rel=1e-9)


def test_details_hold_each_parabola_in_powers_of_ln_N(isoflop_runs):
    fit = fit_isoflop(isoflop_runs([1e19, 1e20]), n_bootstrap=0)
    for budget, point in zip(fit.details["budgets"], fit.points, strict=True):
        c0, c1, c2 = budget["coefficients"]
        x = np.log(budget["N_opt"])
        assert x == pytest.approx(-c1 / (2 * c2), rel=1e-9)
        assert c0 + c1 * x + c2 * x**2 == pytest.approx(budget["L_opt"], rel=1e-9)
        assert (budget["N_opt"], budget["L_opt"]) == (point.N, point.L)
        assert len(budget["run_ids"]) == len(budget["N"]) == len(budget["L"]) == 9
        assert budget["refused"] is None
    assert any("two budgets" in w for w in fit.warnings)


def test_runs_without_a_budget_are_left_out(isoflop_runs):
    obs = isoflop_runs([1e19, 1e20, 1e21])
    budget = obs.budget_flops.copy()
    budget[0] = np.nan
    fit = fit_isoflop(replace(obs, budget_flops=budget), n_bootstrap=0)
    assert fit.n_runs == 26
    assert fit.details["runs_without_budget"] == 1


def test_the_interval_covers_the_truth_and_is_drawn_within_budgets(isoflop_runs, law):
    fit = fit_isoflop(isoflop_runs(ISOFLOP_BUDGETS, noise=0.002), n_bootstrap=400)
    assert fit.N_opt.p10 < law.beta / (law.alpha + law.beta) < fit.N_opt.p90
    assert "within each budget" in fit.settings["interval"]
    assert len(fit.N_opt.samples[0]) == 400


def test_weights_equal_repeated_rows():
    rng = np.random.default_rng(0)
    x, y = np.linspace(-1, 1, 7), rng.normal(size=(7, 1))
    counts = np.array([[2.0, 0, 1, 1, 3, 0, 1]])
    rows = np.repeat(np.arange(7), counts[0].astype(int))
    weighted = parabolas(x, y, counts)[0, :, 0]
    assert weighted == pytest.approx(np.polyfit(x[rows], y[rows, 0], 2)[::-1], rel=1e-9)
    assert np.isnan(parabolas(x, y, np.eye(7)[:1])).all()  # one point is no parabola


def spoil(obs, change):
    """Three good budgets, of which `change` spoils the first (rows 0-8, sizes rising)."""
    N, D, L, keep = obs.N.copy(), obs.D.copy(), obs.L.copy(), np.ones(len(obs), bool)
    change(N, D, L, keep)
    return replace(obs, N=N, D=D, C=6 * N * D, L=L).where(keep)


def too_few(N, D, L, keep):
    keep[3:9] = False


def upside_down(N, D, L, keep):
    L[:9] = 6 - L[:9]


def only_large(N, D, L, keep):
    keep[:5] = False


def one_side(N, D, L, keep):
    keep[:3] = False
    L[3:9] = 2.5 + 0.05 * np.log(N[3:9] / np.sqrt(N[3] * N[4])) ** 2


def copied(N, D, L, keep):
    N[1], D[1], L[1] = N[0], D[0], L[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (too_few, "3 model sizes cannot show a valley. Train at least 4"),
        (upside_down, "opens downward.*Widen grid.models"),
        (only_large, "no minimum between .* falls towards smaller models. Add smaller models"),
        (one_side, "1 smaller and 5 larger sizes tried; 2 on each side.*Add smaller models"),
        (copied, "1 of 9 runs repeat another run's N, D and loss.*remove the copies"),
    ],
)
def test_a_budget_that_cannot_answer_is_refused_with_its_reason(isoflop_runs, change, message):
    obs = spoil(isoflop_runs([1e19, 1e20, 1e21]), change)
    fit = fit_isoflop(obs, n_bootstrap=0)
    assert len(fit.points) == 2
    assert len(fit.refusals) == 1
    assert fit.refusals[0].startswith("budget 1e+19: ")
    assert re.search(message, fit.refusals[0])
    assert fit.details["budgets"][0]["refused"] in fit.refusals[0]


def test_fewer_than_two_budgets_left_is_an_error_that_names_the_rest(isoflop_runs):
    obs = spoil(isoflop_runs([1e19, 1e20]), upside_down)
    with pytest.raises(FitError, match=r"has 1 of 2\. budget 1e\+19: the parabola opens downward"):
        fit_isoflop(obs)
    with pytest.raises(FitError, match=r"Add a second budget"):
        fit_isoflop(isoflop_runs([1e19]))


def test_runs_that_name_no_budget_are_refused(scattered_runs):
    with pytest.raises(FitError, match=r"no run names one. Fill the column budget_flops"):
        fit_isoflop(scattered_runs())
