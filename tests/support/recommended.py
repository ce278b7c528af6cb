"""Recommended answers for fits that a test puts together itself, and for runs on a known law."""

from dataclasses import replace

import numpy as np

from chinchilla.config import FitCommand
from chinchilla.fit import FitResult, FitResults
from chinchilla.fit.loss_law import six_nd_frontier
from chinchilla.observations.table import Observations
from chinchilla.recommend import fit_and_recommend
from chinchilla.recommend.choose import choose

HOW = {"huber_delta": 1e-3, "objective": "huber"}  # the defaults of `chinchilla fit`
BUDGETS = [1e18, 3e18, 1e19, 3e19, 1e20, 3e20, 1e21]


def with_recommendation(fits: FitResults, obs: Observations) -> FitResults:
    """`fits` with the recommended model of the runs, as `chinchilla fit` stores it; none where none is."""
    model = choose(obs, fits, HOW)
    return replace(fits, recommended=None if model is None else model.to_dict())


def together(obs: Observations, *approaches: FitResult) -> FitResults:
    """Fits of these approaches to the runs, with the recommendation."""
    return with_recommendation(FitResults.of({f.approach: f for f in approaches}, {}, obs), obs)


def fitted(obs: Observations, **settings) -> FitResults:
    """Fits of the runs without resamples, with their recommendation."""
    told = {"n_bootstrap": 0, **settings}
    return fit_and_recommend(obs, None, FitCommand(observations="-", out_dir="-", **told))


def best(law, C: float) -> tuple[float, float]:
    """N_opt and the loss there, under C = 6*N*D."""
    (log_k, a), _, _ = six_nd_frontier(law)
    N = float(np.exp(log_k) * C**a)
    return N, float(law(N, C / (6 * N)))


def starved(runs: Observations) -> Observations:
    """Losses that leave the law below two tokens per parameter, as real profiles do."""
    ratio = runs.D / runs.N
    return replace(runs, L=runs.L * (1 + 0.08 * np.maximum(np.log(2 / ratio), 0) ** 2))


def inside(x: float, interval: list[float]) -> bool:
    return interval[0] <= x <= interval[1]
