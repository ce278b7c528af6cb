"""Doubts that every approach shares: do these losses say anything, of one law, in the right direction?

A fit always gives numbers; these checks ask whether it should have been made. NumPy only.
"""

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.observations.table import Observations

SURFACE = 6  # coefficients of a quadratic surface
N_SHUFFLED = 999  # shuffles that say what chance explains
MISFIT = 0.02  # robust sd of log-residuals beyond which runs are hardly one law's
PARAMETERS = 5  # of the loss law: so many runs a robust fit can go through exactly


def check_signal(obs: Observations, who: str) -> None:
    """Refuse losses that say nothing of N and D.

    They do where a quadratic surface in ln N and ln D explains them better than it does 99% of their
    shuffles.

    Args:
        obs: (n,) final losses; of fewer than twelve nothing is said, a surface fits them all.
        who: the approach, for the message.

    Raises:
        FitError: no_signal.
    """
    n = len(obs)
    if n < 2 * SURFACE or np.ptp(obs.L) == 0:
        return
    x, z = (np.log(v) - np.log(v).mean() for v in (obs.N, obs.D))
    Q = np.linalg.svd(
        np.stack([np.ones(n), x, z, x * x, x * z, z * z], axis=1), full_matrices=False
    )[0]
    y = np.log(obs.L) - np.log(obs.L).mean()
    shuffled = np.random.default_rng(0).permuted(np.tile(y, (N_SHUFFLED, 1)), axis=1)
    explained = float(((y @ Q) ** 2).sum() / (y @ y))
    # Not @: for so little work it wakes BLAS's threads, which then spin through the whole fit.
    along = np.einsum("kn,nj->kj", shuffled, Q)
    by_chance = float(np.quantile((along**2).sum(axis=1) / (y @ y), 0.99))
    if explained <= by_chance:
        raise FitError(
            f"{who}: the losses say no more of N and D than chance would. A smooth surface explains "
            f"{explained:.0%} of their spread, and up to {by_chance:.0%} when they are shuffled. Are they "
            "in the right rows? If so, add runs, or a wider range of C.",
            "no_signal",
        )


def check_falling(obs: Observations, who: str) -> None:
    """Refuse runs of which the dear half holds no better loss than the cheap half.

    Args:
        obs: (n,) final losses of at least two C.
        who: the approach, for the message.

    Raises:
        FitError: loss_rises.
    """
    dear = obs.C >= np.sqrt(obs.C.min() * obs.C.max())
    cheapest, dearest = float(obs.L[~dear].min()), float(obs.L[dear].min())
    if dearest >= cheapest and np.ptp(obs.L) > 0:  # one loss for all is refused by its name
        raise FitError(
            f"{who}: more compute does not lower the loss: the best of the dearer runs has "
            f"{dearest:.4g} nats per token, the best of the cheaper {cheapest:.4g}. Are losses and C "
            "in the right rows, and of one data set?",
            "loss_rises",
        )


def repeats(obs: Observations) -> list[str]:
    """What to know of runs that read some of their tokens more than once; nothing without such.

    Args:
        obs: points or final losses.
    """
    again = obs.repeating()
    if not len(again):
        return []
    return [
        f"{len(again)} of {len(np.unique(obs.run_id))} runs repeat data, up to "
        f"{again.most_epochs()}, and are fitted as if every token were new, which a repeated "
        "one is not quite (Muennighoff et al. 2023). `chinchilla predict unique_tokens=U "
        "repeated_runs=observations.csv` fits the law that knows."
    ]


def robust_sd(r: np.ndarray) -> float:
    """Standard deviation of (n,) residuals by their median size: what it is where they are normal.

    The smallest five are left out: a robust fit of five parameters goes through as many runs.
    """
    size = np.sort(np.abs(r - np.median(r)))
    return 1.4826 * float(np.median(size[min(PARAMETERS, len(size) // 2) :]))
