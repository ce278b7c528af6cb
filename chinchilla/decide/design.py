"""Which runs to train next, to know N_opt at a larger budget better.

Approach 3's law has five parameters theta; near its fit the variance of ln N_opt(C*) is
sigma^2 * g' (J'J)^-1 g with g = d ln N_opt(C*) / d theta and J = d ln L_hat / d theta of the runs. One
more run adds its own row j to J, whatever its loss turns out to be, so runs can be compared before
any is trained: the best is the one with the least g' (J'J + jj')^-1 g (V-optimal design). Without
limits this asks for toys at half a token per parameter, where the law no longer holds: candidates
stay inside stated tokens per parameter and above the cheapest run of the data. NumPy only.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from chinchilla.decide.options import allocate, count_shapes
from chinchilla.decide.resampled import Percentiles, ResampledLaws
from chinchilla.errors import FitError, InputError, Refusal
from chinchilla.fit.frontier import Frontier, LossLaw
from chinchilla.fit.loss_law import FlopsPerToken, flops_at, six_nd_frontier
from chinchilla.observations import Observations
from chinchilla.records import count_label
from chinchilla.shapes import ModelShape

N_RATIOS = 25  # tokens per parameter tried for a size, log-spaced between the limits
WIDER = 2.0  # how far outside the tokens per parameter seen a run may go
RATIOS = (2.0, 200.0)  # ... and where that ends in any case
CHEAPER = 0.02  # share of the variance gained that may be given up for a cheaper run
WIDEST = 100.0  # factor to which N_opt(C*) must be known: beyond, the law's slopes say nothing
H = 1e-4  # step in ln N of the numerical bend of c(N)
Z80 = 1.2815515655446004  # 90th percentile of the normal: half of an 80% interval over sigma


@dataclass(frozen=True)
class Candidate:
    """A run that could be trained."""

    shape: str
    N: float
    D: float
    C: float


@dataclass(frozen=True)
class Step:
    """A proposed run, and the 80% interval of N_opt(C*) once it is trained, as hi/lo."""

    run: Candidate
    width: float  # 90th over 10th percentile of N_opt(C*)
    spent: float  # FLOPs of this and the earlier proposed runs


@dataclass(frozen=True)
class Design:
    """What is known now, and the proposed runs in the order of their worth."""

    C_star: float
    N_opt: float
    width: float  # 90th over 10th percentile of N_opt(C*) now
    source: str  # where that width comes from
    steps: list[Step]
    n_candidates: int
    limits: dict[str, list[float]]  # tokens per parameter and C that candidates keep to
    n_convention: str  # how N is counted, shapes too; unknown: all their parameters


def gradient(law: LossLaw, C: float, cost: FlopsPerToken | None = None) -> np.ndarray:
    """(5,) d ln N_opt(C) / d (ln A, ln B, ln E, alpha, beta), other parameters held.

    N_opt solves ln C = ln c(N) + ln D_opt(N), with ln D_opt = (ln(beta B / (alpha A)) + alpha ln N +
    ln slope) / beta and slope = dlnc/dlnN; so the derivatives of ln D_opt, over its own slope in
    ln N.
    """
    if cost is None:
        (log_k, a), _, _ = six_nd_frontier(law)
        x, slope, bend = log_k + a * np.log(C), 1.0, 0.0
    else:
        x = float(np.log(allocate(law, C, cost).N))
        before, slope, after = map(float, cost.trend_and_slope(x + np.array([-H, 0, H]))[1])
        bend = float(np.log(after / before)) / (2 * H)
    ratio = np.log(law.beta * law.B / (law.alpha * law.A))
    log_D = (ratio + law.alpha * x + np.log(slope)) / law.beta
    along = np.array(
        [-1 / law.beta, 1 / law.beta, 0.0, (x - 1 / law.alpha) / law.beta,
         (1 / law.beta - log_D) / law.beta]
    )  # fmt: skip
    return -along / (slope + (law.alpha + bend) / law.beta)


def jacobian(law: LossLaw, N: np.ndarray, D: np.ndarray) -> np.ndarray:
    """(n, 5) d ln L_hat / d (ln A, ln B, ln E, alpha, beta) at each run."""
    N, D = np.asarray(N, float), np.asarray(D, float)
    L = law(N, D)
    size, data = law.A * N**-law.alpha / L, law.B * D**-law.beta / L
    return np.stack([size, data, law.E / L, -size * np.log(N), -data * np.log(D)], axis=1)


def candidates(
    sizes: Mapping[str, tuple[float, float]],
    ratios: tuple[float, float],
    C_limits: tuple[float, float],
) -> list[Candidate]:
    """Every size at log-spaced tokens per parameter, inside the limits.

    Args:
        sizes: name -> (N, training FLOPs per token).
        ratios: lowest and highest tokens per parameter.
        C_limits: cheapest and dearest run, FLOPs.
    """
    found = []
    for name, (N, per_token) in sizes.items():
        for ratio in np.geomspace(*ratios, N_RATIOS):
            C = float(ratio * N * per_token)
            if C_limits[0] <= C <= C_limits[1]:
                found.append(Candidate(name, N, float(ratio * N), C))
    return found


def sizes_of(
    obs: Observations, cost: FlopsPerToken | None, shapes: Mapping[str, ModelShape]
) -> dict[str, tuple[float, float]]:
    """Sizes that can be built: those of the runs, then `shapes`; name -> (N, FLOPs per token).

    N is counted as the runs count it, and a token costs what the trend of their FLOPs says of N.
    """
    own = {
        f"n{count_label(N)}": (float(N), float(flops_at(N, cost)))
        for N in np.unique(obs.finals().N)
    }
    return own | count_shapes(shapes, cost, obs.n_convention)


def ratio_limits(obs: Observations) -> tuple[float, float]:
    """Tokens per parameter that a proposed run keeps to: those of the runs widened by WIDER, inside
    of RATIOS (where law after law has been seen to fail), or those of the runs if none are inside."""
    seen = obs.finals().D / obs.finals().N
    low, high = np.clip([seen.min() / WIDER, seen.max() * WIDER], *RATIOS)
    if high < WIDER * low:
        low, high = seen.min(), seen.max()
    return float(low), float(high)


def propose(
    frontier: Frontier,
    obs: Observations,
    C_star: float,
    sizes: Mapping[str, tuple[float, float]],
    *,
    cost: FlopsPerToken | None = None,
    n_runs: int = 4,
    spend: float = 0.0,
    ratios: tuple[float, float] = (0.0, 0.0),
) -> Design:
    """Runs that narrow the interval of N_opt(C_star), greedily, one after another.

    Three greedy orders are tried and the one that ends narrowest is kept: each run may cost an
    equal share of what is left; each may take all that is left; each gains most per FLOP. Of
    candidates within 2% of the best gain the cheapest is taken. A run that is proposed twice is meant
    with another seed.

    Args:
        frontier: approach 3 on `obs`.
        obs: the runs so far.
        C_star: the budget whose N_opt matters, FLOPs.
        sizes: what can be built (`sizes_of`).
        cost: FLOPs per token of the runs; None is C = 6*N*D.
        n_runs: runs to propose.
        spend: FLOPs of all proposed runs together; 0 = n_runs times the dearest run so far.
        ratios: lowest and highest tokens per parameter of a proposed run; 0 = `ratio_limits`.

    Raises:
        FitError: the runs so far do not determine the law.
        InputError: a ratio that was given lies beyond the other one.
        Refusal: no size and length fits inside the limits, or N_opt(C_star) is known to no better than
            a factor of WIDEST.
    """
    law, obs = frontier.law, obs.finals()
    assert law is not None
    spend = spend or n_runs * float(obs.C.max())
    limits = (float(obs.C.min()), spend)
    low, high = ratio_limits(obs)
    ratios = (ratios[0] or low, ratios[1] or high)
    if ratios[0] >= ratios[1]:
        given = "min_ratio" if ratios[0] != low else "max_ratio"
        other = "max_ratio" if given == "min_ratio" else "min_ratio"
        raise InputError(
            f"min_ratio={ratios[0]:g} is not below max_ratio={ratios[1]:.4g}, which follows from "
            f"the runs where it is not given. Give {other} beside {given}."
        )
    pool = candidates(sizes, ratios, limits)
    if not pool:
        raise Refusal(
            f"no size at {ratios[0]:g} to {ratios[1]:g} tokens per parameter costs between "
            f"{limits[0]:.3g} FLOPs (the cheapest run so far) and spend={spend:.3g}. Raise spend, or "
            "widen min_ratio and max_ratio."
        )
    J = jacobian(law, obs.N, obs.D)
    scale = np.linalg.norm(J, axis=0)  # columns of like size: the inverse stays accurate
    J, g = J / scale, gradient(law, C_star, cost) / scale
    information = J.T @ J
    if np.linalg.cond(information) > 1e14:
        raise FitError(
            "these runs do not determine the law's five parameters, so no interval can be narrowed "
            "by design yet. Train some sizes at several tokens per parameter first."
        )
    rows = jacobian(law, np.array([c.N for c in pool]), np.array([c.D for c in pool])) / scale
    C = np.array([c.C for c in pool])
    variance = float(g @ np.linalg.solve(information, g))
    log_width, source = _width_now(frontier, C_star, cost, variance)
    if not log_width <= np.log(WIDEST):
        raise Refusal(
            f"N_opt({C_star:.3g} FLOPs) is known only to a factor of {np.exp(log_width):.3g} (90th over "
            f"10th percentile, {source}), over {WIDEST:g}: the law is too loose there to choose runs "
            "by. Give a budget_flops nearer to the runs, or train a grid of sizes first."
        )
    orders = [_greedy(information, g, rows, C, n_runs, spend, how) for how in _HOW]
    chosen, variances = min(orders, key=lambda order: order[1][-1])
    steps, total = [], 0.0
    for i, after in zip(chosen, variances, strict=True):
        total += pool[i].C
        steps.append(Step(pool[i], float(np.exp(log_width * np.sqrt(after / variance))), total))
    return Design(
        C_star, allocate(law, C_star, cost).N, float(np.exp(log_width)), source, steps, len(pool),
        {"tokens_per_param": list(ratios), "C": list(limits)}, obs.n_convention,
    )  # fmt: skip


_HOW = ("share", "all", "per_flop")


def _greedy(
    information: np.ndarray,
    g: np.ndarray,
    rows: np.ndarray,
    C: np.ndarray,
    n_runs: int,
    spend: float,
    how: str,
) -> tuple[list[int], list[float]]:
    """Indices of the runs taken and the variance after each, in units of sigma^2."""
    inverse = np.linalg.inv(information)
    chosen: list[int] = []
    variances: list[float] = []
    left = spend
    for k in range(n_runs, 0, -1):
        reserve = (k - 1) * float(C.min())
        limit = left / k if how == "share" else left - reserve
        if left < C.min():
            break
        allowed = np.flatnonzero(C <= max(limit, float(C.min())))
        # Sherman-Morrison: one more row takes (g'Mj)^2 / (1 + j'Mj) off the variance.
        Mj = rows[allowed] @ inverse
        gain = (Mj @ g) ** 2 / (1 + np.einsum("ij,ij->i", Mj, rows[allowed]))
        worth = gain / C[allowed] if how == "per_flop" else gain
        good = np.flatnonzero(worth >= (1 - CHEAPER) * worth.max())
        i = int(allowed[good[np.argmin(C[allowed][good])]])
        j = rows[i]
        inverse -= np.outer(inverse @ j, inverse @ j) / (1 + j @ inverse @ j)
        chosen.append(i)
        variances.append(float(g @ inverse @ g))
        left -= C[i]
    return chosen, variances


def _width_now(
    frontier: Frontier, C_star: float, cost: FlopsPerToken | None, variance: float
) -> tuple[float, str]:
    """ln(90th / 10th percentile) of N_opt(C*) now: the fit's resampled laws, or its residuals."""
    resampled = ResampledLaws.of(frontier)
    spread = None if resampled is None else Percentiles.of(resampled.optima(C_star, cost)[0])
    if spread is not None:
        return float(np.log(spread.p90 / spread.p10)), "the fit's bootstrap"
    sigma = float((frontier.certificate or {}).get("rms_log_residual", 0.0))
    return 2 * Z80 * sigma * float(np.sqrt(variance)), "the fit's residuals (it has no bootstrap)"
