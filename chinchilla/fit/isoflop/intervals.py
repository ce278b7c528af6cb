"""Intervals of approach 2: resamples of the runs of each budget, and the lines through their minima.

The default, "wild", keeps every run and redraws the sign of its residual. One set of signs moves both parts of
a bottom: the coefficients of its profile, by residuals over sqrt(1 - leverage) (HC2, MacKinnon and White 1985);
and the exponents alpha and beta, by refits of approach 3 to the same runs with weights 1 + STEP * sign, whose
differences from the fit are divided by STEP. Exponents drawn apart from the profiles' residuals, although
both have the same errors, covered N_opt at ten times the largest C in 71 to 83% where 80% was stated.

The spread is stretched from normal to Student's t, with Satterthwaite's degrees of freedom of Bell and
McCaffrey's (2002) variances within a budget, for a or for N_opt at FAR times the largest C, whichever has fewer.
The noise is taken as equal within a budget; where the outermost sizes are noisier, intervals are too narrow.
"pairs" draws the runs of each budget with replacement, the same for profiles and exponents. With five to nine
sizes it is too wide, because a resample with three sizes left has an arbitrary minimum.
Measured shares stand in docs/fitting.md. NumPy only: this module must import without torch.
"""

from typing import Any

import numpy as np

from chinchilla.fit import bootstrap
from chinchilla.fit.isoflop.profile import (
    ExactShape,
    Profile,
    fit_budget,
    lines,
    minima,
    weighted_fits,
)
from chinchilla.fit.loss_law import FlopsPerToken
from chinchilla.fit.parametric.solver import fit_loss_law, refit_loss_law
from chinchilla.observations.table import Observations

INTERVALS = {
    "wild": "resamples that keep every run and redraw the sign of its residual over sqrt(1 - "
    "leverage), stretched to Student's t",
    "pairs": "bootstrap resamples of runs with replacement",
}
N_REDRAWN = 200  # draws of signs, each with a refit of approach 3; more resamples repeat them, stretched anew
STEP = 0.5  # of the weights of these refits, each way
MAX_STRETCH = 20.0  # of one resample; only tails beyond a 95% interval reach it
FAR = 10.0  # times the largest C, where N_opt is stated


def resampled_lines(
    used: list[Profile],
    cost: FlopsPerToken,
    interval: str,
    n: int,
    seed: int,
    lawful: Observations | None = None,
    how: dict[str, Any] | None = None,
) -> np.ndarray:
    """Lines through the minima of resampled profiles (section 3.2, by either of INTERVALS).

    Args:
        used: the m profiles that have a minimum.
        cost: FLOPs per token at a size.
        interval: "wild" or "pairs".
        n: resamples.
        seed: of the drawing.
        lawful: the runs that alpha and beta were fitted to, those of `used` among them; None where
            they are not redrawn.
        how: huber_delta and objective of that fit.

    Returns:
        (n, 4) `profile.lines` of the resamples; NaN where one has too few minima.
    """
    if n == 0:
        return np.zeros((0, 4))
    rng = np.random.default_rng(seed)
    rows, groups = _rows(used, lawful)
    k = n if lawful is None or interval == "pairs" else min(n, N_REDRAWN)
    if interval == "pairs":
        drawn = bootstrap.draw_counts(len(groups), k, seed, strata=groups)
    else:
        drawn = rng.choice([-1.0, 1.0], size=(k, len(groups)))
    at = np.full((k, len(used), 2), np.nan)
    for j, p in enumerate(used):
        assert p.c is not None
        own = drawn[:, rows[j]]
        if interval == "pairs":
            c = weighted_fits(p.columns, p.obs.L[:, None], own, p.obs.N)[..., 0]
        else:
            c = p.c + (own * (p.residuals / np.sqrt(1 - p.leverage))) @ p.solver.T
        at[:, j] = p.points(c)
    freedom = _freedom(used, at[..., 1])
    if lawful is not None:
        at[..., 1] += _moved(used, _redrawn(lawful, how or {}, interval, drawn, rng), cost)
    samples = lines(at, cost)[np.arange(n) % k]
    if interval == "pairs":
        return samples
    stretch = np.sqrt(freedom / np.maximum(rng.chisquare(freedom, size=(n, 1)), 1e-300))
    stretch = np.minimum(stretch, MAX_STRETCH)
    middle = lines(minima(used)[None], cost)
    return middle + (samples - middle) * stretch


