"""Intervals by resampling runs, shared by the three approaches.

A resample draws or weights whole runs (never points of one curve: they are not independent) and
the approach is applied again. Approach 3 weights them at random (Bayesian bootstrap, Rubin 1981): no run
drops out, so that no resample loses the design, where drawing pairs with replacement covers more than
it says on small sweeps. The weights are normalised over all runs, never within a budget: a run alone in
its budget would not vary at all. Their variance is drawn anew for each resample: VARIANCE n/(n - 2.5)
times (n - 5)/chi-square(n - 5), so that the spread is a Student's t and not a normal one, five being
the law's parameters. VARIANCE is below 1 because refits of the paper's objective, almost least absolute
deviations, spread some 6% more than the fit itself; residuals smaller than the errors ask for
n/(n - 5) with least squares, and for about half of that here. Both were set by coverage over the designs
of scripts/coverage.py, and are no theorem.
The paper's subsampling of 80% without replacement understates the spread by about half (Besiroglu et al.
2024).
In: each resample's (ln coefficient, exponent) of N_opt and D_opt. Out: PowerLaws that carry them,
with percentiles of the exponent. NumPy only.
"""

import numpy as np

from chinchilla.core.errors import FitError, InputError
from chinchilla.fit.result import PowerLaw
from chinchilla.observations.table import Observations

RESAMPLINGS = {  # what is drawn, for people
    "bayesian": "draws of random weights on the runs (Bayesian bootstrap, stretched to Student's t)",
    "pairs": "bootstrap resamples of runs with replacement",
    "by_size": "bootstrap resamples of whole model sizes with replacement",
    "by_budget": "bootstrap resamples of whole budgets with replacement",
    "stratified": "bootstrap resamples of runs with replacement within each budget",
    "subsample": "subsamples of 80% of the runs without replacement (the paper's way: too narrow)",
}
N_PARAMETERS = 5  # of the loss law
VARIANCE = 0.88  # of random weights on many runs
MAX_VARIANCE = 5.0  # of those of one resample: beyond, a few runs have all the weight
SUBSAMPLE = 0.8  # share of the runs (Table 2)
C_BIN = 10**0.25  # runs that no budget names are grouped by C, a factor 1.78 a group
PERCENTILES = (10, 90)  # an 80% interval, as Table 2
OFF_CENTRE = 0.05  # an estimate in the outer twentieth of its 80% interval, or beyond, is said
MIN_WIDTH = 1e-4  # of an interval of an exponent, for that to mean anything
ZERO_WIDTH = 1e-6  # of an interval of an exponent; runs that scatter by more cannot give less
MIN_SUCCESS = 0.5  # share of resamples that must fit before an interval is stated


def draw(resampling: str, obs: Observations, n_resamples: int, seed: int) -> np.ndarray:
    """How often each run occurs in each resample, drawn in the way named.

    Args:
        resampling: a key of RESAMPLINGS.
        obs: (n,) final losses. Runs without a budget are grouped with those of about their C.
        n_resamples: resamples wanted.
        seed: of the generator.

    Returns:
        (n_resamples, n) weights.

    Raises:
        InputError: resampling is no key of RESAMPLINGS.
    """
    n = len(obs)
    if resampling == "subsample":
        order = np.random.default_rng(seed).permuted(
            np.tile(np.arange(n), (n_resamples, 1)), axis=1
        )
        return (order < round(SUBSAMPLE * n)).astype(float)
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
    if resampling == "stratified":
        return draw_counts(n, n_resamples, seed, strata=budget_groups(obs))
    if resampling == "by_size":
        return _draw_groups(obs.N, n_resamples, seed)
    if resampling == "by_budget":
        return _draw_groups(budget_groups(obs), n_resamples, seed)
    raise InputError(f"resampling={resampling!r}: choose one of {', '.join(RESAMPLINGS)}.")


