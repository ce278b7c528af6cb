"""Predictions of held-out larger runs: approach 3 fitted to the smaller runs, scored on the larger.

An expanding window: the law of the runs up to a cut (in C, then in N), scored on every run above it by
ln(predicted / measured loss): mean absolute error, and bias (above zero: predicted too high). Beside
it stand the error on the runs it was fitted to; the law of the previous, smaller window on the same
held-out runs; and a power law in C alone, which ignores N and D.

Judged is the bias of each window. Its standard deviation under a law that holds follows from the
residuals inside the window and from the design: the scatter of the validation losses plus the error of
the fitted law at their N and D. NumPy only.
"""

from typing import Any

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.diagnose.context import N_PARAMETERS, Context, jacobian
from chinchilla.diagnose.findings import LOG_L, Finding, combined, finding, judge, number
from chinchilla.diagnose.influence import times
from chinchilla.fit.numerics import log_log_line
from chinchilla.fit.result import LossLaw
from chinchilla.observations.table import Observations

MIN_ABOVE = 5  # runs to predict
MIN_SHARE = 3  # a window is judged if it holds one in so many of the runs
MIN_C_RANGE = 1.5  # largest C over smallest, for a power law in C
N_QUANTILES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of distinct sizes


def score(law: LossLaw, obs: Observations) -> dict[str, float]:
    """Errors of a law's losses, as ln(predicted / measured).

    Args:
        law: the law to score.
        obs: final losses, at least one.

    Returns:
        mae (mean absolute), bias (mean), n (runs).
    """
    return _errors(np.log(law(obs.N, obs.D) / obs.L))


def _errors(r: np.ndarray) -> dict[str, float]:
    return {"mae": float(np.abs(r).mean()), "bias": float(r.mean()), "n": len(r)}


def extrapolation(context: Context) -> Finding:
    """Expanding windows in C and in N as one diagnostic."""
    return combined({"in_C": extrapolation_in_C, "in_N": extrapolation_in_N}, context)


def extrapolation_in_C(context: Context) -> Finding:
    """Expanding window in C."""
    cuts, keep = context.cuts()
    return _expanding(context, "C", cuts, keep, "FLOPs")


def extrapolation_in_N(context: Context) -> Finding:
    """Expanding window in N."""
    obs, size = context.obs, context.size
    sizes = np.array([obs.N[size == s].max() for s in range(int(size.max()) + 1)])
    at = np.unique((np.array(N_QUANTILES) * (len(sizes) - 1)).round().astype(int))
    cuts = sizes[at]
    return _expanding(context, "N", cuts, cuts[:, None] >= obs.N, "parameters")


