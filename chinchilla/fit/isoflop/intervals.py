"""Intervals of approach 2: a wild bootstrap of the losses, and the lines through the resampled minima.

A resample keeps every run and redraws the sign of its residual. The same signs change both the
coefficients of the profiles and the exponents alpha and beta. The coefficients are refitted with
residuals divided by sqrt(1 - leverage) (HC2, MacKinnon and White 1985). For the exponents, approach
3 is refitted to the same runs with weights 1 + STEP * sign, and the changes are divided by STEP.
With exponents drawn independently of the residuals, nominal 80% intervals covered N_opt at ten
times the largest C in only 71 to 83% of sweeps.

The spread is widened to Student's t. Its degrees of freedom are Satterthwaite's, from the variances
within each budget (Bell and McCaffrey 2002): the smaller of those of a and those of N_opt at ten times
the largest C. The noise is assumed to be equal within a budget. docs/fitting.md gives the measured
coverage.
"""

from typing import Any

import numpy as np

from chinchilla.fit.isoflop.profile import ExactShape, Profile, fit_budget, lines, minima
from chinchilla.fit.loss_law import FlopsPerToken
from chinchilla.fit.parametric.solver import refit_loss_law
from chinchilla.fit.result import LossLaw, target_budget
from chinchilla.observations.table import Observations

METHOD = "wild bootstrap (HC2), Student's t"
# Draws of signs, each with a refit of approach 3. Further resamples reuse them with new widths.
N_REDRAWN = 200
STEP = 0.5  # change of the weights in these refits
MAX_WIDENING = 20.0  # limit of the widening of a resample; reached only outside a 95% interval


def resampled_lines(
    used: list[Profile],
    cost: FlopsPerToken,
    n: int,
    seed: int,
    law: LossLaw | None,
    runs: Observations,
    how: dict[str, Any],
) -> np.ndarray:
    """Compute lines through the minima of resampled profiles.

    Args:
        used: the m profiles that have a minimum.
        cost: FLOPs per token at a size.
        n: resamples.
        seed: seed of the random generator.
        law: the law whose alpha and beta the profiles have; None for parabolas.
        runs: the runs that are resampled: those of `used`, and any others that the law was fitted to.
        how: huber_delta and objective of that fit.

    Returns:
        (n, 4) `profile.lines` of the resamples; NaN where one has too few minima.
    """
    if n == 0:
        return np.zeros((0, 4))
    rng = np.random.default_rng(seed)
    k = n if law is None else min(n, N_REDRAWN)
    signs = rng.choice([-1.0, 1.0], size=(k, len(runs)))
    labels = runs.budget_labels
    at = np.full((k, len(used), 2), np.nan)
    for j, p in enumerate(used):
        assert p.c is not None
        of_budget = np.flatnonzero(labels == p.budget)
        of_budget = of_budget[np.argsort(runs.N[of_budget], kind="stable")]  # as `fit_budget`
        noise = signs[:, of_budget] * (p.residuals / np.sqrt(1 - p.leverage))
        at[:, j] = p.points(p.c + noise @ p.solver.T)
    degrees_of_freedom = _degrees_of_freedom(used, at[..., 1])
    if law is not None:
        at[..., 1] += _shifts_of_minima(used, _changed_exponents(runs, law, how, signs, rng), cost)
    samples = lines(at, cost)[np.arange(n) % k]
    chi_square = np.maximum(rng.chisquare(degrees_of_freedom, size=(n, 1)), 1e-300)
    widening = np.minimum(np.sqrt(degrees_of_freedom / chi_square), MAX_WIDENING)
    centre = lines(minima(used)[None], cost)
    return centre + (samples - centre) * widening


def _changed_exponents(
    runs: Observations,
    law: LossLaw,
    how: dict[str, Any],
    signs: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """(k, 2) changes of alpha and beta for signs (k, n_runs).

    The change of a refit that does not converge is that of another refit; 0 if none converges.
    """
    laws = refit_loss_law(runs.N, runs.D, runs.L, 1 + STEP * signs, law, **how)
    changes: np.ndarray = (laws.theta[:, 3:] - (law.alpha, law.beta)) / STEP
    good = np.flatnonzero(laws.converged)
    if not len(good):
        return np.zeros_like(changes)
    bad = ~laws.converged
    changes[bad] = changes[rng.choice(good, bad.sum())]
    return changes


def _shifts_of_minima(used: list[Profile], changes: np.ndarray, cost: FlopsPerToken) -> np.ndarray:
    """(k, m) shifts of the minima in ln N by changes (k, 2) of alpha and beta, to first order."""
    shape = used[0].shape
    assert isinstance(shape, ExactShape)
    own = np.array([shape.alpha, shape.beta])

    def minima_with(alpha: float, beta: float) -> np.ndarray:
        return np.array([fit_budget(p.obs, p.budget, (alpha, beta), cost).x_opt for p in used])

    steps = np.diag(1e-3 * own)
    slopes = np.array([minima_with(*(own + s)) - minima_with(*(own - s)) for s in steps])
    slopes /= 2e-3 * own[:, None]
    shifts: np.ndarray = changes @ np.where(np.isfinite(slopes), slopes, 0.0)
    return shifts


def _degrees_of_freedom(used: list[Profile], x: np.ndarray) -> float:
    """Satterthwaite's degrees of freedom of a or N_opt, the smaller, from resampled minima x."""
    log_C = minima(used)[:, 0]
    target = np.log(target_budget(max(p.obs.C.max() for p in used), exact=True))
    of_a = log_C - log_C.mean()
    of_N = 1 / len(log_C) + of_a * (target - log_C.mean()) / (of_a @ of_a)
    own = np.array([p.degrees_of_freedom for p in used])
    spread = np.array(
        [np.var(column[np.isfinite(column)]) if np.isfinite(column).any() else 0 for column in x.T]
    )
    if not spread.any():
        return float(own.sum())
    parts = np.stack([of_a**2, of_N**2]) * spread
    return float((parts.sum(axis=1) ** 2 / (parts**2 / own).sum(axis=1)).min())
