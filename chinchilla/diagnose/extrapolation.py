"""Predictions of held-out larger runs: approach 3 fitted to the smaller runs, scored on the larger.

An expanding window: the law of the runs up to a cut (in C, then in N) is scored on all larger runs by
ln(predicted / measured loss): mean absolute error, and bias (above zero if predicted too high). For
comparison: the error on the runs it was fitted to; the law of the previous, smaller window on the same
held-out runs; and a power law in C alone, which ignores N and D.

The bias of each window is judged. Its standard deviation if the law holds follows from the residuals
inside the window and from the design: the scatter of the held-out losses plus the error of the fitted
law at their N and D. NumPy only.
"""

from typing import Any

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.diagnose.context import MIN_SHARE, N_PARAMETERS, Context
from chinchilla.diagnose.findings import LOG_L, Finding, finding, judge, number, sd_text
from chinchilla.fit.numerics import log_log_line
from chinchilla.fit.result import LossLaw
from chinchilla.observations.table import Observations

MIN_ABOVE = 5  # runs to predict
MIN_C_RANGE = 1.5  # largest C over smallest, for a power law in C
N_QUANTILES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of distinct sizes


def extrapolation_in_C(context: Context) -> Finding:
    """Expanding window in C."""
    return _expanding_window(context, "C", *context.cuts(), "FLOPs")


def extrapolation_in_N(context: Context) -> Finding:
    """Expanding window in N."""
    obs, size = context.obs, context.size
    sizes = np.array([obs.N[size == s].max() for s in range(int(size.max()) + 1)])
    cuts = sizes[np.unique((np.array(N_QUANTILES) * (len(sizes) - 1)).round().astype(int))]
    return _expanding_window(context, "N", cuts, cuts[:, None] >= obs.N, "parameters")


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


def _expanding_window(
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
    for i in np.flatnonzero(parts.fitted).tolist():
        below, above = obs.where(keep[i]), obs.where(~keep[i])
        law = parts.laws.law(i)
        inside = np.log(law(below.N, below.D) / below.L)
        rows.append(
            {
                f"{axis}_max": float(cuts[i]),
                "decades": float(np.log10(getattr(above, axis).max() / cuts[i])),
                "a": number(parts.a[i]),
                "held_out": score(law, above),
                "in_sample": _errors(inside),
                "previous_window": None if previous is None else score(previous, above),
                "power_law_in_C": _power_law_in_C(below, above),
                "bias_expected_sd": _bias_sd(law, inside, below, above, context.inflation),
            }
        )
        previous = law
    # Windows with few runs have large errors. They are judged only if there are no others.
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
    by_C = last["power_law_in_C"]
    beaten = by_C is not None and by_C["mae"] <= last["held_out"]["mae"]
    z = row["held_out"]["bias"] / max(row["bias_expected_sd"], 1e-12)
    errors = [r["held_out"]["mae"] for r in rows]
    message = (
        f"fitted up to {row[f'{axis}_max']:.3g} {unit}, the law predicts the {row['held_out']['n']} "
        f"larger runs with a bias of {row['held_out']['bias']:+.2%} ({sd_text(z)}) and a mean error of "
        f"{row['held_out']['mae']:.2%} ({row['in_sample']['mae']:.2%} on its own runs). The mean error over "
        f"{len(rows)} windows is {min(errors):.2%} to {max(errors):.2%}."
    )
    if beaten:
        message += f" A power law in C alone predicts the last window better ({by_C['mae']:.2%})."
    return finding(
        judgement,
        message,
        "Keep extrapolations short, and train a few large runs to check them. Errors of this size must be "
        "expected beyond the runs, and the interval of the fit does not include them.",
        {"windows": rows, "beaten_by_power_law": beaten},
        unit=LOG_L,
        if_inconclusive="Add runs at the largest C or N: noise hides errors of the predicted loss that "
        "would matter.",
    )


def _bias_sd(
    law: LossLaw, inside: np.ndarray, below: Observations, above: Observations, inflation: float
) -> float:
    """Standard deviation of the held-out bias if the law holds, with equal errors.

    `inside` holds the log-residuals of the runs below; `inflation` is the variance of the fitted law
    over that of least squares.
    """
    J = law.jacobian(below.N, below.D)
    scale = np.linalg.norm(J, axis=0)
    inverse = np.linalg.pinv((J / scale).T @ (J / scale), hermitian=True)
    mean = (law.jacobian(above.N, above.D) / scale).mean(axis=0)
    variance = float(inside @ inside) / max(len(below) - N_PARAMETERS, 1)
    return float(np.sqrt(variance * (1 / len(above) + inflation * float(mean @ inverse @ mean))))


def _power_law_in_C(below: Observations, above: Observations) -> dict[str, float] | None:
    """ln L = c0 + c1 ln C by least squares on the runs below, scored above; None at one C."""
    if below.C.max() < MIN_C_RANGE * below.C.min():
        return None
    log_k, slope = log_log_line(below.C, below.L)
    return _errors(log_k + slope * np.log(above.C) - np.log(above.L))
