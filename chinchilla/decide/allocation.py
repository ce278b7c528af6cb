"""How to split a budget between N and D by a loss law, and what each departure costs.

A law L(N, D) and a count of training FLOPs per token (`cost`; None is C = 6*N*D) determine the best N
and D for C FLOPs, the cheapest C for a loss, the extra compute of another size, the best shape that can
be built, the cost of over-training, the size that is cheapest to train and serve, and the bill.
Everything is solved on the law itself, so each result is as accurate as the law at that point. NumPy
only: this module must import without torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from chinchilla.config import RatesConfig
from chinchilla.core.errors import Refusal
from chinchilla.core.shapes import ModelShape, flops_per_token, n_params, n_params_non_embedding
from chinchilla.fit.loss_law import FlopsPerToken, flops_at, log_N_opt, numeric_frontier
from chinchilla.fit.result import LossLaw
from chinchilla.observations.table import Observations

FACTORS = (1 / 4, 1 / 2, 1 / 1.5, 1.1, 1.5, 2.0, 4.0)  # of N_opt, for the cost of a wrong size
TIMES_RATIO = (2, 5, 10, 30)  # times the optimal tokens per parameter, for over-training
LOG_N = np.linspace(np.log(1.0), np.log(1e16), 4_000)  # sizes that are considered


@dataclass(frozen=True)
class Allocation:
    """N parameters trained on D tokens: C training FLOPs, loss L in nats per token."""

    C: float
    N: float
    D: float
    L: float


@dataclass(frozen=True)
class Misallocation:
    """The cost of training N = factor * N_opt."""

    factor: float  # N / N_opt
    N: float
    wasted: float | None  # C / C'' - 1, where C'' reaches the same loss with the best size
    excess: float | None  # C' / C - 1 to reach the optimal loss; None if no number of tokens does
    extra_loss: float  # nats per token, at the same C


@dataclass(frozen=True)
class Buildable:
    """A shape with the tokens that the budget buys, compared with the optimum."""

    name: str
    N: float
    D: float
    L: float
    extra_loss: float  # nats per token above the best size of any shape
    excess: float | None  # C' / C - 1 to reach its loss; None if this size never does


@dataclass(frozen=True)
class OverTrained:
    """A model smaller than the optimum, trained on more tokens with the same FLOPs."""

    times: float  # tokens per parameter over those of the optimum
    N: float
    D: float
    L: float
    extra_loss: float  # nats per token above the optimum


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
    co2_kg: float | None


def allocate(law: LossLaw, C: float, cost: FlopsPerToken | None = None) -> Allocation:
    """The N and D with the lowest loss for C training FLOPs.

    Raises:
        FitError: FLOPs per token do not rise with N, so no trade-off exists to solve.
        Refusal: the best size lies outside 1 to 1e16 parameters.
    """
    if cost is not None:
        numeric_frontier(law, cost, np.array([C]))  # raises FitError if there is no trade-off
    theta = np.array([[law.E, law.A, law.B, law.alpha, law.beta]])
    N = float(allocate_each(theta, C, cost)[0][0])
    if not np.isfinite(N):
        raise Refusal(
            f"the best size for {C:.3g} FLOPs lies outside 1 to 1e16 parameters. Give a budget "
            "nearer to the runs."
        )
    return spent(law, C, N, cost)


def allocate_each(
    theta: np.ndarray, C: float, cost: FlopsPerToken | None
) -> tuple[np.ndarray, np.ndarray]:
    """N and D, (k,) each, of (k, 5) laws E, A, B, alpha, beta at C FLOPs; NaN without an optimum."""
    log_N = log_N_opt(theta, cost, np.array([C]))[:, 0]
    if cost is not None:  # solved on a grid of sizes, whose ends are not optima
        log_N = np.where((log_N > LOG_N[0]) & (log_N < LOG_N[-1]), log_N, np.nan)
    N = np.exp(log_N)
    return N, C / flops_at(N, cost)


def spent(law: LossLaw, C: float, N: float, cost: FlopsPerToken | None = None) -> Allocation:
    """N parameters and the tokens that C FLOPs buy at that size."""
    D = float(C / flops_at(N, cost))
    return Allocation(float(C), float(N), D, float(law(N, D)))


def tokens_for(law: LossLaw, N: float | np.ndarray, L: float) -> np.ndarray:
    """D at which N parameters reach loss L; infinite where no D does. Shape of N."""
    left = L - law.E - law.A / np.asarray(N, float) ** law.alpha
    with np.errstate(over="ignore"):
        return np.where(left > 0, (law.B / np.maximum(left, 1e-300)) ** (1 / law.beta), np.inf)


def misallocation(
    law: LossLaw,
    C: float,
    factors: Sequence[float] = FACTORS,
    cost: FlopsPerToken | None = None,
) -> list[Misallocation]:
    """The cost of training another size than the best one, exactly on the law.

    Two costs of N = factor * N_opt(C). `wasted`: the loss it reaches with C needs only C'' at the
    best size, C / C'' - 1. `excess`: to reach L_opt(C) at this size it needs C', C' / C - 1. Both
    are about (alpha+beta)/2 * (ln factor)^2 under C = 6*N*D.
    """
    best = allocate(law, C, cost)
    rows = []
    for factor in factors:
        same_C = spent(law, C, factor * best.N, cost)
        wasted = _wasted(law, same_C, cost)
        excess = _excess(law, same_C.N, best, cost)
        rows.append(Misallocation(factor, same_C.N, wasted, excess, same_C.L - best.L))
    return rows


def _wasted(law: LossLaw, run: Allocation, cost: FlopsPerToken | None) -> float | None:
    """C over the least C for the same loss, minus one; None if that needs a size outside LOG_N."""
    try:
        return run.C / cheapest(law, run.L, cost).C - 1
    except Refusal:
        return None


def sizes_within(
    law: LossLaw, C: float, excess: float = 0.01, cost: FlopsPerToken | None = None
) -> tuple[float, float]:
    """Smallest and largest N that reach L_opt(C) with at most `excess` more compute.

    About N_opt * exp(-+ sqrt(2 * excess / (alpha+beta))).
    """
    best = allocate(law, C, cost)
    ends = []
    for far in (best.N / 1e4, best.N * 1e4):
        near = best.N
        for _ in range(60):  # bisection in ln N between the optimum and a size outside
            middle = float(np.sqrt(near * far))
            extra = _excess(law, middle, best, cost)
            inside = extra is not None and extra <= excess
            near, far = (middle, far) if inside else (near, middle)
        ends.append(near)
    return ends[0], ends[1]


def _excess(law: LossLaw, N: float, best: Allocation, cost: FlopsPerToken | None) -> float | None:
    D = float(tokens_for(law, N, best.L))
    return None if np.isinf(D) else float(D * flops_at(N, cost) / best.C - 1)


def cheapest(law: LossLaw, L: float, cost: FlopsPerToken | None = None) -> Allocation:
    """The least training compute that reaches loss L, with its N and D.

    Raises:
        Refusal: L is at or below E, which no N and D reach, or needs over 1e16 parameters.
    """
    if L <= law.E:
        raise Refusal(
            f"a loss of {L:.6g} nats per token is not above E={law.E:.4g}, the loss of this law at "
            "infinite N and D: no run reaches it."
        )
    x, log_D, _ = optimal_path(law, cost)
    reached = law(np.exp(x), np.exp(log_D))
    if not reached[-1] < L < reached[0]:
        raise Refusal(
            f"a loss of {L:.6g} nats per token is reached by this law only outside 1 to 1e16 parameters "
            f"(E={law.E:.4g}). Give a larger loss."
        )
    N = float(np.exp(np.interp(-np.log(L - law.E), -np.log(reached - law.E), x)))
    D = float(tokens_for(law, N, L))
    return Allocation(float(D * flops_at(N, cost)), N, D, L)


def optimal_path(
    law: LossLaw, cost: FlopsPerToken | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ln N, ln D_opt and ln C along the frontier, in closed form for each size.

    At the optimum alpha*A*N^-alpha = (dlnc/dlnN) * beta*B*D^-beta, c the FLOPs per token.
    """
    if cost is None:
        log_c, slope = LOG_N + np.log(6), np.ones_like(LOG_N)
    else:
        log_c, slope = cost.trend_and_slope(LOG_N)
    ratio = np.log(law.beta * law.B / (law.alpha * law.A))
    log_D = (ratio + law.alpha * LOG_N + np.log(np.maximum(slope, 1e-12))) / law.beta
    return LOG_N, log_D, log_c + log_D


