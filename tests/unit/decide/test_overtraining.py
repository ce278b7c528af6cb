"""Over-training: the loss of a smaller model on more tokens with the same FLOPs."""

import numpy as np
import pytest

from chinchilla.core.shapes import flops_per_token, n_params, named_shapes
from chinchilla.decide.allocation import allocate, overtrain
from chinchilla.fit.loss_law import FlopsPerToken, flops_at, named_law
from chinchilla.fit.result import LossLaw
from chinchilla.observations.table import Observations


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
    """As in the law of Gadre et al. (2024, arXiv 2403.08540), here with its constants for C4."""
    six, eta = 6**0.1212, 0.1212
    law = LossLaw(1.508, 141.3 / six, 189.5 / six, 2 * eta, 2 * eta)
    shares = [
        overtrain(law, C, [10])[0].extra_loss / (allocate(law, C).L - law.E) for C in (1e18, 1e24)
    ]
    assert shares[0] == pytest.approx(shares[1], rel=1e-10)
