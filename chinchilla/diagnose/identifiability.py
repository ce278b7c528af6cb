"""Whether these runs determine the five parameters of the loss law.

Judged is the condition number of the Jacobian d ln L_hat / d theta in (ln A, ln B, ln E, alpha, beta), with A
and B at the mean ln N and ln D and each column scaled to length one: the ratio between the best and the
worst determined direction of the parameters, independent of origin and units.
"""

from typing import Any

import numpy as np

from chinchilla.core.units import number
from chinchilla.diagnose.context import Context
from chinchilla.diagnose.findings import VISIBLE, Finding
from chinchilla.fit.parametric.approach3 import ILL_CONDITIONED

MAX_CORRELATION = 0.95  # of ln N and ln D
MIN_RATIO_RANGE = 4.0  # largest over smallest tokens per parameter
MIN_SIZES = 5
MAX_SE_A = 0.05  # standard error of a
_ADVICE = (
    "Train some sizes at several tokens per parameter, on both sides of the optimum: only such runs "
    "separate the size term from the token term."
)
_INCONCLUSIVE = (
    "Add runs at more budgets and on both sides of each optimum: the standard error of the exponent is "
    f"above {MAX_SE_A:g}."
)


def identifiability(context: Context) -> Finding:
    """Condition numbers, and the range of N, D and D/N.

    The effect of a design that does not determine the law is the difference between approaches 2 and 3
    in ln N_opt at C_star, and at least two standard errors of it.

    Raises:
        FitError: approach 3 was not requested. If it was refused, that is a warning.
    """
    obs = context.obs
    ratio = obs.D / obs.N
    low, high = float(ratio.min()), float(ratio.max())
    varied = np.ptp(obs.N) > 0 and np.ptp(obs.D) > 0
    correlation = float(np.corrcoef(np.log(obs.N), np.log(obs.D))[0, 1]) if varied else 1.0
    n_sizes = int(context.size.max()) + 1
    values: dict[str, Any] = {"corr_lnN_lnD": correlation, "tokens_per_parameter": [low, high]}
    fitted = context.fits.fitted
    advice = _ADVICE + " Until then use approach 2." * ("isoflop" in fitted)
    coverage = (
        f"{n_sizes} sizes, {len(np.unique(obs.D))} distinct D, {number(low)} to {number(high)} tokens per "
        f"parameter, corr(ln N, ln D) {correlation:.2f}"
    )
    if "parametric" in context.fits.refused:
        error = context.not_fitted("parametric", "approach 3")
        return Finding("warning", f"{error} The runs: {coverage}.", advice, None, values=values)
    _ = context.law  # an error if approach 3 was not requested
    certificate = fitted["parametric"].certificate
    assert certificate is not None
    values["condition_number"] = condition = certificate["condition_number"]
    se_a = context.se[0]
    message = (
        f"condition number {condition:.3g} (limit {ILL_CONDITIONED:.3g}); {coverage}; standard error of a "
        f"{se_a:.3f}."
    )
    effect = VISIBLE * float(context.se[1])
    if "isoflop" in fitted:
        other = float(np.log(fitted["isoflop"].N_opt(context.C_star)))
        effect = max(effect, abs(other - context.log_N))
    if (
        condition > ILL_CONDITIONED
        or abs(correlation) > MAX_CORRELATION
        or high < MIN_RATIO_RANGE * low
        or n_sizes < MIN_SIZES
    ):
        return Finding("warning", message, advice, effect, values=values)
    if se_a > MAX_SE_A:
        return Finding("inconclusive", message, _INCONCLUSIVE, effect, values=values)
    return Finding("passed", message, values=values)
