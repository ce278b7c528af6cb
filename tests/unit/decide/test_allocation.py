"""Decisions on a law: exact where a closed form exists, the published examples elsewhere."""

import numpy as np
import pytest

from chinchilla.config import RatesConfig
from chinchilla.core.errors import Refusal
from chinchilla.core.paper import GOPHER_BUDGET
from chinchilla.core.shapes import flops_per_token, n_params, n_params_non_embedding, named_shapes
from chinchilla.decide.allocation import (
    allocate,
    available,
    bill,
    cheapest,
    count_shapes,
    misallocation,
    neighbours,
    serve,
    sizes_within,
    spent,
    tokens_for,
)
from chinchilla.fit.loss_law import FlopsPerToken, flops_at, named_law
from chinchilla.fit.result import LossLaw
from chinchilla.observations.table import Observations

LAW = named_law("besiroglu")
SARDANA = LossLaw(1.69, 406.4, 410.7, 0.336, 0.283)
SHAPES = named_shapes()


@pytest.fixture(scope="module")
def with_head() -> FlopsPerToken:
    """FLOPs per token of Table A9's shapes with the output head: not 6N."""
    N = np.array([float(n_params(s)) for s in SHAPES.values()])
    c = np.array([flops_per_token(s, "with_head") for s in SHAPES.values()])
    one, ids = np.ones_like(N), np.array(list(SHAPES))
    return FlopsPerToken.from_observations(Observations(ids, one * np.nan, c, N, one, one))


def test_the_split_at_the_gopher_budget():
    """METHODS: 72.25B and 1.329T by Besiroglu et al.'s constants."""
    best = allocate(LAW, GOPHER_BUDGET)
    assert best.N == pytest.approx(72.25e9, rel=1e-4)
    assert best.D == pytest.approx(1.3287e12, rel=1e-4)
    assert 6 * best.N * best.D == pytest.approx(GOPHER_BUDGET, rel=1e-12)


@pytest.mark.parametrize("counted", ["six_nd", "with_head"])
def test_no_other_size_does_better(counted, with_head):
    cost = None if counted == "six_nd" else with_head
    best = allocate(LAW, 1e21, cost)
    others = [spent(LAW, 1e21, best.N * f, cost).L for f in (0.5, 0.9, 0.97, 1.03, 1.1, 2)]
    assert best.L < min(others)


def test_the_compute_that_makes_up_for_a_wrong_size_does_just_that():
    best = allocate(LAW, 1e22)
    for row in misallocation(LAW, 1e22):
        assert row.excess is not None
        C = 1e22 * (1 + row.excess)
        assert float(LAW(row.N, C / (6 * row.N))) == pytest.approx(best.L, rel=1e-12)
        assert row.excess > 0
        assert row.extra_loss > 0


def test_a_size_too_small_to_reach_the_loss_has_no_excess():
    (row,) = misallocation(LAW, 1e22, factors=[1e-3])
    assert row.excess is None
    assert row.extra_loss > 0
    assert np.isinf(tokens_for(LAW, row.N, allocate(LAW, 1e22).L))


def test_the_sizes_within_one_percent_of_compute():
    """About exp(-+ sqrt(.02 / (alpha + beta))) = -15 % to +18 %."""
    best = allocate(LAW, 1e22)
    low, high = sizes_within(LAW, 1e22)
    for N in (low, high):
        D = tokens_for(LAW, N, best.L)
        assert 6 * N * D == pytest.approx(1.01e22, rel=1e-6)
    half = np.sqrt(0.02 / (LAW.alpha + LAW.beta))
    assert np.log(best.N / low) == pytest.approx(half, rel=0.05)
    assert np.log(high / best.N) == pytest.approx(half, rel=0.05)


@pytest.mark.parametrize("counted", ["six_nd", "with_head"])
def test_the_cheapest_budget_for_a_loss_inverts_the_split(counted, with_head):
    cost = None if counted == "six_nd" else with_head
    for C in (1e18, 1e21, 1e25):
        best = allocate(LAW, C, cost)
        found = cheapest(LAW, best.L, cost)
        assert found.C == pytest.approx(C, rel=1e-5)
        assert found.N == pytest.approx(best.N, rel=1e-3)
        assert float(LAW(found.N, found.D)) == pytest.approx(best.L, rel=1e-12)


@pytest.mark.parametrize("L", [1.0, LAW.E])
def test_a_loss_at_or_below_E_is_refused_with_the_reason(L):
    with pytest.raises(Refusal, match=r"is not above E=1\.817"):
        cheapest(LAW, L)


def test_a_loss_that_no_model_of_this_world_reaches_is_refused():
    with pytest.raises(Refusal, match="1 to 1e16 parameters"):
        cheapest(LAW, LAW.E + 1e-9)


