"""Fits with resamples, with C = 6*N*D and with another count."""

import numpy as np
import pytest
from recommended import together

from chinchilla.core.shapes import flops_per_token, n_params, named_shapes
from chinchilla.fit import FitResults, LossLaw, fit_isoflop, fit_parametric
from chinchilla.observations.table import Observations


@pytest.fixture(scope="session")
def noisy() -> tuple[FitResults, Observations]:
    """Runs with 0.3% noise under C = 6ND, approach 3 with its resamples."""
    rng = np.random.default_rng(1)
    N = np.repeat(np.geomspace(5e7, 2e9, 7), 5)
    D = N * np.tile([5, 10, 20, 40, 80.0], 7)
    law = LossLaw(E=1.7, A=40.0, B=170.0, alpha=0.34, beta=0.32)
    L = law(N, D) * np.exp(0.003 * rng.normal(size=len(N)))
    ids = np.array([f"r{i}" for i in range(len(N))])
    obs = Observations(ids, np.full(len(N), np.nan), 6 * N * D, N, D, L, "six_nd")
    return together(obs, fit_parametric(obs, n_bootstrap=200)), obs


@pytest.fixture(scope="session")
def with_head() -> FitResults:
    """Table A9's shapes, the output head counted, .2% noise; approach 3 with resamples, and 2."""
    law = LossLaw(1.8, 480, 2000, 0.34, 0.36)
    rng, rows = np.random.default_rng(0), []
    for budget in np.geomspace(3e18, 3e20, 5):
        for shape in named_shapes().values():
            N, c = float(n_params(shape)), flops_per_token(shape, "with_head")
            if 1 / 6 < N / (0.1 * budget**0.5) < 6:
                D = budget / c
                rows.append((budget, N, D, float(law(N, D)) * np.exp(0.002 * rng.normal())))
    C, N, D, L = np.array(rows).T
    ids = np.array([f"r{i}" for i in range(len(rows))])
    obs = Observations(ids, C, C, N, D, L, flop_convention="with_head")
    return together(obs, fit_parametric(obs, n_bootstrap=200), fit_isoflop(obs, n_bootstrap=200))
