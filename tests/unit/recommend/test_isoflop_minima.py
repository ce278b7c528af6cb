"""Curves through IsoFLOP minima: parameters and standard errors."""

import numpy as np
import pytest

from chinchilla.recommend.isoflop_minima import (
    Minima,
    line,
    line_at,
    loss_at,
    power_law_with_offset,
)

C = np.geomspace(1e18, 1e21, 7)


def test_a_line_and_a_curve_recover_their_parameters_and_standard_errors():
    """Noise of 2% on N_opt and of .1% on the loss: the spread of refits matches the covariance of the fits."""
    rng = np.random.default_rng(0)
    m = Minima(C, 0.1 * C**0.5, 1.7 + 60 * C**-0.09)
    x = float(np.log(1e22))
    N, L, variance_N, variance_L = [], [], [], []
    for _ in range(300):
        noisy = Minima(
            C, m.N * np.exp(rng.normal(0, 0.02, 7)), m.L * np.exp(rng.normal(0, 1e-3, 7))
        )
        for curve, at, values, variances in (
            (line(noisy, np.inf), line_at, N, variance_N),
            (power_law_with_offset(noisy, np.inf), loss_at, L, variance_L),
        ):
            logs, gradient = at(np.array([curve.parameters]), x)
            values.append(float(logs[0]))
            variances.append(float(gradient[0] @ np.array(curve.covariance) @ gradient[0]))
    assert np.mean(N) == pytest.approx(np.log(0.1 * 1e22**0.5), abs=0.01)
    assert np.mean(L) == pytest.approx(np.log(1.7 + 60 * 1e22**-0.09), abs=2e-3)
    assert np.sqrt(np.mean(variance_N)) == pytest.approx(np.std(N), rel=0.15)
    assert np.sqrt(np.median(variance_L)) == pytest.approx(np.std(L), rel=0.5)
