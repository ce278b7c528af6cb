"""The compute-optimal frontier of the loss law L(N, D) = E + A/N^alpha + B/D^beta.

N_opt(C) and D_opt(C) have a closed form where C = 6*N*D (Hoffmann et al. 2022, equation 4). For other counts of
FLOPs they follow from the first-order condition.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from chinchilla.core.errors import FitError, InputError
from chinchilla.core.paper import LOSS_LAWS
from chinchilla.fit.numerics import fit_line
from chinchilla.observations.table import Observations

SAME_SIZE = 1e-3  # relative difference of N below which two sizes count as one


class Optimum(NamedTuple):
    """Compute-optimal size, tokens and loss at C training FLOPs, each of the shape of C."""

    N: Any  # parameters
    D: Any  # tokens
    L: Any  # nats per token


@dataclass(frozen=True)
class LossLaw:
    """L(N, D) = E + A / N^alpha + B / D^beta, nats per token (section 3.3)."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def __str__(self) -> str:
        terms = f"{self.A:.4g} / N^{self.alpha:.4f} + {self.B:.4g} / D^{self.beta:.4f}"
        return f"L(N, D) = {self.E:.4f} + {terms} nats per token"

    def __call__(self, N: np.ndarray | float, D: np.ndarray | float) -> np.ndarray:
        """Loss at N parameters and D tokens, broadcast."""
        N, D = np.asarray(N, float), np.asarray(D, float)
        return self.E + self.A / N**self.alpha + self.B / D**self.beta

    @classmethod
    def published(cls, name: str) -> "LossLaw":
        """Return a published law: hoffmann, hoffmann_rounded, besiroglu or muennighoff.

        Raises:
            InputError: no such law.
        """
        if name not in LOSS_LAWS:
            raise InputError(f"law={name!r}: choose one of {', '.join(LOSS_LAWS)}.")
        c = LOSS_LAWS[name]
        return cls(c.E, c.A, c.B, c.alpha, c.beta)

    def optimum(self, C: np.ndarray | float) -> Optimum:
        """Compute the size and tokens with the lowest loss where C = 6*N*D (equation 4), and that loss.

        Args:
            C: training FLOPs, a number or an array.

        Returns:
            N, D and L: numbers for a number, arrays of the shape of C for an array.

        Raises:
            InputError: C is not positive.
        """
        if not np.all(np.asarray(C, float) > 0):
            raise InputError(f"C={C} FLOPs must be above 0.")
        N_line, D_line, _ = six_nd_frontier(self)
        N, D = (np.exp(k) * np.asarray(C, float) ** e for k, e in (N_line, D_line))
        optimum = Optimum(N, D, self(N, D))
        return optimum if np.ndim(C) else Optimum(*map(float, optimum))

    def jacobian(
        self, N: np.ndarray, D: np.ndarray, centre: tuple[float, float] = (0.0, 0.0)
    ) -> np.ndarray:
        """(n, 5) derivatives of ln L in (ln A, ln B, ln E, alpha, beta) at each run.

        Args:
            N: (n,) parameters.
            D: (n,) tokens.
            centre: ln N and ln D at which A and B are the coefficients of the two terms; zeros as the
                law is written.
        """
        u, v = np.log(N) - centre[0], np.log(D) - centre[1]
        L = self(N, D)
        p, q = self.A / N**self.alpha / L, self.B / D**self.beta / L
        return np.stack([p, q, self.E / L, -p * u, -q * v], axis=1)


named_law = LossLaw.published


def six_nd_frontier(law: LossLaw) -> tuple[tuple[float, float], tuple[float, float], float]:
    """Closed form of the frontier under C = 6*N*D (section 3.3, equation 4).

    N_opt = G*(C/6)^a and D_opt = (C/6)^b / G with G = (alpha*A / (beta*B))^(1/(alpha+beta)),
    a = beta/(alpha+beta), b = alpha/(alpha+beta).

    Returns:
        (ln coefficient, exponent) of N_opt and of D_opt as powers of C (not of C/6), and G.
    """
    both = law.alpha + law.beta
    a, b = law.beta / both, law.alpha / both
    log_G = float(np.log(law.alpha * law.A / (law.beta * law.B)) / both)
    N_line = (log_G - a * np.log(6), a)
    D_line = (-log_G - b * np.log(6), b)
    return N_line, D_line, float(np.exp(log_G))


