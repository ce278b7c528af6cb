"""Predictions of each approach and of published laws: cost, intervals, and distance from the runs."""

import numpy as np
import pytest
from recommended import together

from chinchilla.core.shapes import (
    ModelShape,
    flops_per_token,
    n_params,
    shape_named,
)
from chinchilla.decide.predictions import predictions
from chinchilla.fit import LossLaw, fit_isoflop, fit_parametric
from chinchilla.fit.loss_law import flops_at
from chinchilla.observations.table import Observations

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


def test_the_best_size_is_that_of_a_search_along_the_trend(with_head):
    """No first-order condition: the least loss over a fine grid of sizes that cost C each."""
    cost, law = with_head.cost, with_head.fitted["parametric"].law
    assert cost is not None
    assert law is not None
    row = predictions([1e22], with_head, published=False)[0]
    N = row.N * np.exp(np.linspace(-0.5, 0.5, 100_001))
    best = N[np.argmin(law(N, 1e22 / flops_at(N, cost)))]
    assert row.N == pytest.approx(best, rel=1e-3)  # the loss is flat there: its eighth digit
