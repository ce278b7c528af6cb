"""Approach 2: minima of IsoFLOP curves, and refusals."""

import re
import time
from dataclasses import replace

import numpy as np
import pytest

from chinchilla.core.errors import FitError, InputError
from chinchilla.core.paper import ISOFLOP_BUDGETS
from chinchilla.fit.envelope.approach1 import fit_envelope
from chinchilla.fit.isoflop.approach2 import fit_isoflop
from chinchilla.fit.loss_law import named_law, six_nd_frontier
from chinchilla.fit.parametric.approach3 import fit_parametric


@pytest.mark.parametrize("half_width", [2.0, 4.0, 16.0])
def test_exponent_is_exact_and_coefficient_is_off_by_the_known_bias(isoflop_runs, law, half_width):
    """Minimum of the parabola = optimum + (alpha-beta)/6 * m4/m2 in ln N, at every budget."""
    runs = isoflop_runs(ISOFLOP_BUDGETS, half_width=half_width)
    fit = fit_isoflop(runs, profile="parabola", window="all", n_bootstrap=0)
    (log_k, a), (_, b), _ = six_nd_frontier(law)
    assert fit.N_opt.exponent == pytest.approx(a, abs=1e-9)
    assert fit.D_opt.exponent == pytest.approx(b, abs=1e-9)
    w = np.log(np.geomspace(1 / half_width, half_width, 9))
    bias = (law.alpha - law.beta) / 6 * (w**4).mean() / (w**2).mean()
    shift = np.log(fit.N_opt.coefficient) - log_k
    assert shift == pytest.approx(bias, rel=0.03)


@pytest.mark.parametrize(
    ("half_width", "percent"), [(2.0, 0.33), (4.0, 1.32), (8.0, 2.99), (16.0, 5.37)]
)
def test_the_exact_shape_has_no_bias_and_the_parabola_its_published_one(
    isoflop_runs, half_width, percent
):
    """Czech et al. (2026), 15 sizes on the printed law: a parabola's N_opt is so many % too large."""
    law = named_law("hoffmann_rounded")
    runs = isoflop_runs(ISOFLOP_BUDGETS, n_sizes=15, half_width=half_width, law=law)
    fit = fit_isoflop(runs, window="all", n_bootstrap=0)
    (log_k, a), _, _ = six_nd_frontier(law)
    true = np.exp(log_k) * 1e20**a
    assert fit.N_opt(1e20) == pytest.approx(true, rel=1e-8)
    assert [p.N for p in fit.points] == pytest.approx(
        [np.exp(log_k) * p.C**a for p in fit.points], rel=1e-8
    )
    paper = fit_isoflop(runs, profile="parabola", window="all", n_bootstrap=0)
    assert 100 * (paper.N_opt(1e20) / true - 1) == pytest.approx(percent, abs=0.006)
    assert f"alpha={law.alpha:.6g}, beta={law.beta:.6g}" in fit.settings["exponents"]


def test_sizes_that_drift_off_centre_bend_the_parabolas_line_alone(law, observe):
    """Grids that slide from a third to thrice the optimum: the parabola's exponent is off, ours is not."""
    (log_k, a), _, _ = six_nd_frontier(law)
    C = np.repeat(ISOFLOP_BUDGETS, 9)
    drift = np.repeat(np.geomspace(1 / 3, 3, len(ISOFLOP_BUDGETS)), 9)
    N = np.exp(log_k) * C**a * drift * np.tile(np.geomspace(1 / 8, 8, 9), len(ISOFLOP_BUDGETS))
    runs = observe(N, C / (6 * N), law(N, C / (6 * N)), budget=C)
    fit = fit_isoflop(runs, window="all", n_bootstrap=0)
    paper = fit_isoflop(runs, profile="parabola", window="all", n_bootstrap=0)
    assert abs(paper.N_opt.exponent - a) > 1e-3
    assert fit.N_opt.exponent == pytest.approx(a, abs=1e-8)
    assert fit.N_opt(1e22) == pytest.approx(np.exp(log_k) * 1e22**a, rel=1e-7)


