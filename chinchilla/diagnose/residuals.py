"""Whether the law leaves systematic residuals: spread, tails and trends of ln L - ln L_hat."""

from dataclasses import replace
from typing import Any

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.diagnose.context import Context
from chinchilla.diagnose.findings import LOG_L, Finding, judge
from chinchilla.observations.checks import MISFIT, robust_sd

MIN_RUNS = 8  # for trends
EXACT = 1e-9  # residuals below this are rounding


def residuals(context: Context) -> Finding:
    """Spread, tails and trends; the effect is the largest loss error that a trend implies for the runs."""
    obs, r = context.obs, context.residuals
    sd, median = float(np.std(r)), float(np.median(np.abs(r)))
    if np.abs(r).max() < EXACT:
        message = f"residuals are at most {np.abs(r).max():.1e} in ln L."
        return Finding("passed", message, effect_unit=LOG_L)
    if len(r) < MIN_RUNS:
        raise FitError(f"trends need {MIN_RUNS} runs, and there are {len(r)}.")
    trends = {
        name: _trend(np.log10(x), r)
        for name, x in (("C", obs.C), ("N", obs.N), ("D/N", obs.D / obs.N))
    }
    kinds = [(name, kind) for name in trends for kind in ("slope", "curve")]
    moves = np.array([trends[name][f"effect_{kind}"] for name, kind in kinds])
    t = np.array([trends[name][f"t_{kind}"] for name, kind in kinds])
    judgement = judge(moves, np.abs(moves / t), len(r) - 3, LOG_L)
    name, kind = kinds[judgement.index]
    advice = (
        f"The law leaves a {kind} in {name}: fit a narrower range of {name}, and look at the residuals in "
        "the report's figure of the fitted loss surface."
    )
    if (robust := robust_sd(r)) > MISFIT:
        judgement = replace(
            judgement, verdict="warning", effect=max(judgement.effect or 0.0, robust)
        )
        advice = (
            f"Residuals of a single law are below {MISFIT:.0%}: check that these runs share one data set, "
            "tokenizer, recipe and loss, and fit each set separately."
        )
    kurtosis = float(np.mean((r - r.mean()) ** 4) / np.var(r) ** 2)
    values: dict[str, Any] = {"sd": sd, "kurtosis": kurtosis, "trend_per_decade": trends}
    message = (
        f"standard deviation {sd:.4f} of ln L, median absolute value {median:.4f}, kurtosis "
        f"{kurtosis:.1f} (normal distribution: 3)."
    )
    if delta := context.loss_settings["huber_delta"]:
        values["share_in_linear_zone"] = share = float((np.abs(r) > delta).mean())
        message += f" {share:.0%} exceed the Huber delta {delta:g}."
    return judgement.finding(
        f"{message} A {kind} in {name} reaches {abs(moves[judgement.index]):.2%} of the loss "
        f"(t = {t[judgement.index]:.1f}).",
        advice,
        values,
        "Repeat runs with other seeds: noise hides systematic errors of the law that would matter.",
    )


def _trend(x: np.ndarray, r: np.ndarray) -> dict[str, float]:
    """Straight and quadratic trend of r in x, with t values that allow unequal errors (HC1).

    Residuals are first clipped at four robust standard deviations, so that one outlier neither hides
    nor creates a trend. The effects are the largest size of each term within the range of x.
    """
    scale = 4 * 1.4826 * float(np.median(np.abs(r)))
    r = np.clip(r, -scale, scale)
    sd = max(float(np.std(x)), 1e-12)
    u = (x - x.mean()) / sd
    X = np.stack([np.ones_like(u), u, u**2 - 1], axis=1)
    inverse = np.linalg.pinv(X.T @ X, hermitian=True)
    c = inverse @ X.T @ r
    rest = r - X @ c
    V = inverse @ (X.T * rest**2) @ X @ inverse * len(r) / max(len(r) - 3, 1)
    se = np.sqrt(np.maximum(np.diag(V), 1e-300))
    return {
        "slope": float(c[1] / sd),
        "t_slope": float(c[1] / se[1]),
        "t_curve": float(c[2] / se[2]),
        "effect_slope": float(np.abs(c[1] * u).max()),
        "effect_curve": float(np.abs(c[2] * X[:, 2]).max()),
    }
