"""The recommended answer: right on sweeps whose law is known, honest about how far it goes."""

from dataclasses import replace

import numpy as np
import pytest

from chinchilla.config import FitCommand
from chinchilla.core.errors import InputError, Refusal
from chinchilla.fit.loss_law import six_nd_frontier
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import Observations
from chinchilla.recommend import fit_table, recommendation
from chinchilla.recommend.evaluate import budget_for, default_budget, headline, local_law, model_of
from chinchilla.recommend.forecast import RecommendedModel

BUDGETS = [1e18, 3e18, 1e19, 3e19, 1e20, 3e20, 1e21]


def fitted(obs: Observations, **settings) -> FitResults:
    told = {"n_bootstrap": 0, **settings}
    return fit_table(obs, None, FitCommand(observations="-", out_dir="-", **told))


def optimum(law, C: float) -> tuple[float, float]:
    """N_opt and the loss there, under C = 6*N*D."""
    (log_k, a), _, _ = six_nd_frontier(law)
    N = float(np.exp(log_k) * C**a)
    return N, float(law(N, C / (6 * N)))


def starved(runs: Observations) -> Observations:
    """Losses that leave the law below two tokens per parameter, as real profiles do."""
    ratio = runs.D / runs.N
    return replace(runs, L=runs.L * (1 + 0.08 * np.maximum(np.log(2 / ratio), 0) ** 2))


def inside(x: float, interval: list[float]) -> bool:
    return interval[0] <= x <= interval[1]


def test_the_answer_is_that_of_the_law_if_it_holds(isoflop_runs, law):
    fits = fitted(isoflop_runs(BUDGETS, noise=1e-3))
    r = recommendation(fits, 1e22)
    N, L = optimum(law, 1e22)
    assert abs(np.log(r.N / N)) < 0.06
    assert abs(np.log(r.L / L)) < 3e-3
    assert inside(N, r.N_interval80)
    assert inside(L, r.L_interval80)
    assert r.D == pytest.approx(1e22 / (6 * r.N))
    assert inside(r.D, r.D_interval80)
    assert r.D_interval80[0] == pytest.approx(1e22 / (6 * r.N_interval80[1]))
    assert r.beyond == pytest.approx(10, rel=0.01)
    assert default_budget(fits) == pytest.approx(1e22)


def test_profiles_that_leave_the_law_do_not_bias_it(isoflop_runs, law):
    """Wide profiles: approach 3 on all runs is off by over a third, the recommendation by under 15%."""
    fits = fitted(starved(isoflop_runs(BUDGETS, n_sizes=15, half_width=30, noise=1e-3)))
    r = recommendation(fits, 1e22)
    N, L = optimum(law, 1e22)
    assert r.approach == "isoflop"
    assert abs(np.log(float(fits.fitted["parametric"].N_opt(1e22)) / N)) > 0.3
    assert abs(np.log(r.N / N)) < 0.15
    assert abs(np.log(r.L / L)) < 0.01
    assert inside(N, r.N_interval80)
    errors = model_of(fits).held_out
    assert errors["isoflop"]["N"] < errors["parametric"]["N"]
    assert "Approach 2 (isoflop) is recommended" in r.reasons[0]
    assert "forecasts of the sweep's own larger budgets" in r.reasons[0]


def test_without_isoflop_budgets_approach_3_answers(scattered_runs, law):
    fits = fitted(scattered_runs(noise=1e-3))
    C = default_budget(fits)
    r = recommendation(fits, C)
    assert r.approach == "parametric"
    N, L = optimum(law, C)
    assert abs(np.log(r.N / N)) < 0.1
    assert inside(N, r.N_interval80)
    assert inside(L, r.L_interval80)


def test_outliers_are_excluded_listed_and_shown_with_and_without(isoflop_runs, law):
    runs = isoflop_runs(BUDGETS, noise=1e-3)
    L = runs.L.copy()
    L[[4, 30]] *= 1.5
    bad = runs.run_id[[4, 30]]
    fits = fitted(replace(runs, L=L))
    model = model_of(fits)
    assert {o["run_id"] for o in model.outliers} == set(bad)
    (said,) = [text for text in model.reasons if "outliers" in text]
    assert f"2 of {len(runs)} runs are outliers and were excluded" in said
    assert "without them" in said
    assert "with all runs" in said
    N, _ = optimum(law, 1e22)
    assert abs(np.log(recommendation(fits, 1e22).N / N)) < 0.1


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
    with pytest.raises(Refusal, match="force=true"):
        recommendation(fits, 2e27)
    assert recommendation(fits, 2e27, force=True).range_only


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