def test_shapes_are_sorted_by_extra_compute():
    """At 1.2e23 16b loses less than 70b with the same C, but needs more C for the same loss."""
    rows = available(LAW, 1.2e23, count_shapes(SHAPES, "total"))
    assert len(rows) == 52
    costs = [np.inf if row.excess is None else row.excess for row in rows]
    assert costs == sorted(costs)
    assert rows[0].name == "chinchilla_70b"
    assert min(rows, key=lambda row: row.L).name == "16b"


@pytest.mark.parametrize("counted", ["six_nd", "with_head"])
def test_no_shape_counted_as_the_runs_beats_the_optimum(counted, with_head):
    cost = None if counted == "six_nd" else with_head
    rows = available(LAW, 1e21, count_shapes(SHAPES, "total"), cost)
    for row in rows:
        assert row.D * float(flops_at(row.N, cost)) == pytest.approx(1e21, rel=1e-12)
        assert float(LAW(row.N, row.D)) == pytest.approx(row.L, rel=1e-12)
    assert 0.7 < rows[0].N / allocate(LAW, 1e21, cost).N < 1.4
    assert all(row.extra_loss >= 0 for row in rows)
    assert all(row.excess is None or row.excess >= 0 for row in rows)


def test_shapes_count_N_by_the_stated_convention():
    for said, counted in (
        ("non_embedding", n_params_non_embedding),
        ("total", n_params),
        ("unknown", n_params),
    ):
        found = count_shapes(SHAPES, said)
        assert found == {name: counted(shape) for name, shape in SHAPES.items()}


def test_neighbours_are_sizes_around_the_best_smallest_first():
    rows = available(LAW, 1e20, count_shapes(SHAPES, "total"))
    near = neighbours(rows)
    assert len(near) == 5
    assert rows[0] in near
    assert [r.N for r in near] == sorted(r.N for r in near)
    assert len(neighbours(rows[:2])) == 2


@pytest.mark.parametrize(
    ("N", "D", "served", "best_N", "best_D", "saving"),
    [
        (30e9, 1.56e12, 5e12, 16.4e9, 3.27e12, 0.16),
        (70e9, 4.26e12, 1e13, 41.6e9, 7.92e12, 0.12),
    ],
)
def test_sardanas_examples(N, D, served, best_N, best_D, saving):
    """Both examples of arXiv 2401.00448, to the digits recomputed from its constants."""
    found = serve(SARDANA, float(SARDANA(N, D)), served)
    assert found.best.N == pytest.approx(best_N, rel=5e-3)
    assert found.best.D == pytest.approx(best_D, rel=5e-3)
    assert found.saving == pytest.approx(saving, abs=5e-3)
    terms = SARDANA.alpha * SARDANA.A * found.best.N**-SARDANA.alpha
    terms /= SARDANA.beta * SARDANA.B * found.best.D**-SARDANA.beta
    assert terms == pytest.approx(1 + served / (3 * found.best.D), rel=1e-6)


def test_other_sizes_spend_the_same_flops(with_head):
    """Half the size has four times the tokens per parameter under C = 6*N*D."""
    best = allocate(LAW, 1e22)
    (half,) = misallocation(LAW, 1e22, [0.5])
    assert half.D / half.N == pytest.approx(4 * best.D / best.N, rel=1e-12)
    for row in misallocation(LAW, 1e21, cost=with_head):
        assert row.D * float(flops_at(row.N, with_head)) == pytest.approx(1e21, rel=1e-12)
        assert row.extra_loss > 0


def test_with_equal_exponents_over_training_costs_the_same_share_of_the_reducible_loss():
    """As in the law of Gadre et al. (2024, arXiv 2403.08540), here with its constants for C4."""
    six, eta = 6**0.1212, 0.1212
    law = LossLaw(1.508, 141.3 / six, 189.5 / six, 2 * eta, 2 * eta)
    shares = [
        misallocation(law, C, [0.1**0.5])[0].extra_loss / (allocate(law, C).L - law.E)
        for C in (1e18, 1e24)
    ]
    assert shares[0] == pytest.approx(shares[1], rel=1e-10)


def test_serving_nothing_changes_nothing():
    found = serve(LAW, 2.2, 1.0)
    assert found.best.N == pytest.approx(found.trained_only.N, rel=1e-3)
    assert found.saving == pytest.approx(0, abs=1e-6)


def test_the_bill_is_what_its_rates_say():
    """1e15 FLOP/s at half use for an hour: 1.8e18 FLOPs."""
    rates = RatesConfig(
        peak_flops=1e15, mfu=0.5, price_per_device_hour=3.0, device_watts=1200
    )  # fmt: skip
    cost = bill(1.8e20, rates)
    assert cost.device_hours == pytest.approx(100)
    assert cost.price == pytest.approx(300)
    assert cost.energy_kwh == pytest.approx(120)


def test_rates_that_were_not_stated_give_no_figures():
    cost = bill(1e20, RatesConfig())
    assert (cost.price, cost.energy_kwh) == (None, None)
