"""What each approach forecasts at a budget, and its errors on budgets that it was not fitted to.

Approach 2: lines and saturating power laws through the minima of the profiles (`forecast`). Approach 3:
the loss law on windows of tokens per parameter, without outliers, because the law rarely holds over the
whole range of a real sweep; each window is fitted again without the larger budgets. Where the law misses the
runs, `richer` is one more reading. NumPy and SciPy only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.fit.loss_law import FlopsPerToken
from chinchilla.fit.parametric.solver import fit_loss_law, refit_loss_law
from chinchilla.fit.parametric.windows import in_words, windows_of
from chinchilla.fit.result import LossLaw
from chinchilla.observations.checks import robust_sd
from chinchilla.observations.table import Observations
from chinchilla.recommend.forecast import (
    MIN_LINE,
    MIN_LOSS,
    RECENCY,
    Member,
    Minima,
    line,
    line_at,
    loss_at,
    saturating,
)
from chinchilla.recommend.held_out import MIN_FITTED, Pair, cuts
from chinchilla.recommend.richer import RicherLaw, log_loss, optimum, richer_law, seven

OUTLIER = 6.0  # robust standard deviations of ln L, as approach 3 reports them
MIN_MISS = 5e-3  # of the loss: a run nearer than this to the law is no outlier
MAX_OUTLIERS = 0.1  # share of the runs: more are a second population, not failures
CUTS = (0.5, 0.6, 0.7, 0.8, 0.9)  # quantiles of ln C to cut at, where there are no budgets


def lines_of(minima: Minima) -> dict[str, Member]:
    """ln k and a of N_opt = k*C^a by each weighting of the budgets; none without sizes."""
    if len(minima) < MIN_LINE or not np.isfinite(minima.N).all():
        return {}
    return {name: line(minima, r) for name, r in RECENCY.items()}


def losses_of(minima: Minima) -> dict[str, Member]:
    """E, ln K and g of L = E + K*C^-g by each weighting of the budgets; none through too few minima."""
    if len(minima) < MIN_LOSS:
        return {}
    return {name: saturating(minima, r) for name, r in RECENCY.items()}


def pairs_of_minima(minima: Minima) -> dict[str, list[Pair]]:
    """Held-out errors of `lines_of` and `losses_of`, under "N" and "L"."""
    x = minima.x
    found: dict[str, list[Pair]] = {"N": [], "L": []}
    for n, held_out in cuts(len(x)):
        below = minima.where(np.arange(len(x)) < n)
        lines, losses = lines_of(below), losses_of(below)
        for j in held_out:
            h = float(x[j] - x[n - 1])
            N = _errors(lines, line_at, float(x[j]), float(np.log(minima.N[j])))
            L = _errors(losses, loss_at, float(x[j]), float(np.log(minima.L[j])))
            found["N"] += [Pair(float(x[j]), h, N, n)] if N else []
            found["L"].append(Pair(float(x[j]), h, L, n))
    return found


def _errors(
    members: dict[str, Member], at: Callable[..., Any], x: float, measured: float
) -> dict[str, float]:
    """ln predicted - ln measured of each member at ln C = x."""
    if not members:
        return {}
    logs = at(np.array([m.parameters for m in members.values()]), x)[0]
    return dict(zip(members, (logs - measured).tolist(), strict=True))


@dataclass(frozen=True)
class LawReading:
    """Approach 3 on the runs of one window of tokens per parameter, without outliers."""

    ratios: tuple[float, float]
    law: LossLaw
    keep: np.ndarray  # (n,) bool: the runs it was fitted to
    outliers: np.ndarray  # (n,) bool: runs of the window that were excluded

    @property
    def name(self) -> str:
        """The window in words."""
        return in_words(self.ratios)

    @property
    def theta(self) -> list[float]:
        """E, A, B, alpha, beta, and q = 1 and D0 = 0 of `richer`."""
        return [*(getattr(self.law, name) for name in ("E", "A", "B", "alpha", "beta")), 1.0, 0.0]

    def refits(self, obs: Observations, below: list[np.ndarray], how: dict[str, Any]) -> np.ndarray:
        """(n_cuts, 7) laws of the runs below each cut; NaN where none converged."""
        if not below:
            return np.empty((0, 7))
        weights = np.array([self.keep & cut for cut in below], float)
        return seven(refit_loss_law(obs.N, obs.D, obs.L, weights, self.law, **how).theta)


def law_readings(obs: Observations, how: dict[str, Any]) -> list[LawReading]:
    """Approach 3 on each window of tokens per parameter that it can be fitted to; windows with the same runs once.

    Args:
        obs: (n,) final losses.
        how: huber_delta and objective.
    """
    found: list[LawReading] = []
    for ratios, inside in windows_of(obs):
        try:
            found.append(_reading(obs, ratios, inside, how))
        except FitError:
            continue
    return found


def _reading(
    obs: Observations, ratios: tuple[float, float], inside: np.ndarray, how: dict[str, Any]
) -> LawReading:
    """The law of the runs inside, fitted again without those that miss it by far."""

    def fitted(keep: np.ndarray) -> LossLaw:
        law, _ = fit_loss_law(obs.N[keep], obs.D[keep], obs.L[keep], None, **how)
        return law

    law = fitted(inside)
    r = np.log(obs.L / law(obs.N, obs.D))
    sd = robust_sd(r[inside])
    far = inside & (np.abs(r) > max(OUTLIER * sd, MIN_MISS))
    if not far.any() or far.sum() > MAX_OUTLIERS * inside.sum():
        return LawReading(ratios, law, inside, np.zeros(len(obs), bool))
    keep = inside & ~far
    return LawReading(ratios, fitted(keep), keep, far)


def laws_of(
    obs: Observations, readings: list[LawReading], approach3_law: str = "auto"
) -> list[LawReading | RicherLaw]:
    """Approach 3's readings, and behind them the richer law where its own law misses the runs.

    Args:
        obs: (n,) final losses.
        readings: the law on windows of tokens per parameter.
        approach3_law: auto, power (never) or saturating (the richer law alone).
    """
    if approach3_law == "power" or not readings:
        return [*readings]
    inside = readings[0].keep | readings[0].outliers
    alone = approach3_law == "saturating"
    found = richer_law(obs, readings[0].law, inside, always=alone)
    if found is None:
        return [*readings]
    return [found] if alone else [*readings, found]


def pairs_of_laws(
    obs: Observations,
    readings: Sequence[LawReading | RicherLaw],
    minima: Minima,
    cost: FlopsPerToken | None,
    how: dict[str, Any],
) -> dict[str, list[Pair]]:
    """Held-out errors of approach 3 by window, at the same cuts and budgets as `pairs_of_minima`.

    Where under two budgets could be held out, cuts are quantiles of C, and the error of ln L is the
    root mean square over the runs between a cut and the next.
    """
    if len(minima) <= MIN_FITTED:
        return {"N": [], "L": _pairs_between_cuts(obs, readings, how)}
    x = minima.x
    ends = (x[:-1] + x[1:]) / 2  # between the budgets: a run ends up to a step from its own
    found: dict[str, list[Pair]] = {"N": [], "L": []}
    laws = _refits(obs, readings, [np.log(obs.C) <= ends[n - 1] for n, _ in cuts(len(x))], how)
    for i, (n, held_out) in enumerate(cuts(len(x))):
        for j in held_out:
            log_N, log_L = optimum(laws[i], cost, float(minima.C[j]))
            h = float(x[j] - x[n - 1])
            names = [r.name for r in readings]
            N = dict(zip(names, log_N - np.log(minima.N[j]), strict=True))
            L = dict(zip(names, log_L - np.log(minima.L[j]), strict=True))
            found["N"].append(Pair(float(x[j]), h, {k: float(e) for k, e in N.items()}, n))
            found["L"].append(Pair(float(x[j]), h, {k: float(e) for k, e in L.items()}, n))
    return found


def _pairs_between_cuts(
    obs: Observations, readings: Sequence[LawReading | RicherLaw], how: dict[str, Any]
) -> list[Pair]:
    log_C, log_N, log_D = np.log(obs.C), np.log(obs.N), np.log(obs.D)
    edges = np.unique(np.quantile(log_C, (*CUTS, 1.0)))
    laws = _refits(obs, readings, [log_C <= edge for edge in edges[:-1]], how)
    found = []
    for i, cut in enumerate(edges[:-1]):
        for j in range(i + 1, len(edges)):
            above = (log_C > edges[j - 1]) & (log_C <= edges[j])
            if not above.any():
                continue
            errors = {}
            for reading, theta in zip(readings, laws[i], strict=True):
                rows = above & reading.keep
                if rows.any():
                    r = np.log(obs.L[rows]) - log_loss(theta, log_N[rows], log_D[rows])
                    errors[reading.name] = float(np.sqrt(np.mean(r**2)))
            middle = float(log_C[above].mean())
            found.append(Pair(middle, middle - float(cut), errors))
    return found


def _refits(
    obs: Observations,
    readings: Sequence[LawReading | RicherLaw],
    below: list[np.ndarray],
    how: dict[str, Any],
) -> np.ndarray:
    """(n_cuts, n_readings, 7) laws of each reading's runs below each cut; NaN where none converged."""
    return np.stack([reading.refits(obs, below, how) for reading in readings], axis=1)