def _draw_groups(groups: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """How often each run occurs when whole groups are drawn."""
    _, index = np.unique(groups, return_inverse=True)
    return draw_counts(int(index.max()) + 1, n_resamples, seed)[:, index]


def budget_groups(obs: Observations) -> np.ndarray:
    """(n,) the budget of each run; of a run without one, minus the index of its C_BIN."""
    bins = np.floor(np.log(obs.C) / np.log(C_BIN))
    return np.where(np.isnan(obs.budget_flops), -bins, obs.budget_labels)


def draw_counts(
    n_runs: int, n_resamples: int, seed: int, strata: np.ndarray | None = None
) -> np.ndarray:
    """How often each run occurs in each resample.

    Args:
        n_runs: runs to draw from.
        n_resamples: resamples wanted.
        seed: of the generator.
        strata: (n_runs,) group of each run; each group keeps its number of runs.

    Returns:
        (n_resamples, n_runs) whole numbers as floats: weights for a weighted fit.
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
    """N_opt and D_opt with their intervals.

    Args:
        N_line: (ln coefficient, exponent) of N_opt on all runs.
        D_line: the same of D_opt.
        samples: (n_resamples, 4) the two lines of each resample; NaN where it could not be fitted.
        C: FLOPs at which N_opt is held against its own interval, as a is.
        scatter: root mean square of the log-residuals of the fit to all runs. Where it is above
            ZERO_WIDTH an interval narrower than that is not stated.

    Raises:
        FitError: N_opt or D_opt falls as C grows (falls).

    Returns:
        N_opt, D_opt, {n_resamples, n_fitted} and warnings. Without samples, with under half of
        them fitted, or with samples that do not vary, the laws carry no interval.
    """
    for name, (_, exponent) in (("N_opt", N_line), ("D_opt", D_line)):
        if exponent <= 0:
            raise FitError(
                f"{name} falls as C grows (exponent {exponent:.3f}): noise or a stray run decides. Look "
                "at the runs, or widen the range of C.",
                "falls",
            )
    fitted = samples[np.isfinite(samples).all(axis=1)]
    counts = {"n_resamples": len(samples), "n_fitted": len(fitted)}
    warnings = []
    if len(samples) and len(fitted) < MIN_SUCCESS * len(samples):
        warnings.append(
            f"no interval: only {len(fitted)} of {len(samples)} resamples of the runs could be "
            "fitted, so the answer hangs on single runs. Add runs."
        )
        fitted = fitted[:0]
    elif len(fitted) < 0.9 * len(samples):
        warnings.append(
            f"the interval leaves out {len(samples) - len(fitted)} of {len(samples)} resamples "
            "that could not be fitted; it may be too narrow."
        )
    if len(fitted) and scatter > ZERO_WIDTH and unvaried(fitted[:, 1]):
        warnings.append(
            f"no interval: all {len(fitted)} resamples give a={fitted[0, 1]:.4g}, although the runs "
            f"miss the fit by {scatter:.1e} in the logarithm (rms). Runs that are alone in their group "
            "do not vary when runs are drawn within groups: use another resampling, such as bayesian."
        )
        fitted = fitted[:0]
    laws = []
    for (log_k, exponent), pairs in ((N_line, fitted[:, :2]), (D_line, fitted[:, 2:])):
        if not len(pairs):
            laws.append(PowerLaw(float(np.exp(log_k)), exponent))
            continue
        low95, p10, p90, high95 = map(float, np.percentile(pairs[:, 1], (2.5, 10, 90, 97.5)))
        stored = [[float(f"{x:.7g}") for x in row] for row in pairs.T]
        laws.append(PowerLaw(float(np.exp(log_k)), exponent, p10, p90, [low95, high95], stored))
    return laws[0], laws[1], counts, warnings + _off_centre(laws[0], C)


def unvaried(exponents: np.ndarray) -> bool:
    """Whether the 95% interval of resampled exponents (k,) has no width beyond rounding."""
    low, high = np.percentile(exponents, (2.5, 97.5))
    return bool(high - low < ZERO_WIDTH)


def _off_centre(law: PowerLaw, C: float) -> list[str]:
    """Whether a, or N_opt at C, sits at an end of its own interval, or outside of it."""
    if law.p10 is None or law.p90 is None:
        return []
    low, high = (float(np.log(x)) for x in law.band(C))
    said = []
    for name, x, ends in (
        (f"a={law.exponent:.3f}", law.exponent, (law.p10, law.p90)),
        (f"N_opt({C:.3g})={float(law(C)):.3g}", float(np.log(law(C))), (low, high)),
    ):
        width = ends[1] - ends[0]
        if width < MIN_WIDTH or OFF_CENTRE <= (x - ends[0]) / width <= 1 - OFF_CENTRE:
            continue
        where = "at an end of" if ends[0] <= x <= ends[1] else "outside"
        of = ends if name.startswith("a=") else tuple(np.exp(ends))
        said.append(
            f"{name} lies {where} its own interval, {of[0]:.3g} to {of[1]:.3g}: resamples give "
            "another answer than all runs do, so few runs decide it. Add runs before using either."
        )
    return said[:1]


def method(n_resamples: int, seed: int, how: str, resampling: str = "pairs") -> str:
    """The sentence that says where an interval comes from, for FitResult.settings."""
    if n_resamples == 0:
        return "none (n_bootstrap=0)"
    return (
        f"10th to 90th percentile over {n_resamples} {RESAMPLINGS[resampling]}, {how} (seed {seed})"
    )
