"""Whether the law leaves systematic residuals: spread, tails and trends of ln L - ln L_hat. NumPy only."""

from dataclasses import replace
from typing import Any

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.diagnose.context import Context
from chinchilla.diagnose.findings import LOG_L, Finding, finding, judge
from chinchilla.observations.checks import MISFIT, robust_sd

MIN_RUNS = 8  # for trends
EXACT = 1e-9  # residuals below this are rounding


def residuals(context: Context) -> Finding:
    """Spread, tails and trends; the effect is the largest loss error that a trend implies for the runs."""
    obs, r = context.obs, context.residuals
    delta = float(context.loss_settings["huber_delta"])
    centred = r - r.mean()
    exact = bool(np.abs(r).max() < EXACT)
    values: dict[str, Any] = {
        "sd": float(np.std(r)),
        "median_absolute": float(np.median(np.abs(r))),
        "kurtosis": None if exact else float((centred**4).mean() / (centred**2).mean() ** 2),
        "share_in_linear_zone": float((np.abs(r) > delta).mean()),
        "huber_delta": delta,
    }
    if exact:
        message = f"residuals are at most {np.abs(r).max():.1e} in ln L."
        return Finding("passed", message, effect_unit=LOG_L, values=values)
    if len(r) < MIN_RUNS:
        raise FitError(f"trends need {MIN_RUNS} runs, and there are {len(r)}.", "too_few_runs")
    trends = {
        name: _trend(np.log10(x), r)
        for name, x in (("C", obs.C), ("N", obs.N), ("D/N", obs.D / obs.N))
    }
    thirds = np.array_split(np.argsort(obs.C, kind="stable"), 3)
    low, _, high = (float(np.median(np.abs(r[rows]))) for rows in thirds)
    values |= {
        "trend_per_decade": trends,
        "median_absolute_low_C": low,
        "median_absolute_high_C": high,
    }
    kinds = [(name, kind) for name in trends for kind in ("slope", "bend")]
    moves = np.array([trends[name][f"effect_{kind}"] for name, kind in kinds])
    t = np.array([trends[name][f"t_{kind}"] for name, kind in kinds])
    judgement = judge(moves, np.abs(moves / t), len(r) - 3, LOG_L, max_sd=np.inf)
    name, kind = kinds[judgement.index]
    trend = f"a {'slope' if kind == 'slope' else 'curve'} in {name}"
    advice = (
        f"The law leaves {trend}: fit a narrower range of {name}, and look at the residuals in the report's "
        "figure of the fitted loss surface."
    )
    if (sd := robust_sd(r)) > MISFIT:
        judgement = replace(judgement, verdict="warning", effect=max(judgement.effect or 0.0, sd))
        advice = (
            f"Residuals of a single law are below {MISFIT:.0%}: check that these runs share one data set, "
            "tokenizer, recipe and loss, and fit each set separately."
        )
    return finding(
        judgement,
        f"standard deviation {values['sd']:.4f} of ln L, median size {values['median_absolute']:.4f} "
        f"({low:.4f} in the lowest third of C, {high:.4f} in the highest), kurtosis "
        f"{values['kurtosis']:.1f} (3 is normal). {values['share_in_linear_zone']:.0%} exceed the Huber delta "
        f"{delta:g}. A{trend[1:]} reaches {abs(moves[judgement.index]):.2%} of the loss "
        f"(t = {t[judgement.index]:.1f}).",
        advice,
        values,
        unit=LOG_L,
        if_inconclusive="Repeat runs with other seeds: noise hides systematic errors of the law that "
        "would matter.",
    )


def _trend(x: np.ndarray, r: np.ndarray) -> dict[str, float]:
    """Slope and bend of r in x, with t values that allow unequal errors (HC1).

    Residuals are first clipped at four robust standard deviations, so that one outlier neither hides
    nor creates a trend. `effect_slope` and `effect_bend` are the largest size of each term within the
    range of x.
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
        "bend": float(2 * c[2] / sd**2),
        "t_slope": float(c[1] / se[1]),
        "t_bend": float(c[2] / se[2]),
        "effect_slope": float(np.abs(c[1] * u).max()),
        "effect_bend": float(np.abs(c[2] * X[:, 2]).max()),
    }