def count_shapes(
    shapes: Mapping[str, ModelShape],
    cost: FlopsPerToken | None,
    n_convention: str = "total",
    flop_convention: str = "",
) -> dict[str, tuple[float, float]]:
    """name -> (N, training FLOPs per token) of shapes, counted as the runs behind a law are.

    Args:
        shapes: name -> shape.
        cost: FLOPs per token of the runs; None is 6*N.
        n_convention: non_embedding excludes the embedding from N; else all parameters count.
        flop_convention: a key of shapes.FLOP_CONVENTIONS to use instead of `cost`, or empty.
    """
    counted = n_params_non_embedding if n_convention == "non_embedding" else n_params
    sizes = {}
    for name, shape in shapes.items():
        N = float(counted(shape))
        if flop_convention == "six_nd":
            per_token = 6 * N
        elif flop_convention:
            per_token = float(flops_per_token(shape, flop_convention))
        else:
            per_token = float(flops_at(N, cost))
        sizes[name] = (N, per_token)
    return sizes


def snap(
    law: LossLaw,
    C: float,
    sizes: Mapping[str, tuple[float, float]],
    cost: FlopsPerToken | None = None,
) -> list[Buildable]:
    """Each size with D re-optimised for the budget, the least extra compute first.

    Sizes that never reach the optimum's loss come last, by their loss. A shape whose own FLOPs per token
    lie below `cost` (`curve_through` other shapes) can be slightly better than the optimum.

    Args:
        law: the loss.
        C: training FLOPs.
        sizes: name -> (N, training FLOPs per token), at least one (`count_shapes`).
        cost: FLOPs per token of the optimum for comparison; None is C = 6*N*D.
    """
    best = allocate(law, C, cost)
    rows = []
    for name, (N, c) in sizes.items():
        L, D = float(law(N, C / c)), float(tokens_for(law, N, best.L))
        excess = None if np.isinf(D) else float(D * c / C - 1)
        rows.append(Buildable(name, N, float(C / c), L, L - best.L, excess))
    return sorted(rows, key=lambda row: (np.inf if row.excess is None else row.excess, row.L))