def test_parabolas_are_used_without_a_law(observe):
    """Losses that are parabolas in ln N and do not depend on D otherwise: no law, but minima."""
    C = np.repeat([1e19, 1e20], 5)
    N = 1e9 * (C / 1e19) ** 0.5 * np.tile(np.geomspace(0.25, 4, 5), 2)
    L = 3 + 0.05 * np.log(N / (1e9 * (C / 1e19) ** 0.5)) ** 2
    fit = fit_isoflop(observe(N, C / (6 * N), L, budget=C), n_bootstrap=0)
    assert fit.N_opt.exponent == pytest.approx(0.5, abs=1e-9)
    assert "approach 3 gives no alpha and beta" in fit.warnings[0]
    assert fit.settings["exponents"] == "none"
    assert fit.settings["profile"].startswith("parabola")


def test_equal_exponents_leave_no_bias(isoflop_runs):
    law = named_law("muennighoff")
    fit = fit_isoflop(isoflop_runs([1e19, 1e20, 1e21], law=law), profile="parabola", n_bootstrap=0)
    (log_k, a), _, _ = six_nd_frontier(law)
    assert fit.N_opt.exponent == pytest.approx(a, abs=1e-9)
    assert np.log(fit.N_opt.coefficient) == pytest.approx(log_k, abs=1e-8)


@pytest.mark.parametrize("profile", ["exact", "parabola"])
def test_points_lie_at_the_C_achieved_not_at_the_budget(isoflop_runs, law, observe, profile):
    """Runs that stop 3% short: same frontier, points 3% to the left, budgets as labels."""
    full = isoflop_runs([1e19, 1e20, 1e21])
    D = 0.97 * full.D
    short = observe(full.N, D, law(full.N, D), budget=full.budget_flops)
    fit = fit_isoflop(short, profile=profile, n_bootstrap=0)
    assert [p.budget_flops for p in fit.points] == [1e19, 1e20, 1e21]
    assert [p.C for p in fit.points] == pytest.approx([0.97e19, 0.97e20, 0.97e21], rel=1e-9)
    whole = fit_isoflop(full, profile=profile, n_bootstrap=0)
    assert fit.N_opt(1e20) == pytest.approx(whole.N_opt(1e20), rel=3e-3)
    assert not fit.warnings  # all runs of a budget are equally short: nothing is tilted


@pytest.mark.parametrize(("profile", "tolerance"), [("exact", 1e-9), ("parabola", 1e-3)])
def test_rounding_to_whole_steps_moves_the_exponent_by_less_than_a_thousandth(
    isoflop_runs, law, observe, profile, tolerance
):
    """The largest model of each budget makes about 100 steps, so rounding costs it up to 1%."""
    full = isoflop_runs(ISOFLOP_BUDGETS, half_width=4)
    batch = np.repeat(full.D.reshape(9, 9).min(axis=1) / 100.7, 9)
    D = np.floor(full.D / batch) * batch
    runs = observe(full.N, D, law(full.N, D), budget=full.budget_flops)
    fit = fit_isoflop(runs, profile=profile, n_bootstrap=0)
    assert fit.N_opt.exponent == pytest.approx(law.beta / (law.alpha + law.beta), abs=tolerance)
    assert not fit.warnings


def test_tokens_follow_the_flops_per_token_of_the_runs(isoflop_runs, law, observe):
    """C = 6*N^1.1*D: the exact shape finds the optimum of this cost, and D is what C buys there."""
    full = isoflop_runs([1e19, 1e20, 1e21])
    D = full.budget_flops / (6 * full.N**1.1)
    obs = observe(full.N, D, law(full.N, D), C=full.budget_flops, budget=full.budget_flops)
    fit = fit_isoflop(obs, n_bootstrap=0)
    for p in fit.points:
        assert p.D == pytest.approx(p.C / (6 * p.N**1.1), rel=1e-9)
        N = p.N * np.linspace(0.999, 1.001, 3)
        low, best, high = law(N, p.C / (6 * N**1.1))
        assert low > best < high
        assert p.L == pytest.approx(best, rel=1e-9)
    assert fit.N_opt.exponent + fit.D_opt.exponent < 0.99  # not a + b = 1, as under 6*N*D


