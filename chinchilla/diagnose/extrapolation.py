"""Predictions of held-out larger runs: approach 3 fitted to the smaller runs, scored on the larger.

An expanding window: the law of the runs up to a cut (in C, then in N) is scored on all larger runs by
ln(predicted / measured loss): mean absolute error, and bias (above zero if predicted too high).

The bias of each window is judged. Its standard deviation if the law holds follows from the residuals
inside the window and from the design: the scatter of the held-out losses plus the error of the fitted
law at their N and D.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.core.units import count
from chinchilla.diagnose.context import Context, growing_parts
from chinchilla.diagnose.findings import LOG_L, Finding, finite, judge
from chinchilla.fit.result import LossLaw
from chinchilla.observations.checks import N_PARAMETERS
from chinchilla.observations.table import Observations

MIN_ABOVE = 5  # runs to predict
N_QUANTILES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of distinct sizes


def extrapolation_in_C(context: Context) -> Finding:
    """Expanding window in C."""
    return _expanding_window(context, *context.cuts(), lambda C: f"{C:.3g} FLOPs")


def extrapolation_in_N(context: Context) -> Finding:
    """Expanding window in N."""
    obs, size = context.obs, context.size
    sizes = np.array([obs.N[size == s].max() for s in range(int(size.max()) + 1)])
    cuts = sizes[np.unique((np.array(N_QUANTILES) * (len(sizes) - 1)).round().astype(int))]
    parts = growing_parts(cuts, cuts[:, None] >= obs.N)
    return _expanding_window(context, *parts, lambda N: f"{count(N)} parameters")


def score(law: LossLaw, obs: Observations) -> dict[str, float]:
    """Errors of a law's losses, as ln(predicted / measured).

    Args:
        law: the law to score.
        obs: final losses, at least one.

    Returns:
        mae (mean absolute), bias (mean), n (runs).
    """
    r = np.log(law(obs.N, obs.D) / obs.L)
    return {"mae": float(np.abs(r).mean()), "bias": float(r.mean()), "n": len(r)}


def _expanding_window(
    context: Context, cuts: np.ndarray, keep: np.ndarray, show: Callable[[float], str]
) -> Finding:
    obs = context.obs
    parts = context.refit(keep)
    rows: list[dict[str, Any]] = []
    for i in np.flatnonzero(parts.fitted & ((~keep).sum(axis=1) >= MIN_ABOVE)).tolist():
        below, above = obs.where(keep[i]), obs.where(~keep[i])
        law = LossLaw(*parts.theta[i].tolist())
        rows.append(
            {
                "up_to": float(cuts[i]),
                "a": finite(parts.a[i]),
                "held_out": score(law, above),
                "in_sample": score(law, below),
                "bias_sd": _bias_sd(law, below, above, context.inflation),
            }
        )
    if not rows:
        raise FitError(
            f"no window of small runs that leaves {MIN_ABOVE} runs to predict can be fitted."
        )
    sd = np.array([row["bias_sd"] for row in rows])
    judgement = judge(
        np.array([row["held_out"]["bias"] for row in rows]),
        sd,
        np.array([row["in_sample"]["n"] - N_PARAMETERS for row in rows]),
        LOG_L,
        typical_sd=float(sd.min()),  # one precise window is sufficient
        nested=True,
    )
    row = rows[judgement.index]
    held_out = row["held_out"]
    errors = [r["held_out"]["mae"] for r in rows]
    return judgement.finding(
        f"fitted up to {show(row['up_to'])}, the law predicts the {held_out['n']} larger runs with a bias of "
        f"{held_out['bias']:+.2%} ({abs(held_out['bias']) / max(row['bias_sd'], 1e-12):.1f} SD of noise) and "
        f"a mean error of {held_out['mae']:.2%} ({row['in_sample']['mae']:.2%} on its own runs). The mean "
        f"error over {len(rows)} windows is {min(errors):.2%} to {max(errors):.2%}.",
        "Keep extrapolations short, and train a few large runs to check them. Errors of this size must be "
        "expected beyond the runs, and the interval of the fit does not include them.",
        {"windows": rows},
        "Add runs at the largest C or N: noise hides errors of the predicted loss that would matter.",
    )


def _bias_sd(law: LossLaw, below: Observations, above: Observations, inflation: float) -> float:
    """Standard deviation of the held-out bias if the law holds, with equal errors.

    `inflation` is the variance of the fitted law over that of least squares.
    """
    J = law.jacobian(below.N, below.D)
    scale = np.linalg.norm(J, axis=0)
    inverse = np.linalg.pinv((J / scale).T @ (J / scale), hermitian=True)
    mean = (law.jacobian(above.N, above.D) / scale).mean(axis=0)
    inside = np.log(law(below.N, below.D) / below.L)
    variance = float(inside @ inside) / max(len(below) - N_PARAMETERS, 1)
    return float(np.sqrt(variance * (1 / len(above) + inflation * float(mean @ inverse @ mean))))
