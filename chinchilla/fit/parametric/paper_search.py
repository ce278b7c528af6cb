"""The paper's own way to its minimum, for comparison: L-BFGS from 4500 starts (section D.2).

alpha and beta from {0, .5, 1, 1.5, 2}, e from {-1, -.5, 0, .5, 1}, a and b from {0, 5, ..., 25}; the
best end is kept, and must not lie on the grid's boundary. What decides is how the objective is
added up and when the search stops: a mean under SciPy's defaults stops after some eight steps,
because its tolerance is absolute, and then any of many answers comes out (Besiroglu et al. 2024).
Needs SciPy, imported when called.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.fit.parametric.newton import Objective, Problem
from chinchilla.fit.result import LossLaw

COEFFICIENTS = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0)  # a and b
OFFSETS = (-1.0, -0.5, 0.0, 0.5, 1.0)  # e
EXPONENTS = (0.0, 0.5, 1.0, 1.5, 2.0)  # alpha and beta
CONVERGED = 1e-6  # of the objective: what a Newton step may still promise at the best end
STOPS = {
    "tight": {"ftol": 0.0, "gtol": 1e-12, "maxiter": 5_000, "maxfun": 20_000},
    "scipy": {},  # ftol 2.2e-9, absolute for an objective below 1; gtol 1e-5
}


@dataclass(frozen=True)
class Searched:
    """Where the 4500 searches ended."""

    law: LossLaw  # of the lowest end
    objective: float  # sum of Huber there, whatever was minimised
    theta: np.ndarray  # (n_starts, 5) a, b, e, alpha, beta: ends
    objectives: np.ndarray  # (n_starts,) sum of Huber at each end
    iterations: np.ndarray  # (n_starts,)
    said_success: np.ndarray  # (n_starts,) bool: what SciPy reported
    predicted_relative_decrease: float  # what a Newton step would still gain at the lowest end
    on_boundary: bool  # the lowest end came to lie at or beyond the grid's edge

    @property
    def share_at_best(self) -> float:
        """Share of starts that end within 1e-6 of the lowest, relative."""
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
    """L-BFGS on the paper's objective from every start.

    Args:
        N: (n,) parameters.
        D: (n,) tokens.
        L: (n,) final loss, nats per token.
        huber_delta: where the Huber loss turns linear, in log-loss.
        reduction: "sum" (the objective as printed) or "mean".
        stop: "tight" or "scipy" (its defaults).
        starts: (k, 5) in place of the paper's 4500.
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
    aim = Objective("huber", (huber_delta,))
    promised = problem.promised(problem.theta(law), np.ones(len(L)), aim)
    edge = np.array([25.0, 25.0, 1.0, 2.0, 2.0])
    low = np.array([0.0, 0.0, -1.0, 0.0, 0.0])
    return Searched(
        law=law,
        objective=float(f.min()),
        theta=theta,
        objectives=f,
        iterations=np.array([end.nit for end in ends]),
        said_success=np.array([bool(end.success) for end in ends]),
        predicted_relative_decrease=promised / max(float(f.min()), 1e-300),
        on_boundary=bool(np.any((best <= low) | (best >= edge))),
    )


def paths(
    N: np.ndarray,
    D: np.ndarray,
    L: np.ndarray,
    starts: Sequence[Sequence[float]],
    aim: LossLaw,
    huber_delta: float = 1e-3,
) -> dict[str, Any]:
    """Where tight searches pass nearest to `aim` on their way to the minimum.

    Near is measured in the two log-coefficients, the log of E and the exponents, each over its
    standard error on the published points (Besiroglu et al. 2024).

    Returns:
        E, A, B, alpha, beta and a of the nearest iterate; its step, the path's n_steps, its
        start; distance, in standard errors; n_paths.
    """
    from scipy.optimize import minimize

    wanted = np.array([np.log(aim.A), np.log(aim.B), np.log(aim.E), aim.alpha, aim.beta])
    se = np.array([0.26, 0.6, 0.017, 0.02, 0.02])
    best: dict[str, Any] = {"distance": np.inf}
    n_paths = len(starts)
    for start in starts:
        iterates: list[np.ndarray] = []
        minimize(
            objective(N, D, L, huber_delta, 1.0), start, jac=True, method="L-BFGS-B",
            options=STOPS["tight"], callback=lambda x, to=iterates: to.append(x.copy()),
        )  # fmt: skip
        x = np.array(iterates)
        distance = np.sqrt((((x - wanted) / se) ** 2).sum(axis=1))
        i = int(np.argmin(distance))
        if distance[i] < best["distance"]:
            A, B, E = np.exp(x[i, :3])
            alpha, beta = x[i, 3:]
            best = {"distance": distance[i], "E": E, "A": A, "B": B, "alpha": alpha, "beta": beta}
            best |= {"a": beta / (alpha + beta)}
            best = {name: float(value) for name, value in best.items()}
            best |= {
                "step": i + 1,
                "n_steps": len(x),
                "n_paths": n_paths,
                "start": [float(v) for v in start],
            }
    return best


def fit_by_search(
    N: np.ndarray, D: np.ndarray, L: np.ndarray, huber_delta: float = 1e-3
) -> tuple[LossLaw, dict[str, Any]]:
    """`method=paper`: the lowest of 4500 tight searches with its certificate; about a minute.

    Raises:
        FitError: the lowest end is no minimum, or lies on the grid's boundary.
    """
    found = search(N, D, L, huber_delta)
    certificate = {
        "objective": found.objective,
        "predicted_relative_decrease": found.predicted_relative_decrease,
        "converged": True,
        "n_starts": len(found.objectives),
        "n_converged": int(found.said_success.sum()),
        "n_agreeing": round(found.share_at_best * len(found.objectives)),
        "bound_hits": [],
    }
    if not found.predicted_relative_decrease < CONVERGED or found.on_boundary:
        where = "on the grid's boundary" if found.on_boundary else "not at a minimum"
        raise FitError(
            f"method=paper: the lowest of {len(found.objectives)} searches ends {where} (a Newton "
            f"step still promises {found.predicted_relative_decrease:.1e} of the objective). Use "
            "method=newton.",
            "not_converged",
        )
    return found.law, certificate


def objective(N: np.ndarray, D: np.ndarray, L: np.ndarray, huber_delta: float, scale: float) -> Any:
    """theta (5,) -> value and gradient (5,) of scale * sum of Huber, in raw logarithms."""
    x, z, y = np.log(N), np.log(D), np.log(L)

    def value_and_gradient(theta: np.ndarray) -> tuple[float, np.ndarray]:
        a, b, e, alpha, beta = theta
        terms = np.stack([a - alpha * x, b - beta * z, np.full_like(x, e)])
        top = terms.max(axis=0)
        p = np.exp(terms - top)
        total = p.sum(axis=0)
        r = top + np.log(total) - y
        size = np.abs(r)
        small = np.minimum(size, huber_delta)
        psi = np.clip(r, -huber_delta, huber_delta) * p / total  # (3, n)
        s = psi.sum(axis=1)
        gradient = np.array([s[0], s[1], s[2], -(psi[0] @ x), -(psi[1] @ z)])
        return scale * float((small * (size - small / 2)).sum()), scale * gradient

    return value_and_gradient