@dataclass(frozen=True)
class FlopsPerToken:
    """Training FLOPs per token c(N), estimated from C/D of the runs.

    At the sizes of the runs it is exact (the mean, where runs of one size differ). Between them ln(c/N) is
    linear in ln N, and outside it continues along the tangent of the trend, a parabola through all sizes.
    Neighbouring shapes of Table A9 differ by a few per cent in c because of their depth, and a larger one
    may be cheaper, so the best size is computed from the trend.
    """

    log_N: tuple[float, ...]  # ln of the distinct sizes, ascending
    log_ratio: tuple[float, ...]  # ln(C/(D*N)) there; ln 6 where C = 6*N*D
    trend: tuple[float, ...]  # of log_ratio in ln N - centre, lowest power first
    centre: float  # mean of log_N
    max_error: float  # largest |ln(C/D) - ln c(N)| over the runs

    def __post_init__(self) -> None:
        if not self.trend or not 0 < len(self.log_N) == len(self.log_ratio):
            raise InputError("flops_per_token lacks sizes, or their ratios.")

    @classmethod
    def from_observations(cls, obs: Observations) -> "FlopsPerToken":
        """Estimate c(N) from the runs; the trend has at most degree 2."""
        order = np.argsort(obs.N, kind="stable")
        x = np.log(obs.N[order])
        y = np.log(obs.C / obs.D)[order] - x
        size = np.append(0, np.cumsum(np.diff(x) > SAME_SIZE))  # (n,) size index of each run
        runs = np.bincount(size)
        log_N, log_ratio = np.bincount(size, x) / runs, np.bincount(size, y) / runs
        centre = float(log_N.mean())
        trend = np.polynomial.polynomial.polyfit(log_N - centre, log_ratio, min(2, len(runs) - 1))
        error = float(np.abs(y - log_ratio[size]).max())
        return cls(
            tuple(log_N.tolist()), tuple(log_ratio.tolist()), tuple(trend.tolist()), centre, error
        )

    def log_cost(self, x: np.ndarray) -> np.ndarray:
        """ln c at x = ln N, of the same shape."""
        x = np.asarray(x, float)
        inside = np.clip(x, self.log_N[0], self.log_N[-1])
        slope = self.trend_and_slope(inside)[1]
        log_c: np.ndarray = inside + np.interp(inside, self.log_N, self.log_ratio)
        return log_c + slope * (x - inside)

    def trend_and_slope(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """ln c of the trend and its slope d ln c / d ln N at x = ln N, each of the same shape."""
        x = np.asarray(x, float)
        inside = np.clip(x, self.log_N[0], self.log_N[-1])
        polynomial = np.polynomial.Polynomial(self.trend)
        value, slope = polynomial(inside - self.centre), polynomial.deriv()(inside - self.centre)
        return x + value + slope * (x - inside), 1 + slope


def is_six_nd(obs: Observations) -> bool:
    """Whether C is 6*N*D on every row: within 1e-6, or 1% where flop_convention is six_nd.

    Raises:
        InputError: flop_convention is six_nd and C is not 6*N*D.
    """
    off = float(np.abs(obs.C / (6 * obs.N * obs.D) - 1).max())
    if obs.flop_convention == "six_nd" and off > 0.01:
        raise InputError(
            f"flop_convention=six_nd, but C differs from 6*N*D by up to {off:.0%}. Give the convention by "
            "which C was counted, or leave flop_convention out."
        )
    return obs.flop_convention == "six_nd" or off < 1e-6


def flops_at(N: float | np.ndarray, cost: FlopsPerToken | None) -> np.ndarray:
    """Training FLOPs per token at N parameters: 6*N, or the trend of the runs' own count."""
    N = np.asarray(N, float)
    return 6 * N if cost is None else np.exp(cost.trend_and_slope(np.log(N))[0])


def log_N_opt(laws: np.ndarray, cost: FlopsPerToken | None, C: np.ndarray) -> np.ndarray:
    """Compute ln N_opt of many laws at many FLOPs.

    At the best size, d/dlnN of A/N^alpha + B/(C/c(N))^beta is zero, which gives
    D_opt(N)^beta = (beta*B)/(alpha*A) * N^alpha * dlnc/dlnN and so C(N) = c(N)*D_opt(N) explicitly.
    C(N) increases, so it is inverted by interpolation on a fine grid of N. c is the trend of
    `FlopsPerToken`.

    Args:
        laws: (k, 5) E, A, B, alpha, beta.
        cost: FLOPs per token; None: C = 6*N*D, where this is equation 4.
        C: (n,) FLOPs.

    Returns:
        (k, n); NaN for a law whose C(N) does not increase, which has no optimum.
    """
    _, A, B, alpha, beta = np.asarray(laws, float).T[..., None]  # each (k, 1)
    log_C = np.log(np.asarray(C, float))
    ratio = np.log(beta * B / (alpha * A))
    if cost is None:
        return (beta * (log_C - np.log(6)) - ratio) / (alpha + beta)
    x = np.linspace(np.log(1.0), np.log(1e16), 2_000)
    log_c, slope = cost.trend_and_slope(x)
    log_slope = np.log(np.maximum(slope, 1e-12))
    log_N = np.full((len(alpha), len(log_C)), np.nan)
    if slope.min() <= 0:
        return log_N
    for row in np.flatnonzero(np.isfinite(ratio[:, 0])):
        at = log_c + (ratio[row] + alpha[row] * x + log_slope) / beta[row]
        if np.all(np.diff(at) > 0):
            log_N[row] = np.interp(log_C, at, x)
    return log_N


def numeric_frontier(
    law: LossLaw, cost: FlopsPerToken | None, C: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compute N_opt and D_opt for c(N) FLOPs per token instead of 6N (see `log_N_opt`).

    Args:
        law: the loss.
        cost: FLOPs per token; None: C = 6*N*D.
        C: (n,) FLOPs.

    Returns:
        N_opt (n,) and D_opt (n,), with C = c(N_opt)*D_opt exactly.

    Raises:
        FitError: FLOPs per token do not rise with N, so there is no optimum.
    """
    best = log_N_opt(_row(law), cost, C)[0]
    if np.isnan(best).any():
        raise FitError(
            "FLOPs per token, computed as C/D of the runs, do not rise steadily with N. Check columns "
            "C, N and D, or give C = 6*N*D with flop_convention=six_nd."
        )
    return np.exp(best), C / np.exp(_log_cost(best, cost))


def _log_cost(log_N: np.ndarray, cost: FlopsPerToken | None) -> np.ndarray:
    return np.log(6) + log_N if cost is None else cost.log_cost(log_N)


def _row(law: LossLaw) -> np.ndarray:
    return np.array([[law.E, law.A, law.B, law.alpha, law.beta]])


@dataclass(frozen=True)
class FrontierSolver:
    """Computes the frontier of laws over the C range and with the FLOP count of the observations."""

    C: np.ndarray  # (n,) log-spaced over the C of the runs
    cost: FlopsPerToken | None  # None: C = 6*N*D

    @classmethod
    def of(cls, obs: Observations) -> "FrontierSolver":
        """Build for these observations."""
        cost = None if is_six_nd(obs) else FlopsPerToken.from_observations(obs)
        return cls(np.geomspace(obs.C.min(), obs.C.max(), 25), cost)

    def lines(self, law: LossLaw) -> tuple[tuple[float, float], tuple[float, float]]:
        """(ln coefficient, exponent) of N_opt and D_opt: exact, or fitted over the range of C.

        Raises:
            FitError: FLOPs per token do not rise with N.
        """
        numeric_frontier(law, self.cost, self.C[:1])
        log_k, a, log_m, b = map(float, self.all_lines(_row(law))[0])
        return (log_k, a), (log_m, b)

    def all_lines(self, laws: np.ndarray) -> np.ndarray:
        """(k, 4) lines of N_opt and D_opt of (k, 5) laws; NaN where a law has none."""
        x = np.log(self.C)
        log_N = log_N_opt(laws, self.cost, self.C)  # (k, n)
        log_D = x - _log_cost(log_N, self.cost)
        return np.stack([*fit_line(x, log_N), *fit_line(x, log_D)], axis=1)

    def points(self, law: LossLaw) -> np.ndarray:
        """(n, 4) C, N, D and L of the optimum at each C."""
        N, D = numeric_frontier(law, self.cost, self.C)
        return np.stack([self.C, N, D, law(N, D)], axis=1)
