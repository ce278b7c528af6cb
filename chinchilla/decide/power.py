"""What a planned grid can determine: the fit of its runs, simulated under a known law with noise.

This module must import without torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.fit.isoflop.approach2 import fit_isoflop
from chinchilla.fit.loss_law import FrontierSolver, named_law
from chinchilla.observations.table import Observations
from chinchilla.plan.records import RunSpec

FAR = 10.0  # over the largest budget: where N_opt is estimated
PUBLISHED_FROM = 1e19  # FLOPs; published laws give absurd losses to much smaller budgets
LEVELS = (10, 50, 90)  # percentiles


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
    estimates, failure = [], None
    obs = _observations(specs, N, D, true(N, D))
    C = FAR * largest
    solver = FrontierSolver.of(obs)
    (log_k, true_a), _ = solver.lines(true)
    for _ in range(n_sweeps):
        losses = true(N, D) * np.exp(noise * rng.normal(size=len(N)))
        try:
            result = fit_isoflop(_observations(specs, N, D, losses), n_bootstrap=0)
        except FitError as error:
            failure = error
            continue
        estimates.append((result.N_opt.exponent, float(result.N_opt(C))))
    if failure is not None and len(estimates) < n_sweeps / 2:
        raise failure
    a, N_opt = np.percentile(np.array(estimates), LEVELS, axis=0).T.tolist()
    return Power(
        law=law,
        noise=noise,
        n_sweeps=n_sweeps,
        n_failed=n_sweeps - len(estimates),
        a=tuple(a),
        true_a=float(true_a),
        C=C,
        N_opt=tuple(N_opt),
        true_N_opt=float(np.exp(log_k + true_a * np.log(C))),
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
