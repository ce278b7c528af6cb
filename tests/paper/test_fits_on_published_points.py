"""Fits against published results: named laws in closed form, and public measurements.

The measurements are not part of this repository. CHINCHILLA_PUBLIC_DATA names their folder
(default: shared/data beside the checkout); tests that need a missing file skip.
"""

import csv
from dataclasses import replace

import numpy as np
import pytest
from public_data import public
from scipy.spatial import ConvexHull

from chinchilla.core.paper import GOPHER_BUDGET, ISOFLOP_BUDGETS, SEQ_LEN, TABLE_A9, VOCAB_SIZE
from chinchilla.core.shapes import ModelShape, flops_per_token
from chinchilla.fit import FitResult, LossLaw, fit_envelope, fit_isoflop, fit_parametric
from chinchilla.fit.bootstrap import draw_counts, power_laws
from chinchilla.fit.envelope.curves import read_curves
from chinchilla.fit.envelope.lower_envelope import curve_envelopes
from chinchilla.fit.loss_law import FrontierSolver, named_law, six_nd_frontier
from chinchilla.fit.numerics import fit_line
from chinchilla.fit.parametric.approach3 import fit_loss_law, refit_loss_law
from chinchilla.fit.parametric.newton import Problem
from chinchilla.observations.table import Observations


@pytest.fixture
def figure_4() -> Observations:
    """All 245 points read from the paper's Figure 4; C = 6*N*D."""
    return Observations.from_csv(public("hoffmann_fig4.csv"), flop_convention="six_nd")


@pytest.fixture
def figure_4_240(figure_4) -> Observations:
    """Without the five highest losses, as Besiroglu et al. (2024) fit them."""
    with open(public("hoffmann_fig4.csv"), newline="") as f:
        outlier = np.array([row["epoch_outlier"] == "True" for row in csv.DictReader(f)])
    return figure_4.where(~outlier)


@pytest.mark.parametrize(
    ("name", "N", "D", "a"),
    [
        ("hoffmann", 40.36e9, 2.379e12, 0.4565),
        ("besiroglu", 72.25e9, 1.329e12, 0.5126),
        ("muennighoff", 69.96e9, 1.372e12, 0.5),
        ("hoffmann_rounded", 32.2e9, 2.98e12, 0.4516),
    ],
)
def test_published_laws_at_the_gopher_budget(name, N, D, a):
    """To the digits that were recomputed from each paper's constants."""
    (log_k, exponent), (log_m, b), _ = six_nd_frontier(named_law(name))
    digits = 5e-3 if name == "hoffmann_rounded" else 5e-4
    assert np.exp(log_k) * GOPHER_BUDGET**exponent == pytest.approx(N, rel=digits)
    assert np.exp(log_m) * GOPHER_BUDGET**b == pytest.approx(D, rel=digits)
    assert exponent == pytest.approx(a, abs=5e-5)


def test_approach_3_reaches_the_reference_optimum_of_240_points(figure_4_240):
    """Sum of Huber(1e-3) on log-loss; found independently from the paper's 4500 starts."""
    N, D, L = figure_4_240.N, figure_4_240.D, figure_4_240.L
    law, certificate = fit_loss_law(N, D, L)
    assert certificate["n_starts"] == 5
    assert certificate["objective"] == pytest.approx(1.018274017801e-3, rel=1e-9)
    assert certificate["predicted_relative_decrease"] < 1e-13
    assert certificate["n_agreeing"] == certificate["n_starts"]
    problem, w = Problem.of(N, D, L), np.ones((81, len(L)))
    grid = problem.solve(problem.starts(w[:1], "grid")[0], w, (1e-2, 1e-3))
    assert grid.converged.all()
    assert grid.f == pytest.approx(np.full(81, certificate["objective"]), rel=1e-8)
    assert law.E == pytest.approx(1.817218, abs=1e-6)
    assert law.A == pytest.approx(477.826, abs=1e-3)
    assert law.B == pytest.approx(2143.417, abs=2e-3)
    assert law.alpha == pytest.approx(0.347311, abs=1e-6)
    assert law.beta == pytest.approx(0.367172, abs=1e-6)
    assert law.beta / (law.alpha + law.beta) == pytest.approx(0.513900, abs=1e-6)


