"""Synthetic sweeps for coverage.py: designs, noises and true optima.

A design is the set of runs of a sweep. Its losses follow the law of Hoffmann et al., in some designs with a further
term. Noise is in ln L, one error per run:

    even       normal, sd .002
    uneven     sd .0075 over the sweep as on the points published by Hoffmann et al. (residuals of
               approach 3, kurtosis 16.7), larger for small C (C^-0.2), Student's t with 4 degrees of
               freedom
    heavy      .002 times Student's t with 2 degrees of freedom, whose variance is infinite
    outliers   even, and 3% of the runs end .02 to .1 too high
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from chinchilla.core.paper import ISOFLOP_BUDGETS
from chinchilla.fit.loss_law import named_law, six_nd_frontier
from chinchilla.observations.table import Observations

LAW = named_law("hoffmann")
(LOG_K, A), _, _ = six_nd_frontier(LAW)
NOISES = {"even": 0.002, "uneven": 0.0075, "heavy": 0.002, "outliers": 0.002}
OUTLIERS = 0.03  # share of the runs
TOO_HIGH = 0.02, 0.1  # range of the distance of outliers above the law, in ln L
PENALTY = (
    0.05  # relative distance of a curve above the law at its start; it decreases to 0 at the end
)
RATIOS = (5, 10, 20, 40, 80, 160)  # tokens per parameter of the horizons; the optimum is 15 to 45
STEP = 0.05  # largest share of C by which a run exceeds its budget
CROSS = 0.1, 0.3, 0.1  # c, g, h of a further term c*(N/1e9)^-g*(D/2e10)^-h, nats per token
BEND = 0.004  # of a further term BEND*(ln(D/N) - ln 20)^2, nats per token

Losses = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of N and D


@dataclass(frozen=True)
class Design:
    """Sweeps of one kind: build(noise, seed), the true exponent, ln N_opt of C, and the losses."""

    build: Callable[[str, int], Observations]
    a: float
    log_N_opt: Callable[[float], float]
    losses: Losses = LAW

    def log_L_opt(self, C: float) -> float:
        """ln of the loss at the true optimum of C FLOPs."""
        N = np.exp(self.log_N_opt(C))
        return float(np.log(self.losses(N, C / (6 * N))))


def errors(C: np.ndarray, noise: str, seed: int) -> np.ndarray:
    """(n,) errors of ln L for runs with C FLOPs."""
    rng = np.random.default_rng(seed)
    if noise == "even":
        return NOISES[noise] * rng.normal(size=len(C))
    if noise == "heavy":
        return NOISES[noise] * rng.standard_t(2, size=len(C))
    if noise == "outliers":
        far = rng.random(len(C)) < OUTLIERS
        return NOISES[noise] * rng.normal(size=len(C)) + far * rng.uniform(*TOO_HIGH, size=len(C))
    scale = C**-0.2
    scale *= NOISES[noise] / np.sqrt((scale**2).mean())
    return scale * rng.standard_t(4, size=len(C)) / np.sqrt(2)


def with_cross_term(N: np.ndarray, D: np.ndarray) -> np.ndarray:
    c, g, h = CROSS
    return LAW(N, D) + c * (N / 1e9) ** -g * (D / 2e10) ** -h


def with_bend(N: np.ndarray, D: np.ndarray) -> np.ndarray:
    return LAW(N, D) + BEND * np.log(D / N / 20) ** 2


def optimum(losses: Losses, C: float) -> float:
    """ln N of the lowest loss at C = 6*N*D, on a grid with an error below 1e-4."""
    x = np.linspace(np.log(1e6), np.log(1e13), 400_001)
    return float(x[np.argmin(losses(np.exp(x), C / (6 * np.exp(x))))])


def final_losses(
    C: np.ndarray,
    N: np.ndarray,
    budgets: np.ndarray | None,
    losses: Losses = LAW,
    beyond: float = 0.0,
) -> Design:
    """Runs with N parameters and C FLOPs (n,), plus a random share of up to `beyond` of C."""
    names = np.array([f"run{i:03d}" for i in range(len(C))])
    labels = np.full(len(C), np.nan) if budgets is None else budgets

    def build(noise: str, seed: int) -> Observations:
        spent = C * (1 + beyond * np.random.default_rng(10_000 + seed).random(len(C)))
        L = losses(N, spent / (6 * N)) * np.exp(errors(spent, noise, seed))
        return Observations(names, labels, spent, N, spent / (6 * N), L)

    if losses is LAW:
        return Design(build, A, lambda at: LOG_K + A * np.log(at))
    x = np.linspace(np.log(C.min()), np.log(C.max()), 9)
    a = float(np.polyfit(x, [optimum(losses, at) for at in np.exp(x)], 1)[0])
    return Design(build, a, lambda at: optimum(losses, at), losses)


def profiles(budgets: Any, n_sizes: int, half_width: float, **options: Any) -> Design:
    """An IsoFLOP grid: n_sizes per budget, centred on the optimum of the law, evenly spaced in ln N.

    Grids of fewer than four sizes take them cyclically from four or five sizes, so that D/N varies.
    """
    budgets = np.array(budgets, float)
    places = np.geomspace(1 / half_width, half_width, max(n_sizes, 4))
    offsets = np.tile(places, len(budgets))
    if n_sizes < 4:
        order = {1: [2, 0, 4, 1, 3], 2: [0, 2, 1, 3], 3: [0, 2, 3, 1]}[n_sizes]
        places = np.geomspace(1 / half_width, half_width, len(order))
        offsets = np.resize(places[order], n_sizes * len(budgets))
    C = np.repeat(budgets, max(n_sizes, 1))
    return final_losses(C, np.exp(LOG_K) * C**A * offsets, C, **options)


def scattered(n: int) -> Design:
    """Sizes of 50 million to 5 billion, 4 to 160 tokens per parameter, without budgets."""
    rng = np.random.default_rng(7)
    N = np.exp(rng.uniform(np.log(5e7), np.log(5e9), n))
    ratio = np.exp(rng.uniform(np.log(4), np.log(160), n))
    return final_losses(6 * N**2 * ratio, N, None)


def ladder(n_sizes: int) -> Design:
    """Training curves of 60 points; each size is trained to the same six tokens per parameter."""
    sizes = np.geomspace(5e7, 5e9, n_sizes)
    N = np.repeat(sizes, len(RATIOS))
    C_end = 6 * N**2 * np.tile(np.array(RATIOS, float), len(sizes))
    done = np.geomspace(0.02, 1, 60)
    D = C_end[:, None] / (6 * N[:, None]) * done  # (n_runs, 60)
    L = LAW(N[:, None], D) * (1 + PENALTY * (1 - done))
    names = np.repeat([f"run{i:03d}" for i in range(len(N))], 60)
    columns = np.repeat(N, 60), D.ravel()
    no_budgets = np.full(len(names), np.nan)

    def build(noise: str, seed: int) -> Observations:
        error = errors(C_end, noise, seed)[:, None]
        noisy = (L * np.exp(error)).ravel()
        C = 6 * columns[0] * columns[1]
        return Observations(names, no_budgets, C, *columns, noisy, loss_kind="validation")

    return Design(build, A, lambda at: LOG_K + A * np.log(at))


def spread(n: int) -> np.ndarray:
    """n budgets over the range of the nine budgets of the paper."""
    return np.geomspace(ISOFLOP_BUDGETS[0], ISOFLOP_BUDGETS[-1], n)


PROFILES = {  # designs for approach 2
    "9 budgets x 7 sizes, +-4x": lambda: profiles(ISOFLOP_BUDGETS, 7, 4.0),
    "9 budgets x 9 sizes, +-8x": lambda: profiles(ISOFLOP_BUDGETS, 9, 8.0),
    "5 budgets x 5 sizes, +-4x": lambda: profiles(ISOFLOP_BUDGETS[::2], 5, 4.0),
    "6 budgets x 9 sizes, +-30x": lambda: profiles(spread(6), 9, 30.0),
    "9 x 7, up to 5% beyond C": lambda: profiles(ISOFLOP_BUDGETS, 7, 4.0, beyond=STEP),
}
MISFITS = {  # designs with a term that the fitted law lacks
    "9 x 7, cross term": lambda: profiles(ISOFLOP_BUDGETS, 7, 4.0, losses=with_cross_term),
    "9 x 7, bend in ln(D/N)": lambda: profiles(ISOFLOP_BUDGETS, 7, 4.0, losses=with_bend),
}
SPARSE = {  # designs for approach 3 only
    "15 runs, no budgets": lambda: scattered(15),
    "40 runs, no budgets": lambda: scattered(40),
    "24 budgets x 1 run": lambda: profiles(spread(24), 1, 5.0),
    "12 budgets x 2 runs": lambda: profiles(spread(12), 2, 5.0),
    "8 budgets x 3 runs": lambda: profiles(spread(8), 3, 4.0),
}
LADDERS = {f"{n} sizes x 6 horizons": lambda n=n: ladder(n) for n in (6, 12, 24)}