@pytest.mark.parametrize("profile", ["exact", "parabola"])
def test_details_hold_the_runs_the_curve_and_the_minimum_of_each_budget(isoflop_runs, law, profile):
    fit = fit_isoflop(isoflop_runs([1e19, 1e20]), profile=profile, n_bootstrap=0)
    for budget, point in zip(fit.details["budgets"], fit.points, strict=True):
        N, L = (np.array(budget["curve"][name]) for name in "NL")
        true = law(N, budget["budget_flops"] / (6 * N))
        assert pytest.approx(true, abs=1e-9 if profile == "exact" else 0.05) == L
        assert N[L.argmin()] == pytest.approx(budget["N_opt"], rel=0.05)
        assert (budget["N_opt"], budget["L_opt"]) == pytest.approx((point.N, point.L), rel=1e-12)
        assert len(budget["run_ids"]) == len(budget["N"]) == len(budget["L"]) == 9
        assert budget["refused"] is None
    assert any("only two budgets" in w for w in fit.warnings)


def test_the_interval_covers_the_truth(isoflop_runs, law):
    fit = fit_isoflop(isoflop_runs(ISOFLOP_BUDGETS, noise=0.002), n_bootstrap=400)
    assert fit.N_opt.p10 < law.beta / (law.alpha + law.beta) < fit.N_opt.p90
    assert fit.settings["interval"] == "wild bootstrap (HC2), Student's t, 400 resamples"
    assert len(fit.N_opt.samples[0]) == 400


@pytest.mark.slow
def test_the_80_percent_interval_has_its_nominal_coverage(isoflop_runs, law):
    """60 sweeps of five sizes, so 80% +- 5%. Fully: scripts/studies/coverage.py."""
    a = law.beta / (law.alpha + law.beta)
    covered = 0
    for seed in range(60):
        runs = isoflop_runs(ISOFLOP_BUDGETS, n_sizes=5, noise=0.002, seed=seed)
        fit = fit_isoflop(runs, profile="parabola", n_bootstrap=100, seed=seed)
        covered += fit.N_opt.p10 < a < fit.N_opt.p90
    assert 0.68 * 60 < covered < 0.92 * 60


def test_the_spread_is_the_residuals_and_not_the_sizes(isoflop_runs):
    """Twice the noise, twice the interval; no noise, no interval."""
    width = []
    for noise in (0.0, 5e-4, 1e-3):
        fit = fit_isoflop(isoflop_runs(ISOFLOP_BUDGETS, noise=noise), n_bootstrap=400)
        width.append(fit.N_opt.p90 - fit.N_opt.p10)
    assert width[0] < 1e-9
    assert width[2] == pytest.approx(2 * width[1], rel=0.05)


def test_runs_that_name_no_budget_are_refused(scattered_runs):
    with pytest.raises(
        FitError, match=r"no run has a budget. Fill the column budget_flops"
    ) as error:
        fit_isoflop(scattered_runs())
    assert error.value.kind == "no_budget"


