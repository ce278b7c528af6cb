"""Which runs to train next in order to determine N_opt at a larger budget.

Near the fit, approach 3's law turns errors of losses into an error of ln N_opt(C*) by g' (J'J)^-1 J' with
g = d ln N_opt(C*) / d theta and J = d ln L_hat / d theta of the runs. One more run adds its own row to J
whatever its loss will be, so runs can be compared before any is trained. A law that is trusted everywhere
leads to extreme runs (half a token per parameter, or the cheapest of all), where the law is known to
fail. Half of the variance of the residuals is therefore modelled as misfit of the law: a smooth function
of C and of the distance from the best size at that C, which grows with this distance (`v_optimal`) and
also moves the best size itself. Runs are chosen greedily by the remaining variance of ln N_opt(C*).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from chinchilla.core.errors import InputError, Refusal
from chinchilla.core.shapes import ModelShape
from chinchilla.decide.allocation import allocate, best_sizes, count_shapes
from chinchilla.decide.v_optimal import LENGTH, MISFIT, Posterior, kernel
from chinchilla.fit.loss_law import FlopsPerToken, flops_at, log_N_opt
from chinchilla.fit.result import LossLaw
from chinchilla.observations.table import Observations
from chinchilla.plan.records import count_label

N_RATIOS = 25  # tokens per parameter tried for a size, log-spaced between the limits
WIDER = 2.0  # factor by which proposed tokens per parameter may lie outside those of the runs
RATIOS = (2.0, 200.0)  # limits of proposed tokens per parameter
# The misfit of the law is (1 + z^2 / 2) (1 + 4 w^2) times that at the target. z = the distance of ln C
# from the target's, in standard deviations of ln C over runs and candidates; w = ln N / N_opt(C).
GROWTH = (0.5, 4.0)
# Prior standard deviations of ln A, ln B, ln E, alpha, beta: wider than the range of published laws.
PRIOR = (5.0, 5.0, 1.0, 0.5, 0.5)
MAX_RUNS = 500  # runs that enter one by one; of more, a random sample of this size is used
MIN_NOISE = 1e-4  # of ln L: the best reproducibility of a loss
CHEAPER = 0.02  # share of the variance reduction that may be given up for a cheaper run
MIN_NARROWS = 5e-4  # of ln(width), below which a run is not proposed
STEP = 1e-4  # of the differences in `gradient`


@dataclass(frozen=True)
class Candidate:
    """A run that could be trained."""

    shape: str
    N: float
    D: float
    C: float


@dataclass(frozen=True)
class Step:
    """A proposed run, and the 80% interval of N_opt(C*) once it is trained."""

    run: Candidate
    interval80: list[float]  # of N_opt(C*), parameters
    width: float  # of that interval, as a factor
    narrows: float  # what this run adds to the earlier ones: reduction of ln(width), as a share of it now
    spent: float  # FLOPs of this and the earlier proposed runs


@dataclass(frozen=True)
class Design:
    """The current interval of N_opt(C*), and the proposed runs, each chosen given the earlier ones."""

    C_star: float
    N_opt: float
    interval80: list[float]  # of N_opt(C*) now, parameters
    width: float  # of that interval, as a factor
    steps: list[Step]
    n_candidates: int
    limits: dict[str, list[float]]  # of tokens per parameter and C


def gradient(law: LossLaw, C: float, cost: FlopsPerToken | None = None) -> np.ndarray:
    """(5,) d ln N_opt(C) / d (ln A, ln B, ln E, alpha, beta), by central differences."""
    theta = np.array([*np.log([law.A, law.B, law.E]), law.alpha, law.beta])
    moved = theta + STEP * np.concatenate([np.eye(5), -np.eye(5)])
    A, B, E = np.exp(moved[:, :3]).T
    rows = np.stack([E, A, B, *moved[:, 3:].T], axis=1)
    up, down = log_N_opt(rows, cost, np.array([C]))[:, 0].reshape(2, 5)
    return np.asarray((up - down) / (2 * STEP))


def candidates(
    sizes: Mapping[str, float],
    ratios: tuple[float, float],
    C_limits: tuple[float, float],
    cost: FlopsPerToken | None = None,
) -> list[Candidate]:
    """Every size at log-spaced tokens per parameter, inside the limits.

    Args:
        sizes: name -> N.
        ratios: lowest and highest tokens per parameter.
        C_limits: FLOPs of the cheapest and the most expensive run.
        cost: FLOPs per token of the runs; None is C = 6*N*D.
    """
    runs = []
    for name, N in sizes.items():
        for ratio in np.geomspace(*ratios, N_RATIOS):
            C = float(ratio * N * flops_at(N, cost))
            if C_limits[0] <= C <= C_limits[1]:
                runs.append(Candidate(name, N, float(ratio * N), C))
    return runs


def sizes_of(obs: Observations, shapes: Mapping[str, ModelShape]) -> dict[str, float]:
    """Sizes that can be built, name -> N: those of the runs, then `shapes`, counted as the runs are."""
    own = {f"n{count_label(N)}": float(N) for N in np.unique(obs.finals().N)}
    return own | count_shapes(shapes, obs.n_convention)


def ratio_limits(obs: Observations) -> tuple[float, float]:
    """Limits of tokens per parameter of a proposed run.

    They are those of the runs widened by WIDER and clipped to RATIOS, outside of which laws often fail;
    or those of the runs if they lie outside RATIOS.
    """
    ratio = obs.finals().D / obs.finals().N
    low, high = np.clip([ratio.min() / WIDER, ratio.max() * WIDER], *RATIOS)
    if high < WIDER * low:
        low, high = ratio.min(), ratio.max()
    return float(low), float(high)


def propose(
    law: LossLaw,
    N_opt: float,
    interval80: list[float],
    obs: Observations,
    C_star: float,
    sizes: Mapping[str, float],
    *,
    cost: FlopsPerToken | None = None,
    n_runs: int = 4,
    spend: float = 0.0,
    ratios: tuple[float, float] = (0.0, 0.0),
) -> Design:
    """Runs that narrow the interval of N_opt(C_star), chosen greedily one after another.

    Each may cost an equal share of the remaining budget. Of candidates within 2% of the best gain the
    cheapest is chosen. A run that is proposed twice needs another seed. The expected interval is the
    current one, narrowed by the law alone or by the law with misfit, whichever narrows it less. A run
    that adds less than MIN_NARROWS to the others is left out.

    Args:
        law: the loss near C_star.
        N_opt: the recommended size at C_star, parameters.
        interval80: its 80% interval.
        obs: the runs so far.
        C_star: the budget whose N_opt matters, FLOPs.
        sizes: what can be built (`sizes_of`).
        cost: FLOPs per token of the runs; None is C = 6*N*D.
        n_runs: runs to propose.
        spend: FLOPs of all proposed runs; 0 = n_runs times the most expensive run so far.
        ratios: lowest and highest tokens per parameter of a proposed run; 0 = `ratio_limits`.

    Raises:
        InputError: the limits of tokens per parameter contradict each other.
        Refusal: no size and length fits inside the limits, or no run narrows the interval.
    """
    obs = obs.finals()
    spend = spend or n_runs * float(obs.C.max())
    log_interval = np.log(np.array(interval80) / N_opt)
    width = float(interval80[1] / interval80[0])
    low, high = (given or own for given, own in zip(ratios, ratio_limits(obs), strict=True))
    if low >= high:
        raise InputError(
            f"min_ratio={low:.4g} is not below max_ratio={high:.4g}; one that is not given follows from the "
            "runs. Give both."
        )
    least = float(obs.C.min())
    pool = candidates(sizes, (low, high), (least, spend), cost)
    if not pool:
        raise Refusal(
            f"no size at {low:g} to {high:g} tokens per parameter costs between {least:.3g} FLOPs (the "
            f"cheapest run so far) and spend={spend:.3g}. Raise spend, or widen min_ratio and max_ratio."
        )
    posterior = _posterior(law, obs, pool, C_star, cost, MISFIT)
    by_law = _posterior(law, obs, pool, C_star, cost, 0.0)
    current = posterior, by_law
    posterior = posterior.at(np.arange(len(pool)))
    C = np.array([candidate.C for candidate in pool])
    chosen: list[int] = []
    for left in range(n_runs, 0, -1):
        rest = spend - float(C[chosen].sum())
        if rest < C.min():
            break
        chosen.append(_next(posterior.gain(), C, rest / left))
        posterior.measure(np.array(chosen[-1:]))
    chosen, shares = _useful(chosen, *current)
    if not chosen:
        raise Refusal(
            f"no run narrows the 80% interval by {MIN_NARROWS:.2%} or more within spend={spend:.3g}. Raise spend."
        )
    steps = [
        Step(
            pool[i], (N_opt * np.exp(log_interval * now)).tolist(), width**now, before - now, spent
        )
        for i, before, now, spent in zip(
            chosen, [1.0, *shares], shares, np.cumsum(C[chosen]).tolist(), strict=False
        )
    ]
    limits = {"tokens_per_param": [low, high], "C": [least, spend]}
    return Design(C_star, N_opt, interval80, width, steps, len(pool), limits)


def _posterior(
    law: LossLaw,
    obs: Observations,
    pool: list[Candidate],
    C_star: float,
    cost: FlopsPerToken | None,
    misfit: float,
) -> Posterior:
    """ln N_opt(C_star) and ln L at the candidates, given the runs so far.

    `misfit` is the share of the residual variance that is attributed to misfit of the law.
    """
    used = np.random.default_rng(0).permutation(len(obs))[:MAX_RUNS]
    N = np.concatenate([[c.N for c in pool], obs.N[used]])
    D = np.concatenate([[c.D for c in pool], obs.D[used]])
    C = np.concatenate([[c.C for c in pool], obs.C[used]])
    off = np.log(N / best_sizes(law, C, cost))  # distance from the best size at this C
    ahead = np.log(C / C_star)
    ahead /= max(float(ahead.std()), 1e-9)
    Z = np.stack([ahead, off], axis=1)
    growth = (1 + GROWTH[0] * ahead**2) * (1 + GROWTH[1] * off**2)
    residual = np.log(obs.L / law(obs.N, obs.D))
    variance = max(1.4826 * float(np.median(np.abs(residual))), MIN_NOISE) ** 2
    noise = np.full(len(N), (1 - misfit) * variance)
    noise[len(pool) :] *= len(used) / len(obs)
    # A misfit delta of ln L shifts ln N_opt by -(d delta / d ln N) / bend, where bend is the second
    # derivative of ln L in ln N at fixed C.
    best = allocate(law, C_star, cost)
    size, data = law.A * best.N**-law.alpha / best.L, law.B * best.D**-law.beta / best.L
    bend = law.alpha**2 * size + law.beta**2 * data
    at_target = growth * kernel(Z, np.zeros((1, 2)))[:, 0]
    posterior = Posterior(
        law.jacobian(N, D) * PRIOR,
        Z,
        (gradient(law, C_star, cost) * PRIOR)[None],
        (-off * at_target / LENGTH**2 / bend)[None],
        np.array([1 / (LENGTH * bend) ** 2]),
        noise,
        misfit * variance,
        growth,
    )
    posterior.measure(np.arange(len(pool), len(N)))
    return posterior


def _useful(
    chosen: list[int], posterior: Posterior, by_law: Posterior
) -> tuple[list[int], list[float]]:
    """The chosen runs without those that add less than MIN_NARROWS, and ln(width) after each.

    The last such run is left out first, and the others are then measured again without it. ln(width) is
    a share of the current one.
    """
    while True:
        both = [one.at(np.array(chosen, int)) for one in (posterior, by_law)]
        shares = [1.0]
        for k in range(len(chosen)):
            for one in both:
                one.measure(np.array([k]))
            after = max(
                float(one.target[0] / start.target[0])
                for one, start in zip(both, (posterior, by_law), strict=True)
            )
            shares.append(float(np.sqrt(after)))
        useful = -np.diff(shares) >= MIN_NARROWS
        if useful.all():
            return chosen, shares[1:]
        last = int(np.flatnonzero(~useful)[-1])
        if last == len(chosen) - 1:  # with all others that add nothing at the end
            chosen = chosen[: int(np.flatnonzero(useful)[-1]) + 1 if useful.any() else 0]
        else:
            del chosen[last]


def _next(gain: np.ndarray, C: np.ndarray, share: float) -> int:
    """The candidate with the largest gain within a share of the budget; the cheapest of similar ones."""
    allowed = np.flatnonzero(C <= max(share, float(C.min())))
    gain = gain[allowed]
    good = allowed[gain >= (1 - CHEAPER) * gain.max()]
    return int(good[np.argmin(C[good])])
