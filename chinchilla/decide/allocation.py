"""How to split a budget between N and D by a loss law, and what each departure costs.

A law L(N, D) and a count of training FLOPs per token (`cost`; None is C = 6*N*D) determine the best N
and D for C FLOPs, the cheapest C for a loss, the loss and extra compute of another size (a smaller one is
over-trained), the size that is cheapest to train and serve, and the bill. Everything is solved on the law
itself, so each result is as accurate as the law at that point. This module must import without SciPy.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from chinchilla.config import RatesConfig
from chinchilla.core.errors import Refusal
from chinchilla.core.shapes import ModelShape, n_params, n_params_non_embedding
from chinchilla.fit.loss_law import FlopsPerToken, flops_at, log_N_opt
from chinchilla.fit.result import LossLaw

FACTORS = (1 / 6, 1 / 4, 1 / 3, 1 / 2, 1 / 1.5, 1.1, 1.5, 2.0, 4.0)  # of N_opt, for other sizes
LOG_N = (0.0, float(np.log(1e16)))  # smallest and largest ln N that are considered


@dataclass(frozen=True)
class Allocation:
    """N parameters trained on D tokens: C training FLOPs, loss L in nats per token."""

    C: float
    N: float
    D: float
    L: float


@dataclass(frozen=True)
class Departure:
    """Another size than the best one, with the tokens that the same FLOPs buy."""

    name: str  # of the shape, or N / N_opt
    N: float
    D: float
    L: float
    extra_loss: float  # nats per token above the optimum
    excess: float | None  # C' / C - 1 to reach the optimal loss; None if this size never does


@dataclass(frozen=True)
class Serving:
    """The size that is cheapest to train and then to serve, at one loss."""

    inference_tokens: float
    trained_only: Allocation  # cheapest in training alone
    best: Allocation
    total_flops: float  # training + 2*N per served token, of `best`
    saving: float  # share of the total saved against `trained_only`


@dataclass(frozen=True)
class Bill:
    """The cost of FLOPs at the stated speed, price and power; None if not stated."""

    flops: float
    device_hours: float
    price: float | None
    energy_kwh: float | None


def allocate(law: LossLaw, C: float, cost: FlopsPerToken | None = None) -> Allocation:
    """The N and D with the lowest loss for C training FLOPs.

    Raises:
        Refusal: the best size lies outside 1 to 1e16 parameters, or FLOPs per token do not rise with N, so
            that no trade-off exists.
    """
    N = float(best_sizes(law, np.array([C]), cost)[0])
    if not LOG_N[0] < np.log(N) < LOG_N[1]:
        raise Refusal(
            f"the law has no best size between 1 and 1e16 parameters for {C:.3g} FLOPs. Give a budget nearer "
            "to the runs, and check that C/D of the runs rises with N."
        )
    return spent(law, C, N, cost)


def best_sizes(law: LossLaw, C: np.ndarray, cost: FlopsPerToken | None) -> np.ndarray:
    """(n,) the law's best size at each C, parameters; NaN without one."""
    theta = np.array([[law.E, law.A, law.B, law.alpha, law.beta]])
    return np.asarray(np.exp(log_N_opt(theta, cost, C)[0]))


def spent(law: LossLaw, C: float, N: float, cost: FlopsPerToken | None = None) -> Allocation:
    """N parameters and the tokens that C FLOPs buy at that size."""
    D = float(C / flops_at(N, cost))
    return Allocation(float(C), float(N), D, float(law(N, D)))


def tokens_for(law: LossLaw, N: float | np.ndarray, L: float) -> np.ndarray:
    """D at which N parameters reach loss L; infinite where no D does. Shape of N."""
    left = L - law.E - law.A / np.asarray(N, float) ** law.alpha
    with np.errstate(over="ignore"):
        return np.where(left > 0, (law.B / np.maximum(left, 1e-300)) ** (1 / law.beta), np.inf)


def cheapest(law: LossLaw, L: float, cost: FlopsPerToken | None = None) -> Allocation:
    """The least training compute that reaches loss L, with its N and D.

    At the optimum alpha*A*N^-alpha = (dlnc/dlnN) * beta*B*D^-beta, where c is the FLOPs per token.

    Raises:
        Refusal: L is at or below E, which no N and D reach, or needs a size outside 1 to 1e16 parameters.
    """
    from scipy.optimize import brentq

    if L <= law.E:
        raise Refusal(
            f"a loss of {L:.6g} nats per token is not above E={law.E:.4g}, the loss of this law at "
            "infinite N and D: no run reaches it. Give a higher loss."
        )

    def log_excess(x: float) -> float:
        """ln of the loss above E at the optimum with ln N = x, over that of L."""
        slope = 1.0 if cost is None else float(cost.trend_and_slope(np.array(x))[1])
        share = np.log1p(law.alpha / (law.beta * max(slope, 1e-12)))
        return float(np.log(law.A) - law.alpha * x + share - np.log(L - law.E))

    if not log_excess(LOG_N[1]) < 0 < log_excess(LOG_N[0]):
        raise Refusal(
            f"a loss of {L:.6g} nats per token is reached by this law only outside 1 to 1e16 parameters "
            f"(E={law.E:.4g}). Give another loss."
        )
    return _reaching(law, L, float(np.exp(brentq(log_excess, *LOG_N, xtol=1e-12))), cost)


