"""Straight lines through an envelope: the one of approach 1, and other readings of the same curves.

Reads an `Envelope`, gives (ln coefficient, exponent) of N_opt and D_opt. NumPy only.
"""

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.fit.envelope.curves import MIN_SIZES, TAIL, Curves
from chinchilla.fit.envelope.lower_envelope import Envelope, censor, convex_hull, curve_envelopes
from chinchilla.fit.numerics import fit_line
from chinchilla.fit.result import PowerLaw

LINES = {
    "steps": "through the middles of the steps between sizes, evenly in ln C",
    "runs": "through one point per run, the mean of its points",
    "points": "through the best runs",
}
READINGS = {  # name in details["readings"] -> description
    "steps": "the middles of the steps",
    "staircase": "all points of the envelope",
    "tail": "the last 15% of each run",
    "hull": "the convex hull",
}
HULL_BIAS = 0.06  # bias of the hull's a on curves of a known law

Lines = tuple[
    tuple[float, float], tuple[float, float]
]  # (ln coefficient, exponent) of N_opt, D_opt


def envelope_lines(envelope: Envelope, through: str) -> Lines:
    """Fit lines of ln N_opt and ln D_opt over ln C.

    Args:
        envelope: lowest losses; censored points are left out.
        through: a key of LINES.

    Returns:
        (ln coefficient, exponent) of N_opt, and of D_opt.

    Raises:
        FitError: too few sizes on the uncensored envelope (too_few_sizes).
    """
    used = ~envelope.censored
    if (n := len(set(envelope.N[used].tolist()))) < MIN_SIZES:
        share = envelope.censored.mean()
        left_out = f"; {share:.0%} of it was left out, because a better size may lie outside"
        raise FitError(
            f"approach 1 needs {MIN_SIZES} sizes on the envelope and finds "
            f"{n}{left_out if share else ''}. Train sizes on both sides, or the existing ones for "
            "longer.",
            "too_few_sizes",
        )
    logs = np.log([envelope.C, envelope.N, envelope.D])
    if through == "steps":
        i = np.flatnonzero(np.diff(envelope.N) != 0)
        i = i[~(envelope.censored[i] & envelope.censored[i + 1])]
        x, y, z = (logs[:, i] + logs[:, i + 1]) / 2
        at = np.linspace(x[0], x[-1], len(envelope.C))
        logs = np.stack([at, np.interp(at, x, y), np.interp(at, x, z)])
    elif through == "runs":
        _, index = np.unique(envelope.run[used], return_inverse=True)
        logs = np.array([np.bincount(index, v) for v in logs[:, used]]) / np.bincount(index)
    else:
        logs = logs[:, used]
    log_k, exponent = fit_line(logs[0], logs[1:])
    return (float(log_k[0]), float(exponent[0])), (float(log_k[1]), float(exponent[1]))


def readings_of(curves: Curves, envelope: Envelope) -> dict[str, dict[str, float]]:
    """Compute the exponents by every reading of these curves that gives a line.

    Args:
        curves: all runs.
        envelope: of all runs.

    Returns:
        A key of READINGS -> {a, b}.
    """
    every = np.arange(len(curves.N))
    envelopes = {"steps": (envelope, "steps"), "staircase": (envelope, "points")}
    if not curves.one_horizon:
        tails = np.where(curves.C >= TAIL * curves.C_end[:, None], curves.L, np.inf)
        envelopes["tail"] = (curve_envelopes(curves, tails, n_ranks=1)(every), "steps")
    envelopes["hull"] = (censor(convex_hull(envelope), curves, every), "runs")
    readings: dict[str, dict[str, float]] = {}
    for name, (of_reading, through) in envelopes.items():
        try:
            (_, a), (_, b) = envelope_lines(of_reading, through)
        except FitError:
            continue
        readings[name] = {"a": a, "b": b}
    return readings


def disagreement(readings: dict[str, dict[str, float]], law: PowerLaw) -> list[str]:
    """Warn of readings outside the 95% interval of a; the hull's may also differ by its bias.

    Args:
        readings: of `readings_of`.
        law: N_opt.
    """
    if law.ci95 is None:
        return []
    low, high = law.ci95
    far = []
    for name, reading in readings.items():
        margin = HULL_BIAS if name == "hull" else 0.0
        if not low - margin <= reading["a"] <= high + margin:
            far.append(f"a={reading['a']:.3f} by {READINGS[name]}")
    if not far:
        return []
    return [
        f"readings of the same curves disagree: {', '.join(far)}, outside the 95% interval by "
        f"{READINGS['steps']}, a={law.exponent:.3f} [{low:.3f}, {high:.3f}]. Use the range of all of them, "
        "or add sizes and horizons."
    ]
