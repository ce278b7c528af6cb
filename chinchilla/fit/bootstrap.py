"""Bootstrap intervals, shared by the three approaches.

A resample draws or weights whole runs, because the points of one curve are not independent, and the
approach is applied again. Approach 3 weights the runs at random (Bayesian bootstrap, Rubin 1981), because
pairs drawn with replacement lose the design of small sweeps. The variance of the weights is drawn for each
resample, VARIANCE n/(n - 2.5) times (n - 5)/chi-square(n - 5), so that the spread follows Student's t
instead of a normal distribution; five is the number of parameters of the law.
VARIANCE is below 1 because refits of the paper's objective, which is almost least absolute deviations,
spread about 6% more than the fit itself; the factor n/(n - 2.5) corrects for residuals that are smaller
than the errors. Both were set empirically by the coverage on the designs of scripts/studies/coverage.py.
"""

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.fit.result import PowerLaw

N_PARAMETERS = 5  # of the loss law
VARIANCE = 0.88  # of random weights on many runs
MAX_VARIANCE = 5.0  # of the weights of one resample: beyond, a few runs have all the weight
ZERO_WIDTH = 1e-6  # of the interval of an exponent: resamples that differ by less do not vary
MIN_SUCCESS = 0.5  # share of resamples that must be fitted for an interval


def random_weights(n_runs: int, n_resamples: int, seed: int) -> np.ndarray:
    """Draw the weights of the Bayesian bootstrap.

    Args:
        n_runs: runs to weight.
        n_resamples: number of resamples.
        seed: of the generator.

    Returns:
        (n_resamples, n_runs) weights above 0 with mean 1 in each resample.
    """
    rng = np.random.default_rng(seed)
    degrees_of_freedom = max(n_runs - N_PARAMETERS, 1)
    mean = VARIANCE * n_runs / max(n_runs - N_PARAMETERS / 2, 1)
    variance = mean * degrees_of_freedom / rng.chisquare(degrees_of_freedom, size=(n_resamples, 1))
    w = rng.gamma(1 / np.minimum(variance, MAX_VARIANCE), size=(n_resamples, n_runs))
    return w * (n_runs / w.sum(axis=1, keepdims=True))


def draw_counts(
    n_runs: int, n_resamples: int, seed: int, strata: np.ndarray | None = None
) -> np.ndarray:
    """Draw runs with replacement.

    Args:
        n_runs: runs to draw from.
        n_resamples: number of resamples.
        seed: of the generator.
        strata: (n_runs,) group of each run; each group keeps its number of runs.

    Returns:
        (n_resamples, n_runs) how often each run occurs, as floats: weights for a weighted fit.
    """
    rng = np.random.default_rng(seed)
    counts = np.zeros((n_resamples, n_runs))
    groups = np.zeros(n_runs, int) if strata is None else strata
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        share = np.full(len(members), 1 / len(members))
        counts[:, members] = rng.multinomial(len(members), share, n_resamples)
    return counts


def power_laws(
    N_line: tuple[float, float],
    D_line: tuple[float, float],
    samples: np.ndarray,
    scatter: float = 0.0,
) -> tuple[PowerLaw, PowerLaw, list[str]]:
    """Build N_opt and D_opt with their intervals.

    Args:
        N_line: (ln coefficient, exponent) of N_opt on all runs.
        D_line: the same of D_opt.
        samples: (n_resamples, 4) both lines of each resample; NaN where it could not be fitted.
        scatter: root mean square of the log-residuals of the fit to all runs. If it is above
            ZERO_WIDTH, an interval narrower than that is not stated.

    Raises:
        FitError: N_opt or D_opt falls as C grows (falls).

    Returns:
        N_opt, D_opt and warnings. The laws have no interval without samples, with under half of them
        fitted, or with samples that do not vary.
    """
    for name, (_, exponent) in (("N_opt", N_line), ("D_opt", D_line)):
        if exponent <= 0:
            raise FitError(
                f"{name} falls as C grows (exponent {exponent:.3f}): the fit depends on noise or on a "
                "single run. Check the runs, or widen the range of C.",
                "falls",
            )
    fitted = samples[np.isfinite(samples).all(axis=1)]
    n = len(samples)
    warnings = []
    if n and len(fitted) < MIN_SUCCESS * n:
        warnings.append(
            f"no interval: only {len(fitted)} of {n} resamples of the runs could be fitted, so the result "
            "depends on single runs. Add runs."
        )
        fitted = fitted[:0]
    elif len(fitted) < 0.9 * n:
        warnings.append(
            f"the interval leaves out {n - len(fitted)} of {n} resamples that could not be fitted; it may be "
            "too narrow. Add runs."
        )
    if len(fitted) and scatter > ZERO_WIDTH:
        low, high = np.percentile(fitted[:, 1], (2.5, 97.5))
        if high - low < ZERO_WIDTH:
            warnings.append(
                f"no interval: all {len(fitted)} resamples give a={fitted[0, 1]:.4g}, although the runs "
                f"deviate from the fit by {scatter:.1e} in the logarithm (rms). Add runs."
            )
            fitted = fitted[:0]
    if not len(fitted):
        N_opt, D_opt = (PowerLaw(float(np.exp(k)), e) for k, e in (N_line, D_line))
        return N_opt, D_opt, warnings
    laws = []
    for (log_k, exponent), pairs in ((N_line, fitted[:, :2]), (D_line, fitted[:, 2:])):
        low95, p10, p90, high95 = map(float, np.percentile(pairs[:, 1], (2.5, 10, 90, 97.5)))
        stored = [seven_digits(row) for row in pairs.T]
        laws.append(PowerLaw(float(np.exp(log_k)), exponent, p10, p90, [low95, high95], stored))
    return laws[0], laws[1], warnings


def seven_digits(values: np.ndarray) -> list[float]:
    """Values rounded to seven significant digits, as they are stored."""
    return [float(f"{x:.7g}") for x in values]


def method(name: str, n_resamples: int) -> str:
    """Description of an interval for FitResult.settings."""
    return f"{name}, {n_resamples:,} resamples" if n_resamples else "none (n_bootstrap=0)"
