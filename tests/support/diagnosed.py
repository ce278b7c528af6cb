"""Fits of runs and their `Context`, for the tests of the diagnostics."""

import numpy as np

from chinchilla.config import FitCommand
from chinchilla.diagnose.context import Context
from chinchilla.fit import FitResults, fit_all, fit_parametric
from chinchilla.observations.table import Observations

BUDGETS = (6e18, 2e19, 6e19, 2e20, 6e20, 2e21)
NOISE = 0.004  # of ln L, standard deviation


def fitted(
    obs: Observations, n_bootstrap: int = 60, approaches=("isoflop", "parametric")
) -> FitResults:
    command = FitCommand(
        observations="runs.csv",
        out_dir="fits",
        approaches=list(approaches),
        n_bootstrap=n_bootstrap,
    )
    return fit_all(obs, None, command)


def context_of(obs: Observations, n_bootstrap: int = 60, **more) -> Context:
    return Context(obs, fitted(obs, n_bootstrap, **more), 10 * float(obs.C.max()), n_bootstrap)


def unresampled_context(obs: Observations, objective: str = "least_squares") -> Context:
    """Without a bootstrap; by least squares, the standard error of equal errors is then exact."""
    frontier = fit_parametric(obs, n_bootstrap=0, objective=objective)
    context = Context(
        obs, FitResults.of({"parametric": frontier}, {}, obs), 10 * float(obs.C.max())
    )
    assert context.loss_settings["objective"] == objective
    return context


def bent_runs(bend: float) -> Observations:
    """Exact parabolas whose minima follow ln N = 20.5 + .5 u + bend u^2, u = ln C - ln 1e20."""
    C = np.repeat(np.geomspace(1e18, 1e22, 7), 9)
    u = np.log(C / 1e20)
    x = np.tile(np.linspace(-1.4, 1.4, 9), 7)
    N = np.exp(20.5 + 0.5 * u + bend * u**2 + x)
    L = 3 * np.exp(-0.05 * u) + 0.04 * x**2
    return Observations.of(N=N, D=C / (6 * N), L=L, C=C, budget_flops=C)
