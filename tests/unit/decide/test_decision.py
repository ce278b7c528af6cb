"""Decisions by a law: the recommended split, shapes counted as the runs are, limited data."""

from dataclasses import replace

import numpy as np
import pytest
from recommended import together

from chinchilla.config import RatesConfig
from chinchilla.core.shapes import n_params, n_params_non_embedding, named_shapes
from chinchilla.decide.allocation import allocate
from chinchilla.decide.decision import DecisionModel, for_budget, for_unique_tokens
from chinchilla.decide.predictions import predictions
from chinchilla.fit import LossLaw, fit_parametric
from chinchilla.observations.table import Observations
from chinchilla.recommend import recommendation


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
