"""Whether the frontier bends (Appendix E of Hoffmann et al. 2022).

The paper fits lines through the first, middle and last third of its frontier points and finds that
the slope of N_opt falls with scale. Three views of it: those slopes, with approach 3 refitted on
thirds of C; the quadratic term of ln N_opt in ln C through the minima of approach 2, with an interval
from resampled runs; and approach 3 on the runs up to each C. A law with fixed exponents shows no
bend in any of them. NumPy only: this module must import without torch.
"""

from typing import Any

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.diagnose.context import Context
from chinchilla.diagnose.findings import Finding, combined, finding, judge, number
from chinchilla.diagnose.influence import times
from chinchilla.diagnose.profile_minima import Vertices, vertices
from chinchilla.fit.numerics import log_log_line

MIN_POINTS = 6  # of a frontier that is cut in thirds
MIN_VERTICES = 4  # of a curve with three coefficients
MIN_SAMPLES = 40  # resamples, for a standard deviation
MIN_SHARE = 3  # a cut is judged if it holds one in so many of the runs
NESTED = 3  # independent moves among those of nested parts, each about half of the next
DECADE = float(np.log(10))
_ADVICE = (
    "The frontier bends, so that one power law over all budgets misleads beyond them. Fit the largest "
    "budgets only, and add budgets above them."
)
_UNCLEAR = (
    "Add a budget above the largest, or repeat runs near the minima: the noise hides a bend that would "
    "matter at this C."
)


def curvature(context: Context) -> Finding:
    """The three views below as one diagnostic."""
    return combined(
        {
            "quadratic_term": quadratic,
            "largest_compute": largest_compute,
            "slopes_by_thirds": thirds,
        },
        context,
        one_question=True,
    )


def slopes(C: np.ndarray, N: np.ndarray) -> list[dict[str, Any]]:
    """Slope of ln N in ln C over the lower, middle and upper third of points by C.

    Args:
        C: (n,) FLOPs, at least six.
        N: (n,) optimal parameters.
    """
    rows = []
    for part in np.array_split(np.argsort(C, kind="stable"), 3):
        straight = len(np.unique(C[part])) > 1
        slope = log_log_line(C[part], N[part])[1] if straight else None
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
    moves, sd, freedom = np.full(1, np.nan), np.full(1, np.nan), np.zeros(1)
    if "parametric" in context.fits.fitted:
        order = np.argsort(context.obs.C, kind="stable")
        keep = np.zeros((3, len(order)), bool)
        for i, part in enumerate(np.array_split(order, 3)):
            keep[i, part] = True
        parts = context.refit(keep)
        C = context.obs.C
        values["parametric"] = [
            {"C": [float(C[k].min()), float(C[k].max())], **parts.row(i)}
            for i, k in enumerate(keep)
        ]
        moves, sd, freedom = parts.log_N_move, parts.expected_log_N, parts.freedom
    if not values:
        raise FitError(f"no approach has {MIN_POINTS} points to cut in thirds.", "too_few_points")
    listed = [
        f"{approach} " + ", ".join("no fit" if r["a"] is None else f"{r['a']:.3f}" for r in rows)
        for approach, rows in values.items()
    ]
    message = f"slope of ln N_opt over thirds of C: {'; '.join(listed)}."
    if not (np.isfinite(moves) & np.isfinite(sd)).any():
        return Finding("cannot_tell", message, _UNCLEAR, None, values=values)
    judgement = judge(moves, sd, freedom)
    return finding(judgement, message, _ADVICE, values, if_unclear=_UNCLEAR)


