"""Minima of the IsoFLOP parabolas: of the measured losses, and of approach 3's losses for the same runs.

Parabolas in ln N are fitted to the budgets that approach 2 used: to the measured losses, to the law's
losses at the same N and D, and to both in resamples drawn within each budget. They are parabolas even if
approach 2 was fitted with another profile, because a parabola does not depend on the law.

The exponents of approaches 2 and 3 differ for two reasons. The minimum of a parabola is not the optimum
of the law if alpha differs from beta or a grid is off centre: an expected bias. Or the law does not
describe the losses. What remains between the two sets of minima is misfit alone.
NumPy only: this module must import without torch.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.diagnose.context import Context
from chinchilla.diagnose.findings import Finding, finding, judge, number
from chinchilla.fit import bootstrap
from chinchilla.fit.isoflop.profile import Parabola, parabolas
from chinchilla.fit.numerics import fit_line

MIN_SAMPLES = 40  # resamples, for a standard deviation
MIN_MINIMA = 4  # for a curve with three coefficients
DECADE = float(np.log(10))
BENDS = (
    "The frontier bends, so one power law over all budgets misleads beyond them. Fit the largest "
    "budgets only, and add budgets above them."
)
BEND_INCONCLUSIVE = (
    "Add a budget above the largest, or repeat runs near the minima: noise hides a bend that would "
    "matter at this C."
)
_NO_INTERVAL = "Run `chinchilla diagnose` with n_bootstrap=400 for an interval."


@dataclass(frozen=True)
class ParabolaMinima:
    """Minima in m budgets: row 0 of the runs, k rows of resamples; NaN without a minimum."""

    budgets: np.ndarray  # (m,) FLOPs
    log_C: np.ndarray  # (1 + k, m) of the runs, at the minimum
    log_N: np.ndarray  # (1 + k, m) measured
    log_N_law: np.ndarray  # (1 + k, m) of the law's losses; NaN without a law


def parabola_minima(context: Context) -> ParabolaMinima:
    """Minima in the budgets that approach 2 used.

    Raises:
        FitError: approach 2 was not fitted (no_isoflop), or fewer than two of its budgets have a
            parabola with a minimum (no_minimum).
    """
    frontier = context.fits.fitted.get("isoflop")
    if frontier is None:
        raise context.not_fitted("isoflop", "approach 2", "no_isoflop")
    law = context.law if "parametric" in context.fits.fitted else None
    obs = context.obs
    used = np.array(sorted(p.budget_flops for p in frontier.points if p.budget_flops is not None))
    groups = np.nan_to_num(context.budgets, nan=0.0)
    counts = bootstrap.draw_counts(len(obs), context.n_bootstrap, context.seed, strata=groups)
    shape = (1 + context.n_bootstrap, len(used))
    log_C, log_N, log_N_law = (np.full(shape, np.nan) for _ in range(3))
    for j, budget in enumerate(used):
        rows = np.isclose(context.budgets, budget, rtol=1e-5)
        x, w = np.log(obs.N[rows]), np.vstack([np.ones(int(rows.sum())), counts[:, rows]])
        columns = np.stack([obs.L[rows], np.log(obs.C[rows])], axis=1)
        log_N[:, j], log_C[:, j] = _minima(x, columns, w)
        if law is not None:
            columns[:, 0] = law(obs.N[rows], obs.D[rows])
            log_N_law[:, j] = _minima(x, columns, w)[0]
    with_minimum = np.isfinite(log_N[0])
    if with_minimum.sum() < 2:
        raise FitError("fewer than two budgets have a parabola with a minimum.", "no_minimum")
    arrays = (x[:, with_minimum] for x in (log_C, log_N, log_N_law))
    return ParabolaMinima(used[with_minimum], *arrays)


def _minima(x: np.ndarray, columns: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ln N and the second column at the minimum of each weighting's parabola; NaN without one."""
    shape = Parabola(float(x.mean()))
    fit = parabolas(x - shape.centre, columns, w)  # (k, 3, 2)
    log_N = shape.minima(fit[:, :, 0])
    log_N = np.where((x.min() < log_N) & (log_N < x.max()), log_N, np.nan)
    powers = (log_N - shape.centre)[:, None] ** np.arange(3)
    return log_N, (powers * fit[:, :, 1]).sum(axis=1)


