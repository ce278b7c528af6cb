"""Predictions: what is answered costs what was asked, and says when it goes beyond the runs."""

from dataclasses import replace

import numpy as np
import pytest
from recommended import with_recommendation

from chinchilla.config import RatesConfig
from chinchilla.core.shapes import (
    ModelShape,
    flops_per_token,
    n_params,
    n_params_non_embedding,
    named_shapes,
    shape_named,
)
from chinchilla.decide.allocation import allocate
from chinchilla.decide.decision import DecisionModel, for_budget, for_unique_tokens
from chinchilla.decide.predictions import predictions
from chinchilla.fit import FitResult, FitResults, LossLaw, fit_isoflop, fit_parametric
from chinchilla.fit.loss_law import flops_at
from chinchilla.observations.table import Observations
from chinchilla.recommend import recommendation

LAW = LossLaw(E=1.7, A=40.0, B=170.0, alpha=0.34, beta=0.32)
SHAPES = [
    shape_named(name, vocab_size=512, seq_len=128, kv_size=16, positions="rope")
    for name in ("32x2", "48x3", "64x4", "96x4", "128x5", "160x6", "192x6")
]


def sweep() -> Observations:
    """Noise-free runs on LAW, C counted with the output head: C is not 6ND here."""
    rows = []
    for budget in (3e13, 1e14, 3e14):
        for shape in SHAPES:
            N, D = shape_params(shape), budget / flops_per_token(shape, "with_head")
            rows.append((budget, budget, N, D, float(LAW(N, D))))
    budgets, C, N, D, L = np.array(rows).T
    ids = np.array([f"r{i}" for i in range(len(rows))])
    return Observations(ids, budgets, C, N, D, L, flop_convention="with_head")


def together(obs: Observations, *frontiers: FitResult) -> FitResults:
    return with_recommendation(FitResults.of({f.approach: f for f in frontiers}, {}, obs), obs)


def shape_params(shape: ModelShape) -> float:
    return float(n_params(shape))


def test_the_answer_costs_the_budget_at_the_size_it_names():
    obs = sweep()
    fits = together(obs, fit_isoflop(obs, n_bootstrap=0), fit_parametric(obs, n_bootstrap=0))
    per_token = {shape_params(s): flops_per_token(s, "with_head") for s in SHAPES}
    sizes = np.log(sorted(per_token))
    costs = np.log([per_token[n] for n in sorted(per_token)])
    for row in predictions([1e14], fits)[:2]:
        cost = row.D * np.exp(np.interp(np.log(row.N), sizes, costs))
        assert cost == pytest.approx(1e14, rel=0.03)  # c(N) is a smooth curve through seven shapes
        assert row.beyond is None


def test_approach_3_gives_the_best_size_that_the_budget_buys():
    obs = sweep()
    fits = together(obs, fit_parametric(obs, n_bootstrap=0))
    (row,) = predictions([1e14], fits)[:1]
    better = [float(LAW(shape_params(s), 1e14 / flops_per_token(s, "with_head"))) for s in SHAPES]
    assert row.L is not None
    assert row.L <= min(better) * 1.001


def test_a_budget_beyond_the_runs_states_the_factor():
    obs = sweep()
    fits = together(obs, fit_isoflop(obs, n_bootstrap=0))
    row = predictions([3e16], fits)[0]
    assert row.beyond == pytest.approx(100, rel=0.01)


def test_a_budget_below_the_runs_states_the_factor():
    obs = sweep()
    fits = together(obs, fit_isoflop(obs, n_bootstrap=0))
    row = predictions([3e11], fits)[0]
    assert row.beyond == pytest.approx(0.01, rel=0.01)


def test_a_published_answer_is_given_near_its_own_runs_only():
    """Figure 4's runs end at 1.3e22 FLOPs, Muennighoff's at 1e21, Kaplan's at 1.2e21."""
    assert len(predictions([1e20])) == 7
    assert all(row.beyond is None for row in predictions([1e20]))
    rows = {row.by: row for row in predictions([1e23])}
    assert rows["law hoffmann"].beyond == pytest.approx(1e23 / 1.3e22)
    assert set(rows).isdisjoint({"law muennighoff", "Kaplan 2020 (section D.4)"})
    assert predictions([5.76e23]) == []
    assert [row.by for row in predictions([1e17])] == ["Kaplan 2020 (section D.4)"]


def test_the_published_law_that_was_asked_for_is_given_at_any_C():
    (row,) = predictions([5.76e23], named="law hoffmann")
    assert row.beyond == pytest.approx(44.3, rel=1e-3)


