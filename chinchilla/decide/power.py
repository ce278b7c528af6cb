"""What a planned grid can determine: the fit of its runs, simulated under a known law with noise.

This module must import without torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.fit.isoflop.approach2 import fit_isoflop
from chinchilla.fit.loss_law import FrontierSolver, LossLaw, named_law
from chinchilla.observations.table import Observations
from chinchilla.plan.records import RunSpec

FAR = 10.0  # over the largest budget: where N_opt is estimated
PUBLISHED_FROM = 1e19  # FLOPs; published laws give absurd losses to much smaller budgets
LEVELS = (10, 50, 90)  # percentiles
SHIFTS = (1.0, 0.5, 2.0)  # of the true optimum, for the errors without noise


@dataclass(frozen=True)
class Power:
    """Estimates of approach 2 over simulated sweeps of one grid; each tuple is (p10, median, p90)."""

    law: str
    noise: float  # standard deviation of ln L
    n_sweeps: int
    n_failed: int  # sweeps in which approach 2 was refused
    a: tuple[float, float, float]
    true_a: float  # exponent of the law's own frontier over the budgets of the grid
    C: float  # FAR * the largest budget
    N_opt: tuple[float, float, float]
    true_N_opt: float
    # Errors of the fit without noise, which more runs of the same grid would not reduce: estimate of a
    # minus the true one, and of N_opt at C relative to it. By true optimum over the middle of the sizes; None
    # where approach 2 is refused, because no minimum lies within the sizes of enough budgets.
    systematic: dict[float, tuple[float, float] | None]


def expected_precision(
    specs: Sequence[RunSpec],
    law: str = "besiroglu",
    noise: float = 5e-3,
    n_sweeps: int = 80,
    seed: int = 0,
) -> Power:
    """Simulate the losses of a plan and fit them.

    Args:
        specs: the plan; runs without a budget contribute to alpha and beta only.
        law: name of the published loss law from which losses are drawn; A and B are reduced for
            largest budgets below 1e19 FLOPs, so that losses are as at 1e19.
        noise: standard deviation of ln L.
        n_sweeps: simulated sweeps.
        seed: of the noise.

    Returns:
        The spread of a and N_opt. It does not contain the error of a law that real runs do not follow:
        the interval of the recommendation, which does, is wider.

    Raises:
        FitError: approach 2 is refused in more than half of the sweeps.
    """
    largest = max(s.budget_flops or 0.0 for s in specs)
    true = named_law(law)
    # L(N, D) becomes L(gN, gD): the same exponents, at budgets that are g^2 times larger.
    g = max(1.0, (PUBLISHED_FROM / largest) ** 0.5)
    true = replace(true, A=true.A * g**-true.alpha, B=true.B * g**-true.beta)
    N = np.array([float(s.N) for s in specs])
    D = np.array([float(s.D) for s in specs])
    rng = np.random.default_rng(seed)
    obs = _observations(specs, N, D, true(N, D))
    C = FAR * largest
    solver = FrontierSolver.of(obs)

    def fitted(losses: np.ndarray) -> tuple[float, float]:
        """Approach 2's a and N_opt at C."""
        result = fit_isoflop(_observations(specs, N, D, losses), n_bootstrap=0)
        return result.N_opt.exponent, float(result.N_opt(C))

    def frontier(law: LossLaw) -> tuple[float, float]:
        """The law's own a and N_opt at C."""
        (log_k, a), _ = solver.lines(law)
        return float(a), float(np.exp(log_k + a * np.log(C)))

    true_a, true_N_opt = frontier(true)
    systematic: dict[float, tuple[float, float] | None] = {}
    log_N = np.log([s.N for s in specs if s.budget_flops == largest])
    for shift in SHIFTS:
        # N_opt is proportional to (A / B)^(1 / (alpha + beta)).
        moved = shift * float(np.exp(log_N.mean())) / float(true.optimum(largest).N)
        law_ = replace(true, A=true.A * moved ** (true.alpha + true.beta))
        own_a, own_N_opt = frontier(law_)
        try:
            a, N_opt = fitted(law_(N, D))
            systematic[shift] = (a - own_a, N_opt / own_N_opt - 1)
        except FitError:
            systematic[shift] = None
    estimates, failure = [], None
    for _ in range(n_sweeps):
        try:
            estimates.append(fitted(true(N, D) * np.exp(noise * rng.normal(size=len(N)))))
        except FitError as error:
            failure = error
    if failure is not None and len(estimates) < n_sweeps / 2:
        raise failure
    spread_a, spread_N = np.percentile(np.array(estimates), LEVELS, axis=0).T.tolist()
    return Power(
        law=law,
        noise=noise,
        n_sweeps=n_sweeps,
        n_failed=n_sweeps - len(estimates),
        a=tuple(spread_a),
        true_a=true_a,
        C=C,
        N_opt=tuple(spread_N),
        true_N_opt=true_N_opt,
        systematic=systematic,
    )


def _observations(
    specs: Sequence[RunSpec], N: np.ndarray, D: np.ndarray, L: np.ndarray
) -> Observations:
    return Observations.of(
        N=N,
        D=D,
        L=L,
        C=np.array([s.C for s in specs]),
        budget_flops=np.array([s.budget_flops or np.nan for s in specs]),
        flop_convention=specs[0].flop_convention,
        n_convention="total",
    )
