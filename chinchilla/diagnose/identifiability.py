"""Can these runs tell the five parameters of the loss law apart?

The condition number of the Jacobian d ln L_hat / d theta says how many times better the losses show
one direction of parameters than another. Four conventions, because published values differ by them:
`raw` in (ln A, ln B, ln E, alpha, beta) as the law is written, A and B being terms at one parameter
and one token; `centred` with A and B taken at the mean ln N and ln D; and both with each column
scaled to length one (`raw_scaled`, `centred_scaled`). The last is the one judged: it does not
depend on where the axes start or on the size of a unit. NumPy only.
"""

from typing import Any

import numpy as np

from chinchilla.diagnose.case import Case, Finding, jacobian, judged
from chinchilla.errors import FitError
from chinchilla.fit.frontier import LossLaw

MAX_CONDITION = 100.0  # centred and scaled; 33 on the published points, 183 on 15 < D/N < 27
MAX_CORRELATION = 0.95  # of ln N and ln D
MIN_RATIO_RANGE = 4.0  # largest over smallest tokens per parameter
MIN_SIZES = 5
NAMES = ("A", "B", "E", "alpha", "beta")


def condition_numbers(law: LossLaw, N: np.ndarray, D: np.ndarray) -> dict[str, float]:
    """Condition number of the Jacobian at a law, in four conventions (module header).

    Args:
        law: where the Jacobian is taken.
        N: (n,) parameters.
        D: (n,) tokens.
    """
    found = {}
    for name, centred in (("raw", False), ("centred", True)):
        J = jacobian(law, N, D, centred)
        found[name] = float(np.linalg.cond(J))
        found[f"{name}_scaled"] = float(np.linalg.cond(J / np.linalg.norm(J, axis=0)))
    return found


def weakest_direction(law: LossLaw, N: np.ndarray, D: np.ndarray) -> tuple[dict[str, float], str]:
    """The combination of parameters that the losses show least, as numbers and in words.

    Args:
        law: where.
        N: (n,) parameters.
        D: (n,) tokens.

    Returns:
        Components by parameter (columns scaled to length one, A and B at the mean ln N and ln D,
        A, B and E in logarithms), the largest positive; and a clause.
    """
    J = jacobian(law, N, D)
    v = np.linalg.svd(J / np.linalg.norm(J, axis=0))[2][-1]
    v = v * np.sign(v[np.argmax(np.abs(v))])
    up = [n for n, x in zip(NAMES, v, strict=True) if x > 0.3 * v.max()]
    down = [n for n, x in zip(NAMES, v, strict=True) if x < -0.3 * v.max()]
    words = f"raising {' and '.join(up)}"
    if down:
        words += f" while lowering {' and '.join(down)}"
    return {n: float(x) for n, x in zip(NAMES, v, strict=True)}, words


def identifiability(case: Case) -> Finding:
    """Condition numbers, weakest direction, and the cover of N, D and D/N."""
    obs = case.obs
    ratio = obs.D / obs.N
    values: dict[str, Any] = {
        "corr_lnN_lnD": float(np.corrcoef(np.log(obs.N), np.log(obs.D))[0, 1])
        if np.ptp(obs.N) > 0 and np.ptp(obs.D) > 0
        else 1.0,
        "tokens_per_parameter": [float(ratio.min()), float(ratio.max())],
        "n_runs": len(obs),
        "n_sizes": int(case.size.max()) + 1,
        "n_token_counts": len(np.unique(obs.D)),
        "n_budgets": len(case.named_budgets()),
    }
    low, high = values["tokens_per_parameter"]
    cover = (
        f"{values['n_sizes']} sizes, {values['n_token_counts']} token counts, {low:.3g} to "
        f"{high:.3g} tokens per parameter, corr(ln N, ln D) {values['corr_lnN_lnD']:.2f}"
    )
    try:
        law = case.law
    except FitError as error:
        return Finding("caution", f"{cover}; {error}", _DO, values=values | {"condition": None})
    values["condition"] = condition_numbers(law, obs.N, obs.D)
    values["weakest"], words = weakest_direction(law, obs.N, obs.D)
    condition = values["condition"]["centred_scaled"]
    weak = (
        condition > MAX_CONDITION
        or abs(values["corr_lnN_lnD"]) > MAX_CORRELATION
        or high < MIN_RATIO_RANGE * low
        or values["n_sizes"] < MIN_SIZES
    )
    return judged(
        weak,
        f"condition number {condition:.3g} (centred, scaled columns): {words} shows {condition:.3g} "
        f"times less in the losses than the direction they show best; {cover}.",
        _DO,
        values,
    )


_DO = (
    "Train some sizes at several tokens per parameter, on both sides of the optimum: only that tells "
    "the size term from the token term."
)
