"""Over-training: Gadre et al.'s law, and the same question put to any other."""

import csv

import numpy as np
import pytest
from public_data import public

from chinchilla.core.errors import FitError, InputError
from chinchilla.core.paper import OVER_TRAINING
from chinchilla.core.shapes import flops_per_token, n_params, named_shapes
from chinchilla.decide.allocation import allocate
from chinchilla.decide.overtraining import (
    OverTrainingLaw,
    downstream_error,
    fit_overtraining,
    named_overtraining,
    overtrain,
)
from chinchilla.fit.loss_law import FlopsPerToken, flops_at, named_law
from chinchilla.observations.table import Observations

TRAINING_SETS = {"c4": "c4_original", "redpajama": "rpj", "refinedweb": "rw_original"}


def public_runs(train_set: str) -> tuple[np.ndarray, ...]:
    """C, M and loss of the five runs that are fitted: four sizes at M = 20, the smallest at 320."""
    path = public("gadre_overtraining.csv")
    with open(path, newline="") as f:
        rows = [
            (row, float(row["chinchilla_multiplier"]))
            for row in csv.DictReader(f)
            if row["train_set"] == train_set and "open_lm" not in row["run_id"]
        ]
    kept = [r for r, times in rows if times == 1 or (times == 16 and "d=96_" in r["run_id"])]
    C, N, D, L = (np.array([float(r[k]) for r in kept]) for k in "CNDL")
    return C, D / N, L


@pytest.mark.parametrize("name", TRAINING_SETS)
def test_the_published_constants_come_back_from_the_public_runs(name):
    """To the digits printed: E and eta to the last, a and b to four digits."""
    C, M, L = public_runs(TRAINING_SETS[name])
    assert len(C) == 5
    found, printed = fit_overtraining(C, M, L), OVER_TRAINING[name]
    assert found.E == pytest.approx(printed.E, abs=5.5e-4)
    assert found.a == pytest.approx(printed.a, abs=0.06)
    assert found.b == pytest.approx(printed.b, abs=0.06)
    assert found.eta == pytest.approx(printed.eta, abs=5.5e-5)


def test_a_law_comes_back_from_its_own_runs():
    law = OverTrainingLaw(1.6, 120.0, 220.0, 0.13)
    C, M = (x.ravel() for x in np.meshgrid(np.geomspace(1e17, 1e21, 5), [5.0, 20.0, 80.0, 320.0]))
    found = fit_overtraining(C, M, law(C, M))
    assert (found.E, found.a, found.b, found.eta) == pytest.approx((1.6, 120, 220, 0.13), rel=1e-6)


def test_one_ratio_of_tokens_to_parameters_is_refused():
    law = named_overtraining("c4")
    C = np.geomspace(1e17, 1e21, 6)
    with pytest.raises(FitError, match="two or more tokens per parameter"):
        fit_overtraining(C, np.full(6, 20.0), law(C, 20.0))


def test_it_is_a_loss_law_with_equal_exponents():
    law = named_overtraining("refinedweb")
    N, D = np.geomspace(1e7, 1e10, 5), np.geomspace(1e10, 1e11, 5)
    assert np.allclose(law(6 * N * D, D / N), law.loss_law()(N, D), rtol=1e-13)
    best = allocate(law.loss_law(), 1e20)
    assert best.D / best.N == pytest.approx(law.best_ratio, rel=1e-10)


def test_an_unknown_training_set_is_said():
    with pytest.raises(InputError, match="choose one of c4, redpajama, refinedweb"):
        named_overtraining("pile")


@pytest.mark.parametrize("name", ["besiroglu", "hoffmann"])
def test_over_training_keeps_the_flops_and_has_the_ratio_asked_for(name):
    law = named_law(name)
    best = allocate(law, 1e22)
    rows = overtrain(law, 1e22, (1, 4, 25))
    for row in rows:
        assert 6 * row.N * row.D == pytest.approx(1e22, rel=1e-12)
        assert row.D / row.N == pytest.approx(row.times * best.D / best.N, rel=1e-12)
        assert float(law(row.N, row.D)) == pytest.approx(row.L)
    assert rows[0].extra_loss == pytest.approx(0, abs=1e-12)
    assert rows[1].N == pytest.approx(best.N / 2)
    assert 0 < rows[1].extra_loss < rows[2].extra_loss


def test_over_training_under_another_flop_count_costs_the_same_flops():
    """Attention and the output head counted: the sizes' own FLOPs per token."""
    shapes = list(named_shapes().values())
    N = np.array([float(n_params(s)) for s in shapes])
    c = np.array([flops_per_token(s, "with_head") for s in shapes])
    one, ids = np.ones_like(N), np.arange(len(N)).astype(str)
    cost = FlopsPerToken.from_observations(Observations(ids, one * np.nan, c, N, one, one))
    law = named_law("besiroglu")
    best = allocate(law, 1e21, cost)
    for row in overtrain(law, 1e21, (2, 10), cost):
        assert row.D * float(flops_at(row.N, cost)) == pytest.approx(1e21, rel=1e-5)
        assert row.D / row.N == pytest.approx(row.times * best.D / best.N, rel=1e-9)
        assert row.extra_loss > 0


def test_with_equal_exponents_over_training_costs_the_same_share_of_the_reducible_loss():
    law = named_overtraining("c4").loss_law()
    shares = [
        overtrain(law, C, [10])[0].extra_loss / (allocate(law, C).L - law.E) for C in (1e18, 1e24)
    ]
    assert shares[0] == pytest.approx(shares[1], rel=1e-10)


def test_downstream_error_is_the_printed_law():
    assert float(downstream_error("c4", 2.5)) == pytest.approx(0.850 - 2.079 * np.exp(-0.756 * 2.5))
    assert float(downstream_error("c4", 2.0)) < float(downstream_error("c4", 3.0)) < 0.85
