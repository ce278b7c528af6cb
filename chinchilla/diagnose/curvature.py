"""Does the frontier bend? (Appendix E of Hoffmann et al. 2022.)

The paper fits lines through the first, middle and last third of its frontier points and finds that
the slope of N_opt falls with scale. Here: those slopes for approaches 1 and 2, approach 3 refitted
on thirds of C, the quadratic term of ln N_opt in ln C through approach 2's vertices with an
interval from resampled runs, and approach 3's exponent against the largest C used. A law with fixed
exponents has none of these. NumPy only: this module must import without torch.
"""

from typing import Any

import numpy as np

from chinchilla.diagnose.case import LARGE_Z, Case, Finding, judged, number
from chinchilla.diagnose.vertices import vertices
from chinchilla.errors import FitError
from chinchilla.fit.frontier import line

MIN_POINTS = 6  # of a frontier that is cut in thirds
MIN_VERTICES = 4  # of a curve with three coefficients
MIN_FALL = 0.1  # of the slope from the first third to the last, to be called falling
MIN_STEPS = 5  # in one direction to call a path a drift: by chance once in 16
DECADE = float(np.log(10))


def slopes(C: np.ndarray, N: np.ndarray) -> list[dict[str, Any]]:
    """Slope of ln N in ln C over the lower, middle and upper third of points by C.

    Args:
        C: (n,) FLOPs, at least six.
        N: (n,) optimal parameters.
    """
    rows = []
    for part in np.array_split(np.argsort(C, kind="stable"), 3):
        straight = len(np.unique(C[part])) > 1
        slope = line(C[part], N[part])[1] if straight else None
        rows.append({"C": [float(C[part].min()), float(C[part].max())], "a": slope})
    return rows


def thirds(case: Case) -> Finding:
    """Slopes of N_opt over thirds of C by every approach that has points."""
    values: dict[str, Any] = {}
    for approach in ("envelope", "isoflop"):
        frontier = case.fits.fitted.get(approach)
        points = [] if frontier is None else frontier.points
        if len(points) >= MIN_POINTS:
            C, N = np.array([[p.C, p.N] for p in points]).T
            values[approach] = slopes(C, N)
    odd = 0.0
    if "parametric" in case.fits.fitted:
        order = np.argsort(case.obs.C, kind="stable")
        keep = np.zeros((3, len(order)), bool)
        for i, part in enumerate(np.array_split(order, 3)):
            keep[i, part] = True
        parts = case.refit(keep)
        C = case.obs.C
        values["parametric"] = [
            {"C": [float(C[k].min()), float(C[k].max())], **parts.row(i)}
            for i, k in enumerate(keep)
        ]
        odd = float(np.nanmax(np.abs(np.append(parts.z, 0))))
    if not values:
        raise FitError(f"no approach has {MIN_POINTS} points to cut in thirds.", "too_few_points")
    said = []
    for approach, rows in values.items():
        listed = ", ".join("no fit" if r["a"] is None else f"{r['a']:.3f}" for r in rows)
        said.append(f"{approach} {listed}")
    falling = sum(_falling([r["a"] for r in rows]) for rows in values.values())
    return judged(
        falling >= 2 or odd > LARGE_Z,
        f"slope of ln N_opt over thirds of C: {'; '.join(said)}.",
        "The frontier may bend: a line through all of it says too much beyond the runs. Compare "
        "with the quadratic term, and add budgets above.",
        values,
    )


def _falling(a: list[float | None]) -> bool:
    known = [x for x in a if x is not None]
    return len(known) == 3 and known[0] > known[1] > known[2] and known[0] - known[2] > MIN_FALL


def quadratic(case: Case) -> Finding:
    """Change of the local exponent per decade of C, through approach 2's vertices."""
    found = vertices(case)
    if len(found.budgets) < MIN_VERTICES:
        raise FitError(
            f"a bend needs {MIN_VERTICES} budgets with a bottom; {len(found.budgets)} have one.",
            "too_few_budgets",
        )
    bend, at_middle = _bend(found.log_C, found.log_N)
    samples = np.array(
        [
            _bend(x[good], y[good])[0]
            for x, y in zip(found.log_C_samples, found.log_N_samples, strict=True)
            if (good := np.isfinite(y)).sum() > max(3, len(y) / 2)
        ]
    )
    values: dict[str, Any] = {
        "exponent_change_per_decade": bend,
        "exponent_at_middle": at_middle,
        "n_vertices": len(found.budgets),
        "n_resamples": len(samples),
    }
    if len(samples) < 40:
        return judged(
            False,
            f"the local exponent of N_opt changes by {bend:+.3f} per decade of C through "
            f"{len(found.budgets)} vertices; no interval ({len(samples)} resamples).",
            "",
            values,
        )
    low95, p10, p90, high95 = map(float, np.percentile(samples, (2.5, 10, 90, 97.5)))
    values |= {"p10": p10, "p90": p90, "ci95": [low95, high95]}
    bends = low95 > 0 or high95 < 0
    return judged(
        bends,
        f"the local exponent of N_opt changes by {bend:+.3f} [{p10:+.3f}, {p90:+.3f}] per decade of "
        f"C through {len(found.budgets)} vertices (80% interval, runs resampled within budgets; 95%: "
        f"[{low95:+.3f}, {high95:+.3f}]).",
        "The frontier bends: extrapolate from the largest budgets only, and say so.",
        values,
    )


def _bend(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """2 * quadratic term * ln 10, and the slope at the mean x, of least squares."""
    c2, c1, _ = np.polyfit(x - x.mean(), y, 2)
    return float(2 * c2 * DECADE), float(c1)


def largest_compute(case: Case) -> Finding:
    """Approach 3's exponent on the runs up to each of several C."""
    cuts, keep = case.cuts()
    parts = case.refit(keep)
    rows = [{"C_max": float(c), **parts.row(i)} for i, c in enumerate(cuts)]
    known = np.isfinite(parts.a)
    if known.sum() < 3:
        raise FitError("fewer than three values of C can be cut at and fitted.", "too_few_runs")
    # Cuts that hold under a third of the runs say what few runs say: shown in the file, not judged.
    large = known & (3 * parts.n >= len(case.obs))
    z = parts.z[large & (parts.n < len(case.obs))]
    steps = np.sign(np.diff(parts.a[large]))
    one_way = len(steps) >= MIN_STEPS and np.ptp(steps) == 0
    drifts = bool(one_way or (np.any(np.abs(z) > LARGE_Z) and np.ptp(np.sign(z)) == 0))
    path = ", ".join(f"{c:.3g}: {a:.3f}" for c, a in zip(cuts[large], parts.a[large], strict=True))
    word = "falls" if len(z) and z[0] > 0 else "rises"
    worst = number(np.max(np.abs(z))) if len(z) else None
    return judged(
        drifts,
        f"a on the runs up to C: {path}"
        + ("" if worst is None else f"; at most {worst:.1f} times what a true law would show")
        + (f"; {len(steps)} steps of {len(steps)} in one direction." if one_way else "."),
        f"a {word} as larger runs come in: expect it to go on beyond them, and do not extrapolate "
        "by more than the path itself has shown to be safe.",
        {"cuts": rows, "drifts": drifts},
    )
