"""A loss law with two parameters more than approach 3's, for runs that the five-parameter law misses.

    L(N, D) = E + (A/N^alpha + B/(D + D0)^beta)^q

q = 1 and D0 = 0 give the law of Hoffmann et al. (2022), E = 0 and D0 = 0 that of Kaplan et al. (2020,
equation 1.5), whose terms also stand inside of one power. D0 keeps the loss finite as D goes to zero: runs
with few tokens per parameter, or in whose warm-up most tokens are read, lie far below A/N^alpha + B/D^beta.
It is one more reading of approach 3 in the recommendation, and counts there by its errors on the sweep's
own larger budgets. NumPy and SciPy only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from chinchilla.fit.loss_law import FlopsPerToken, flops_at, log_N_opt
from chinchilla.fit.result import LossLaw
from chinchilla.observations.checks import robust_sd
from chinchilla.observations.table import Observations

FORMULA = "E + (A/N^alpha + B/(D + D0)^beta)^q"
MISFIT = 5e-3  # robust sd of ln L about the five-parameter law above which a richer law is fitted
MIN_RUNS = 30  # of a richer law
MIN_REFIT = 12  # of one fitted without the larger budgets, to score it
OUTLIER = 6.0  # robust standard deviations of ln L, as for the five-parameter law
MAX_OUTLIERS = 0.1  # share of the runs
POWERS = (0.3, 0.7, 1.3)  # q of starts
SATURATIONS = (0.0, 0.1, 0.4)  # D0 of starts, as quantiles of D
WIDTHS = (1e-2, 1e-3)  # Huber widths of ln L: a wide one finds the basin, the paper's the law
N_POLISHED = 3  # starts that go on to the second width
LOW = (-np.inf, -np.inf, -np.inf, 1e-3, 1e-3, -2.5, -np.inf)  # of e, a, b, alpha, beta, ln q, ln D0
HIGH = (np.inf, np.inf, np.inf, 10.0, 10.0, 1.5, np.inf)
GRID = np.linspace(np.log(1e3), np.log(1e16), 3_000)  # of ln N, where the optimum is searched


@dataclass(frozen=True)
class RicherLaw:
    """The seven parameters and the runs that they were fitted to."""

    theta: list[float]  # E, A, B, alpha, beta, q, D0
    keep: np.ndarray  # (n,) bool: the runs it was fitted to
    miss: float  # robust standard deviation of ln L about it

    name = "the saturating law"

    def refits(self, obs: Observations, below: list[np.ndarray], how: dict[str, Any]) -> np.ndarray:
        """(n_cuts, 7) parameters from the runs below each cut; NaN where they are too few.

        Each starts at the law of all runs alone: more starts changed no held-out error beyond digits.
        """
        found = np.full((len(below), 7), np.nan)
        for i, cut in enumerate(below):
            rows = self.keep & cut
            if rows.sum() >= MIN_REFIT:
                found[i] = fitted(obs.N[rows], obs.D[rows], obs.L[rows], self.theta, ())
        return found


def log_loss(theta: np.ndarray, log_N: np.ndarray, log_D: np.ndarray) -> np.ndarray:
    """ln L of a law of seven parameters (each may be a column) at ln N and ln D."""
    E, A, B, alpha, beta, q, D0 = theta
    with np.errstate(divide="ignore", invalid="ignore"):  # E or D0 of zero; NaN for no law
        log_D = np.logaddexp(log_D, np.log(D0))
        both = np.logaddexp(np.log(A) - alpha * log_N, np.log(B) - beta * log_D)
        return np.asarray(np.logaddexp(np.log(E), q * both))


def richer_law(
    obs: Observations, law: LossLaw, inside: np.ndarray, always: bool = False
) -> RicherLaw | None:
    """The richer law of the runs inside, where the five-parameter law misses them; else None.

    Args:
        obs: (n,) final losses.
        law: the five-parameter law.
        inside: (n,) bool: the runs that it was fitted to.
        always: whether to fit it where the five-parameter law does not miss them, too.
    """
    miss = robust_sd(np.log(obs.L / law(obs.N, obs.D))[inside])
    if inside.sum() < MIN_RUNS or (miss <= MISFIT and not always):
        return None
    near = [law.E, law.A, law.B, law.alpha, law.beta, 1.0, 0.0]

    def of(keep: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        theta = fitted(obs.N[keep], obs.D[keep], obs.L[keep], near)
        r = np.log(obs.L) - log_loss(theta, np.log(obs.N), np.log(obs.D))
        return theta, r, robust_sd(r[keep])

    theta, r, sd = of(inside)
    far = inside & (np.abs(r) > max(OUTLIER * sd, MISFIT))
    if far.any() and far.sum() <= MAX_OUTLIERS * inside.sum():
        inside = inside & ~far
        near = theta.tolist()
        theta, _, sd = of(inside)
    return RicherLaw(theta.tolist(), inside, sd)


def fitted(
    N: np.ndarray,
    D: np.ndarray,
    L: np.ndarray,
    near: list[float],
    saturations: Sequence[float] = SATURATIONS,
) -> np.ndarray:
    """(7,) E, A, B, alpha, beta, q, D0 with the least sum of Huber losses of ln L.

    Args:
        N: (n,) parameters.
        D: (n,) tokens.
        L: (n,) nats per token.
        near: seven parameters; one start lies there, others at POWERS and `saturations`.
        saturations: D0 of starts, as quantiles of D.
    """
    cx, cz = float(np.log(N).mean()), float(np.log(D).mean())
    x, z, y = np.log(N) - cx, np.log(D) - cz, np.log(L)
    E, A, B, alpha, beta, q, D0 = near
    log_D0 = np.log(D0) - cz if D0 > 0 else float(z.min()) - 5.0
    own = np.array(
        [np.log(max(E, 1e-2)), np.log(A) - alpha * cx, np.log(B) - beta * cz, alpha, beta]
    )
    starts = [np.array([*own, np.log(q), log_D0])]
    for (
        power
    ) in POWERS:  # the two terms raised to q/power, so that the bracket stays of the size of L - E
        scaled = np.array([own[0], *(own[1:] * q / power)])
        starts += [np.array([*scaled, np.log(power), np.quantile(z, s)]) for s in saturations]
    low, high = np.array(LOW), np.array(HIGH)
    low[6], high[6] = z.min() - 8.0, z.max()
    found = [np.clip(p, low + 1e-6, high - 1e-6) for p in starts]
    for width in WIDTHS:
        ends = [_solve(p, (x, z, y), (low, high), width) for p in found]
        found = [p for _, p in sorted(ends, key=lambda end: end[0])[:N_POLISHED]]
    e, a, b, alpha, beta, log_q, s = found[0]
    log_A, log_B = a + alpha * cx, b + beta * cz
    return np.array([*np.exp([e, log_A, log_B]), alpha, beta, np.exp(log_q), np.exp(s + cz)])


def _solve(
    p: np.ndarray, data: tuple[np.ndarray, ...], bounds: tuple[np.ndarray, np.ndarray], width: float
) -> tuple[float, np.ndarray]:
    """Objective and parameters e, a, b, alpha, beta, ln q, ln D0 of a local minimum."""
    x, z, y = data

    def parts(p: np.ndarray) -> tuple[np.ndarray, ...]:
        e, a, b, alpha, beta, log_q, s = p
        first, second = a - alpha * x, b - beta * np.logaddexp(z, s)
        both = np.logaddexp(first, second)
        return first - both, both, np.logaddexp(e, np.exp(log_q) * both)

    def residuals(p: np.ndarray) -> np.ndarray:
        return parts(p)[2] - y

    def jacobian(p: np.ndarray) -> np.ndarray:
        e, _, _, _, beta, log_q, s = p
        share, both, log_L = parts(p)
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


def seven(theta: Any) -> np.ndarray:
    """(k, 7) laws of (k, 5) or (k, 7): five parameters have q = 1 and D0 = 0."""
    rows = np.atleast_2d(np.asarray(theta, float))
    if rows.shape[1] == 7:
        return rows
    return np.concatenate([rows, np.ones((len(rows), 1)), np.zeros((len(rows), 1))], axis=1)


def optimum(theta: Any, cost: FlopsPerToken | None, C: float) -> tuple[np.ndarray, np.ndarray]:
    """ln N_opt and ln L, (k,) each, of (k, 5) or (k, 7) laws at C FLOPs; NaN without one.

    With D0 = 0 the power q does not move the optimum, which is `log_N_opt`; else it is the lowest loss on
    a grid of ln N, refined by a parabola.
    """
    rows = seven(theta)
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
