"""Held-out errors: weights, error scales, and exact forecasts of exact minima."""

import numpy as np
import pytest

from chinchilla.recommend.held_out import (
    PRIOR,
    PRIOR_N,
    HeldOutErrors,
    error_scale,
    errors_of_minima,
    forecast_weights,
    scores,
)
from chinchilla.recommend.isoflop_minima import Minima

C = np.geomspace(1e18, 1e21, 7)


def exact() -> Minima:
    return Minima(C, 0.1 * C**0.5, 1.7 + 60 * C**-0.09)


def test_forecasts_of_exact_minima_are_exact_at_every_distance():
    pairs = errors_of_minima(exact())
    assert len(pairs["N"]) == len(pairs["L"]) == 4 + 3 + 2 + 1
    assert pairs["L"].distance.max() == pytest.approx(np.log(C[-1] / C[2]))
    assert np.abs(pairs["N"].errors).max() < 1e-9
    assert np.abs(pairs["L"].errors).max() < 1e-4


def test_the_forecast_with_smaller_held_out_errors_weighs_more():
    found = scores(
        HeldOutErrors.of([(float(i), 1.0, 3, np.array([0.01, 0.3, np.nan])) for i in range(4)])
    )
    assert found == pytest.approx([0.01, 0.3, 1.0])
    w = forecast_weights(found, "N")
    assert w.sum() == pytest.approx(1)
    assert w[0] > 0.95
    assert w[2] < 1e-4
    assert forecast_weights([0.0, 0.0], "N") == pytest.approx([0.5, 0.5])
    # A forecast whose own standard error is large far away loses its weight there.
    assert forecast_weights([0.05, 0.05], "N", np.array([1.0, 0.05]))[0] < 0.01


def test_the_error_scale_is_that_of_the_held_out_errors_and_the_prior_where_there_are_none():
    none = error_scale(HeldOutErrors.of(), "L")
    assert (none.scale, none.degrees_of_freedom) == (PRIOR["L"], PRIOR_N)
    far = HeldOutErrors.of([(float(i), 3.0, 3, np.array([0.03 * (-1) ** i])) for i in range(200)])
    found = error_scale(far, "L")
    assert found.sd(3.0) == pytest.approx(0.03, rel=0.03)
    assert found.degrees_of_freedom == PRIOR_N + 200
    assert found.sd(6.0) > 1.8 * found.sd(3.0)
    # A loss that approaches an asymptote cannot be missed by ever more.
    bounded_scale = error_scale(far, "L", rate=0.1)
    assert bounded_scale.sd(3.0) == pytest.approx(0.03, rel=0.03)
    assert bounded_scale.sd(6.0) < 1.8 * bounded_scale.sd(3.0)


def test_a_forecast_without_an_error_at_a_pair_is_left_out_there():
    pairs = [(1.0, 1.0, 3, np.array([0.1, np.nan])), (2.0, 1.0, 3, np.array([np.nan, np.nan]))]
    assert HeldOutErrors.of(pairs).weighted(np.array([0.5, 0.5])).errors.tolist() == [[0.1]]
