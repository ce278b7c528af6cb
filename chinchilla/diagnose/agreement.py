"""Do approaches 2 and 3 tell one story, and does the law leave anything systematic behind?

Their exponents differ for two reasons that need telling apart: a parabola's bottom is not the law's
optimum where alpha differs from beta or a grid is off centre (known, and no contradiction;
`isoflop.py` corrects it); or the law does not follow the losses. So the parabolas are also put
through the law's own losses at the same N and D: what then remains between the two sets of vertices
is misfit alone.
NumPy only: this module must import without torch.
"""

from typing import Any

import numpy as np

from chinchilla.diagnose.case import LARGE_Z, Case, Finding, judged, number
from chinchilla.diagnose.vertices import vertices
from chinchilla.errors import FitError
from chinchilla.fit.doubts import MISFIT, robust_sd

MAX_T = 3.0  # |t| of a trend in the residuals


def approach_2_against_3(case: Case) -> Finding:
    """Approach 2's vertices beside those of the law's losses on the same design."""
    found = vertices(case)
    if found.log_N_law is None or found.log_N_law_samples is None:
        raise FitError("approach 3 was not fitted: nothing to compare with.", "no_law")
    both = np.isfinite(found.log_N_law)
    if both.sum() < 2:
        raise FitError("the law's losses have under two bottoms in these budgets.", "no_bottom")
    difference = found.log_N - found.log_N_law
    spread = _spread(found.log_N_samples - found.log_N_law_samples)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = difference / spread
    optimum = np.array([case.line(case.law, float(np.exp(x)))[1] for x in found.log_C])
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
    a2, a2_law = (_slope(found.log_C[both], y[both]) for y in (found.log_N, found.log_N_law))
    samples = np.array(
        [
            _slope(x[good], m[good]) - _slope(x[good], y[good])
            for x, m, y in zip(
                found.log_C_samples, found.log_N_samples, found.log_N_law_samples, strict=True
            )
            if (good := np.isfinite(m) & np.isfinite(y)).sum() > max(1, both.sum() / 2)
        ]
    )
    sd = float(np.std(samples, ddof=1)) if len(samples) >= 40 else np.nan
    slope_z = (a2 - a2_law) / sd if sd > 0 else np.nan
    typical = float(np.sqrt(np.nanmean(z**2))) if np.isfinite(z).any() else np.nan
    return judged(
        bool(abs(np.nan_to_num(slope_z)) > LARGE_Z or np.nan_to_num(typical) > LARGE_Z),
        f"approach 2's parabolas give a = {a2:.3f}, and {a2_law:.3f} when applied to approach 3's losses on "
        f"the same runs (approach 3 itself: {case.a:.3f}): {a2_law - case.a:+.3f} is the parabola's "
        f"and the grid's doing, {a2 - a2_law:+.3f} is misfit"
        + (f" ({abs(slope_z):.1f} standard deviations" if np.isfinite(slope_z) else " (no interval")
        + (f"; vertices differ by {typical:.1f} on average)." if np.isfinite(typical) else ")."),
        "The law does not follow the IsoFLOP profiles: trust the vertices inside the budgets tried, "
        "and neither beyond them.",
        {
            "a_isoflop": a2,
            "a_isoflop_of_law": a2_law,
            "a_parametric": case.a,
            "slope_difference_sd": number(sd),
            "slope_z": number(slope_z),
            "rms_z": number(typical),
            "budgets": rows,
        },
    )


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    dx = x - x.mean()
    return float(dx @ (y - y.mean()) / (dx @ dx))


def _spread(samples: np.ndarray) -> np.ndarray:
    """Standard deviation of each column without its NaN; NaN where under 40 are left."""
    enough = np.isfinite(samples).sum(axis=0) >= 40
    sd = np.full(samples.shape[1], np.nan)
    if enough.any():
        sd[enough] = np.nanstd(samples[:, enough], axis=0, ddof=1)
    return sd


def residuals(case: Case) -> Finding:
    """Spread, tails and trends of ln L - ln L_hat."""
    obs, r = case.obs, case.residuals
    delta = float(case.loss_settings["huber_delta"])
    centred = r - r.mean()
    exact = bool(np.abs(r).max() < 1e-9)
    values: dict[str, Any] = {
        "sd": float(np.std(r)),
        "median_absolute": float(np.median(np.abs(r))),
        "kurtosis": None if exact else float((centred**4).mean() / (centred**2).mean() ** 2),
        "share_in_linear_zone": float((np.abs(r) > delta).mean()),
        "huber_delta": delta,
    }
    if exact or len(r) < 8:
        return judged(False, f"residuals are at most {np.abs(r).max():.1e} in ln L.", "", values)
    trends: dict[str, dict[str, float]] = {}
    for name, x in (("C", obs.C), ("N", obs.N), ("D/N", obs.D / obs.N)):
        trends[name] = _trend(np.log10(x), r)
    order = np.argsort(obs.C, kind="stable")
    low, _, high = (float(np.median(np.abs(r[p]))) for p in np.array_split(order, 3))
    values |= {
        "trend_per_decade": trends,
        "median_absolute_low_C": low,
        "median_absolute_high_C": high,
    }
    t, name, kind = max(
        (abs(trend[f"t_{kind}"]), name, kind)
        for name, trend in trends.items()
        for kind in ("slope", "bend")
    )
    what = {"slope": "lean", "bend": "bend"}[kind]
    do = (
        f"The law's form leaves a {'slope' if kind == 'slope' else 'curve'} in {name}: look at "
        "figure 4's residuals, and fit a narrower range."
    )
    if wide := robust_sd(r) > MISFIT:
        do = (
            f"Runs of one law miss it by less than {MISFIT:.0%}: look whether these are of one data "
            "set, tokenizer, recipe and loss, and fit each by itself."
        )
    return judged(
        t > MAX_T or wide,
        f"ln L misses by sd {values['sd']:.4f}, median {values['median_absolute']:.4f} "
        f"({low:.4f} in the lowest third of C, {high:.4f} in the highest); kurtosis "
        f"{values['kurtosis']:.1f} (3 is normal); {values['share_in_linear_zone']:.0%} lie beyond "
        f"{delta:g}, where a Huber loss is linear; they {what} most with {name} (t = {t:.1f}).",
        do,
        values,
    )


def _trend(x: np.ndarray, r: np.ndarray) -> dict[str, float]:
    """Slope and bend of r in x with t values that allow unequal errors (HC1); outliers clipped.

    Residuals are clipped at four robust standard deviations first: one stray run is `influence`'s
    affair and shall not hide, or be, a trend.
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
    }