def curve_through(sizes: Mapping[str, tuple[float, float]]) -> FlopsPerToken:
    """FLOPs per token as a function of N, from shapes (`count_shapes`) instead of runs."""
    N, per_token = np.array(list(sizes.values())).T
    one = np.ones_like(N)
    return FlopsPerToken.from_observations(
        Observations(np.array(list(sizes)), np.full_like(N, np.nan), per_token, N, one, one)
    )


def neighbours(rows: Sequence[Buildable], n: int = 5) -> list[Buildable]:
    """The best shape and the nearest sizes around it, smallest first."""
    by_size = sorted(rows, key=lambda row: row.N)
    at = by_size.index(rows[0])
    first = max(0, min(at - n // 2, len(by_size) - n))
    return by_size[first : first + n]


def overtrain(
    law: LossLaw,
    C: float,
    times: Sequence[float] = TIMES_RATIO,
    cost: FlopsPerToken | None = None,
) -> list[OverTrained]:
    """The loss that the same FLOPs reach at D/N = times * that of the optimum.

    The size is the optimum's over sqrt(times) under C = 6*N*D, and is solved for otherwise.
    """
    best = allocate(law, C, cost)
    rows = []
    for k in times:
        ratio = k * best.D / best.N
        if cost is None:
            N = float(np.sqrt(C / (6 * ratio)))
        else:
            x = np.linspace(np.log(best.N) - 10, np.log(best.N) + 10, 8_001)
            log_C = cost.trend_and_slope(x)[0] + np.log(ratio) + x
            N = float(np.exp(np.interp(np.log(C), log_C, x)))
        L = float(law(N, ratio * N))
        rows.append(OverTrained(k, N, ratio * N, L, L - best.L))
    return rows


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

    N = trained_only.N * np.geomspace(1e-6, 1, 4_000)
    for _ in range(6):  # refine around the minimum; the total is smooth and has only one
        at = int(np.argmin(total(N)))
        N = np.geomspace(N[max(at - 1, 0)], N[min(at + 1, len(N) - 1)], 200)
    best_N = float(N[np.argmin(total(N))])
    D = float(tokens_for(law, best_N, L))
    best = Allocation(float(D * flops_at(best_N, cost)), best_N, D, L)
    before = trained_only.C + 2 * trained_only.N * inference_tokens
    after = best.C + 2 * best.N * inference_tokens
    return Serving(inference_tokens, trained_only, best, after, 1 - after / before)


def bill(flops: float, rates: RatesConfig) -> Bill:
    """Device-hours, money, energy and CO2 of `flops`, at the rates `rates` states.

    Energy is device_watts * pue times the device-hours; a rate of 0 means not stated.
    """
    hours = flops / (rates.peak_flops * rates.mfu) / 3600
    price, grams = rates.price_per_device_hour, rates.co2_grams_per_kwh
    kwh = hours * rates.device_watts * rates.pue / 1000 if rates.device_watts else None
    return Bill(
        flops,
        hours,
        hours * price if price else None,
        kwh,
        kwh * grams / 1000 if kwh is not None and grams else None,
    )