def test_approach_3_reaches_the_reference_optimum_of_245_points(figure_4):
    """The five highest losses move beta by .086, the exponent by .05."""
    law, certificate = fit_loss_law(figure_4.N, figure_4.D, figure_4.L)
    assert certificate["objective"] == pytest.approx(1.826010523069e-3, rel=1e-9)
    assert law.E == pytest.approx(1.8913385, abs=1e-6)
    assert law.beta == pytest.approx(0.4530493, abs=1e-6)


def test_outliers_are_named_with_their_effect(figure_4):
    """Four of the five that Besiroglu et al. (2024) left out, and one more; nothing is left out."""
    fit = fit_parametric(figure_4, n_bootstrap=0)
    with open(public("hoffmann_fig4.csv"), newline="") as f:
        theirs = {row["run_id"] for row in csv.DictReader(f) if row["epoch_outlier"] == "True"}
    named = set(fit.details["outliers"]["run_ids"])
    assert len(named & theirs) == 4
    assert named - theirs == {"fig4_244"}
    assert fit.n_runs == 245
    without = figure_4.where(~np.isin(figure_4.run_id, list(named)))
    law, _ = fit_loss_law(without.N, without.D, without.L)
    a = law.beta / (law.alpha + law.beta)
    assert fit.details["outliers"]["a_without"] == pytest.approx(a, abs=1e-5)
    assert any(f"without them a is {a:.3f}, with them 0.565" in text for text in fit.warnings)


def test_least_absolute_deviations_are_besiroglus_published_constants(figure_4_240):
    """Their Huber scale was free and shrank to nothing: 482.01, 2085.43, .3478, .3658 minimise
    sum |r|. At the exact minimum five residuals are zero."""
    law, certificate = fit_loss_law(figure_4_240.N, figure_4_240.D, figure_4_240.L, objective="lad")
    published = named_law("besiroglu")
    assert law.A == pytest.approx(published.A, abs=0.01)
    assert law.B == pytest.approx(published.B, abs=0.01)
    assert law.alpha == pytest.approx(published.alpha, abs=5e-5)
    assert law.beta == pytest.approx(published.beta, abs=1e-4)
    assert law.E == pytest.approx(1.81686, abs=1e-5)
    r = np.abs(np.log(law(figure_4_240.N, figure_4_240.D) / figure_4_240.L))
    assert certificate["objective"] == pytest.approx(r.sum(), rel=1e-12)
    assert np.sort(r)[4] < 1e-12 < 1e-6 < np.sort(r)[5]
    other = LossLaw(1.81684, 481.93, 2085.00, 0.34780, 0.36584)  # a smooth fit, width 1e-8
    assert np.abs(np.log(other(figure_4_240.N, figure_4_240.D) / figure_4_240.L)).sum() > r.sum()


def test_least_squares_on_240_points(figure_4_240):
    law, certificate = fit_loss_law(
        figure_4_240.N, figure_4_240.D, figure_4_240.L, objective="least_squares"
    )
    assert certificate["predicted_relative_decrease"] < 1e-13
    assert law.E == pytest.approx(1.864550, abs=1e-6)
    assert (law.A, law.B) == pytest.approx((593.32, 4875.6), rel=1e-5)
    assert (law.alpha, law.beta) == pytest.approx((0.360253, 0.405883), abs=1e-6)


def test_the_published_approach_3_is_no_minimum_of_its_points(figure_4_240):
    """Besiroglu et al.: the constants printed by Hoffmann et al. fit worse, by a fifth."""
    r = np.abs(np.log(named_law("hoffmann")(figure_4_240.N, figure_4_240.D) / figure_4_240.L))
    assert np.where(r <= 1e-3, r**2 / 2, 1e-3 * (r - 5e-4)).sum() == pytest.approx(
        1.23116e-3, rel=1e-5
    )