def _expanding(
    context: Context, axis: str, cuts: np.ndarray, keep: np.ndarray, unit: str
) -> Finding:
    obs = context.obs
    enough = (~keep).sum(axis=1) >= MIN_ABOVE
    cuts, keep = cuts[enough], keep[enough]
    if not len(cuts):
        raise FitError(f"no cut in {axis} leaves {MIN_ABOVE} runs to predict.", "too_few_runs")
    parts = context.refit(keep)
    rows: list[dict[str, Any]] = []
    previous: LossLaw | None = None
    for i, cut in enumerate(cuts):
        below, above = obs.where(keep[i]), obs.where(~keep[i])
        if not np.isfinite(parts.a[i]):
            continue
        law = parts.laws.law(i)
        inside = np.log(law(below.N, below.D) / below.L)
        ratio, bias_sd = _expected(law, inside, below, above, context.inflation)
        held_out = score(law, above)
        rows.append(
            {
                f"{axis}_max": float(cut),
                "decades": float(np.log10(getattr(above, axis).max() / cut)),
                "a": number(parts.a[i]),
                "held_out": held_out,
                "in_sample": _errors(inside),
                "previous_window": None if previous is None else score(previous, above),
                "power_law_in_C": _power_law_in_C(below, above),
                "nearest_third": score(law, _nearest(above, axis)),
                "expected_ratio": ratio,
                "bias_expected_sd": bias_sd,
            }
        )
        previous = law
    # Windows with few runs have large errors: reported, and judged only if there are no others.
    large = [r for r in rows if MIN_SHARE * r["in_sample"]["n"] >= len(obs)] or rows
    if not large:
        raise FitError(f"no window of small {axis} can be fitted by approach 3.", "too_few_runs")
    bias = np.array([r["held_out"]["bias"] for r in large])
    judgement = judge(
        bias,
        np.array([r["bias_expected_sd"] for r in large]),
        np.array([r["in_sample"]["n"] - N_PARAMETERS for r in large]),
        LOG_L,
        max_sd=np.inf,
        typical=np.min,
    ).at_last(bias)
    row, last = large[judgement.index], rows[-1]
    plain = last["power_law_in_C"]
    beaten = plain is not None and plain["mae"] <= last["held_out"]["mae"]
    z = abs(row["held_out"]["bias"]) / max(row["bias_expected_sd"], 1e-12)
    message = (
        f"fitted up to {row[f'{axis}_max']:.3g} {unit}, the law predicts the {row['held_out']['n']} "
        f"larger runs with a bias of {row['held_out']['bias']:+.2%} ({times(z)}) "
        f"and a mean error of {row['held_out']['mae']:.2%} "
        f"({row['in_sample']['mae']:.2%} on its own runs); mean error over all {len(rows)} windows "
        f"{min(r['held_out']['mae'] for r in rows):.2%} to "
        f"{max(r['held_out']['mae'] for r in rows):.2%}"
    )
    if beaten:
        message += f"; a power law in C alone predicts the last window better ({plain['mae']:.2%})"
    return finding(
        judgement,
        message + ".",
        "Losses beyond the runs will be missed by about as much, which the fit's interval does not "
        "include. Keep extrapolations short, and train a few large runs to check them.",
        {
            "windows": rows,
            "ratio": last["held_out"]["mae"] / max(last["in_sample"]["mae"], 1e-12),
            "beaten_by_power_law": beaten,
        },
        unit=LOG_L,
        if_unclear="Add runs at the largest C or N: the noise hides errors of the predicted loss that "
        "would matter.",
    )


def _nearest(above: Observations, axis: str) -> Observations:
    """The third of the held-out runs closest to the cut, as in a short extrapolation."""
    order = np.argsort(getattr(above, axis), kind="stable")
    return above.where(order[: -(-len(order) // 3)])


def _expected(
    law: LossLaw,
    inside: np.ndarray,
    below: Observations,
    above: Observations,
    inflation: float,
) -> tuple[float, float]:
    """What a law that holds would show, with equal errors and five fitted parameters.

    Args:
        law: fitted to the runs below the cut.
        inside: (n,) its log-residuals on them.
        below: the runs below the cut.
        above: the held-out runs.
        inflation: variance of the fitted law over that of least squares, for the bias.

    Returns:
        Held-out over in-sample error, and the standard deviation of the held-out bias.
    """
    n = len(below)
    J = jacobian(law, below.N, below.D, centred=False)
    J_above = jacobian(law, above.N, above.D, centred=False)
    scale = np.linalg.norm(J, axis=0)
    inverse = np.linalg.pinv((J / scale).T @ (J / scale), hermitian=True)
    leverage = np.einsum("ni,ij,nj->n", J_above / scale, inverse, J_above / scale)
    mean = (J_above / scale).mean(axis=0)
    variance = float(inside @ inside) / max(n - N_PARAMETERS, 1)
    bias = variance * (1 / len(above) + inflation * float(mean @ inverse @ mean))
    shrunk = max(1 - N_PARAMETERS / n, 1 / n)
    return float(np.sqrt((1 + leverage.mean()) / shrunk)), float(np.sqrt(bias))


def _power_law_in_C(below: Observations, above: Observations) -> dict[str, float] | None:
    """ln L = c0 + c1 ln C by least squares on the runs below, scored above; None at one C."""
    if below.C.max() < MIN_C_RANGE * below.C.min():
        return None
    log_k, slope = log_log_line(below.C, below.L)
    return _errors(log_k + slope * np.log(above.C) - np.log(above.L))