# ------------------------------------------------------------------ curvature of the frontier


def quadratic(context: Context) -> Finding:
    """Change of the local exponent per decade of C, through the minima of approach 2.

    The effect is the difference between a quadratic and a straight line at C_star.
    """
    minima = parabola_minima(context)
    m = len(minima.budgets)
    if m < MIN_MINIMA:
        raise FitError(
            f"a bend needs {MIN_MINIMA} budgets with a minimum, and {m} have one.",
            "too_few_budgets",
        )
    log_C = float(np.log(context.C_star))
    bends = [
        _bend(x[good], y[good], log_C)
        for x, y in zip(minima.log_C, minima.log_N, strict=True)
        if (good := np.isfinite(y)).sum() > max(3, m / 2)
    ]
    (bend, at_middle, move), samples = bends[0], np.array(bends)[1:]
    values: dict[str, Any] = {
        "exponent_change_per_decade": bend,
        "exponent_at_middle": at_middle,
        "log_N_move": move,
        "n_vertices": m,
        "n_resamples": len(samples),
    }
    message = f"the local exponent of N_opt changes by {bend:+.3f} per decade of C"
    if len(samples) < MIN_SAMPLES:
        message += f" through {m} minima; no interval ({len(samples)} resamples)."
        return Finding("inconclusive", message, _NO_INTERVAL, abs(move), values=values)
    low95, p10, p90, high95 = map(float, np.percentile(samples[:, 0], (2.5, 10, 90, 97.5)))
    sd = float(np.std(samples[:, 2], ddof=1))
    values |= {"p10": p10, "p90": p90, "ci95": [low95, high95], "log_N_move_sd": sd}
    return finding(
        judge(np.array([move]), np.array([sd]), len(context.obs) - 3 * m, max_sd=np.inf),
        f"{message} (80% interval {p10:+.3f} to {p90:+.3f}, 95% {low95:+.3f} to {high95:+.3f}) through {m} "
        f"minima. This changes N_opt({context.C_star:.3g}) by a factor {np.exp(move):.3g}.",
        BENDS,
        values,
        if_inconclusive=BEND_INCONCLUSIVE,
    )


def _bend(x: np.ndarray, y: np.ndarray, at: float) -> tuple[float, float, float]:
    """2 * quadratic term * ln 10, the slope at the mean x, and curve minus line at `at`."""
    middle = x.mean()
    curve, straight = np.polyfit(x - middle, y, 2), np.polyfit(x - middle, y, 1)
    move = float(np.polyval(curve, at - middle) - np.polyval(straight, at - middle))
    return float(2 * curve[0] * DECADE), float(curve[1]), move


# ------------------------------------------------------------------ agreement of approaches 2 and 3


