"""Numerical helpers of the fits."""

import numpy as np
import pytest

from chinchilla.fit.numerics import fit_line


def test_a_line_in_log_log_gives_the_power_law_back():
    C = np.array([1e18, 3e20, 1e24])
    log_k, exponent = fit_line(np.log(C), np.log(0.1 * C**0.5))
    assert (np.exp(log_k), exponent) == pytest.approx((0.1, 0.5), rel=1e-12)
