"""Bootstrap intervals, shared by the three approaches.

A resample draws or weights whole runs, because the points of one curve are not independent, and the
approach is applied again. Approach 3 weights the runs at random (Bayesian bootstrap, Rubin 1981). Every run
keeps some weight, so that no resample loses the design; drawing pairs with replacement gives
intervals that are too wide on small sweeps. The weights are normalised over all runs. Their variance is
drawn for each resample, VARIANCE n/(n - 2.5) times (n - 5)/chi-square(n - 5), so that the
spread follows Student's t instead of a normal distribution; five is the number of parameters of the law.
VARIANCE is below 1 because refits of the paper's objective, which is almost least absolute deviations,
spread about 6% more than the fit itself; the factor n/(n - 2.5) corrects for residuals that are smaller
than the errors. Both were set empirically by the coverage on the designs of scripts/studies/coverage.py.
NumPy only.
"""

import numpy as np

from chinchilla.core.errors import FitError, InputError
from chinchilla.fit.result import PowerLaw
from chinchilla.observations.table import Observations

RESAMPLINGS = {  # -> name of the method
    "bayesian": "Bayesian bootstrap of runs, Student's t",
    "pairs": "pairs bootstrap of runs",
    "by_size": "bootstrap of whole model sizes",
}
N_PARAMETERS = 5  # of the loss law
FAR = 10.0  # times the largest C, where N_opt is compared with its own interval
VARIANCE = 0.88  # of random weights on many runs
MAX_VARIANCE = 5.0  # of the weights of one resample: beyond, a few runs have all the weight
OFF_CENTRE = 0.05  # warn of an estimate in the outer twentieth of its 80% interval, or outside
MIN_WIDTH = 1e-4  # of the interval of an exponent, for that warning
ZERO_WIDTH = 1e-6  # of the interval of an exponent: resamples that differ by less do not vary
MIN_SUCCESS = 0.5  # share of resamples that must be fitted for an interval