def test_kaplans_line_is_shown_with_the_papers():
    """Section D.4: 4.68B at 1e21 FLOPs, against 2.86B by approach 1."""
    rows = {row.by: row for row in predictions([1e21])}
    assert rows["Kaplan 2020 (section D.4)"].N == pytest.approx(4.68e9, rel=1e-9)
    assert rows["paper, approach 1 (line through Table 3)"].N == pytest.approx(2.86e9, rel=1e-2)


def test_only_approach_3_forecasts_a_loss_by_itself():
    obs = sweep()
    fits = together(obs, fit_isoflop(obs, n_bootstrap=0), fit_parametric(obs, n_bootstrap=0))
    two, three = predictions([1e14], fits, published=False)
    assert (two.L, two.L_interval80) == (None, None)
    assert three.L == pytest.approx(float(LAW(three.N, three.D)), rel=1e-6)


@pytest.fixture(scope="module")
def noisy() -> tuple[FitResults, Observations]:
    """Runs with 0.3% noise under C = 6ND, approach 3 with its resamples."""
    rng = np.random.default_rng(1)
    N = np.repeat(np.geomspace(5e7, 2e9, 7), 5)
    D = N * np.tile([5, 10, 20, 40, 80.0], 7)
    L = LAW(N, D) * np.exp(0.003 * rng.normal(size=len(N)))
    ids = np.array([f"r{i}" for i in range(len(N))])
    obs = Observations(ids, np.full(len(N), np.nan), 6 * N * D, N, D, L, "six_nd")
    return together(obs, fit_parametric(obs, n_bootstrap=200)), obs


def test_the_stored_laws_give_the_fits_own_band(noisy):
    """Under C = 6*N*D their optima are the resampled lines; seven digits are kept of both."""
    fits, _ = noisy
    (row,) = predictions([1e21], fits, published=False)
    for interval, line in (
        (row.N_interval80, fits.fitted["parametric"].N_opt),
        (row.D_interval80, fits.fitted["parametric"].D_opt),
    ):
        assert interval == pytest.approx([float(x) for x in line.band(1e21)], rel=1e-5)
    assert row.L_interval80[0] < float(LAW(row.N, row.D)) < row.L_interval80[1]


# ------------------------------------------------------------------ C that is not 6ND


@pytest.fixture(scope="module")
def with_head() -> FitResults:
    """Table A9's shapes, the output head counted, .2% noise; approach 3 with resamples, and 2."""
    law = LossLaw(1.8, 480, 2000, 0.34, 0.36)
    rng, rows = np.random.default_rng(0), []
    for budget in np.geomspace(3e18, 3e20, 5):
        for shape in named_shapes().values():
            N, c = float(n_params(shape)), flops_per_token(shape, "with_head")
            if 1 / 6 < N / (0.1 * budget**0.5) < 6:
                D = budget / c
                rows.append((budget, N, D, float(law(N, D)) * np.exp(0.002 * rng.normal())))
    C, N, D, L = np.array(rows).T
    ids = np.array([f"r{i}" for i in range(len(rows))])
    obs = Observations(ids, C, C, N, D, L, flop_convention="with_head")
    return together(obs, fit_parametric(obs, n_bootstrap=200), fit_isoflop(obs, n_bootstrap=200))


@pytest.mark.parametrize("C", [1e17, 1e19, 1e21, 1e23])
def test_a_point_lies_inside_of_its_own_interval(with_head, C):
    for row in predictions([C], with_head, published=False):
        for name in ("N", "D", "L"):
            interval = getattr(row, f"{name}_interval80")
            if name == "L" and not row.by.endswith("parametric"):
                assert (row.L, interval) == (None, None)
                continue
            low, high = interval
            assert low <= getattr(row, name) <= high, (row.by, name)


@pytest.mark.parametrize("C", [1e17, 1e21, 1e23])
def test_every_decision_has_the_same_optimum(with_head, C):
    model = DecisionModel.of(with_head)
    assert model is not None
    r = recommendation(with_head, C)
    decision = for_budget(model, C, named_shapes(), RatesConfig())
    best = allocate(model.at(C), C, with_head.cost)
    assert (decision["N"], decision["D"], decision["L"]) == (best.N, best.D, best.L)
    assert r.L == pytest.approx(best.L, rel=1e-12)
    assert (r.N, r.D) == pytest.approx((best.N, best.D), rel=1e-6)  # solved on a grid of sizes
    assert decision["law"] == {name: getattr(model.at(C), name) for name in decision["law"]}
    low, high = decision["N_within_1_percent"]
    assert low < r.N < high
    (row,) = (
        x for x in predictions([C], with_head, published=False) if x.by.endswith("parametric")
    )
    three = allocate(with_head.fitted["parametric"].law, C, with_head.cost)
    assert (row.N, row.D, row.L) == pytest.approx((three.N, three.D, three.L), rel=1e-12)


