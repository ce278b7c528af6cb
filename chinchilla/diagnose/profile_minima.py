"""Minima of the isoFLOP parabolas, of the measured losses and of those of approach 3's law.

Parabolas in ln N are fitted to the budgets that approach 2 used: to the measured losses, to the law's
losses at the same N and D, and to both again in resamples drawn within each budget. They are parabolas
whatever profile approach 2 was fitted with, because a parabola does not depend on the law.
NumPy only: this module must import without torch.
"""

from dataclasses import dataclass

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.diagnose.context import Context
from chinchilla.diagnose.findings import first_sentence
from chinchilla.fit import bootstrap
from chinchilla.fit.isoflop.profile import parabolas
from chinchilla.fit.result import LossLaw


@dataclass(frozen=True)
class Vertices:
    """Minima of the parabolas of m budgets; (k, m) arrays are resamples, NaN without a minimum."""

    budgets: np.ndarray  # (m,) FLOPs
    log_C: np.ndarray  # (m,) of the runs, at the minimum
    log_N: np.ndarray  # (m,) measured
    log_N_law: np.ndarray | None  # (m,) of the law's losses; None without a law
    log_C_samples: np.ndarray  # (k, m)
    log_N_samples: np.ndarray  # (k, m)
    log_N_law_samples: np.ndarray | None  # (k, m)


def vertices(context: Context) -> Vertices:
    """Minima in the budgets that approach 2 used.

    Raises:
        FitError: approach 2 was not fitted (no_isoflop), or fewer than two of its budgets have a
            parabola with a minimum (no_minimum).
    """
    frontier = context.fits.fitted.get("isoflop")
    if frontier is None:
        refused = context.fits.refused.get("isoflop")
        why = f" ({first_sentence(refused.reason)})" if refused else ""
        raise FitError(f"approach 2 was not fitted{why}.", "no_isoflop")
    law: LossLaw | None = None
    if "parametric" in context.fits.fitted:
        law = context.law
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
    seen = np.isfinite(log_N[0])
    if seen.sum() < 2:
        raise FitError("fewer than two budgets have a parabola with a minimum.", "no_minimum")
    used, log_C, log_N, log_N_law = used[seen], log_C[:, seen], log_N[:, seen], log_N_law[:, seen]
    return Vertices(
        budgets=used,
        log_C=log_C[0],
        log_N=log_N[0],
        log_N_law=None if law is None else log_N_law[0],
        log_C_samples=log_C[1:],
        log_N_samples=log_N[1:],
        log_N_law_samples=None if law is None else log_N_law[1:],
    )


def _minima(x: np.ndarray, columns: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ln N and the second column at the minimum of each weighting's parabola; NaN without one."""
    centre = x.mean()
    fit = parabolas(x - centre, columns, w)  # (k, 3, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = -fit[:, 1, 0] / (2 * fit[:, 2, 0])
    good = (fit[:, 2, 0] > 0) & (x.min() < z + centre) & (z + centre < x.max())
    z = np.where(good, z, np.nan)
    second = (z[:, None] ** np.arange(3) * fit[:, :, 1]).sum(axis=1)
    return z + centre, second
