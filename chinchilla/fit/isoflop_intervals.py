"""Intervals of approach 2: resamples of the runs of each budget, and the lines through their bottoms.

A bootstrap of pairs within each budget is too wide with five to nine sizes (its 95% held a in
98.5-99.8% of sweeps, its 80% in 90-92.5%), since a resample with three sizes left has a wild bottom. The
default keeps the sizes and redraws the signs of the residuals, each over sqrt(1 - leverage) (HC2,
MacKinnon and White 1985), and stretches the spread from normal to Student's t with the degrees of freedom
of such a variance (Bell and McCaffrey 2002 within a budget, Satterthwaite over budgets): 92.5-98% and
76-84.5%. It takes noise as equal within a budget; where the outermost sizes are noisier it is too narrow.
For N_opt at ten times the largest C it is 90.5-96.5% and 71-83%, lowest with sizes 30 times either way:
alpha and beta are redrawn apart from the bottoms, though one error moves both.
NumPy only: this module must import without torch.
"""

from typing import Any

import numpy as np

from chinchilla.fit import bootstrap
from chinchilla.fit.loss_fit import fit_loss_law, refit_loss_law
from chinchilla.fit.loss_law import FlopsPerToken
from chinchilla.fit.profile import ExactShape, Profile, bottoms, fit_budget, lines, weighted_fits
from chinchilla.observations import Observations

INTERVALS = {
    "wild": "resamples that keep every run and redraw the sign of its residual over sqrt(1 - "
    "leverage), stretched to Student's t",
    "pairs": "bootstrap resamples of runs with replacement",
}
N_REDRAWN = 200  # alpha and beta of re-weighted runs, of which each resample takes one pair


def redrawn_exponents(
    finals: Observations,
    exponents: tuple[float, float] | None,
    n: int,
    seed: int,
    how: dict[str, Any],
) -> np.ndarray | None:
    """alpha and beta of approach 3 on re-weighted runs: how well they are known.

    Args:
        finals: the runs, of a budget or not.
        exponents: alpha and beta of the fit itself; None where parabolas are fitted.
        n: resamples wanted; N_REDRAWN of them at most are drawn here.
        seed: of the drawing.
        how: huber_delta and objective of approach 3.

    Returns:
        (k, 2), k <= N_REDRAWN, of the fits that converged; None without any.
    """
    if exponents is None or n == 0:
        return None
    law, _ = fit_loss_law(finals.N, finals.D, finals.L, None, **how)
    w = bootstrap.draw("bayesian", finals, min(n, N_REDRAWN), seed)
    laws = refit_loss_law(finals.N, finals.D, finals.L, w, law, **how)
    found = laws.theta[laws.converged, 3:]
    return found if len(found) else None


def _moved(used: list[Profile], exponents: np.ndarray, cost: FlopsPerToken) -> np.ndarray:
    """(k, m) how far other alpha and beta (k, 2) would move each bottom in ln N, to first order."""
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
    moved: np.ndarray = (exponents - own) @ np.where(np.isfinite(slopes), slopes, 0.0)
    return moved


def resampled_lines(
    used: list[Profile],
    cost: FlopsPerToken,
    interval: str,
    n: int,
    seed: int,
    redrawn: np.ndarray | None = None,
) -> np.ndarray:
    """Lines through the bottoms of resampled profiles (section 3.2, by either of INTERVALS).

    Args:
        used: the m profiles that have a bottom.
        cost: FLOPs per token at a size.
        interval: "wild" or "pairs".
        n: resamples.
        seed: of the drawing.
        redrawn: (k, 2) alpha and beta that might as well have been found; each resample takes a pair.

    Returns:
        (n, 4) `profile.lines` of the resamples; NaN where one has too few bottoms.
    """
    if n == 0:
        return np.zeros((0, 4))
    rng = np.random.default_rng(seed)
    at = np.full((n, len(used), 2), np.nan)
    for k, p in enumerate(used):
        assert p.c is not None
        if interval == "pairs":
            share = np.full(len(p.obs), 1 / len(p.obs))
            w = rng.multinomial(len(p.obs), share, n).astype(float)
            c = weighted_fits(p.columns, p.obs.L[:, None], w, p.obs.N)[..., 0]
        else:
            signs = rng.choice([-1.0, 1.0], size=(n, len(p.obs)))
            c = p.c + (signs * (p.residuals / np.sqrt(1 - p.leverage))) @ p.solver.T
        at[:, k] = p.points(c)
    if redrawn is not None:
        at[..., 1] += _moved(used, redrawn, cost)[rng.integers(len(redrawn), size=n)]
    samples = lines(at, cost)
    if interval == "pairs":
        return samples
    freedom = _freedom(used, at[..., 1])
    stretch = np.sqrt(freedom / rng.chisquare(freedom, size=(n, 1)))
    middle = lines(bottoms(used)[None], cost)
    return middle + (samples - middle) * stretch


def _freedom(used: list[Profile], x: np.ndarray) -> float:
    """Satterthwaite's degrees of freedom of the exponent's variance, from resampled bottoms x."""
    log_C = bottoms(used)[:, 0]
    own = np.array([p.freedom for p in used])
    variance = (log_C - log_C.mean()) ** 2 * np.array(
        [np.var(column[np.isfinite(column)]) if np.isfinite(column).any() else 0 for column in x.T]
    )
    if variance.sum() == 0:
        return float(own.sum())
    return float(max(variance.sum() ** 2 / (variance**2 / own).sum(), own.min()))


def method(interval: str, n: int, seed: int) -> str:
    """How the interval was made, for a Frontier's settings."""
    if n == 0:
        return "none (n_bootstrap=0)"
    return (
        f"10th to 90th percentile over {n} {INTERVALS[interval]}, drawn within each budget; a budget "
        "without a bottom in a resample is left out of it, and a resample counts when over half of "
        f"the budgets remain{'; about twice too wide' if interval == 'pairs' else ''} (seed {seed})"
    )