@pytest.mark.parametrize("C", [1e19, 1e22])
def test_the_local_law_has_the_slope_of_the_recommended_loss(with_head, C):
    """So that a budget a little larger or smaller is decided alike by the law of its neighbour."""
    model = DecisionModel.of(with_head)
    assert model is not None
    near = allocate(model.at(C), 1.01 * C, with_head.cost)
    r, there = recommendation(with_head, C), recommendation(with_head, 1.01 * C)
    assert np.log(near.L / r.L) == pytest.approx(np.log(there.L / r.L), rel=0.02)


def test_with_unlimited_data_the_split_is_the_recommended_one(noisy):
    """Under C = 6ND the split for more unique tokens than are needed is the recommended one."""
    fits, _ = noisy
    model = DecisionModel.of(fits)
    assert model is not None
    r = recommendation(fits, 1e21)
    (row,) = for_unique_tokens(model, [1e21], 1e14)["budgets"]
    assert (row["best"]["N"], row["best"]["L"]) == pytest.approx((r.N, r.L), rel=1e-3)


def test_the_best_size_is_that_of_a_search_along_the_trend(with_head):
    """No first-order condition: the least loss over a fine grid of sizes that cost C each."""
    cost, law = with_head.cost, with_head.fitted["parametric"].law
    assert cost is not None
    assert law is not None
    row = predictions([1e22], with_head, published=False)[0]
    N = row.N * np.exp(np.linspace(-0.5, 0.5, 100_001))
    best = N[np.argmin(law(N, 1e22 / flops_at(N, cost)))]
    assert row.N == pytest.approx(best, rel=1e-3)  # the loss is flat there: its eighth digit


@pytest.mark.parametrize("convention", ["unknown", "paper"])
def test_shapes_are_chosen_and_priced_by_the_runs_own_flops(convention):
    """C = 6ND(1 + .8 (N/1e8)^-.35), unnamed or misnamed: by 6ND shapes got twice the tokens."""
    law = LossLaw(1.7, 400, 410, 0.34, 0.28)
    C, N = (x.ravel() for x in np.meshgrid(np.geomspace(3e17, 3e19, 5), np.geomspace(2e7, 1e9, 9)))
    D = C / (6 * N * (1 + 0.8 * (N / 1e8) ** -0.35))
    ids = np.array([f"r{i}" for i in range(len(N))])
    obs = Observations(ids, C, C, N, D, law(N, D), flop_convention=convention)
    fits = together(obs, fit_parametric(obs, n_bootstrap=0))
    model = DecisionModel.of(fits)
    assert model is not None
    decision = for_budget(model, 1e18, named_shapes(), RatesConfig())
    assert decision["N"] == pytest.approx(8.1e7, rel=0.15)
    best = decision["best_shape"]
    bought = 1e18 / (6 * best["N"] * (1 + 0.8 * (best["N"] / 1e8) ** -0.35))
    assert best["D"] == pytest.approx(bought, rel=0.02)  # a trend through nine sizes
    assert 0 <= best["excess"] < 0.05
    assert all(row["extra_loss"] >= 0 for row in decision["shapes"])


def test_a_convention_that_contradicts_the_runs_makes_no_shape_cheaper(noisy):
    """Runs at 6ND that are said to count as the paper does."""
    _, obs = noisy
    obs = replace(obs, flop_convention="paper")
    model = DecisionModel.of(together(obs, fit_parametric(obs, n_bootstrap=0)))
    assert model is not None
    decision = for_budget(model, 1e20, named_shapes(), RatesConfig())
    assert all(row["excess"] is None or row["excess"] >= 0 for row in decision["shapes"])
    for row in decision["shapes"]:
        assert 6 * row["N"] * row["D"] == pytest.approx(1e20, rel=1e-9)


def test_shapes_are_compared_by_the_count_of_the_fit(noisy):
    _, obs = noisy
    counted = n_params_non_embedding(named_shapes()["44m"])
    for convention, N in (("non_embedding", counted), ("unknown", n_params(named_shapes()["44m"]))):
        named = replace(obs, n_convention=convention)
        model = DecisionModel.of(together(named, fit_parametric(named, n_bootstrap=0)))
        assert model is not None
        decision = for_budget(model, 1e20, {"44m": named_shapes()["44m"]}, RatesConfig())
        assert decision["best_shape"]["N"] == N
