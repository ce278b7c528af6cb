"""Whether the frontier bends (Appendix E of Hoffmann et al. 2022).

The paper fits lines through the first, middle and last third of its frontier points, and the slope of
N_opt falls with scale. Three views: those slopes, with approach 3 refitted on thirds of C; the quadratic
term of ln N_opt in ln C through the minima of approach 2, with an interval from resampled runs; and
approach 3 on the runs up to each C. A law with fixed exponents shows no bend in any of them. NumPy only.
"""

from typing import Any

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.diagnose.context import MIN_SHARE, Context
from chinchilla.diagnose.findings import Finding, finding
from chinchilla.diagnose.minima import BEND_INCONCLUSIVE, BENDS
from chinchilla.diagnose.refits import path_text
from chinchilla.fit.numerics import log_log_line

MIN_POINTS = 6  # of a frontier that is split into thirds
NESTED = 3  # independent moves among those of nested parts, each about half of the next


def slopes(C: np.ndarray, N: np.ndarray) -> list[dict[str, Any]]:
    """Slope of ln N in ln C over the lower, middle and upper third of points by C.

    Args:
        C: (n,) FLOPs, at least six.
        N: (n,) optimal parameters.
    """
    rows = []
    for part in np.array_split(np.argsort(C, kind="stable"), 3):
        distinct = len(np.unique(C[part])) > 1
        slope = log_log_line(C[part], N[part])[1] if distinct else None
        rows.append({"C": [float(C[part].min()), float(C[part].max())], "a": slope})
    return rows


def thirds(context: Context) -> Finding:
    """Slopes of N_opt over thirds of C by every approach that has points; approach 3's are judged."""
    values: dict[str, Any] = {}
    for approach in ("envelope", "isoflop"):
        frontier = context.fits.fitted.get(approach)
        points = [] if frontier is None else frontier.points
        if len(points) >= MIN_POINTS:
            C, N = np.array([[p.C, p.N] for p in points]).T
            values[approach] = slopes(C, N)
    parts = None
    if "parametric" in context.fits.fitted:
        C = context.obs.C
        keep = np.zeros((3, len(C)), bool)
        for i, part in enumerate(np.array_split(np.argsort(C, kind="stable"), 3)):
            keep[i, part] = True
        parts = context.refit(keep)
        values["parametric"] = [
            {"C": [float(C[k].min()), float(C[k].max())], **parts.row(i)}
            for i, k in enumerate(keep)
        ]
    if not values:
        raise FitError(
            f"no approach has {MIN_POINTS} points to split into thirds.", "too_few_points"
        )
    listed = [
        f"{approach} " + ", ".join("no fit" if r["a"] is None else f"{r['a']:.3f}" for r in rows)
        for approach, rows in values.items()
    ]
    message = f"slope of ln N_opt over thirds of C: {'; '.join(listed)}."
    if parts is None or not np.isfinite(parts.log_N_move + parts.expected_log_N).any():
        return Finding("inconclusive", message, BEND_INCONCLUSIVE, None, values=values)
    return finding(parts.judge(), message, BENDS, values, if_inconclusive=BEND_INCONCLUSIVE)


def largest_compute(context: Context) -> Finding:
    """Approach 3 on the runs up to each of several C."""
    cuts, keep = context.cuts()
    parts = context.refit(keep)
    # Cuts with few runs have large errors: they are reported and not judged.
    large = parts.fitted & (MIN_SHARE * parts.n >= len(context.obs))
    judged = large & (parts.n < len(context.obs))
    if parts.fitted.sum() < 3 or not judged.any():
        raise FitError("fewer than three values of C can be cut at and fitted.", "too_few_runs")
    judgement = parts.judge(judged, n_moves=NESTED).at_last(parts.log_N_move)
    i = judgement.index
    path = path_text([f"C up to {c:.3g}" for c in cuts[large]], parts.a[large])
    trend = "falls" if parts.move[i] > 0 else "rises"
    return finding(
        judgement,
        f"a on the smaller runs is {path}. With C up to {cuts[i]:.3g} {parts.change(i)}.",
        f"a {trend} as larger runs are added, and is likely to continue beyond them. {BENDS}",
        {
            "cuts": [{"C_max": float(c), **parts.row(k)} for k, c in enumerate(cuts)],
            "drifts": judgement.verdict == "warning",
        },
        if_inconclusive=BEND_INCONCLUSIVE,
    )
