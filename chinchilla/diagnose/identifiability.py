"""Whether these runs determine the five parameters of the loss law.

The condition number of the Jacobian d ln L_hat / d theta is the ratio between the best and the worst
determined direction of the parameters. Published values follow four conventions: `raw` in
(ln A, ln B, ln E, alpha, beta) as the law is written, with A and B the terms at one parameter and one
token; `centred` with A and B at the mean ln N and ln D; and both with each column scaled to length one
(`raw_scaled`, `centred_scaled`). The last one is judged, because it depends neither on the origin nor on
the units. It is the `condition_number` in frontier.json. NumPy only.
"""

from typing import Any

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.diagnose.context import Context, centre
from chinchilla.diagnose.findings import VISIBLE, Finding
from chinchilla.fit.parametric.approach3 import ILL_CONDITIONED
from chinchilla.fit.result import LossLaw

MAX_CORRELATION = 0.95  # of ln N and ln D
MIN_RATIO_RANGE = 4.0  # largest over smallest tokens per parameter
MIN_SIZES = 5
MAX_SE_A = 0.05  # standard error of a
NAMES = ("A", "B", "E", "alpha", "beta")
_ADVICE = (
    "Train some sizes at several tokens per parameter, on both sides of the optimum: only such runs "
    "separate the size term from the token term. Until then use approach 2."
)
_INCONCLUSIVE = (
    "Add runs at more budgets and on both sides of each optimum: the standard error of the exponent is "
    f"above {MAX_SE_A:g}."
)


def condition_numbers(law: LossLaw, N: np.ndarray, D: np.ndarray) -> dict[str, float]:
    """Condition number of the Jacobian at a law, in four conventions (module header).

    Args:
        law: where the Jacobian is taken.
        N: (n,) parameters.
        D: (n,) tokens.
    """
    numbers = {}
    for name, origin in (("raw", (0.0, 0.0)), ("centred", centre(N, D))):
        J = law.jacobian(N, D, origin)
        numbers[name] = float(np.linalg.cond(J))
        numbers[f"{name}_scaled"] = float(np.linalg.cond(J / np.linalg.norm(J, axis=0)))
    return numbers


def weakest_direction(law: LossLaw, N: np.ndarray, D: np.ndarray) -> tuple[dict[str, float], str]:
    """The combination of parameters that changes the losses least, as numbers and in words.

    Args:
        law: where the Jacobian is taken.
        N: (n,) parameters.
        D: (n,) tokens.

    Returns:
        Components by parameter (columns scaled to length one, A and B at the mean ln N and ln D,
        A, B and E in logarithms), the largest positive; and a phrase.
    """
    J = law.jacobian(N, D, centre(N, D))
    v = np.linalg.svd(J / np.linalg.norm(J, axis=0))[2][-1]
    v = v * np.sign(v[np.argmax(np.abs(v))])
    components = dict(zip(NAMES, v.tolist(), strict=True))
    up = [name for name, x in components.items() if x > 0.3 * v.max()]
    down = [name for name, x in components.items() if x < -0.3 * v.max()]
    lowering = f" while lowering {' and '.join(down)}" if down else ""
    return components, f"raising {' and '.join(up)}{lowering}"


def identifiability(context: Context) -> Finding:
    """Condition numbers, the weakest direction, and the range of N, D and D/N.

    The effect of a design that does not determine the law is the difference between approaches 2 and 3
    in ln N_opt at C_star, and at least two standard errors of it.

    Raises:
        FitError: approach 3 was not requested (no_law). If it was refused, that is a warning.
    """
    obs = context.obs
    ratio = obs.D / obs.N
    low, high = float(ratio.min()), float(ratio.max())
    varied = np.ptp(obs.N) > 0 and np.ptp(obs.D) > 0
    correlation = float(np.corrcoef(np.log(obs.N), np.log(obs.D))[0, 1]) if varied else 1.0
    values: dict[str, Any] = {
        "corr_lnN_lnD": correlation,
        "tokens_per_parameter": [low, high],
        "n_runs": len(obs),
        "n_sizes": int(context.size.max()) + 1,
        "n_token_counts": len(np.unique(obs.D)),
        "n_budgets": len(context.named_budgets()),
    }
    coverage = (
        f"{values['n_sizes']} sizes, {values['n_token_counts']} distinct D, {low:.3g} to "
        f"{high:.3g} tokens per parameter, corr(ln N, ln D) {correlation:.2f}"
    )
    try:
        law = context.law
    except FitError as error:
        if "parametric" not in context.fits.refused:
            raise
        values["condition"] = None
        return Finding("warning", f"{error} The runs: {coverage}.", _ADVICE, None, values=values)
    values["condition"] = condition_numbers(law, obs.N, obs.D)
    values["weakest"], words = weakest_direction(law, obs.N, obs.D)
    condition, se = values["condition"]["centred_scaled"], context.se_a[0]
    message = (
        f"condition number {condition:.3g} (limit {ILL_CONDITIONED:.3g}). The losses change least on "
        f"{words}. {coverage}; standard error of a {se:.3f}."
    )
    effect = VISIBLE * context.se_log_N
    if "isoflop" in context.fits.fitted:
        other = float(np.log(context.fits.fitted["isoflop"].N_opt(context.C_star)))
        effect = max(effect, abs(other - context.log_N))
    if (
        condition > ILL_CONDITIONED
        or abs(correlation) > MAX_CORRELATION
        or high < MIN_RATIO_RANGE * low
        or values["n_sizes"] < MIN_SIZES
    ):
        return Finding("warning", message, _ADVICE, effect, values=values)
    if se > MAX_SE_A:
        return Finding("inconclusive", message, _INCONCLUSIVE, effect, values=values)
    return Finding("passed", message, values=values)