@pytest.fixture(scope="module")
def resampled() -> FitResult:
    """4000 pairs resamples of the 240 points."""
    obs = Observations.from_csv(public("hoffmann_fig4.csv"), flop_convention="six_nd")
    obs = obs.where(np.sort(np.argsort(obs.L)[:-5]))
    fit = fit_parametric(obs, n_bootstrap=0)
    laws = refit_loss_law(obs.N, obs.D, obs.L, draw_counts(len(obs), 4000, 0), fit.law)
    solver = FrontierSolver.of(obs)
    N_opt, _, _ = power_laws(*solver.lines(fit.law), solver.all_lines(laws.theta))
    return replace(fit, N_opt=N_opt, law_samples=laws.theta.T.tolist())


def test_approach_3_interval_is_the_one_that_besiroglu_found(resampled):
    """4000 resamples there and here: 80% of alpha, beta and the width of a's interval."""
    exponents = np.array(resampled.N_opt.samples[1])
    assert len(exponents) == 4000
    assert exponents.std() == pytest.approx(0.0198, abs=0.0005)
    assert resampled.N_opt.p90 - resampled.N_opt.p10 == pytest.approx(0.051, abs=0.002)
    alpha, beta = np.percentile(resampled.law_samples[3:], (10, 90), axis=1).T
    assert alpha == pytest.approx([0.326, 0.364], abs=2e-3)
    assert beta == pytest.approx([0.347, 0.398], abs=3e-3)


def test_methods_of_resampling_differ_as_measured(resampled, figure_4):
    """Standard errors of a on the 240 points, found independently by another program: pairs .0194,
    by size .0209, subsampling .0108; N_opt(5.76e23) [52.5, 110.7]e9 by pairs."""
    obs = figure_4.where(np.sort(np.argsort(figure_4.L)[:-5]))
    budget = np.where(np.isnan(obs.budget_flops), -np.floor(4 * np.log10(obs.C)), obs.budget_labels)
    _, of_budget = np.unique(budget, return_inverse=True)
    shuffled = np.random.default_rng(0).permuted(np.tile(np.arange(240), (100, 1)), axis=1)
    sizes, of_size = np.unique(obs.N, return_inverse=True)
    weights = {
        "by size": draw_counts(len(sizes), 100, 0)[:, of_size],
        "whole budgets": draw_counts(of_budget.max() + 1, 100, 0)[:, of_budget],
        "subsamples of 80%, the paper's": (shuffled < 192).astype(float),
    }
    se = {
        name: refit_loss_law(obs.N, obs.D, obs.L, w, resampled.law).a.std(ddof=1)
        for name, w in weights.items()
    }
    pairs = np.std(resampled.N_opt.samples[1], ddof=1)
    assert pairs == pytest.approx(0.0195, abs=4e-4)
    assert se["by size"] == pytest.approx(0.0209, abs=0.002)
    assert se["subsamples of 80%, the paper's"] == pytest.approx(0.0100, abs=0.0015)
    assert se["whole budgets"] > 1.5 * pairs
    assert resampled.N_opt.band(GOPHER_BUDGET, 2.5, 97.5) == pytest.approx(
        (52.5e9, 110.7e9), rel=0.04
    )


