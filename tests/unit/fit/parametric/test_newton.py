"""Batched Newton: exact derivatives, distant starts, and many fits at once."""

import numpy as np
import pytest

from chinchilla.fit.parametric.newton import Problem


@pytest.fixture
def noisy(scattered_runs):
    return scattered_runs(noise=0.005, seed=2)


@pytest.fixture
def problem(noisy) -> Problem:
    return Problem.of(noisy.N, noisy.D, noisy.L)


@pytest.mark.parametrize("width", [1e-3, 3e-2, np.inf])
def test_gradient_and_hessian_are_those_of_the_objective(problem, width):
    rng = np.random.default_rng(0)
    theta = np.array([[0.1, -0.2, 0.6, 0.3, 0.4]])
    w = rng.uniform(0, 3, (1, len(problem.y)))
    _, g, H = problem.derivatives(theta, w, width)
    step = 1e-6
    for i in range(5):
        e = step * np.eye(5)[i]
        up, down = (problem.objective(theta + s * e, w, width)[0] for s in (1, -1))
        assert g[0, i] == pytest.approx((up - down) / (2 * step), rel=1e-6, abs=1e-9)
        up, down = (problem.derivatives(theta + s * e, w, width)[1][0] for s in (1, -1))
        assert H[0, i] == pytest.approx((up - down) / (2 * step), rel=1e-4, abs=1e-6)