def quadratic(context: Context) -> Finding:
    """Change of the local exponent per decade of C, through the minima of approach 2.

    The effect is the difference between the quadratic and the straight line at C_star.
    """
    found = vertices(context)
    m = len(found.budgets)
    if m < MIN_VERTICES:
        raise FitError(
            f"a bend needs {MIN_VERTICES} budgets with a minimum, and {m} have one.",
            "too_few_budgets",
        )
    log_C = float(np.log(context.C_star))
    bend, at_middle, move = _bend(found.log_C, found.log_N, log_C)
    samples = _bends(found, log_C)
    values: dict[str, Any] = {
        "exponent_change_per_decade": bend,
        "exponent_at_middle": at_middle,
        "log_N_move": move,
        "n_vertices": m,
        "n_resamples": len(samples),
    }
    message = f"the local exponent of N_opt changes by {bend:+.3f} per decade of C"
    if len(samples) < MIN_SAMPLES:
        return Finding(
            "cannot_tell",
            f"{message} through {m} minima; no interval ({len(samples)} resamples).",
            "Run `chinchilla diagnose` with n_bootstrap=400 for an interval.",
            abs(move),
            values=values,
        )
    low95, p10, p90, high95 = map(float, np.percentile(samples[:, 0], (2.5, 10, 90, 97.5)))
    sd = float(np.std(samples[:, 1], ddof=1))
    values |= {"p10": p10, "p90": p90, "ci95": [low95, high95], "log_N_move_sd": sd}
    freedom = len(context.obs) - 3 * m
    judgement = judge(np.array([move]), np.array([sd]), freedom, max_sd=np.inf)
    return finding(
        judgement,
        f"{message} [{p10:+.3f}, {p90:+.3f}] through {m} minima (80% interval, runs resampled within "
        f"budgets; 95%: [{low95:+.3f}, {high95:+.3f}]), which changes N_opt({context.C_star:.3g}) by a "
        f"factor {np.exp(move):.3g}.",
        _ADVICE,
        values,
        if_unclear=_UNCLEAR,
    )


def _bend(x: np.ndarray, y: np.ndarray, at: float) -> tuple[float, float, float]:
    """2 * quadratic term * ln 10, the slope at the mean x, and the curve less the line at `at`."""
    middle = x.mean()
    curve, straight = np.polyfit(x - middle, y, 2), np.polyfit(x - middle, y, 1)
    move = float(np.polyval(curve, at - middle) - np.polyval(straight, at - middle))
    return float(2 * curve[0] * DECADE), float(curve[1]), move


def _bends(found: Vertices, at: float) -> np.ndarray:
    """(k, 2) bend and move of the resamples in which enough budgets have a minimum."""
    rows = [
        _bend(x[good], y[good], at)[::2]
        for x, y in zip(found.log_C_samples, found.log_N_samples, strict=True)
        if (good := np.isfinite(y)).sum() > max(3, len(y) / 2)
    ]
    return np.array(rows).reshape(-1, 2)


def largest_compute(context: Context) -> Finding:
    """Approach 3 on the runs up to each of several C."""
    cuts, keep = context.cuts()
    parts = context.refit(keep)
    rows = [{"C_max": float(c), **parts.row(i)} for i, c in enumerate(cuts)]
    known = np.isfinite(parts.a)
    # Cuts with few runs have large errors and are reported without being judged.
    large = known & (MIN_SHARE * parts.n >= len(context.obs))
    judged = large & (parts.n < len(context.obs))
    if known.sum() < 3 or not judged.any():
        raise FitError("fewer than three values of C can be cut at and fitted.", "too_few_runs")
    at = np.flatnonzero(judged)
    moves = parts.log_N_move[at]
    judgement = judge(moves, parts.expected_log_N[at], parts.freedom[at], n_moves=NESTED)
    judgement = judgement.at_last(moves)
    i = int(at[judgement.index])
    steps = np.sign(np.diff(parts.a[large]))
    path = ", ".join(f"{c:.3g}: {a:.3f}" for c, a in zip(cuts[large], parts.a[large], strict=True))
    word = "falls" if parts.move[i] > 0 else "rises"
    return finding(
        judgement,
        f"a on the runs up to C: {path}; on those up to {cuts[i]:.3g} N_opt({context.C_star:.3g}) "
        f"changes by {np.expm1(parts.log_N_move[i]):+.0%} ({times(parts.log_N_z[i])}).",
        f"a {word} as larger runs are added, and will go on so beyond them. {_ADVICE}",
        {
            "cuts": rows,
            "drifts": judgement.verdict == "warning",
            "one_way": bool(len(steps) > 1 and np.ptp(steps) == 0),
            "rms_z": number(float(np.sqrt(np.mean(parts.z[at] ** 2)))),
        },
        if_unclear=_UNCLEAR,
    )
