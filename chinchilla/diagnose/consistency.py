"""Whether approaches 2 and 3 agree, and whether the law leaves systematic residuals.

The exponents of approaches 2 and 3 differ for two reasons. The minimum of a parabola is not the
optimum of the law where alpha differs from beta or where a grid is off centre; this difference is
expected, and `isoflop.py` corrects it. Or the law does not describe the losses. To separate the two,
parabolas are also fitted to the law's own losses at the same N and D: what remains between the two
sets of minima is misfit alone. NumPy only: this module must import without torch.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.diagnose.context import Context
from chinchilla.diagnose.findings import LOG_L, Finding, finding, judge, number
from chinchilla.diagnose.profile_minima import vertices
from chinchilla.observations.checks import MISFIT, robust_sd

MIN_SAMPLES = 40  # resamples, for a standard deviation
MIN_RUNS = 8  # for trends of the residuals
EXACT = 1e-9  # residuals below this are rounding


def approach_2_against_3(context: Context) -> Finding:
    """The minima of approach 2 compared with those of the law's losses on the same design.

    Judged are the difference at C_star between the lines through the two sets of minima, and the
    difference in each budget.
    """
    found = vertices(context)
    if found.log_N_law is None or found.log_N_law_samples is None:
        raise FitError(
            "approach 3 was not fitted: approach 2 cannot be compared with it.", "no_law"
        )
    both = np.isfinite(found.log_N_law)
    if both.sum() < 2:
        raise FitError(
            "the law's losses have a minimum in fewer than two of these budgets.", "no_minimum"
        )
    difference = found.log_N - found.log_N_law
    spread = _spread(found.log_N_samples - found.log_N_law_samples)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = difference / spread
    optimum = np.array([context.line(context.law, float(np.exp(x)))[1] for x in found.log_C])
    rows = [
        {
            "budget_flops": float(c),
            "N_measured": number(np.exp(found.log_N[i])),
            "N_of_law_by_parabola": number(np.exp(found.log_N_law[i])),
            "N_opt_of_law": number(np.exp(optimum[i])),
            "log_difference": number(difference[i]),
            "sd": number(spread[i]),
            "z": number(z[i]),
        }
        for i, c in enumerate(found.budgets)
    ]
    at = float(np.log(context.C_star))
    a2, N2 = _line(found.log_C[both], found.log_N[both], at)
    a2_law, N2_law = _line(found.log_C[both], found.log_N_law[both], at)
    samples = np.array(
        [
            np.subtract(_line(x[good], m[good], at), _line(x[good], y[good], at))
            for x, m, y in zip(
                found.log_C_samples, found.log_N_samples, found.log_N_law_samples, strict=True
            )
            if (good := np.isfinite(m) & np.isfinite(y)).sum() > max(1, both.sum() / 2)
        ]
    ).reshape(-1, 2)
    move, misfit = N2 - N2_law, a2 - a2_law
    sd, log_N_sd = (
        map(float, np.std(samples, axis=0, ddof=1))
        if len(samples) >= MIN_SAMPLES
        else (np.nan, np.nan)
    )
    slope_z = misfit / sd if sd > 0 else np.nan
    typical = float(np.sqrt(np.nanmean(z**2))) if np.isfinite(z).any() else np.nan
    values = {
        "a_isoflop": a2,
        "a_isoflop_of_law": a2_law,
        "a_parametric": context.a,
        "slope_difference_sd": number(sd),
        "slope_z": number(slope_z),
        "log_N_move": number(move),
        "log_N_move_sd": number(log_N_sd),
        "rms_z": number(typical),
        "budgets": rows,
    }
    message = (
        f"parabolas give a = {a2:.3f} for the measured losses and {a2_law:.3f} for approach 3's losses "
        f"of the same runs (approach 3 itself: {context.a:.3f}): {a2_law - context.a:+.3f} is the "
        f"expected bias of a parabola, {misfit:+.3f} is misfit"
    )
    if not np.isfinite(slope_z):
        return Finding(
            "cannot_tell",
            f"{message} (no interval).",
            "Run `chinchilla diagnose` with n_bootstrap=400, and add runs to the budgets, for an "
            "interval.",
            abs(move),
            values=values,
        )
    n_runs = np.array([np.isclose(context.budgets, c, rtol=1e-5).sum() for c in found.budgets])
    judgement = judge(
        np.append(move, difference),
        np.append(log_N_sd, spread),
        np.append(n_runs.sum(), n_runs) - np.append(3 * len(n_runs), 0 * n_runs + 3),
        max_sd=np.inf,
        typical=_first,  # whether the lines can be told apart
    )
    worst = ""
    if judgement.index and judgement.verdict == "warning":
        i = judgement.index - 1
        worst = f"; at {found.budgets[i]:.3g} FLOPs they differ by {difference[i]:+.2f} in ln N"
    return finding(
        judgement,
        f"{message}; this difference of {abs(slope_z):.1f} standard deviations changes "
        f"N_opt({context.C_star:.3g}) by a factor {np.exp(move):.3g}"
        + (
            f"; the minima differ by {typical:.1f} standard deviations on average"
            if np.isfinite(typical)
            else ""
        )
        + f"{worst}.",
        "Approach 3 does not describe the isoFLOP profiles: use approach 2, and fit approach 3 in a "
        "narrower range of tokens per parameter.",
        values,
        if_unclear="Repeat runs near the minima of the smallest and the largest budget: the noise hides a "
        "difference between the approaches that would matter.",
    )


def _first(sd: np.ndarray) -> float:
    return float(sd[0])


def _line(x: np.ndarray, y: np.ndarray, at: float) -> tuple[float, float]:
    """Slope of the least-squares line, and its value at `at`."""
    dx = x - x.mean()
    slope = float(dx @ (y - y.mean()) / (dx @ dx))
    return slope, float(y.mean() + slope * (at - x.mean()))


def _spread(samples: np.ndarray) -> np.ndarray:
    """Standard deviation of each column without its NaN; NaN where under MIN_SAMPLES are left."""
    enough = np.isfinite(samples).sum(axis=0) >= MIN_SAMPLES
    sd = np.full(samples.shape[1], np.nan)
    if enough.any():
        sd[enough] = np.nanstd(samples[:, enough], axis=0, ddof=1)
    return sd


def residuals(context: Context) -> Finding:
    """Spread, tails and trends of ln L - ln L_hat.

    The effect is the largest loss error that a trend implies within the range of the runs.
    """
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
    order = np.argsort(obs.C, kind="stable")
    low, _, high = (float(np.median(np.abs(r[p]))) for p in np.array_split(order, 3))
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
    what = {"slope": "a slope", "bend": "a curve"}[kind]
    advice = (
        f"The law leaves {what} in {name}: fit a narrower range of {name}, and look at the residuals "
        "in figure 4 of the report."
    )
    if (wide := robust_sd(r)) > MISFIT:
        judgement = replace(judgement, verdict="warning", effect=max(judgement.effect or 0.0, wide))
        advice = (
            f"Runs of one law differ from it by less than {MISFIT:.0%}: check that these are of one data "
            "set, tokenizer, recipe and loss, and fit each set by itself."
        )
    return finding(
        judgement,
        f"ln L differs from the law by sd {values['sd']:.4f}, median {values['median_absolute']:.4f} "
        f"({low:.4f} in the lowest third of C, {high:.4f} in the highest); kurtosis "
        f"{values['kurtosis']:.1f} (3 is normal); {values['share_in_linear_zone']:.0%} lie beyond "
        f"{delta:g}, where the Huber loss is linear; {what} in {name} reaches "
        f"{abs(moves[judgement.index]):.2%} of the loss (t = {t[judgement.index]:.1f}).",
        advice,
        values,
        unit=LOG_L,
        if_unclear="Repeat runs with other seeds: the noise hides systematic errors of the law that "
        "would matter.",
    )


def _trend(x: np.ndarray, r: np.ndarray) -> dict[str, float]:
    """Slope and bend of r in x, with t values that allow unequal errors (HC1).

    Residuals are clipped at four robust standard deviations first, so that one outlier neither hides
    nor makes a trend. `effect_` is the largest size of the term within the range of x.
    """
    scale = 4 * 1.4826 * float(np.median(np.abs(r)))
    r = np.clip(r, -scale, scale)
    u = (x - x.mean()) / max(float(np.std(x)), 1e-12)
    X = np.stack([np.ones_like(u), u, u**2 - 1], axis=1)
    inverse = np.linalg.pinv(X.T @ X, hermitian=True)
    c = inverse @ X.T @ r
    left = r - X @ c
    V = inverse @ (X.T * left**2) @ X @ inverse * len(r) / max(len(r) - 3, 1)
    se = np.sqrt(np.maximum(np.diag(V), 1e-300))
    sd = max(float(np.std(x)), 1e-12)
    return {
        "slope": float(c[1] / sd),
        "bend": float(2 * c[2] / sd**2),
        "t_slope": float(c[1] / se[1]),
        "t_bend": float(c[2] / se[2]),
        "effect_slope": float(np.abs(c[1] * u).max()),
        "effect_bend": float(np.abs(c[2] * X[:, 2]).max()),
    }
