"""How well did the law predict what lay beyond it? Fit the smaller runs, predict the larger.

An expanding window: approach 3 on the runs up to a cut (in C, then in N), scored on every run above
it by ln(predicted / measured loss): mean absolute error, and bias (above zero: predicted too high).
Beside it the error on the runs it was fitted to; the law of the previous, smaller window on the
same held-out runs; and a power law in C alone, which knows nothing of N and D. The law must beat
that last one to be worth its five parameters. NumPy only.
"""

from typing import Any

import numpy as np

from chinchilla.diagnose.case import Case, Finding, jacobian, judged, number
from chinchilla.errors import FitError
from chinchilla.fit.frontier import LossLaw, line
from chinchilla.observations import Observations

MIN_ABOVE = 5  # runs to predict
MIN_C_RANGE = 1.5  # largest C over smallest, for a power law in C
WORSE = 1.5  # times the error that a true law would show: above it the law does not extrapolate,
MAX_MISS = 0.03  # of the loss: no interval of a larger model allows for more
MAX_MISS_ANYWHERE = 0.05  # the same from any window, however small
FEW_ABOVE = 2.0  # plus this over the root of the runs predicted: a mean of few varies
N_QUANTILES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of distinct sizes


def score(law: LossLaw, obs: Observations) -> dict[str, float]:
    """Errors of a law's losses, as ln(predicted / measured).

    Args:
        law: to be judged.
        obs: final losses, at least one.

    Returns:
        mae (mean absolute), bias (mean), n (runs).
    """
    return _errors(np.log(law(obs.N, obs.D) / obs.L))


def _errors(r: np.ndarray) -> dict[str, float]:
    return {"mae": float(np.abs(r).mean()), "bias": float(r.mean()), "n": len(r)}


def extrapolation_in_C(case: Case) -> Finding:
    """Expanding window in C."""
    cuts, keep = case.cuts()
    return _roll_out(case, "C", cuts, keep, "FLOPs")


def extrapolation_in_N(case: Case) -> Finding:
    """Expanding window in N."""
    sizes = np.array([case.obs.N[case.size == s].max() for s in range(int(case.size.max()) + 1)])
    at = np.unique((np.array(N_QUANTILES) * (len(sizes) - 1)).round().astype(int))
    cuts = sizes[at]
    return _roll_out(case, "N", cuts, cuts[:, None] >= case.obs.N, "parameters")


def _roll_out(case: Case, axis: str, cuts: np.ndarray, keep: np.ndarray, unit: str) -> Finding:
    obs = case.obs
    enough = (~keep).sum(axis=1) >= MIN_ABOVE
    cuts, keep = cuts[enough], keep[enough]
    if not len(cuts):
        raise FitError(f"no cut in {axis} leaves {MIN_ABOVE} runs to predict.", "too_few_runs")
    parts = case.refit(keep)
    rows: list[dict[str, Any]] = []
    previous: LossLaw | None = None
    for i, cut in enumerate(cuts):
        below, above = obs.where(keep[i]), obs.where(~keep[i])
        if not np.isfinite(parts.a[i]):
            continue
        law = parts.laws.law(i)
        held_out, inside = score(law, above), score(law, below)
        rows.append(
            {
                f"{axis}_max": float(cut),
                "decades": float(np.log10(getattr(above, axis).max() / cut)),
                "a": number(parts.a[i]),
                "held_out": held_out,
                "in_sample": inside,
                "previous_window": None if previous is None else score(previous, above),
                "power_law_in_C": _power_law_in_C(below, above),
                "nearest_third": score(law, _nearest(above, axis)),
                "expected_ratio": _expected_ratio(law, below, above),
            }
        )
        previous = law
    if not rows:
        raise FitError(f"no window of small {axis} can be fitted by approach 3.", "too_few_runs")
    last = rows[-1]
    ratio = last["held_out"]["mae"] / max(last["in_sample"]["mae"], 1e-12)
    plain = last["power_law_in_C"]
    beaten = plain is not None and plain["mae"] <= last["held_out"]["mae"]
    allowed = WORSE + FEW_ABOVE / np.sqrt(last["held_out"]["n"])
    noise = last["in_sample"]["mae"] < 1e-9  # an exact law misses nothing: no ratio to judge
    says = (
        f"fitted up to {last[f'{axis}_max']:.3g} {unit}, the law misses the "
        f"{last['held_out']['n']} larger runs by {last['held_out']['mae']:.2%} (bias "
        f"{last['held_out']['bias']:+.2%}; {last['in_sample']['mae']:.2%} on its own runs"
        + ("" if plain is None else f"; a power law in C alone {plain['mae']:.2%}")
        + f"; a true law would miss by {last['expected_ratio']:.2g} times its error inside, this one "
        f"by {ratio:.2g}); over all {len(rows)} windows "
        f"{min(r['held_out']['mae'] for r in rows):.2%} to "
        f"{max(r['held_out']['mae'] for r in rows):.2%}."
    )
    return judged(
        beaten
        or last["held_out"]["mae"] > MAX_MISS
        or max(r["held_out"]["mae"] for r in rows) > MAX_MISS_ANYWHERE
        or (ratio > allowed * last["expected_ratio"] and not noise),
        says,
        "Expect errors of this size beyond the runs, not the interval's: keep extrapolations short, "
        "and hold a few large runs back to check them.",
        {"windows": rows, "ratio": ratio, "beaten_by_power_law": beaten},
    )


def _nearest(above: Observations, axis: str) -> Observations:
    """The third of the held-out runs closest to the cut: what a short extrapolation meets."""
    order = np.argsort(getattr(above, axis), kind="stable")
    return above.where(order[: -(-len(order) // 3)])


def _expected_ratio(law: LossLaw, below: Observations, above: Observations) -> float:
    """Held-out over in-sample error of a true law with equal errors, five parameters being fitted."""
    n = len(below)
    J = jacobian(law, below.N, below.D, centred=False)
    J_above = jacobian(law, above.N, above.D, centred=False)
    scale = np.linalg.norm(J, axis=0)
    inverse = np.linalg.pinv((J / scale).T @ (J / scale), hermitian=True)
    leverage = np.einsum("ni,ij,nj->n", J_above / scale, inverse, J_above / scale)
    return float(np.sqrt((1 + leverage.mean()) / (1 - 5 / n)))


def _power_law_in_C(below: Observations, above: Observations) -> dict[str, float] | None:
    """ln L = c0 + c1 ln C by least squares on the runs below, scored above; None at one C."""
    if below.C.max() < MIN_C_RANGE * below.C.min():
        return None
    log_k, slope = line(below.C, below.L)
    return _errors(log_k + slope * np.log(above.C) - np.log(above.L))
