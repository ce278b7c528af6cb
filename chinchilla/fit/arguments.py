"""Decorator of the fit functions: accept data frames and keep the observations with the result."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

from chinchilla.fit.result import FitResult
from chinchilla.observations.table import Observations, observations_of

P = ParamSpec("P")


def accepts_tables(
    fit: Callable[Concatenate[Observations, P], FitResult],
) -> Callable[Concatenate[Observations | Any, P], FitResult]:
    """Let the first argument also be a pandas or polars frame, or a dict of arrays.

    The result keeps a reference to the observations, for its figures.
    """

    @functools.wraps(fit)
    def wrapper(obs: Observations | Any, *args: P.args, **settings: P.kwargs) -> FitResult:
        obs = observations_of(obs)
        return dataclasses.replace(fit(obs, *args, **settings), runs=obs)

    return wrapper
