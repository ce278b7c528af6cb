"""The paper's own minimisation of approach 3, for comparison: L-BFGS from 4500 starts (section D.2).

alpha and beta from {0, .5, 1, 1.5, 2}, e from {-1, -.5, 0, .5, 1}, a and b from {0, 5, ..., 25}. The best
end point is taken. The result depends on whether losses are summed or averaged and on when the search stops:
with a mean, SciPy's default tolerance, which is absolute, stops after about eight steps at one of many points
(Besiroglu et al. 2024). SciPy is imported when called.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chinchilla.fit.parametric.newton import Problem, huber
from chinchilla.fit.result import LossLaw

COEFFICIENTS = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0)  # a and b
OFFSETS = (-1.0, -0.5, 0.0, 0.5, 1.0)  # e
EXPONENTS = (0.0, 0.5, 1.0, 1.5, 2.0)  # alpha and beta
STOPS = {
    "tight": {"ftol": 0.0, "gtol": 1e-12, "maxiter": 5_000, "maxfun": 20_000},
    "scipy": {},  # ftol 2.2e-9, absolute for an objective below 1; gtol 1e-5
}


@dataclass(frozen=True)
class Searched:
    """End points of the 4500 searches."""

    law: LossLaw  # of the best end point
    objective: float  # sum of Huber losses there, also where the mean was minimised
    theta: np.ndarray  # (n_starts, 5) a, b, e, alpha, beta of the end points
    objectives: np.ndarray  # (n_starts,) sum of Huber losses at each end point
    iterations: np.ndarray  # (n_starts,)
    said_success: np.ndarray  # (n_starts,) bool: SciPy's `success`
    predicted_relative_decrease: float  # of a Newton step from the best end point

    @property
    def share_at_best(self) -> float:
        """Share of starts that end within a relative 1e-6 of the best."""
        return float((self.objectives <= self.objectives.min() * (1 + 1e-6)).mean())


def grid_starts() -> np.ndarray:
    """(4500, 5) a, b, e, alpha, beta."""
    axes = (COEFFICIENTS, COEFFICIENTS, OFFSETS, EXPONENTS, EXPONENTS)
    return np.array(list(itertools.product(*axes)))


def search(
    N: np.ndarray,
    D: np.ndarray,
    L: np.ndarray,
    huber_delta: float = 1e-3,
    reduction: str = "sum",
    stop: str = "tight",
    starts: np.ndarray | None = None,
) -> Searched:
    """Minimise the paper's objective by L-BFGS from every start.

    Args:
        N: (n,) parameters.
        D: (n,) tokens.
        L: (n,) final loss, nats per token.
        huber_delta: where the Huber loss turns linear, in log-loss.
        reduction: "sum" (the objective as printed) or "mean".
        stop: "tight" or "scipy" (its defaults).
        starts: (k, 5) instead of the paper's 4500.
    """
    from scipy.optimize import minimize

    value_and_gradient = objective(N, D, L, huber_delta, 1.0 / len(L) if reduction == "mean" else 1)
    starts = grid_starts() if starts is None else starts
    ends = [
        minimize(value_and_gradient, x, jac=True, method="L-BFGS-B", options=STOPS[stop])
        for x in starts
    ]
    theta = np.array([end.x for end in ends])
    total = objective(N, D, L, huber_delta, 1.0)
    f = np.array([total(x)[0] for x in theta])
    f = np.where(np.isfinite(f), f, np.inf)
    best = theta[int(np.argmin(f))]
    E, A, B = map(float, np.exp(best[[2, 0, 1]]))
    law = LossLaw(E, A, B, float(best[3]), float(best[4]))
    problem = Problem.of(N, D, L)
    predicted = problem.predicted_decrease(problem.theta(law), np.ones(len(L)), huber_delta)
    return Searched(
        law=law,
        objective=float(f.min()),
        theta=theta,
        objectives=f,
        iterations=np.array([end.nit for end in ends]),
        said_success=np.array([bool(end.success) for end in ends]),
        predicted_relative_decrease=predicted / max(float(f.min()), 1e-300),
    )


def paths(
    N: np.ndarray,
    D: np.ndarray,
    L: np.ndarray,
    starts: Sequence[Sequence[float]],
    target: LossLaw,
    huber_delta: float = 1e-3,
) -> dict[str, Any]:
    """Find the iterate of tight searches that is closest to `target`.

    The distance is measured in ln A, ln B, ln E and the exponents, each over its standard error on the
    published points (Besiroglu et al. 2024).

    Returns:
        E, A, B, alpha, beta and a of the closest iterate; its step, the number of steps and the start of
        its search; distance, in standard errors; n_paths.
    """
    from scipy.optimize import minimize

    goal = np.array(
        [np.log(target.A), np.log(target.B), np.log(target.E), target.alpha, target.beta]
    )
    se = np.array([0.26, 0.6, 0.017, 0.02, 0.02])
    best: dict[str, Any] = {"distance": np.inf}
    for start in starts:
        iterates: list[np.ndarray] = []
        minimize(
            objective(N, D, L, huber_delta, 1.0), start, jac=True, method="L-BFGS-B",
            options=STOPS["tight"], callback=lambda x, to=iterates: to.append(x.copy()),
        )  # fmt: skip
        x = np.array(iterates)
        distance = np.sqrt((((x - goal) / se) ** 2).sum(axis=1))
        i = int(np.argmin(distance))
        if distance[i] < best["distance"]:
            A, B, E = map(float, np.exp(x[i, :3]))
            alpha, beta = map(float, x[i, 3:])
            best = {
                "distance": float(distance[i]),
                "E": E, "A": A, "B": B, "alpha": alpha, "beta": beta, "a": beta / (alpha + beta),
                "step": i + 1,
                "n_steps": len(x),
                "n_paths": len(starts),
                "start": [float(v) for v in start],
            }  # fmt: skip
    return best


def objective(N: np.ndarray, D: np.ndarray, L: np.ndarray, huber_delta: float, scale: float) -> Any:
    """Return a function of theta (5,): value and gradient of scale * sum of Huber, in raw logarithms."""
    x, z, y = np.log(N), np.log(D), np.log(L)

    def value_and_gradient(theta: np.ndarray) -> tuple[float, np.ndarray]:
        a, b, e, alpha, beta = theta
        terms = np.stack([a - alpha * x, b - beta * z, np.full_like(x, e)])
        top = terms.max(axis=0)
        p = np.exp(terms - top)
        total = p.sum(axis=0)
        r = top + np.log(total) - y
        psi = np.clip(r, -huber_delta, huber_delta) * p / total  # (3, n)
        s = psi.sum(axis=1)
        gradient = np.array([s[0], s[1], s[2], -(psi[0] @ x), -(psi[1] @ z)])
        return scale * float(huber(r, huber_delta).sum()), scale * gradient

    return value_and_gradient