def test_noise_alone_has_no_answer(isoflop_runs):
    """No approach finds a signal, and nothing stands in for them."""
    runs, refused = isoflop_runs(BUDGETS[:5]), 0
    for seed in range(4):
        noise = np.exp(0.02 * np.random.default_rng(seed).normal(size=len(runs)))
        fits = fitted(replace(runs, L=3 * noise))
        if not fits.fitted:
            refused += 1
            assert fits.recommended is None
            with pytest.raises(Refusal, match="no approach has an answer"):
                recommendation(fits, 1e21)
    assert refused >= 3
    shuffled = replace(runs, L=np.full(len(runs), 3.0))
    assert fitted(shuffled).recommended is None


@pytest.mark.slow
@pytest.mark.parametrize(("n_budgets", "noise"), [(3, 0.01), (4, 0.01), (5, 0.01)])
def test_intervals_of_few_budgets_cover_the_truth(isoflop_runs, law, n_budgets, noise):
    """Each minimum's own uncertainty counts: three points lie on any curve of three parameters."""
    held = {"N": 0, "L": 0}
    for seed in range(20):
        runs = isoflop_runs(BUDGETS[:n_budgets], n_sizes=7, noise=noise, seed=seed)
        r = recommendation(fitted(runs, n_bootstrap=100), 10 * BUDGETS[n_budgets - 1])
        N, L = optimum(law, r.C)
        held["N"] += inside(N, r.N_interval80)
        held["L"] += inside(L, r.L_interval80)
    assert held["N"] >= 14  # of 20: under 5% of sets of 20 where 80% hold
    assert held["L"] >= 14


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


def test_a_model_survives_its_file_and_an_edited_one_is_refused(isoflop_runs, tmp_path):
    fits = fitted(isoflop_runs(BUDGETS, noise=1e-3))
    fits.save(tmp_path / "frontier.json")
    again = FitResults.load(tmp_path / "frontier.json")
    assert recommendation(again, 1e22) == recommendation(fits, 1e22)
    for path, value in (
        (("N", "kind"), "spline"),
        (("N", "members"), [[1.0, 2.0]]),
        (("L", "error", "scale"), 0.0),
        (("N", "quantity"), "L"),
        (("N", "names"), ["one"]),
    ):
        record = model_of(fits).to_dict()
        place = record
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        with pytest.raises(InputError, match="recommended"):
            RecommendedModel.from_dict(record, "recommended")


# What must not matter, by less than the interval: how a table is written, and one absurd run.


def moved(obs: Observations, how) -> float:
    """How far ln N_opt at ten times the largest C moves, over half the width of its 80% interval."""
    before = recommendation(fitted(obs), 1e22)
    after = recommendation(fitted(how(obs)), 1e22)
    return abs(np.log(after.N / before.N)) / (
        np.log(before.N_interval80[1] / before.N_interval80[0]) / 2
    )


def frame(obs: Observations, **changed) -> Observations:
    columns = {n: getattr(obs, n) for n in ("run_id", "budget_flops", "C", "N", "D", "L")}
    return Observations.from_frame({**columns, **changed})


def absurd(obs: Observations, i: int, factor: float) -> Observations:
    L = obs.L.copy()
    L[i] *= factor
    return replace(obs, L=L)


@pytest.mark.parametrize(
    ("how", "most"),
    [
        (lambda o: o.where(np.random.default_rng(1).permutation(len(o))), 1e-6),
        (lambda o: replace(o, budget_flops=o.budget_flops * (1 + 1e-9)), 1e-6),
        (lambda o: replace(o, budget_flops=np.where(o.budget_flops == 1e20, 1.02e20, o.budget_flops)), 1e-6),
        (lambda o: frame(o, run_id=np.concatenate([o.run_id[5:], o.run_id[:5]])), 1e-6),
        (lambda o: Observations.from_frame({
            **{n: np.concatenate([getattr(o, n)] * 2) for n in ("run_id", "budget_flops", "C", "N", "D", "L")}
        }), 1e-6),
        (lambda o: Observations.from_frame(
            {"run_id": o.run_id, "budget": o.budget_flops, "flops": o.C, "Params (M)": o.N / 1e6,
             "Tokens (B)": o.D / 1e9, "loss": o.L},
            columns={"N": "Params (M)", "D": "Tokens (B)"}), 1e-6),
        (lambda o: absurd(o, 22, 0.5), 1.0),
        (lambda o: absurd(o, 0, 2.0), 1.0),
        (lambda o: absurd(o, 58, 1.2), 1.0),
        (lambda o: absurd(o, 58, 0.8), 1.0),
    ],
    ids=["permuted", "1e-9 of a budget", "another label", "other names", "twice", "other units",
         "half the loss", "twice the loss", "largest budget up", "largest budget down"],
)  # fmt: skip
def test_what_must_not_matter_moves_it_by_less_than_its_interval(isoflop_runs, how, most):
    assert moved(isoflop_runs(BUDGETS, noise=3e-3), how) < most