def draw(resampling: str, obs: Observations, n_resamples: int, seed: int) -> np.ndarray:
    """Draw weights of the runs for each resample.

    Args:
        resampling: a key of RESAMPLINGS.
        obs: (n,) final losses.
        n_resamples: number of resamples.
        seed: of the generator.

    Returns:
        (n_resamples, n) weights.

    Raises:
        InputError: resampling is not a key of RESAMPLINGS.
    """
    n = len(obs)
    if resampling == "bayesian":
        rng = np.random.default_rng(seed)
        freedom = max(n - N_PARAMETERS, 1)
        mean = VARIANCE * n / max(n - N_PARAMETERS / 2, 1)
        variance = mean * freedom / rng.chisquare(freedom, size=(n_resamples, 1))
        shape = 1 / np.minimum(variance, MAX_VARIANCE)
        w = rng.gamma(shape, size=(n_resamples, n))
        return w * (n / w.sum(axis=1, keepdims=True))
    if resampling == "pairs":
        return draw_counts(n, n_resamples, seed)
    if resampling == "by_size":
        sizes, index = np.unique(obs.N, return_inverse=True)
        return draw_counts(len(sizes), n_resamples, seed)[:, index]
    raise InputError(f"resampling={resampling!r}: choose one of {', '.join(RESAMPLINGS)}.")


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
    C: float,
    scatter: float = 0.0,
) -> tuple[PowerLaw, PowerLaw, dict[str, int], list[str]]:
    """Build N_opt and D_opt with their intervals.

    Args:
        N_line: (ln coefficient, exponent) of N_opt on all runs.
        D_line: the same of D_opt.
        samples: (n_resamples, 4) both lines of each resample; NaN where it could not be fitted.
        C: FLOPs at which N_opt is compared with its own interval, as a is.
        scatter: root mean square of the log-residuals of the fit to all runs. If it is above
            ZERO_WIDTH, an interval narrower than that is not stated.

    Raises:
        FitError: N_opt or D_opt falls as C grows (falls).

    Returns:
        N_opt, D_opt, {n_resamples, n_fitted} and warnings. The laws have no interval without samples,
        with under half of them fitted, or with samples that do not vary.
    """
    for name, (_, exponent) in (("N_opt", N_line), ("D_opt", D_line)):
        if exponent <= 0:
            raise FitError(
                f"{name} falls as C grows (exponent {exponent:.3f}): noise or a single run decides it. "
                "Check the runs, or widen the range of C.",
                "falls",
            )
    fitted = samples[np.isfinite(samples).all(axis=1)]
    counts = {"n_resamples": len(samples), "n_fitted": len(fitted)}
    warnings = []
    if len(samples) and len(fitted) < MIN_SUCCESS * len(samples):
        warnings.append(
            f"no interval: only {len(fitted)} of {len(samples)} resamples of the runs could be "
            "fitted, so the result depends on single runs. Add runs."
        )
        fitted = fitted[:0]
    elif len(fitted) < 0.9 * len(samples):
        warnings.append(
            f"the interval leaves out {len(samples) - len(fitted)} of {len(samples)} resamples "
            "that could not be fitted; it may be too narrow."
        )
    if len(fitted) and scatter > ZERO_WIDTH and _constant(fitted[:, 1]):
        warnings.append(
            f"no interval: all {len(fitted)} resamples give a={fitted[0, 1]:.4g}, although the runs "
            f"miss the fit by {scatter:.1e} in the logarithm (rms). Add runs."
        )
        fitted = fitted[:0]
    laws = []
    for (log_k, exponent), pairs in ((N_line, fitted[:, :2]), (D_line, fitted[:, 2:])):
        if not len(pairs):
            laws.append(PowerLaw(float(np.exp(log_k)), exponent))
            continue
        low95, p10, p90, high95 = map(float, np.percentile(pairs[:, 1], (2.5, 10, 90, 97.5)))
        stored = [seven_digits(row) for row in pairs.T]
        laws.append(PowerLaw(float(np.exp(log_k)), exponent, p10, p90, [low95, high95], stored))
    return laws[0], laws[1], counts, warnings + _off_centre(laws[0], C)


def _constant(exponents: np.ndarray) -> bool:
    """Whether the 95% interval of resampled exponents (k,) has no width beyond rounding."""
    low, high = np.percentile(exponents, (2.5, 97.5))
    return bool(high - low < ZERO_WIDTH)


def _off_centre(law: PowerLaw, C: float) -> list[str]:
    """Warn if a, or N_opt at C, is at an end of its own interval or outside of it."""
    if law.p10 is None or law.p90 is None:
        return []
    low, high = (float(x) for x in law.band(C))
    N = float(law(C))
    for name, x, bounds, text in (
        (f"a={law.exponent:.3f}", law.exponent, (law.p10, law.p90), (law.p10, law.p90)),
        (f"N_opt({C:.3g})={N:.3g}", np.log(N), (np.log(low), np.log(high)), (low, high)),
    ):
        width = bounds[1] - bounds[0]
        if width < MIN_WIDTH or OFF_CENTRE <= (x - bounds[0]) / width <= 1 - OFF_CENTRE:
            continue
        where = "at an end of" if bounds[0] <= x <= bounds[1] else "outside"
        return [
            f"{name} lies {where} its own interval, {text[0]:.3g} to {text[1]:.3g}: the resamples differ "
            "from the fit to all runs, so few runs decide it. Add runs before using either."
        ]
    return []


def seven_digits(values: np.ndarray) -> list[float]:
    """Values rounded to seven significant digits, as they are stored."""
    return [float(f"{x:.7g}") for x in values]


def method(resampling: str, n_resamples: int) -> str:
    """Description of an interval for FitResult.settings, by a key of RESAMPLINGS or a method's name."""
    if n_resamples == 0:
        return "none (n_bootstrap=0)"
    return f"{RESAMPLINGS.get(resampling, resampling)}, {n_resamples:,} resamples"