def approach_2_against_3(context: Context) -> Finding:
    """The minima of approach 2 compared with those of the law's losses for the same runs.

    Judged are the difference at C_star between the lines through the two sets of minima, and the
    difference in each budget.
    """
    minima = parabola_minima(context)
    if "parametric" not in context.fits.fitted:
        raise FitError(
            "approach 3 was not fitted: approach 2 cannot be compared with it.", "no_law"
        )
    log_C, log_N, log_N_law = minima.log_C[0], minima.log_N[0], minima.log_N_law[0]
    both = np.isfinite(log_N_law)
    if both.sum() < 2:
        raise FitError(
            "the law's losses have a minimum in fewer than two of these budgets.", "no_minimum"
        )
    at = float(np.log(context.C_star))
    difference = log_N - log_N_law
    differences = (minima.log_N - minima.log_N_law)[1:]  # (k, m)
    spread = _spread(differences)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = difference / spread
    # A line through differences is the difference of the two lines: its value at C_star, its slope.
    move, misfit = map(float, fit_line(log_C - at, difference, both))
    a2_law = float(fit_line(log_C - at, log_N_law, both)[1])
    a2 = a2_law + misfit
    known = np.isfinite(differences)
    complete = known.sum(axis=1) > max(1, both.sum() / 2)
    samples = fit_line(minima.log_C[1:][complete] - at, differences[complete], known[complete])
    log_N_sd, sd = np.nan, np.nan
    if complete.sum() >= MIN_SAMPLES:
        log_N_sd, sd = (float(np.std(x, ddof=1)) for x in samples)
    slope_z = misfit / sd if sd > 0 else np.nan
    typical = float(np.sqrt(np.nanmean(z**2))) if np.isfinite(z).any() else np.nan
    N_opt_of_law = [np.exp(context.line(context.law, C)[1]) for C in np.exp(log_C)]
    values = {
        "a_isoflop": a2,
        "a_isoflop_of_law": a2_law,
        "a_parametric": context.a,
        "slope_difference_sd": number(sd),
        "slope_z": number(slope_z),
        "log_N_move": number(move),
        "log_N_move_sd": number(log_N_sd),
        "rms_z": number(typical),
        "budgets": [
            {
                "budget_flops": float(c),
                "N_measured": number(np.exp(log_N[i])),
                "N_of_law_by_parabola": number(np.exp(log_N_law[i])),
                "N_opt_of_law": number(N_opt_of_law[i]),
                "log_difference": number(difference[i]),
                "sd": number(spread[i]),
                "z": number(z[i]),
            }
            for i, c in enumerate(minima.budgets)
        ],
    }
    message = (
        f"parabolas give a = {a2:.3f} for the measured losses and {a2_law:.3f} for approach 3's losses "
        f"of the same runs (approach 3 itself: {context.a:.3f}): the bias of a parabola is "
        f"{a2_law - context.a:+.3f}, the misfit {misfit:+.3f}"
    )
    if not np.isfinite(slope_z):
        return Finding(
            "inconclusive",
            f"{message} (no interval).",
            f"Add runs to the budgets. {_NO_INTERVAL}",
            abs(move),
            values=values,
        )
    n_runs = np.array([np.isclose(context.budgets, c, rtol=1e-5).sum() for c in minima.budgets])
    freedom = np.append(n_runs.sum() - 3 * len(n_runs), n_runs - 3)
    judgement = judge(
        np.append(move, difference),
        np.append(log_N_sd, spread),
        freedom,
        max_sd=np.inf,
        typical=lambda known: float(known[0]),  # whether the lines can be distinguished
    )
    message += f" ({abs(slope_z):.1f} SD), which changes N_opt({context.C_star:.3g}) by a factor {np.exp(move):.3g}."
    if np.isfinite(typical):
        message += f" The minima differ by {typical:.1f} SD on average"
        if judgement.index and judgement.verdict == "warning":
            i = judgement.index - 1
            message += f", at {minima.budgets[i]:.3g} FLOPs by {difference[i]:+.2f} in ln N"
        message += "."
    return finding(
        judgement,
        message,
        "Approach 3 does not describe the IsoFLOP profiles: use approach 2, and fit approach 3 in a "
        "narrower range of tokens per parameter.",
        values,
        if_inconclusive="Repeat runs near the minima of the smallest and the largest budget: noise hides "
        "a difference between the approaches that would matter.",
    )


def _spread(samples: np.ndarray) -> np.ndarray:
    """Standard deviation of each column without NaN; NaN if fewer than MIN_SAMPLES remain."""
    enough = np.isfinite(samples).sum(axis=0) >= MIN_SAMPLES
    sd = np.full(samples.shape[1], np.nan)
    if enough.any():
        sd[enough] = np.nanstd(samples[:, enough], axis=0, ddof=1)
    return sd
