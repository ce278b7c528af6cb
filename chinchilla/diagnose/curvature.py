"""Whether the frontier bends (Appendix E of Hoffmann et al. 2022).

The paper fits lines through the first, middle and last third of its frontier points, and the slope of
N_opt falls with scale. Two views: the quadratic term of ln N_opt in ln C through the minima of approach 2,
with an interval from resampled runs and those slopes; and approach 3 on the runs up to each C. A law with
fixed exponents shows no bend in either.
"""

from typing import Any

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.diagnose.context import Context
from chinchilla.diagnose.findings import Finding, judge
from chinchilla.diagnose.minima import MIN_SAMPLES, NO_INTERVAL, parabola_minima
from chinchilla.diagnose.refits import judged_refits

MIN_POINTS = 6  # of a frontier that is split into thirds
MIN_MINIMA = 4  # for a curve with three coefficients
NESTED = 3  # independent moves among those of nested parts, each about half of the next
BENDS = (
    "The frontier bends, so a single power law is unreliable beyond the budgets. Fit the largest "
    "budgets only, and add budgets above them."
)
BEND_INCONCLUSIVE = (
    "Add a budget above the largest, or repeat runs near the minima: noise hides a bend that would "
    "matter at this C."
)


def quadratic(context: Context) -> Finding:
    """Change of the local exponent per decade of C, through the minima of approach 2.

    The effect is the difference between a quadratic and a straight line at C_star.
    """
    minima = parabola_minima(context)
    m = len(minima.budgets)
    if m < MIN_MINIMA:
        raise FitError(f"a bend needs {MIN_MINIMA} budgets with a minimum, and {m} have one.")
    log_C = float(np.log(context.C_star))
    bends = [
        _bend(x[good], y[good], log_C)
        for x, y in zip(minima.log_C, minima.log_N, strict=True)
        if (good := np.isfinite(y)).sum() > max(3, m / 2)
    ]
    (bend, move), samples = bends[0], np.array(bends)[1:]
    values: dict[str, Any] = {"exponent_change_per_decade": bend, "log_N_move": move}
    message = f"the local exponent of N_opt changes by {bend:+.3f} per decade of C"
    thirds = ""
    if m >= MIN_POINTS:
        x, y = minima.log_C[0], minima.log_N[0]
        parts = np.array_split(np.argsort(x), 3)
        values["slopes"] = [float(np.polyfit(x[part], y[part], 1)[0]) for part in parts]
        thirds = f" Slopes over thirds of C: {', '.join(f'{a:.3f}' for a in values['slopes'])}."
    if len(samples) < MIN_SAMPLES:
        message += f" through {m} minima; no interval ({len(samples)} resamples)."
        return Finding("inconclusive", message, NO_INTERVAL, abs(move), values=values)
    low95, p10, p90, high95 = map(float, np.percentile(samples[:, 0], (2.5, 10, 90, 97.5)))
    sd = samples[:, 1].std(ddof=1)
    return judge(np.array([move]), np.array([sd]), len(context.obs) - 3 * m).finding(
        f"{message} (80% interval {p10:+.3f} to {p90:+.3f}, 95% {low95:+.3f} to {high95:+.3f}) through {m} "
        f"minima. This changes N_opt({context.C_star:.3g}) by a factor {np.exp(move):.3g}.{thirds}",
        BENDS,
        values | {"p10": p10, "p90": p90, "ci95": [low95, high95]},
        BEND_INCONCLUSIVE,
    )


def _bend(x: np.ndarray, y: np.ndarray, at: float) -> tuple[float, float]:
    """Change of the slope of y per ln 10 of x, and quadratic minus straight line at `at`."""
    middle = x.mean()
    curve, straight = np.polyfit(x - middle, y, 2), np.polyfit(x - middle, y, 1)
    move = np.polyval(curve, at - middle) - np.polyval(straight, at - middle)
    return float(2 * curve[0] * np.log(10)), float(move)


def largest_compute(context: Context) -> Finding:
    """Approach 3 on the runs up to each of several C."""
    cuts, keep = context.cuts()
    return judged_refits(
        context,
        keep,
        [{"name": f"C up to {C:.3g}", "C": C} for C in cuts.tolist()],
        words=("on the smaller runs", "with"),
        advice=f"a changes as larger runs are added, and is likely to do so beyond them. {BENDS}",
        if_inconclusive=BEND_INCONCLUSIVE,
        n_moves=NESTED,
    )
