"""The recommended answer for fits that a test puts together itself."""

from dataclasses import replace

from chinchilla.fit import FitResults
from chinchilla.observations.table import Observations
from chinchilla.recommend.choose import choose

HOW = {"huber_delta": 1e-3, "objective": "huber"}  # the defaults of `chinchilla fit`


def with_recommendation(fits: FitResults, obs: Observations) -> FitResults:
    """`fits` with the recommended model of the runs, as `chinchilla fit` stores it; none where none is."""
    model = choose(obs, fits, HOW)
    return replace(fits, recommended=None if model is None else model.to_dict())
