"""Loss laws that approach 3 contributes to the recommendation.

The law L = E + A/N^alpha + B/D^beta rarely holds over the whole range of a real sweep. It is fitted on
windows of tokens per parameter, each without outliers (`fit_windows`). Where it fits badly, a law
with two more parameters is another candidate (`candidate_laws`), the saturating law:

    L(N, D) = E + (A/N^alpha + B/(D + D0)^beta)^q

q = 1 and D0 = 0 give the law of Hoffmann et al. (2022); E = 0 and D0 = 0 that of Kaplan et al. (2020,
equation 1.5), whose terms are also inside one power. D0 keeps the loss finite as D goes to zero: runs
with few tokens per parameter, or with a long warm-up, lie far below A/N^alpha + B/D^beta.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from chinchilla.core.errors import FitError
from chinchilla.fit.loss_law import FlopsPerToken, flops_at, log_N_opt
from chinchilla.fit.parametric.solver import fit_loss_law, refit_loss_law
from chinchilla.fit.parametric.windows import in_words, windows_of
from chinchilla.fit.result import LossLaw
from chinchilla.observations.checks import robust_sd
from chinchilla.observations.table import Observations

SATURATING = "the saturating law"
FORMULA = "E + (A/N^alpha + B/(D + D0)^beta)^q"
OUTLIER = 6.0  # robust standard deviations of ln L, as approach 3 reports outliers
MAX_OUTLIERS = 0.1  # share of the runs; more are a second population, not failed runs
MISFIT = 5e-3  # of ln L: a smaller residual is no outlier; a larger robust SD calls for the saturating law
MIN_RUNS = 30  # runs needed by the saturating law
MIN_REFIT = 12  # runs needed to refit it without the larger budgets
POWERS = (0.3, 0.7, 1.3)  # starting values of q
SATURATIONS = (0.0, 0.1, 0.4)  # starting values of D0, as quantiles of D
WIDTHS = (1e-2, 1e-3)  # Huber deltas of ln L: the wide one finds the basin, the paper's the law
N_POLISHED = 3  # starts that are continued with the second width
# Bounds of e, a, b, alpha, beta, ln q, ln D0.
LOW = (-np.inf, -np.inf, -np.inf, 1e-3, 1e-3, -2.5, -np.inf)
HIGH = (np.inf, np.inf, np.inf, 10.0, 10.0, 1.5, np.inf)
GRID = np.linspace(np.log(1e3), np.log(1e16), 3_000)  # of ln N, searched for the optimum


@dataclass(frozen=True)
class CandidateLaw:
    """A law of approach 3 on a window of tokens per parameter, or the saturating law."""

    name: str  # the window in words, or SATURATING
    theta: np.ndarray  # (7,) E, A, B, alpha, beta, q, D0; q = 1 and D0 = 0 on a window
    keep: np.ndarray  # (n,) bool: the runs it was fitted to
    outliers: np.ndarray  # (n,) bool: runs that were excluded as outliers
    misfit: float  # robust standard deviation of ln L about it

    @property
    def is_saturating(self) -> bool:
        """Whether it is the saturating law, with q and D0."""
        return not np.array_equal(self.theta[5:], (1.0, 0.0))

    @property
    def law(self) -> LossLaw:
        """The law with five parameters, of a window."""
        assert not self.is_saturating, f"{self.name} has q and D0, which LossLaw cannot hold"
        E, A, B, alpha, beta = self.theta[:5].tolist()
        return LossLaw(E, A, B, alpha, beta)


def fit_windows(obs: Observations, settings: dict[str, Any]) -> list[CandidateLaw]:
    """Approach 3 on each window of tokens per parameter that it can be fitted to, the widest first.

    Args:
        obs: (n,) final losses.
        settings: huber_delta and objective.
    """

    def fit(keep: np.ndarray) -> np.ndarray:
        law, _ = fit_loss_law(obs.N[keep], obs.D[keep], obs.L[keep], **settings)
        return np.array([law.E, law.A, law.B, law.alpha, law.beta, 1.0, 0.0])

    fits: list[CandidateLaw] = []
    for ratios, inside in windows_of(obs):
        with suppress(FitError):
            theta = fit(inside)
            outliers = _outliers(theta, obs, inside)
            if outliers.any():
                theta = fit(inside & ~outliers)
            fits.append(_candidate(in_words(ratios), theta, obs, inside, outliers))
    return fits


def candidate_laws(obs: Observations, windows: list[CandidateLaw]) -> list[CandidateLaw]:
    """The windows, and the saturating law if the law of the widest window fits badly."""
    if not windows:
        return []
    widest = windows[0]
    inside = widest.keep | widest.outliers
    misfit = robust_sd(_residuals(widest.theta, obs)[inside])
    if misfit <= MISFIT or inside.sum() < MIN_RUNS:
        return windows
    return [*windows, fit_saturating_law(obs, widest.theta, inside)]


def fit_saturating_law(obs: Observations, start: np.ndarray, inside: np.ndarray) -> CandidateLaw:
    """The saturating law of the runs inside.

    Args:
        obs: (n,) final losses.
        start: (7,) the first starting point.
        inside: (n,) bool.
    """
    theta = _saturating_theta(obs.where(inside), start)
    outliers = _outliers(theta, obs, inside)
    if outliers.any():
        theta = _saturating_theta(obs.where(inside & ~outliers), theta)
    return _candidate(SATURATING, theta, obs, inside, outliers)


def _outliers(theta: np.ndarray, obs: Observations, inside: np.ndarray) -> np.ndarray:
    """(n,) bool: runs inside that the law misses by far; none if these are over MAX_OUTLIERS of them."""
    residuals = _residuals(theta, obs)
    limit = max(OUTLIER * robust_sd(residuals[inside]), MISFIT)
    outliers: np.ndarray = inside & (np.abs(residuals) > limit)
    few = outliers.sum() <= MAX_OUTLIERS * inside.sum()
    return outliers if few else np.zeros_like(inside)


def _candidate(
    name: str, theta: np.ndarray, obs: Observations, inside: np.ndarray, outliers: np.ndarray
) -> CandidateLaw:
    keep = inside & ~outliers
    return CandidateLaw(name, theta, keep, outliers, robust_sd(_residuals(theta, obs)[keep]))


def _residuals(theta: np.ndarray, obs: Observations) -> np.ndarray:
    return np.log(obs.L) - log_loss(theta, np.log(obs.N), np.log(obs.D))


def refits(
    law: CandidateLaw, obs: Observations, below: list[np.ndarray], settings: dict[str, Any]
) -> np.ndarray:
    """(n_splits, 7) laws of the runs below each split; NaN where none converged, or with too few runs.

    The saturating law has one start, the law of all runs; more starts did not change held-out errors.
    """
    masks = [law.keep & split for split in below]
    if not law.is_saturating and masks:
        weights = np.array(masks, float)
        refitted = refit_loss_law(obs.N, obs.D, obs.L, weights, law.law, **settings)
        return with_q_and_D0(refitted.theta)
    theta = np.full((len(masks), 7), np.nan)
    for i, rows in enumerate(masks):
        if rows.sum() >= MIN_REFIT:
            theta[i] = _saturating_theta(obs.where(rows), law.theta, ())
    return theta


def log_loss(theta: np.ndarray, log_N: np.ndarray, log_D: np.ndarray) -> np.ndarray:
    """ln L of a law with seven parameters (each may be a column) at ln N and ln D."""
    E, A, B, alpha, beta, q, D0 = theta
    with np.errstate(divide="ignore", invalid="ignore"):  # E or D0 may be zero; NaN for no law
        log_D = np.logaddexp(log_D, np.log(D0))
        both = np.logaddexp(np.log(A) - alpha * log_N, np.log(B) - beta * log_D)
        return np.asarray(np.logaddexp(np.log(E), q * both))


def _saturating_theta(
    obs: Observations, start: np.ndarray, saturations: Sequence[float] = SATURATIONS
) -> np.ndarray:
    """(7,) the law with the smallest sum of Huber losses of ln L, from `start`, POWERS and `saturations`."""
    mean_x, mean_z = float(np.log(obs.N).mean()), float(np.log(obs.D).mean())
    x, z, y = np.log(obs.N) - mean_x, np.log(obs.D) - mean_z, np.log(obs.L)
    E, A, B, alpha, beta, q, D0 = start
    log_D0 = np.log(D0) - mean_z if D0 > 0 else float(z.min()) - 5.0
    first = np.array(
        [np.log(max(E, 1e-2)), np.log(A) - alpha * mean_x, np.log(B) - beta * mean_z, alpha, beta]
    )
    starts = [np.array([*first, np.log(q), log_D0])]
    for power in POWERS:  # both terms raised to q/power, so that the bracket stays near L - E
        scaled = np.array([first[0], *(first[1:] * q / power)])
        starts += [np.array([*scaled, np.log(power), np.quantile(z, s)]) for s in saturations]
    low, high = np.array(LOW), np.array(HIGH)
    low[6], high[6] = z.min() - 8.0, z.max()
    points = [np.clip(p, low + 1e-6, high - 1e-6) for p in starts]
    for width in WIDTHS:
        ends = [_local_minimum(p, (x, z, y), (low, high), width) for p in points]
        points = [p for _, p in sorted(ends, key=lambda end: end[0])[:N_POLISHED]]
    e, a, b, alpha, beta, log_q, s = points[0]
    log_A, log_B = a + alpha * mean_x, b + beta * mean_z
    return np.array([*np.exp([e, log_A, log_B]), alpha, beta, np.exp(log_q), np.exp(s + mean_z)])


def _local_minimum(
    p: np.ndarray, data: tuple[np.ndarray, ...], bounds: tuple[np.ndarray, np.ndarray], width: float
) -> tuple[float, np.ndarray]:
    """Objective and parameters e, a, b, alpha, beta, ln q, ln D0 of a local minimum."""
    x, z, y = data

    def terms(p: np.ndarray) -> tuple[np.ndarray, ...]:
        e, a, b, alpha, beta, log_q, s = p
        first, second = a - alpha * x, b - beta * np.logaddexp(z, s)
        both = np.logaddexp(first, second)
        return first - both, both, np.logaddexp(e, np.exp(log_q) * both)

    def residuals(p: np.ndarray) -> np.ndarray:
        return terms(p)[2] - y

    def jacobian(p: np.ndarray) -> np.ndarray:
        e, _, _, _, beta, log_q, s = p
        share, both, log_L = terms(p)
        by_N = np.exp(share)  # share of the term of N in the bracket
        q = np.exp(log_q)
        slope = q * np.exp(q * both - log_L)  # d ln L / d ln bracket
        first, second = slope * by_N, slope * (1 - by_N)
        t = np.logaddexp(z, s)
        columns = [np.exp(e - log_L), first, second, -first * x, -second * t, slope * both]
        return np.stack([*columns, -second * beta * np.exp(s - t)], axis=1)

    end = least_squares(
        residuals, p, jacobian, bounds=bounds, loss="huber", f_scale=width, x_scale=1.0, max_nfev=60
    )
    return float(end.cost), end.x


def with_q_and_D0(theta: Any) -> np.ndarray:
    """(k, 7) laws of (k, 5) or (k, 7): five parameters have q = 1 and D0 = 0."""
    rows = np.atleast_2d(np.asarray(theta, float))
    if rows.shape[1] == 7:
        return rows
    return np.concatenate([rows, np.ones((len(rows), 1)), np.zeros((len(rows), 1))], axis=1)


def optimum(theta: Any, cost: FlopsPerToken | None, C: float) -> tuple[np.ndarray, np.ndarray]:
    """ln N_opt and ln L, (k,) each, of (k, 5) or (k, 7) laws at C FLOPs; NaN without an optimum.

    The power q does not move the optimum if D0 = 0, so `log_N_opt` applies. Otherwise the optimum is the
    lowest loss on a grid of ln N, refined by a parabola.
    """
    rows = with_q_and_D0(theta)
    log_N = np.full(len(rows), np.nan)
    plain = rows[:, 6] == 0
    if plain.any():
        log_N[plain] = log_N_opt(rows[plain, :5], cost, np.array([C]))[:, 0]
    log_D = np.log(C / flops_at(np.exp(GRID), cost))
    for k in np.flatnonzero(~plain & np.isfinite(rows).all(axis=1)):
        y = log_loss(rows[k], GRID, log_D)
        i = int(np.argmin(y))
        if 0 < i < len(GRID) - 1:
            left, middle, right = y[i - 1 : i + 2]
            curve = left - 2 * middle + right
            shift = (left - right) / (2 * curve) if curve > 0 else 0.0
            log_N[k] = GRID[i] + shift * (GRID[1] - GRID[0])
    log_L = log_loss(rows.T, log_N, np.log(C / flops_at(np.exp(log_N), cost)))
    return log_N, log_L
