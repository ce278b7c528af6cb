"""The paper's own minimisation of approach 3, for comparison: L-BFGS from 4500 starts (section D.2).

alpha and beta from {0, .5, 1, 1.5, 2}, e from {-1, -.5, 0, .5, 1}, a and b from {0, 5, ..., 25}. The best
end point is taken. The result depends on whether losses are summed or averaged and on when the search stops:
with a mean, SciPy's default tolerance, which is absolute, stops after about eight steps at one of many points
(Besiroglu et al. 2024). SciPy is imported when called.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from chinchilla.fit.parametric.newton import huber
from chinchilla.fit.result import LossLaw

COEFFICIENTS = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0)  # a and b
OFFSETS = (-1.0, -0.5, 0.0, 0.5, 1.0)  # e
EXPONENTS = (0.0, 0.5, 1.0, 1.5, 2.0)  # alpha and beta
HUBER_DELTA = 1e-3
TIGHT = {"ftol": 0.0, "gtol": 1e-12, "maxiter": 5_000, "maxfun": 20_000}  # L-BFGS to convergence


@dataclass(frozen=True)
class Searched:
    """End points of the searches from every start."""

    theta: np.ndarray  # (n_starts, 5) a, b, e, alpha, beta of the end points
    objectives: np.ndarray  # (n_starts,) sums of Huber losses there
    iterations: np.ndarray  # (n_starts,)
    said_success: np.ndarray  # (n_starts,) bool: SciPy's `success`

    @property
    def law(self) -> LossLaw:
        """Law of the best end point."""
        a, b, e, alpha, beta = map(float, self.theta[int(self.objectives.argmin())])
        return LossLaw(math.exp(e), math.exp(a), math.exp(b), alpha, beta)

    @property
    def objective(self) -> float:
        """Sum of Huber losses at the best end point."""
        return float(self.objectives.min())


def grid_starts() -> np.ndarray:
    """(4500, 5) a, b, e, alpha, beta."""
    axes = (COEFFICIENTS, COEFFICIENTS, OFFSETS, EXPONENTS, EXPONENTS)
    return np.array(list(itertools.product(*axes)))


def search(
    N: np.ndarray,
    D: np.ndarray,
    L: np.ndarray,
    converge: bool = True,
    starts: np.ndarray | None = None,
) -> Searched:
    """Minimise the paper's objective by L-BFGS from every start.

    Args:
        N: (n,) parameters.
        D: (n,) tokens.
        L: (n,) final loss, nats per token.
        converge: whether to minimise the sum (the objective as printed) until no step decreases it;
            otherwise the mean with SciPy's default tolerances.
        starts: (k, 5) instead of the paper's 4500.
    """
    from scipy.optimize import minimize

    total = _objective(N, D, L, 1.0)
    minimised = total if converge else _objective(N, D, L, 1.0 / len(L))
    options = TIGHT if converge else {}
    ends = [
        minimize(minimised, x, jac=True, method="L-BFGS-B", options=options)
        for x in (grid_starts() if starts is None else starts)
    ]
    f = np.array([total(end.x)[0] for end in ends])
    return Searched(
        theta=np.array([end.x for end in ends]),
        objectives=np.where(np.isfinite(f), f, np.inf),
        iterations=np.array([end.nit for end in ends]),
        said_success=np.array([bool(end.success) for end in ends]),
    )


def _objective(N: np.ndarray, D: np.ndarray, L: np.ndarray, scale: float) -> Any:
    """Return a function of theta (5,): value and gradient of scale * sum of Huber, in raw logarithms."""
    x, z, y = np.log(N), np.log(D), np.log(L)

    def value_and_gradient(theta: np.ndarray) -> tuple[float, np.ndarray]:
        a, b, e, alpha, beta = theta
        terms = np.stack([a - alpha * x, b - beta * z, np.full_like(x, e)])
        top = terms.max(axis=0)
        p = np.exp(terms - top)
        total = p.sum(axis=0)
        r = top + np.log(total) - y
        psi = np.clip(r, -HUBER_DELTA, HUBER_DELTA) * p / total  # (3, n)
        s = psi.sum(axis=1)
        gradient = np.array([s[0], s[1], s[2], -(psi[0] @ x), -(psi[1] @ z)])
        return scale * float(huber(r, HUBER_DELTA).sum()), scale * gradient

    return value_and_gradient
