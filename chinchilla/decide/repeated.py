"""Repeated data: the law of Muennighoff et al. (2023), arXiv 2305.16264, sections 3 and A.

    L = E + A / N'^alpha + B / D'^beta
    D' = U + U * R_D * (1 - exp(-(D/U - 1) / R_D))              U = unique tokens used
    N' = U_N + U_N * R_N * (1 - exp(-(N/U_N - 1) / R_N))        U_N = min(N, best size for U tokens)

The value of a token decreases with each repeat, and so does that of parameters beyond the best size for
U tokens. Neither is ever harmful in this law, unlike in the authors' own runs at hundreds of epochs. E, A,
B, alpha and beta come from single-epoch runs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import minimum_filter
from scipy.optimize import minimize
from scipy.special import huber

from chinchilla.core.errors import FitError
from chinchilla.decide.allocation import Allocation, minimum
from chinchilla.fit.loss_law import six_nd_frontier
from chinchilla.fit.parametric.approach3 import fit_loss_law
from chinchilla.fit.result import LossLaw
from chinchilla.observations.table import SINGLE_EPOCH

N_GRID = 64  # grid values of each R
R_RANGE = (0.03, 3e3)  # limits of R_D and R_N; at a limit the runs do not determine the decay
MIN_SINGLE_EPOCH = 6  # single-epoch runs needed to fit the law with five parameters
HUBER_DELTA = 1e-3  # of ln L, where the Huber loss turns linear
TOLERANCE = 0.01  # relative increase of the objective that counts as an equally good fit


@dataclass(frozen=True)
class RepeatedLaw:
    """A single-epoch law, and how fast repeated tokens and excess parameters lose their value."""

    law: LossLaw
    # Repeats over which the value of a token falls to 1/e, and the same for parameters beyond the best
    # size of the unique tokens. Arrays of them broadcast against the runs.
    R_D: Any
    R_N: Any

    def size_for(self, unique_tokens: float | np.ndarray) -> np.ndarray:
        """U_N: the size for which `unique_tokens` are compute-optimal (C = 6*N*D)."""
        G = six_nd_frontier(self.law)[2]
        return G * (G * np.asarray(unique_tokens, float)) ** (self.law.beta / self.law.alpha)

    def __call__(
        self,
        N: np.ndarray | float,
        D: np.ndarray | float,
        unique_tokens: np.ndarray | float,
    ) -> np.ndarray:
        """Loss, nats per token, at N parameters and D tokens, `unique_tokens` of them distinct."""
        N, D = np.asarray(N, float), np.asarray(D, float)
        U = np.minimum(unique_tokens, D)
        U_N = np.minimum(N, self.size_for(U))
        return self.law(U_N * _value(N / U_N, self.R_N), U * _value(D / U, self.R_D))


def _value(times: np.ndarray, R: float | np.ndarray) -> np.ndarray:
    """Number of fresh uses with the value of `times` uses: 1 + R * (1 - exp(-(times - 1) / R))."""
    return 1 - R * np.expm1(-(times - 1) / R)


@dataclass(frozen=True)
class ConstrainedAllocation:
    """The best use of C FLOPs with a limited number of tokens."""

    best: Allocation
    unique_tokens: float
    epochs: float  # D / unique tokens; at most 1 if nothing is repeated
    single_epoch: Allocation  # the same FLOPs without repeats: a larger model
    unlimited_loss: float  # nats per token with unlimited fresh tokens


def allocate_repeated(law: RepeatedLaw, C: float, unique_tokens: float) -> ConstrainedAllocation:
    """N, D and epochs with the lowest loss for C = 6*N*D FLOPs and `unique_tokens` tokens."""
    (log_k, a), _, _ = six_nd_frontier(law.law)
    free = float(np.exp(log_k + a * np.log(C)))

    def at(N: float) -> Allocation:
        D = C / (6 * N)
        return Allocation(C, N, D, float(law(N, D, unique_tokens)))

    best = at(minimum(lambda N: law(N, C / (6 * N), unique_tokens), 1e-4 * free, 1e4 * free))
    once = at(max(free, C / (6 * unique_tokens)))  # larger only if the tokens run out
    unlimited = float(law.law(free, C / (6 * free)))
    return ConstrainedAllocation(best, unique_tokens, best.D / unique_tokens, once, unlimited)


def fit_repeated(
    N: np.ndarray,
    D: np.ndarray,
    U: np.ndarray,
    L: np.ndarray,
    law: LossLaw | None = None,
    near: tuple[float, float] | None = None,
) -> tuple[RepeatedLaw, dict[str, Any]]:
    """R_D and R_N from runs that repeat data, with the single-epoch law fixed.

    Minimises the sum of Huber(delta) on log-loss, as Muennighoff et al. do. R_D and R_N are
    strongly correlated: a change of one is nearly compensated by the other. The certificate therefore
    states how far each may move before the objective is 1% worse. On the 182 published runs that is a
    factor of over ten, and the published pair is a local minimum, not the lowest one.

    Args:
        N: (n,) parameters.
        D: (n,) tokens seen, repeats included.
        U: (n,) unique tokens; D where nothing is repeated.
        L: (n,) final loss, nats per token.
        law: the single-epoch law; None = fitted here to the runs without repeats.
        near: start at (R_D, R_N) and return the minimum reached, instead of the lowest of all.

    Returns:
        The law, and its certificate: objective, n_runs, n_repeated, max_epochs (the largest D/U),
        R_D_range and R_N_range (within 1% of the objective).

    Raises:
        FitError: fewer than three runs repeat data, too few do not and no law is given, or the lowest
            objective lies at a limit of the range searched.
    """
    N, D, U, L = (np.asarray(x, float) for x in (N, D, U, L))
    repeats = D > SINGLE_EPOCH * U
    if repeats.sum() < 3:
        raise FitError(
            f"{repeats.sum()} of {len(N)} runs repeat data, and at least 3 are needed to fit the value "
            "of repeats. Train some sizes for several epochs of fewer unique tokens."
        )
    if law is None:
        single = ~repeats
        if single.sum() < MIN_SINGLE_EPOCH:
            raise FitError(
                f"{single.sum()} of {len(N)} runs repeat no data, and the single-epoch law needs "
                f"{MIN_SINGLE_EPOCH} such runs. Train some sizes for one epoch, or give law=NAME of a "
                "published one."
            )
        law, _ = fit_loss_law(N[single], D[single], L[single], huber_delta=HUBER_DELTA)
    log_L = np.log(L)

    def objective(log_R: np.ndarray) -> np.ndarray:
        """Of (..., 2) ln R_D and ln R_N."""
        R = np.exp(log_R)[..., None]
        r = np.abs(np.log(RepeatedLaw(law, R[..., 0, :], R[..., 1, :])(N, D, U)) - log_L)
        return np.asarray(huber(HUBER_DELTA, r).sum(-1))

    ends = np.log(np.geomspace(R_RANGE[0], R_RANGE[1], N_GRID))
    grid = np.stack(np.meshgrid(ends, ends, indexing="ij"), axis=-1)
    surface = np.stack([objective(row) for row in grid])  # (N_GRID, N_GRID) by R_D and R_N
    minima = np.argwhere(surface == minimum_filter(surface, 3))
    starts = [ends[at] for at in sorted(minima, key=lambda at: surface[tuple(at)])[:6]]
    if near is not None:
        starts = [np.log(near)]
    exact = {"xatol": 1e-9, "fatol": 1e-15, "maxiter": 4_000}
    minima_found = [minimize(objective, x, method="Nelder-Mead", options=exact) for x in starts]
    best = min(minima_found, key=lambda end: end.fun)
    R_D, R_N = (float(x) for x in np.exp(best.x))
    for name, value in (("R_D", R_D), ("R_N", R_N)):
        if not R_RANGE[0] * 1.05 < value < R_RANGE[1] / 1.05:
            raise FitError(
                f"{name} is at a limit of the range searched, {R_RANGE[0]:g} to {R_RANGE[1]:g}: these runs do "
                "not determine how fast repeats lose their value. Add runs with more epochs, and larger models "
                "on few unique tokens.",
                "at_bound",
            )
    limit = (1 + TOLERANCE) * best.fun + 1e-12 * len(N)
    ranges = [_range(objective, surface, ends, axis, best.x[axis], limit) for axis in (0, 1)]
    certificate = {
        "objective": float(best.fun),
        "n_runs": len(N),
        "n_repeated": int(repeats.sum()),
        "max_epochs": float((D / U).max()),
        "R_D_range": ranges[0],
        "R_N_range": ranges[1],
    }
    return RepeatedLaw(law, R_D, R_N), certificate


def _range(
    objective: Callable[[np.ndarray], np.ndarray],
    surface: np.ndarray,
    ends: np.ndarray,
    axis: int,
    fitted: float,
    limit: float,
) -> list[float]:
    """Smallest and largest value of one R for which the best other R keeps the objective below `limit`."""
    other = ends[surface.argmin(axis=1 - axis)]  # (N_GRID,) best other R on the grid
    width = ends[1] - ends[0]
    for _ in range(10):  # refine it
        tried = other[:, None] + width * np.linspace(-1, 1, 9)
        fixed = np.broadcast_to(ends[:, None], tried.shape)
        values = objective(np.stack([fixed, tried] if axis == 0 else [tried, fixed], axis=-1))
        other = np.take_along_axis(tried, values.argmin(1)[:, None], axis=1)[:, 0]
        width /= 4
    good = np.append(ends[values.min(1) <= limit], fitted)
    return [float(np.exp(good.min())), float(np.exp(good.max()))]