def _rows(used: list[Profile], lawful: Observations | None) -> tuple[list[np.ndarray], np.ndarray]:
    """The columns of each profile's runs among the runs drawn, and the group that each of these is drawn in."""
    if lawful is None:
        groups = np.repeat(np.arange(len(used)), [len(p.obs) for p in used])
        return [np.flatnonzero(groups == j) for j in range(len(used))], groups
    labels, rows = lawful.budget_labels, []
    for p in used:
        of = np.flatnonzero(labels == p.budget)
        rows.append(of[np.argsort(lawful.N[of], kind="stable")])  # as `fit_profile` sorts them
        assert np.array_equal(lawful.L[rows[-1]], p.obs.L)
    return rows, bootstrap.budget_groups(lawful)


def _redrawn(
    lawful: Observations,
    how: dict[str, Any],
    interval: str,
    drawn: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """(k, 2) changes of alpha and beta for draws (k, n_runs): signs, or counts of each run.

    A refit that does not converge takes the change of another; 0 where none converges.
    """
    law, _ = fit_loss_law(lawful.N, lawful.D, lawful.L, None, **how)
    step = 1.0 if interval == "pairs" else STEP
    w = drawn if interval == "pairs" else 1 + STEP * drawn
    laws = refit_loss_law(lawful.N, lawful.D, lawful.L, w, law, **how)
    changes: np.ndarray = (laws.theta[:, 3:] - (law.alpha, law.beta)) / step
    good = np.flatnonzero(laws.converged)
    if not len(good):
        return np.zeros_like(changes)
    bad = ~laws.converged
    changes[bad] = changes[rng.choice(good, bad.sum())]
    return changes


def _moved(used: list[Profile], changes: np.ndarray, cost: FlopsPerToken) -> np.ndarray:
    """(k, m) how far changes (k, 2) of alpha and beta move each minimum in ln N, to first order."""
    shape = used[0].shape
    assert isinstance(shape, ExactShape)
    own = np.array([shape.alpha, shape.beta])
    slopes = np.empty((2, len(used)))
    for j in range(2):
        step = 1e-3 * own[j] * np.eye(2)[j]
        up, down = (
            [fit_budget(p.obs, p.budget, (float(e[0]), float(e[1])), cost).x_opt for p in used]
            for e in (own + step, own - step)
        )
        slopes[j] = (np.array(up) - np.array(down)) / (2 * step[j])
    moved: np.ndarray = changes @ np.where(np.isfinite(slopes), slopes, 0.0)
    return moved


def _freedom(used: list[Profile], x: np.ndarray) -> float:
    """Satterthwaite's degrees of freedom of the variance of a, or of N_opt far out, from resampled minima x."""
    log_C = minima(used)[:, 0]
    far = np.log(FAR * max(float(p.obs.C.max()) for p in used))
    of_a = log_C - log_C.mean()
    of_N = 1 / len(log_C) + of_a * (far - log_C.mean()) / (of_a @ of_a)
    own = np.array([p.freedom for p in used])
    spread = np.array(
        [np.var(column[np.isfinite(column)]) if np.isfinite(column).any() else 0 for column in x.T]
    )
    if not spread.any():
        return float(own.sum())
    parts = np.stack([of_a**2, of_N**2]) * spread
    return float((parts.sum(axis=1) ** 2 / (parts**2 / own).sum(axis=1)).min())


def method(interval: str, n: int, seed: int) -> str:
    """How the interval was made, for a FitResult's settings."""
    if n == 0:
        return "none (n_bootstrap=0)"
    return (
        f"10th to 90th percentile over {n} {INTERVALS[interval]}, drawn within each budget; a budget "
        "without a minimum in a resample is left out of it, and a resample counts when over half of "
        f"the budgets remain{'; about twice too wide' if interval == 'pairs' else ''} (seed {seed})"
    )
