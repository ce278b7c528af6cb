"""The loss law L(N, D) = E + A/N^alpha + B/D^beta and the frontier that follows from it.

Published constants by name (`paper.LOSS_LAWS`); N_opt(C) and D_opt(C) in closed form where
C = 6*N*D (Hoffmann et al. 2022, equation 4), and exactly along the first-order condition where
FLOPs are counted in another way. NumPy only: this module must import without torch.
"""

from dataclasses import dataclass

import numpy as np

from chinchilla.errors import FitError, InputError
from chinchilla.fit.frontier import LossLaw, OptimalPoint, line
from chinchilla.observations import Observations
from chinchilla.paper import LOSS_LAWS


def named_law(name: str) -> LossLaw:
    """A published law: a key of `paper.LOSS_LAWS`.

    Raises:
        InputError: no such law.
    """
    if name not in LOSS_LAWS:
        raise InputError(f"law={name!r}: choose one of {', '.join(LOSS_LAWS)}.")
    c = LOSS_LAWS[name]
    return LossLaw(c.E, c.A, c.B, c.alpha, c.beta)


def six_nd_frontier(law: LossLaw) -> tuple[tuple[float, float], tuple[float, float], float]:
    """The closed form under C = 6*N*D (section 3.3, equation 4).

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
    """Training FLOPs per token as a smooth function of N, learned from runs' own C/D.

    ln(C/D) = ln N + a parabola in ln N inside the sizes seen, and its tangents outside. Attention
    and the output head make it differ from ln(6N); both fade slowly and smoothly with size.
    """

    ratio: tuple[float, ...]  # of ln(C/(D*N)) in x - centre, lowest power first
    centre: float  # of x = ln N
    low: float  # smallest and largest ln N seen
    high: float
    max_error: float  # largest |ln(C/D) - fit| over the runs

    @classmethod
    def from_observations(cls, obs: Observations) -> "FlopsPerToken":
        """Least squares over the runs; the degree follows the number of distinct sizes, at most 2."""
        x = np.log(obs.N)
        y = np.log(obs.C / (obs.D * obs.N))
        centre = float(x.mean())
        degree = min(2, len(np.unique(obs.N)) - 1)
        ratio = np.polynomial.polynomial.polyfit(x - centre, y, degree)
        error = np.abs(np.polynomial.polynomial.polyval(x - centre, ratio) - y).max()
        return cls(tuple(map(float, ratio)), centre, float(x.min()), float(x.max()), float(error))

    def log_and_slope(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """ln(FLOPs per token) and d ln(FLOPs per token) / d ln N at x = ln N, same shape."""
        inside = np.clip(x, self.low, self.high)
        value = np.polynomial.polynomial.polyval(inside - self.centre, self.ratio)
        if len(self.ratio) == 1:
            slope = np.zeros_like(inside)
        else:
            derivative = np.polynomial.polynomial.polyder(self.ratio)
            slope = np.polynomial.polynomial.polyval(inside - self.centre, derivative)
        return x + value + slope * (x - inside), 1 + slope


def is_six_nd(obs: Observations) -> bool:
    """Whether C is 6*N*D on every row (within 1e-6; 1% where it is said to be).

    Raises:
        InputError: C is said to be 6*N*D and is not.
    """
    off = float(np.abs(obs.C / (6 * obs.N * obs.D) - 1).max())
    if obs.flop_convention == "six_nd" and off > 0.01:
        raise InputError(
            f"flop_convention=six_nd, but C is up to {off:.0%} off 6*N*D. Say how C was counted, or "
            "leave flop_convention out."
        )
    return obs.flop_convention == "six_nd" or off < 1e-6


def numeric_frontier(
    law: LossLaw, cost: FlopsPerToken, C: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """N_opt and D_opt where a token costs c(N) FLOPs instead of 6N.

    At the best size, d/dlnN of A/N^alpha + B/(C/c(N))^beta is zero, which gives
    D_opt(N)^beta = (beta*B)/(alpha*A) * N^alpha * dlnc/dlnN and so C(N) = c(N)*D_opt(N) explicitly.
    C(N) rises, so it is inverted by interpolation on a fine grid of N: no search, no local minimum.

    Args:
        law: the loss.
        cost: FLOPs per token.
        C: (n,) FLOPs.

    Returns:
        N_opt (n,) and D_opt (n,), with C = c(N_opt)*D_opt exactly.

    Raises:
        FitError: FLOPs per token do not rise with N, so no trade-off exists to solve.
    """
    x = np.linspace(np.log(1.0), np.log(1e16), 2_000)
    log_c, slope = cost.log_and_slope(x)
    log_C = (
        log_c
        + (
            np.log(law.beta * law.B / (law.alpha * law.A))
            + law.alpha * x
            + np.log(np.maximum(slope, 1e-12))
        )
        / law.beta
    )
    if slope.min() <= 0 or np.any(np.diff(log_C) <= 0):
        raise FitError(
            "FLOPs per token, read as C/D of the runs, do not rise steadily with N. Check columns "
            "C, N and D, or give C = 6*N*D with flop_convention=six_nd."
        )
    best = np.interp(np.log(C), log_C, x)
    return np.exp(best), C / np.exp(cost.log_and_slope(best)[0])


@dataclass(frozen=True)
class LawFrontier:
    """How one set of observations turns a law into lines: their C range and their FLOP count."""

    C: np.ndarray  # (n,) log-spaced over the C of the runs
    cost: FlopsPerToken | None  # None: C = 6*N*D

    @classmethod
    def of(cls, obs: Observations, n_points: int = 25) -> "LawFrontier":
        """The frontier's frame for these observations."""
        cost = None if is_six_nd(obs) else FlopsPerToken.from_observations(obs)
        return cls(np.geomspace(obs.C.min(), obs.C.max(), n_points), cost)

    def lines(self, law: LossLaw) -> tuple[tuple[float, float], tuple[float, float]]:
        """(ln coefficient, exponent) of N_opt and D_opt: exact, or a line over the range of C."""
        if self.cost is None:
            return six_nd_frontier(law)[:2]
        N, D = numeric_frontier(law, self.cost, self.C)
        return line(self.C, N), line(self.C, D)

    def points(self, law: LossLaw) -> list[OptimalPoint]:
        """The optimum at each C of the frame."""
        if self.cost is None:
            (log_k, a), _, _ = six_nd_frontier(law)
            N = np.exp(log_k + a * np.log(self.C))
            D = self.C / (6 * N)
        else:
            N, D = numeric_frontier(law, self.cost, self.C)
        rows = zip(self.C, N, D, law(N, D), strict=True)
        return [OptimalPoint(*map(float, row)) for row in rows]
