"""Approach 3 on windows of tokens per parameter.

The law rarely holds from .01 to 1,000 tokens per parameter. A large misfit is therefore reported with the
fits to narrower windows, and the runs themselves are questioned only where no window fits. NumPy only.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.fit.parametric.solver import fit_loss_law
from chinchilla.fit.result import LossLaw
from chinchilla.observations.checks import MISFIT, robust_sd
from chinchilla.observations.table import Observations

RATIOS = ((0.0, np.inf), (1.0, 1000.0), (2.0, 200.0))  # windows of tokens per parameter
MIN_RUNS = 12  # in a window
MIN_SHARE = 0.3  # of the runs, in a window


def windows_of(obs: Observations) -> list[tuple[tuple[float, float], np.ndarray]]:
    """Windows of RATIOS that contain enough runs, each with its (n,) mask; windows with the same runs once."""
    ratio = obs.D / obs.N
    windows: list[tuple[tuple[float, float], np.ndarray]] = []
    for low, high in RATIOS:
        inside = (low <= ratio) & (ratio <= high)
        enough = inside.sum() >= max(MIN_RUNS, MIN_SHARE * len(obs)) or inside.all()
        if enough and not any((inside == other).all() for _, other in windows):
            windows.append(((low, high), inside))
    return windows


def in_words(ratios: tuple[float, float]) -> str:
    """Description of a window."""
    low, high = ratios
    return "all tokens per parameter" if low == 0 else f"D/N from {low:g} to {high:g}"


def misfit_warning(
    obs: Observations, misfit: float, exponent: Callable[[LossLaw], float], how: dict[str, Any]
) -> str:
    """Warning about a law that misses its runs: by how much, and the fits to windows of D/N.

    Args:
        obs: (n,) final losses.
        misfit: robust standard deviation of ln L about the law of all of them.
        exponent: a of a law.
        how: huber_delta and objective.
    """
    text = f"the law misses these runs by {misfit:.1%} (robust standard deviation of ln L)"
    fits, best = [], misfit
    for ratios, inside in windows_of(obs):
        if inside.all():
            continue
        N, D, L = obs.N[inside], obs.D[inside], obs.L[inside]
        try:
            law, _ = fit_loss_law(N, D, L, None, **how)
        except FitError:
            continue
        of_window = robust_sd(np.log(L / law(N, D)))
        best = min(best, of_window)
        fits.append(
            f"on {in_words(ratios)} ({inside.sum()} of {len(obs)} runs) it misses by {of_window:.1%} and "
            f"a = {exponent(law):.3f}"
        )
    text = "; ".join([text, *fits])
    if best <= MISFIT:
        return (
            f"{text}. Prefer approach 2 or such a window (tokens_per_param=[LOW,HIGH]); the recommendation "
            "weighs the windows by their errors on the larger budgets."
        )
    reason = "no window of D/N fits better" if fits else "there is one window of D/N"
    return (
        f"{text}. Runs of one data set and recipe are usually within 1%, and {reason}: check that all "
        "runs share one data set, tokenizer, recipe and loss."
    )