def test_approach_2_on_figure_4(figure_4):
    """The paper: a = .49 (.462, .534), 63B at the Gopher budget, by parabolas."""
    fit = fit_isoflop(figure_4, profile="parabola", window="all", n_bootstrap=200)
    assert fit.N_opt.exponent == pytest.approx(0.4908, abs=1e-3)
    assert fit.N_opt(GOPHER_BUDGET) == pytest.approx(63.0e9, rel=5e-3)
    assert 0.462 < fit.N_opt.p10 < 0.49 < fit.N_opt.p90 < 0.534
    # Of the budget 1e20 only 13 points were read, two of them below its lowest loss.
    assert [p.budget_flops for p in fit.points if p.budget_flops == 1e20] == []
    assert fit.refusals[0].startswith(
        "budget 1e+20: the fitted curve has no minimum between N=6.32e+08"
    )
    assert [b["kind"] for b in fit.details["budgets"] if b["refused"]] == ["curve_misses"]
    # At 1e19 two runs at 4.7 and 5.0 nats pull the parabola .071 below the lowest loss measured.
    (loss,) = [p.L for p in fit.points if p.budget_flops == 1e19]
    assert loss == pytest.approx(2.844, abs=5e-4)
    assert figure_4.L[figure_4.budget_labels == 1e19].min() == pytest.approx(2.915, abs=5e-4)


def test_approach_2_on_figure_4_uses_the_sizes_near_each_minimum(figure_4):
    """The default window leaves out the runs that the paper's parabolas are distorted by."""
    fit = fit_isoflop(figure_4, n_bootstrap=200)
    window = fit.details["window"]
    assert window["width"] == 1.6
    assert fit.N_opt.exponent == pytest.approx(0.4988, abs=5e-5)
    assert fit.N_opt.p10 < 0.49 < fit.N_opt.p90


REFINEDWEB = "porian_refinedweb_isoflop.csv"


def test_ten_published_refinedweb_exponents_by_one_rule():
    """Porian et al. (2024): with the default window all ten lie within .03 of the published value."""
    with open(public(REFINEDWEB), newline="") as f:
        rows = list(csv.DictReader(f))
    with open(public("porian_refinedweb_published.csv"), newline="") as f:
        published = {row["config"]: float(row["a_weighted"]) for row in csv.DictReader(f)}
    assert len(published) == 10
    off = {}
    for config, a in published.items():
        of = [r for r in rows if r["config"] == config]
        columns = {k: np.array([float(r[k]) for r in of]) for k in ("C", "N", "D", "L")}
        obs = Observations.of(budget_flops=[float(r["budget_flops"]) for r in of], **columns)
        off[config] = fit_isoflop(obs, n_bootstrap=0).N_opt.exponent - a
    assert max(abs(x) for x in off.values()) < 0.03, off


@pytest.fixture
def figure_4_budgets(figure_4) -> Observations:
    """C as the paper counts it, of Table A9's shapes; a run belongs to a budget within 2% of it."""
    with open(public("hoffmann_fig4.csv"), newline="") as f:
        sizes = [round(float(row["params_a9"]) / 1e6) for row in csv.DictReader(f)]
    per_token = {
        row.params_M: flops_per_token(
            ModelShape(*row[1:], vocab_size=VOCAB_SIZE, seq_len=SEQ_LEN, positions="relative"),
            "paper",
        )
        for row in TABLE_A9
    }
    C = np.array([per_token[min(per_token, key=lambda m: abs(m - size))] for size in sizes])
    C = C * figure_4.D
    budgets = np.array(ISOFLOP_BUDGETS)
    nearest = budgets[np.abs(np.log(C[:, None] / budgets)).argmin(axis=1)]
    budget = np.where(np.abs(C / nearest - 1) < 0.02, nearest, np.nan)
    return replace(figure_4, C=C, budget_flops=budget, flop_convention="paper")


def test_approach_2_through_the_points_of_table_a9_at_each_budget(figure_4_budgets):
    """Parabolas through the 85 points at a budget: a = .488 and 62.0B."""
    assert np.isfinite(figure_4_budgets.budget_flops).sum() == 85
    fit = fit_isoflop(figure_4_budgets, profile="parabola", window="all", n_bootstrap=0)
    assert len(fit.points) == 9
    assert not fit.refusals
    assert fit.N_opt.exponent == pytest.approx(0.4876, abs=5e-4)
    assert fit.N_opt(GOPHER_BUDGET) == pytest.approx(62.05e9, rel=2e-3)


