"""Approach 3 on windows of tokens per parameter: where the law misses all runs, it may hold on some.

The law rarely holds from .01 to 1,000 tokens per parameter. A misfit is therefore reported with what such
windows change, and the runs are suspected only where no window fits them. NumPy only.
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
    """Each window of RATIOS that holds enough runs, and which (n,) bool; those with the same runs once."""
    ratio = obs.D / obs.N
    found: list[tuple[tuple[float, float], np.ndarray]] = []
    for low, high in RATIOS:
        inside = (low <= ratio) & (ratio <= high)
        enough = inside.sum() >= max(MIN_RUNS, MIN_SHARE * len(obs)) or inside.all()
        if enough and not any((inside == other).all() for _, other in found):
            found.append(((low, high), inside))
    return found


def in_words(ratios: tuple[float, float]) -> str:
    """A window in words."""
    low, high = ratios
    return "all tokens per parameter" if low == 0 else f"D/N from {low:g} to {high:g}"


def about_misfit(
    obs: Observations, miss: float, exponent: Callable[[LossLaw], float], how: dict[str, Any]
) -> str:
    """What to say of a law that misses its runs: by how much, and what windows of D/N change.

    Args:
        obs: (n,) final losses.
        miss: robust standard deviation of ln L about the law of all of them.
        exponent: a of a law.
        how: huber_delta and objective.
    """
    text = f"the law misses these runs by {miss:.1%} (robust standard deviation of ln L)"
    said, best = [], miss
    for ratios, inside in windows_of(obs):
        if inside.all():
            continue
        N, D, L = obs.N[inside], obs.D[inside], obs.L[inside]
        try:
            law, _ = fit_loss_law(N, D, L, None, **how)
        except FitError:
            continue
        own = robust_sd(np.log(L / law(N, D)))
        best = min(best, own)
        said.append(
            f"on {in_words(ratios)} ({inside.sum()} of {len(obs)} runs) it misses by {own:.1%} and "
            f"a = {exponent(law):.3f}"
        )
    if said:
        text += f"; {'; '.join(said)}"
    if best > MISFIT:
        rest = (
            "no window of tokens per parameter fits better" if said else "it has one window of D/N"
        )
        return (
            f"{text}. Runs of one data set and recipe miss by 1% or less, and {rest}: are they of one data "
            "set, tokenizer, recipe and loss?"
        )
    return (
        f"{text}. Prefer approach 2 or such a window (tokens_per_param=[LOW,HIGH]); the recommendation "
        "weighs the windows by their errors on the larger budgets."
    )
