"""Minima of the IsoFLOP parabolas: of the measured losses, and of approach 3's losses for the same runs.

Parabolas in ln N are fitted to the budgets that approach 2 used: to the measured losses, to the law's
losses at the same N and D, and to both in resamples drawn within each budget. They are parabolas even if
approach 2 was fitted with another profile, because a parabola does not depend on the law.

The exponents of approaches 2 and 3 differ for two reasons. The minimum of a parabola is not the optimum
of the law if alpha differs from beta or a grid is off centre: an expected bias. Or the law does not
describe the losses. What remains between the two sets of minima is misfit alone.
This module must import without torch.
"""

from dataclasses import dataclass

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.diagnose.context import Context
from chinchilla.diagnose.findings import Finding, finite, judge
from chinchilla.fit import bootstrap
from chinchilla.fit.isoflop.profile import Parabola, parabolas
from chinchilla.fit.numerics import fit_line

MIN_SAMPLES = 40  # resamples, for a standard deviation
NO_INTERVAL = "Run `chinchilla diagnose` with n_bootstrap=400 for an interval."


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
        FitError: approach 2 was not fitted, or fewer than two of its budgets have a parabola with a
            minimum.
    """
    if "isoflop" not in context.fits.fitted:
        raise context.not_fitted("isoflop", "approach 2")
    law = context.law if "parametric" in context.fits.fitted else None
    obs, labels = context.obs, context.obs.budget_labels
    points = context.fits.fitted["isoflop"].points
    budgets = np.unique([float(f"{p.budget_flops:.6g}") for p in points])
    counts = bootstrap.draw_counts(
        len(obs), context.n_bootstrap, context.seed, strata=np.nan_to_num(labels)
    )
    log_C, log_N, log_N_law = np.full((3, 1 + context.n_bootstrap, len(budgets)), np.nan)
    for j, budget in enumerate(budgets):
        rows = labels == budget
        x, w = np.log(obs.N[rows]), np.vstack([np.ones(rows.sum()), counts[:, rows]])
        columns = np.stack([obs.L[rows], np.log(obs.C[rows])], axis=1)
        log_N[:, j], log_C[:, j] = _minima(x, columns, w)
        if law is not None:
            columns[:, 0] = law(obs.N[rows], obs.D[rows])
            log_N_law[:, j] = _minima(x, columns, w)[0]
    some = np.isfinite(log_N[0])
    if some.sum() < 2:
        raise FitError("fewer than two budgets have a parabola with a minimum.")
    return ParabolaMinima(budgets[some], log_C[:, some], log_N[:, some], log_N_law[:, some])


def _minima(x: np.ndarray, columns: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ln N and the second column at the minimum of each weighting's parabola; NaN without one."""
    shape = Parabola(float(x.mean()))
    fit = parabolas(x - shape.centre, columns, w)  # (k, 3, 2)
    log_N = shape.minima(fit[:, :, 0])
    log_N = np.where((x.min() < log_N) & (log_N < x.max()), log_N, np.nan)
    powers = (log_N - shape.centre)[:, None] ** np.arange(3)
    return log_N, (powers * fit[:, :, 1]).sum(axis=1)


def approach_2_against_3(context: Context) -> Finding:
    """The minima of approach 2 compared with those of the law's losses for the same runs.

    Judged are the difference at C_star between the lines through the two sets of minima, and the
    difference in each budget.
    """
    minima = parabola_minima(context)
    log_C, log_N, log_N_law = minima.log_C[0], minima.log_N[0], minima.log_N_law[0]
    a, both = context.a, np.isfinite(log_N_law)
    if both.sum() < 2:
        raise FitError("the law's losses have a minimum in fewer than two of these budgets.")
    at = float(np.log(context.C_star))
    difference = log_N - log_N_law
    differences = (minima.log_N - minima.log_N_law)[1:]  # (k, m)
    known = np.isfinite(differences)
    spread = np.full(len(difference), np.nan)  # of each budget's difference
    enough = known.sum(axis=0) >= MIN_SAMPLES
    spread[enough] = np.nanstd(differences[:, enough], axis=0, ddof=1)
    # A line through differences is the difference of the two lines: its value at C_star, its slope.
    move, misfit = map(float, fit_line(log_C - at, difference, both))
    a_of_law = float(fit_line(log_C - at, log_N_law, both)[1])
    complete = known.sum(axis=1) > max(1, both.sum() / 2)
    samples = fit_line(minima.log_C[1:][complete] - at, differences[complete], known[complete])
    log_N_sd, slope_sd = np.nan, np.nan
    if complete.sum() >= MIN_SAMPLES:
        log_N_sd, slope_sd = np.std(samples, axis=1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope_z = misfit / slope_sd
    values = {
        "a_isoflop": a_of_law + misfit,
        "a_isoflop_of_law": a_of_law,
        "a_parametric": a,
        "slope_z": finite(slope_z),
        "log_N_move": move,
        "log_N_sd": finite(log_N_sd),
    }
    message = (
        f"parabolas give a = {a_of_law + misfit:.3f} for the measured losses and {a_of_law:.3f} for "
        f"approach 3's losses of the same runs (approach 3 itself: {a:.3f}): the bias of a "
        f"parabola is {a_of_law - a:+.3f}, the misfit {misfit:+.3f}"
    )
    if not np.isfinite(slope_z):
        advice = f"Add runs to the budgets. {NO_INTERVAL}"
        return Finding(
            "inconclusive", f"{message} (no interval).", advice, abs(move), values=values
        )
    n_runs = (context.obs.budget_labels == minima.budgets[:, None]).sum(axis=1)
    judgement = judge(
        np.append(move, difference),
        np.append(log_N_sd, spread),
        np.append(n_runs.sum() - 3 * len(n_runs), n_runs - 3),
        typical_sd=float(log_N_sd),  # whether the lines can be distinguished
    )
    message += (
        f" ({abs(slope_z):.1f} SD), which changes N_opt({context.C_star:.3g}) by a factor "
        f"{np.exp(move):.3g}."
    )
    if judgement.index and judgement.verdict == "warning":
        i = judgement.index - 1
        message += (
            f" At {minima.budgets[i]:.3g} FLOPs the minima differ by {difference[i]:+.2f} in ln N."
        )
    return judgement.finding(
        message,
        "Approach 3 does not describe the IsoFLOP profiles: use approach 2, and fit approach 3 in a "
        "narrower range of tokens per parameter.",
        values,
        "Repeat runs near the minima of the smallest and the largest budget: noise hides a difference "
        "between the approaches that would matter.",
    )
