"""Predictions: what is answered costs what was asked, and says when it goes beyond the runs."""

import numpy as np
import pytest

from chinchilla.fit import Fits, Frontier, LossLaw, fit_isoflop, fit_parametric
from chinchilla.fit.predict import predictions
from chinchilla.observations import Observations
from chinchilla.shapes import ModelShape, flops_per_token, n_params, shape_named

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


def together(obs: Observations, *frontiers: Frontier) -> Fits:
    return Fits.of({f.approach: f for f in frontiers}, {}, obs)


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


def test_a_budget_beyond_the_runs_says_how_far():
    obs = sweep()
    fits = together(obs, fit_isoflop(obs, n_bootstrap=0))
    row = predictions([3e16], fits)[0]
    assert row.beyond == pytest.approx(100, rel=0.01)
