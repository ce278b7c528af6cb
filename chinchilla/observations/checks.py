"""Checks of the data that all approaches share, before a fit and on its residuals."""

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.observations.table import Observations

N_COEFFICIENTS = 6  # of a quadratic surface in ln N and ln D
N_SHUFFLES = 999
MISFIT = 0.02  # robust SD of log residuals above which one law hardly describes the runs
N_PARAMETERS = 5  # of the loss law; a robust fit can pass through as many runs exactly


def check_signal(obs: Observations, approach: str) -> None:
    """Refuse losses that do not depend on N and D.

    A quadratic surface in ln N and ln D must explain the losses better than it explains 99% of
    their permutations. Fewer than twelve runs are not tested.

    Args:
        obs: (n,) final losses.
        approach: name for the message.

    Raises:
        FitError: no_signal.
    """
    n = len(obs)
    if n < 2 * N_COEFFICIENTS or np.ptp(obs.L) == 0:
        return
    x, z = (np.log(v) - np.log(v).mean() for v in (obs.N, obs.D))
    surface = np.stack([np.ones(n), x, z, x * x, x * z, z * z], axis=1)
    Q = np.linalg.svd(surface, full_matrices=False)[0]
    y = np.log(obs.L) - np.log(obs.L).mean()
    shuffled = np.random.default_rng(0).permuted(np.tile(y, (N_SHUFFLES, 1)), axis=1)
    explained = float(((y @ Q) ** 2).sum() / (y @ y))
    # einsum, not @: starting BLAS threads costs more than this product, and they spin afterwards.
    projected = np.einsum("kn,nj->kj", shuffled, Q)
    by_chance = float(np.quantile((projected**2).sum(axis=1) / (y @ y), 0.99))
    if explained <= by_chance:
        raise FitError(
            f"{approach}: the losses do not depend on N and D. A smooth surface explains {explained:.0%} of "
            f"their variance, and up to {by_chance:.0%} after shuffling. Check that losses are in the right "
            "rows; otherwise add runs, or a wider range of C.",
            "no_signal",
        )


def check_falling(obs: Observations, approach: str) -> None:
    """Refuse runs whose loss does not fall with C: the best of the larger C must beat the best of the smaller.

    Args:
        obs: (n,) final losses at two or more values of C.
        approach: name for the message.

    Raises:
        FitError: loss_rises.
    """
    is_large = obs.C >= np.sqrt(obs.C.min() * obs.C.max())
    small, large = float(obs.L[~is_large].min()), float(obs.L[is_large].min())
    if large >= small and np.ptp(obs.L) > 0:  # a constant loss has an error of its own
        raise FitError(
            f"{approach}: more compute does not lower the loss. The lowest loss is {large:.4g} nats per token "
            f"in the upper half of C and {small:.4g} in the lower half. Check that losses and C are in the "
            "right rows and of one data set.",
            "loss_rises",
        )


def repeats(obs: Observations) -> list[str]:
    """A warning if runs repeat data.

    Args:
        obs: points or final losses.
    """
    again = obs.repeating()
    if not len(again):
        return []
    return [
        f"{len(again)} of {obs.n_runs} runs repeat data, up to {again.most_epochs()}. The "
        "fit counts repeated tokens as new ones, which overstates their value (Muennighoff et al. 2023). "
        "`chinchilla predict unique_tokens=U repeated_runs=observations.csv` accounts for repetition."
    ]


def robust_sd(r: np.ndarray) -> float:
    """Standard deviation of (n,) residuals from their median absolute deviation, scaled for the normal.

    The five smallest are left out: a robust fit of five parameters passes through as many runs.
    """
    deviations = np.sort(np.abs(r - np.median(r)))
    return 1.4826 * float(np.median(deviations[min(N_PARAMETERS, len(deviations) // 2) :]))