def _reaching(law: LossLaw, L: float, N: float, cost: FlopsPerToken | None) -> Allocation:
    D = float(tokens_for(law, N, L))
    return Allocation(float(D * flops_at(N, cost)), N, D, L)


def departure(
    law: LossLaw, best: Allocation, N: float, name: str, cost: FlopsPerToken | None = None
) -> Departure:
    """N parameters instead of the optimum `best`, exactly on the law.

    The extra compute is about (alpha+beta)/2 * (ln N/N_opt)^2 under C = 6*N*D.
    """
    run, excess = spent(law, best.C, N, cost), _excess(law, best, N, cost)
    return Departure(
        name, run.N, run.D, run.L, run.L - best.L, None if np.isinf(excess) else excess
    )


def _excess(law: LossLaw, best: Allocation, N: float, cost: FlopsPerToken | None) -> float:
    return float(tokens_for(law, N, best.L) * flops_at(N, cost) / best.C - 1)


def misallocation(
    law: LossLaw,
    C: float,
    factors: Sequence[float] = FACTORS,
    cost: FlopsPerToken | None = None,
) -> list[Departure]:
    """Sizes that are multiples of the best one."""
    best = allocate(law, C, cost)
    return [departure(law, best, factor * best.N, f"{factor:.3g}", cost) for factor in factors]


def sizes_within(
    law: LossLaw, C: float, excess: float = 0.01, cost: FlopsPerToken | None = None
) -> tuple[float, float]:
    """Smallest and largest N that reach L_opt(C) with at most `excess` more compute.

    About N_opt * exp(-+ sqrt(2 * excess / (alpha+beta))).
    """
    from scipy.optimize import brentq

    best = allocate(law, C, cost)

    def beyond(x: float) -> float:
        return min(_excess(law, best, float(np.exp(x)), cost), 1.0) - excess

    x = float(np.log(best.N))
    low, high = (float(np.exp(brentq(beyond, x, x + far, xtol=1e-12))) for far in (-9.0, 9.0))
    return low, high


def count_shapes(shapes: Mapping[str, ModelShape], n_convention: str) -> dict[str, float]:
    """name -> N of shapes, counted as the runs are; all parameters if their convention is unknown."""
    counted = n_params_non_embedding if n_convention == "non_embedding" else n_params
    return {name: float(counted(shape)) for name, shape in shapes.items()}


def available(
    law: LossLaw, C: float, sizes: Mapping[str, float], cost: FlopsPerToken | None = None
) -> list[Departure]:
    """Sizes that can be built, name -> N, with D re-optimised for C; the least extra compute first.

    Sizes that never reach the optimum's loss come last, by their loss.
    """
    best = allocate(law, C, cost)
    rows = [departure(law, best, N, name, cost) for name, N in sizes.items()]
    return sorted(rows, key=lambda row: (np.inf if row.excess is None else row.excess, row.L))


def neighbours(rows: Sequence[Departure], n: int = 5) -> list[Departure]:
    """The first row and the nearest sizes around it, smallest first."""
    by_size = sorted(rows, key=lambda row: row.N)
    first = max(0, min(by_size.index(rows[0]) - n // 2, len(by_size) - n))
    return by_size[first : first + n]


def serve(
    law: LossLaw, L: float, inference_tokens: float, cost: FlopsPerToken | None = None
) -> Serving:
    """Least training plus inference compute at loss L (Sardana et al. 2024, arXiv 2401.00448).

    Minimises c(N)*D + 2*N*inference_tokens over N with D the tokens that reach L; with c = 6*N the
    optimum has alpha*A*N^-alpha = (1 + inference_tokens/(3*D)) * beta*B*D^-beta. A served token is
    counted 2*N: attention and batch-size effects are not.

    Raises:
        Refusal: L is at or below E.
    """
    trained_only = cheapest(law, L, cost)

    def total(N: np.ndarray) -> np.ndarray:
        return flops_at(N, cost) * tokens_for(law, N, L) + 2 * N * inference_tokens

    best = _reaching(law, L, minimum(total, 1e-6 * trained_only.N, trained_only.N), cost)
    before, after = (run.C + 2 * run.N * inference_tokens for run in (trained_only, best))
    return Serving(inference_tokens, trained_only, best, after, 1 - after / before)


def minimum(f: Callable[[np.ndarray], np.ndarray], low: float, high: float) -> float:
    """The N between two sizes with the lowest f, which is smooth and has one minimum."""
    N = np.geomspace(low, high, 4_000)
    for _ in range(6):
        at = int(np.argmin(f(N)))
        N = np.geomspace(N[max(at - 1, 0)], N[min(at + 1, len(N) - 1)], 200)
    return float(N[np.argmin(f(N))])


def bill(flops: float, rates: RatesConfig) -> Bill:
    """Device-hours, money and energy of `flops` at the given rates; a rate of 0 means not stated."""
    hours = flops / (rates.peak_flops * rates.mfu) / 3600
    price, watts = rates.price_per_device_hour, rates.device_watts
    return Bill(
        flops, hours, hours * price if price else None, hours * watts / 1000 if watts else None
    )