@pytest.mark.parametrize("column", ["L", "N", "D", "C"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_invalid_numbers_are_refused_by_run(isoflop_runs, column, value):
    """Observations check on the way in; arrays can still be written to."""
    obs = isoflop_runs([1e19, 1e20])
    getattr(obs, column)[3] = value
    with pytest.raises(InputError, match=rf"run run0003: {column}=.*not a positive finite"):
        fit_isoflop(obs)


def test_runs_keep_their_budget_whatever_they_spent(isoflop_runs, law, observe):
    """Runs between two budgets in C stay with the budget that names them."""
    full = isoflop_runs([1e19, 1.2e19, 1e21])
    D = full.D * np.where(full.budget_flops == 1e19, 1.15, 1)
    fit = fit_isoflop(observe(full.N, D, law(full.N, D), budget=full.budget_flops), n_bootstrap=0)
    assert [b["budget_flops"] for b in fit.details["budgets"]] == [1e19, 1.2e19, 1e21]
    assert [len(b["N"]) for b in fit.details["budgets"]] == [9, 9, 9]


def test_a_thousand_resamples_take_less_than_half_a_second(isoflop_runs):
    """126 runs in nine budgets, as many as Figure 4 of the paper shows; of all threads together."""
    runs = isoflop_runs(ISOFLOP_BUDGETS, n_sizes=14, noise=0.002)
    fit_isoflop(runs, n_bootstrap=20)
    start = time.process_time()
    fit_isoflop(runs, n_bootstrap=1000)
    assert time.process_time() - start < 0.5


def test_the_exact_shape_uses_the_tokens_of_each_run(isoflop_runs, observe, law):
    """C 25% larger at the largest size of the dearest budget than at the smallest."""
    full = isoflop_runs([1e19, 1e20, 1e21])
    D = full.D * np.concatenate([np.ones(18), np.geomspace(0.9, 1.125, 9)])
    fit = fit_isoflop(observe(full.N, D, law(full.N, D), budget=full.budget_flops), n_bootstrap=0)
    assert fit.N_opt.exponent == pytest.approx(0.4565, abs=1e-3)
    assert not fit.warnings


def test_budgets_that_round_to_one_label_are_one_everywhere(isoflop_runs):
    obs = isoflop_runs([1e19, 1e20])
    obs.budget_flops[:4] *= 1 + 1e-9
    assert [len(b["N"]) for b in fit_isoflop(obs, n_bootstrap=0).details["budgets"]] == [9, 9]


def test_alpha_and_beta_come_from_the_given_objective(isoflop_runs):
    obs = isoflop_runs([1e19, 1e20, 1e21], noise=0.01)
    huber, squares = (
        fit_isoflop(obs, n_bootstrap=0, objective=o, huber_delta=1e-3).settings["exponents"]
        for o in ("huber", "least_squares")
    )
    assert "objective=huber, huber_delta=0.001" in huber
    assert "objective=least_squares" in squares
    assert huber.split(":")[0] != squares.split(":")[0]


@pytest.mark.parametrize(
    ("fit", "setting", "message"),
    [
        (fit_isoflop, {"profile": "cubic"}, "profile='cubic': choose one of exact, parabola"),
        (fit_isoflop, {"window": 1.6}, "window=1.6: choose one of auto, all"),
        (fit_isoflop, {"objective": "l1"}, "objective='l1': choose one of huber, lad"),
        (fit_isoflop, {"huber_delta": 0}, "huber_delta=0 must be above 0"),
        (
            fit_isoflop,
            {"n_bootstrap": 5},
            "n_bootstrap=5 must be at least 20 and at most 100,000. Give 0 for",
        ),
        (fit_envelope, {"schedule": "x"}, "schedule='x': choose one of matched, constant"),
        (fit_envelope, {"seed": -1}, "seed=-1 must not be negative"),
        (fit_envelope, {"n_bootstrap": -4}, "n_bootstrap=-4 must be at least 20"),
        (fit_envelope, {"n_bootstrap": 1e3}, "n_bootstrap=1000.0 must be a whole number"),
        (fit_parametric, {"huber_delta": -1e-3}, "huber_delta=-0.001 must be above 0"),
        (fit_parametric, {"huber_delta": np.nan}, "huber_delta=nan must be above 0"),
        (fit_parametric, {"huber_delta": "x"}, "huber_delta=x must be above 0"),
        (fit_parametric, {"objective": "mean"}, "objective='mean': choose one of huber, lad"),
    ],
    ids=lambda x: str(x) if isinstance(x, dict) else "",
)
def test_an_invalid_setting_is_refused_in_one_line(isoflop_runs, fit, setting, message):
    with pytest.raises(InputError, match=re.escape(message)) as error:
        fit(isoflop_runs([1e19, 1e20]), **setting)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("profile", ["exact", "parabola"])
def test_losses_that_rise_with_compute_are_refused(isoflop_runs, profile):
    """Budgets put in the wrong rows: each profile has its minimum, but more compute does harm."""
    runs = isoflop_runs([1e19, 1e20, 1e21])
    wrong = replace(runs, L=runs.L * np.repeat([1.0, 1.3, 1.6], len(runs) // 3))
    with pytest.raises(FitError, match="lowest losses rise with C") as error:
        fit_isoflop(wrong, profile=profile)
    assert error.value.kind == "loss_rises"
