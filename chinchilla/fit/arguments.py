"""What the three fits share at the door: data frames in, a frontier that knows its runs out."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

from chinchilla.fit.result import FitResult
from chinchilla.observations.table import Observations, observations_of

P = ParamSpec("P")


def takes_tables(
    fit: Callable[Concatenate[Observations, P], FitResult],
) -> Callable[Concatenate[Observations | Any, P], FitResult]:
    """A fit whose first argument may also be a pandas or polars frame, or a dict of arrays.

    The frontier keeps a reference to the observations, for its figures.
    """

    @functools.wraps(fit)
    def fit_to_table(obs: Observations | Any, *args: P.args, **settings: P.kwargs) -> FitResult:
        obs = observations_of(obs)
        return dataclasses.replace(fit(obs, *args, **settings), runs=obs)

    return fit_to_table
