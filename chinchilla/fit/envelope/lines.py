"""Lines through an envelope: the one that approach 1 answers with, and other readings of the same curves.

`envelope.py` says why there are several. Reads an `Envelope`, gives (ln coefficient, exponent) of N_opt
and D_opt. NumPy only.
"""

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.fit.envelope.curves import MIN_SIZES, Curves
from chinchilla.fit.envelope.lower_envelope import Envelope, curve_envelopes
from chinchilla.fit.result import PowerLaw

THROUGH = {"all": "steps", "tail": "steps", "hull": "runs"}  # part of the curves -> kind of line
LINES = {
    "steps": "through the middles of the steps between sizes, evenly in ln C",
    "runs": "through one point per run, the mean of where the hull touches it",
    "points": "through the best runs",
}
READINGS = {  # name in details["readings"] -> in words
    "steps": "the middles of the steps",
    "staircase": "all points of the envelope",
    "tail": "the last 15% of each run",
    "hull": "the convex hull",
}
HULL_BIAS = 0.06  # how far the hull's a is off on curves of a known law

Lines = tuple[
    tuple[float, float], tuple[float, float]
]  # (ln coefficient, exponent) of N_opt, D_opt


def envelope_lines(envelope: Envelope, through: str) -> Lines:
    """Lines of ln N_opt and ln D_opt over ln C.

    Args:
        envelope: lowest losses; censored points are left out.
        through: a key of LINES.

    Returns:
        (ln coefficient, exponent) of N_opt, and of D_opt.

    Raises:
        FitError: too few sizes on the uncensored envelope (too_few_sizes).
    """
    used = ~envelope.censored
    N = envelope.N[used]
    if (n := len(set(N.tolist()))) < MIN_SIZES:
        share = envelope.censored.mean()
        left_out = f"; {share:.0%} of it was left out, because a better size may lie outside"
        raise FitError(
            f"approach 1 needs {MIN_SIZES} sizes on the envelope and finds "
            f"{n}{left_out if share else ''}. Train sizes on both sides, or the ones there are for "
            "longer.",
            "too_few_sizes",
        )
    if through == "points":
        return _fit(np.log(envelope.C[used]), np.log(N), np.log(envelope.D[used]))
    logs = [np.log(v) for v in (envelope.C, envelope.N, envelope.D)]
    if through == "runs":
        _, index = np.unique(envelope.run[used], return_inverse=True)
        times = np.bincount(index)
        return _fit(*(np.bincount(index, v[used]) / times for v in logs))
    i = np.flatnonzero(np.diff(envelope.N) != 0)
    i = i[~(envelope.censored[i] & envelope.censored[i + 1])]  # risers at or inside the edges
    x, y, z = ((v[i] + v[i + 1]) / 2 for v in logs)
    at = np.linspace(x[0], x[-1], len(envelope.C))
    return _fit(at, np.interp(at, x, y), np.interp(at, x, z))


def readings_of(curves: Curves, part: str, envelope: Envelope) -> dict[str, dict[str, float]]:
    """Exponents by every reading of these curves that gives a line.

    Args:
        curves: all runs.
        part: of the curves, of which `envelope` is the envelope.
        envelope: of all runs.

    Returns:
        A key of READINGS -> {a, b}.
    """
    found: dict[str, dict[str, float]] = {}
    for name, through in THROUGH.items():
        if name == "tail" and curves.one_horizon:
            continue
        own = envelope
        if name != part:
            own = curve_envelopes(curves, name, n_ranks=1)(np.arange(len(curves.N)))
        kinds = {name: through}
        if name == "all":
            kinds = {"steps": through, "staircase": "points"}
        for reading, kind in kinds.items():
            try:
                (_, a), (_, b) = envelope_lines(own, kind)
            except FitError:
                continue
            found[reading] = {"a": a, "b": b}
    return found


def disagreement(readings: dict[str, dict[str, float]], part: str, law: PowerLaw) -> list[str]:
    """A warning where other readings lie outside the 95% interval of a; for the hull, by its bias more.

    Args:
        readings: of `readings_of`.
        part: of the curves, which gave `law`.
        law: N_opt.
    """
    if law.ci95 is None:
        return []
    low, high = law.ci95
    main = "steps" if part == "all" else part
    far = []
    for name, reading in readings.items():
        a = reading["a"]
        room = HULL_BIAS if (name == "hull") != (main == "hull") else 0.0
        if name != main and not low - room <= a <= high + room:
            far.append(f"a={a:.3f} by {READINGS[name]}")
    if not far:
        return []
    return [
        f"readings of the same curves disagree: {', '.join(far)}, outside the 95% interval by "
        f"{READINGS[main]}, a={law.exponent:.3f} [{low:.3f}, {high:.3f}]. Take the range of them as the "
        "answer, or add sizes and horizons."
    ]


def _fit(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> Lines:
    """Least-squares lines of y and z over x, each (intercept, slope)."""
    n = len(x)
    middle = x.sum() / n
    dx = x - middle
    scale = dx @ dx
    b, c = float(dx @ y / scale), float(dx @ z / scale)
    return (float(y.sum() / n - b * middle), b), (float(z.sum() / n - c * middle), c)