def test_the_exact_shape_on_figure_4_agrees_with_the_parabola(figure_4_240):
    """Without outliers the two agree within their intervals."""
    plain = fit_isoflop(figure_4_240, profile="parabola", window="all", n_bootstrap=0)
    exact = fit_isoflop(figure_4_240, window="all", n_bootstrap=200)
    assert exact.N_opt.ci95[0] < plain.N_opt.exponent < exact.N_opt.ci95[1]
    assert exact.N_opt.p10 < exact.N_opt.exponent < exact.N_opt.p90
    assert exact.N_opt.exponent == pytest.approx(0.490, abs=0.005)


def test_the_far_ends_of_the_profiles_decide_the_exact_shape_on_all_245_points(figure_4):
    fit = fit_isoflop(figure_4, window="all", n_bootstrap=0)
    assert fit.N_opt.exponent == pytest.approx(0.4801, abs=5e-5)
    assert fit.N_opt(GOPHER_BUDGET) == pytest.approx(57.34e9, rel=1e-3)


def test_approach_1_on_figure_4_uses_final_losses_only(figure_4_240):
    """The paper, on curves: a = .50 (.488, .502)."""
    fit = fit_envelope(figure_4_240, n_bootstrap=100)
    assert fit.settings["endpoints_only"]
    assert fit.N_opt.exponent == pytest.approx(0.50, abs=0.03)


def test_approach_1_on_public_curves_warns_of_few_horizons():
    """OLMo ladder: five sizes, five horizons a factor two apart, N without embeddings."""
    obs = Observations.from_csv(public("olmo_ladder_curves.csv"))
    fit = fit_envelope(obs, n_bootstrap=50)
    assert fit.n_runs == 30
    assert len({p.N for p in fit.points}) == 3
    assert fit.details["tail_share"] < 0.5
    assert fit.N_opt.exponent == pytest.approx(0.51, abs=0.01)
    assert fit.N_opt.ci95[0] < 0.5 < fit.N_opt.ci95[1]
    assert any("of the envelope lies in the last" in w for w in fit.warnings)
    assert any("was not fitted" in w for w in fit.warnings)


def test_approach_1_on_curves_at_a_constant_rate_meets_the_published_hull():
    """Gemstones (McLeish et al. 2025): .458 by the hull, on all points and the authors' own FLOPs.

    Here every fifth point, C = 6*N*D. Without the option .317 was found.
    """
    obs = Observations.from_csv(public("gemstones_const_every5.csv"))
    fit = fit_envelope(obs, schedule="constant", n_bootstrap=0)
    curves, _ = read_curves(obs, "constant")
    envelope = curve_envelopes(curves)(np.arange(len(curves.N)))
    x, y = np.log(envelope.C), np.log(envelope.L)
    hull = np.sort(ConvexHull(np.append(np.stack([x, y], 1), [[x.mean(), 9.0]], axis=0)).vertices)
    hull = hull[hull < len(x)]
    hull = hull[~envelope.censored[hull]]
    runs = [hull[envelope.run[hull] == run] for run in np.unique(envelope.run[hull])]
    C, N = (np.exp([np.log(v[i]).mean() for i in runs]) for v in (envelope.C, envelope.N))
    assert fit_line(np.log(C), np.log(N))[1] == pytest.approx(0.458, abs=0.02)
    assert fit.N_opt.exponent == pytest.approx(0.479, abs=0.001)
    assert "22 runs: points before a gap" in fit.refusals[0]
    assert any("every curve ends at D=" in w for w in fit_envelope(obs, n_bootstrap=0).warnings)


def test_approach_3_on_flops_other_than_6nd():
    """OLMo ladder: C counts attention and the head, so the frontier is solved with its own C/D."""
    obs = Observations.from_csv(public("olmo_ladder_curves.csv"))
    fit = fit_parametric(obs, n_bootstrap=0)
    assert fit.n_runs == 30
    (_, a), _, _ = six_nd_frontier(fit.law)
    assert 1e-3 < abs(fit.N_opt.exponent - a) < 0.05
    assert fit.certificate["n_agreeing"] == fit.certificate["n_starts"]
