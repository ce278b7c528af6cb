"""Batched Newton minimisation of approach 3's objective.

Minimises sum_i w_i Huber(ln L_hat_i - ln L_i) over theta = (a, b, e, alpha, beta) with
L_hat = exp(a - alpha*u) + exp(b - beta*v) + exp(e), where u and v are centred ln N and ln D. Many starts
or many weightings of the same runs are minimised together, as arrays with leading axis k.

The start decides which minimum is found: from the paper's 4500 starts, L-BFGS with tight tolerances
reaches the optimum of the published points in a third of the cases. Starts therefore come from
variable projection: for each (alpha, beta) on a grid, E, A and B solve a linear least-squares problem.
Newton's method then uses the exact Hessian, at Huber widths that decrease to the final one.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from chinchilla.fit.result import LossLaw

GRID = np.geomspace(0.06, 1.5, 9)  # alpha and beta of the starts
SIDE = 2  # grid nodes between the best start and the starts on its sides: a factor 2.2
TOLERANCE = 1e-13  # converged when a Newton step would reduce the objective by less than this share
LOOSE = 1e-4  # the same for the Huber widths before the final one
MAX_STEPS = 200  # per Huber width
STEP_LENGTHS = (1.0, 0.4, 0.15, 0.05, 0.01, 1e-3, 1e-5)  # of the line search
MAX_MOVE = np.array([2.0, 2.0, 2.0, 0.5, 0.5])  # longest step in a, b, e, alpha, beta
CHUNK = 24_000  # rows times runs that are processed together, so that arrays stay in the cache


class Solutions(NamedTuple):
    """Results of k minimisations."""

    theta: np.ndarray  # (k, 5) a, b, e, alpha, beta in centred coordinates
    f: np.ndarray  # (k,) objective
    predicted: np.ndarray  # (k,) decrease that one more undamped Newton step predicts
    converged: np.ndarray  # (k,) bool


@dataclass(frozen=True)
class Problem:
    """Final losses in centred logarithms: u = ln N - mean, v = ln D - mean, y = ln L."""

    u: np.ndarray  # (n,)
    v: np.ndarray  # (n,)
    y: np.ndarray  # (n,)
    centre: tuple[float, float]  # means of ln N and ln D

    @classmethod
    def of(cls, N: np.ndarray, D: np.ndarray, L: np.ndarray) -> "Problem":
        """Build from parameters, tokens and nats per token, each (n,)."""
        x, z = np.log(N), np.log(D)
        return cls(x - x.mean(), z - z.mean(), np.log(L), (float(x.mean()), float(z.mean())))

    @property
    def lowest_e(self) -> float:
        """Lower bound of e: E is then 1e-5 of the smallest loss, which counts as zero."""
        return float(self.y.min() + np.log(1e-5))

    def law(self, theta: np.ndarray) -> LossLaw:
        """Law of one (5,) parameter vector."""
        return LossLaw(*map(float, self.laws(theta[None])[0]))

    def laws(self, theta: np.ndarray) -> np.ndarray:
        """(k, 5) E, A, B, alpha, beta of (k, 5) parameter vectors."""
        a, b, e, alpha, beta = theta.T
        with np.errstate(over="ignore"):  # a diverged resample becomes infinite and is not counted
            A, B = np.exp(a + alpha * self.centre[0]), np.exp(b + beta * self.centre[1])
        return np.stack([np.exp(e), A, B, alpha, beta], axis=1)

    def theta(self, law: LossLaw) -> np.ndarray:
        """(5,) parameter vector of a law."""
        a = np.log(law.A) - law.alpha * self.centre[0]
        b = np.log(law.B) - law.beta * self.centre[1]
        return np.array([a, b, np.log(law.E), law.alpha, law.beta])

    def starts(self, w: np.ndarray, which: str = "sides") -> np.ndarray:
        """Variable-projection starts: E, A, B by least squares of L_hat/L - 1 at each grid node.

        Args:
            w: (k, n) weights.
            which: "sides" for the best node and the best ones whose alpha or beta is at least 2.2 times
                smaller or larger; "grid" for all nodes.

        Returns:
            (k, n_starts, 5) parameter vectors, best first.
        """
        i, j = (g.ravel() for g in np.indices((len(GRID), len(GRID))))  # nodes: alpha, beta
        terms = np.stack(
            [
                np.exp(-np.outer(self.u, GRID[i])),
                np.exp(-np.outer(self.v, GRID[j])),
                np.ones((len(self.u), len(i))),
            ],
            axis=-1,
        )
        X = terms * np.exp(-self.y)[:, None, None]  # (n, g, 3) regressors of the value 1
        products = X[..., :, None] * X[..., None, :]
        M = (w @ products.reshape(len(X), -1)).reshape(len(w), len(i), 3, 3)
        q = (w @ X.reshape(len(X), -1)).reshape(len(w), len(i), 3)
        ridge = 1e-10 * np.trace(M, axis1=-2, axis2=-1)[..., None, None] * np.eye(3)
        coefficients = np.linalg.solve(M + ridge, q[..., None])[..., 0]  # (k, g, 3) A, B, E
        coefficients = np.maximum(coefficients, 1e-2 * np.exp(self.y.mean()))
        fitted = (M @ coefficients[..., None])[..., 0]
        misfit = (coefficients * (fitted - 2 * q)).sum(axis=-1)
        order = np.argsort(misfit, axis=1)
        if which == "sides":
            di, dj = i[order] - i[order[:, :1]], j[order] - j[order[:, :1]]
            sides = (di == 0, di <= -SIDE, di >= SIDE, dj <= -SIDE, dj >= SIDE)
            order = np.take_along_axis(order, np.stack([s.argmax(1) for s in sides], 1), 1)
        exponents = np.stack([GRID[i], GRID[j]], axis=-1)[order]
        chosen = np.take_along_axis(coefficients, order[..., None], axis=1)
        return np.concatenate([np.log(chosen), exponents], axis=-1)

    def solve(self, start: np.ndarray, w: np.ndarray, widths: tuple[float, ...]) -> Solutions:
        """Minimise from k starts.

        Args:
            start: (k, 5) parameter vectors.
            w: (k, n) weights of the runs in each minimisation.
            widths: Huber widths in log-loss, decreasing to the final one; infinity is least squares.
        """
        at_once = max(1, CHUNK // len(self.u))
        parts = []
        for first in range(0, len(start), at_once):
            rows = slice(first, first + at_once)
            theta = start[rows]
            for width in widths:
                part = self._descend(theta, w[rows], width, width == widths[-1])
                theta = part.theta
            parts.append(part)
        return Solutions(*map(np.concatenate, zip(*parts, strict=True)))

    def _descend(self, start: np.ndarray, w: np.ndarray, width: float, final: bool) -> Solutions:
        """Newton's method with a line search, at one Huber width."""
        theta, k = start.copy(), len(start)
        f, predicted, converged = np.full(k, np.inf), np.full(k, np.inf), np.zeros(k, bool)
        live = np.arange(k)
        for _ in range(MAX_STEPS):
            f[live], g, H = self.derivatives(theta[live], w, width)
            step, predicted[live], convex = newton_step(g, H)
            # An exact fit leaves residuals of 1e-14, which are rounding errors.
            floor = (TOLERANCE if final else LOOSE) * f[live] + 1e-28 * w.sum(-1)
            done = (predicted[live] <= floor) & convex
            converged[live[done]] = True
            live, step, w = live[~done], step[~done], w[~done]
            if not len(live):
                break
            step /= np.maximum(1, (np.abs(step) / MAX_MOVE).max(-1, keepdims=True))
            best, f_best = self._line_search(theta[live], f[live], step, predicted[live], w, width)
            improved = f_best <= f[live]  # the others cannot decrease further than rounding
            theta[live[improved]] = best[improved]
            live, w = live[improved], w[improved]
            if not len(live):
                break
        return Solutions(theta, f, predicted, converged)

    def _line_search(
        self,
        theta: np.ndarray,
        f: np.ndarray,
        step: np.ndarray,
        predicted: np.ndarray,
        w: np.ndarray,
        width: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(k, 5) ends of the first steps with a tenth of the predicted decrease, else the best, and (k,) f."""
        best, f_best = theta.copy(), np.full(len(theta), np.inf)
        rows = np.arange(len(theta))
        for length in STEP_LENGTHS:
            trial = theta[rows] + length * step[rows]
            trial[:, 2] = np.maximum(trial[:, 2], self.lowest_e)
            f_trial = self.objective(trial, w if len(rows) == len(w) else w[rows], width)
            lower = f_trial < f_best[rows]
            best[rows[lower]], f_best[rows[lower]] = trial[lower], f_trial[lower]
            rows = rows[f_trial > f[rows] - 0.1 * length * predicted[rows]]
            if not len(rows):
                break
        return best, f_best

    @cached_property
    def _products(self) -> np.ndarray:
        """(3n, 25) outer products of the gradients (3, n, 5) of each term's logarithm in theta."""
        c = np.zeros((3, len(self.u), 5))
        c[[0, 1, 2], :, [0, 1, 2]] = 1
        c[0, :, 3], c[1, :, 4] = -self.u, -self.v
        return (c[..., :, None] * c[..., None, :]).reshape(-1, 25)

    def _terms(self, theta: np.ndarray) -> np.ndarray:
        """(k, 3, n) the terms of L_hat over the measured loss."""
        a, b, e, alpha, beta = theta.T[..., None]  # each (k, 1)
        terms = np.empty((len(theta), 3, len(self.y)))
        terms[:, 0] = np.exp(np.minimum(a - alpha * self.u - self.y, 300))
        terms[:, 1] = np.exp(np.minimum(b - beta * self.v - self.y, 300))
        terms[:, 2] = np.exp(np.minimum(e, 300)) * np.exp(-self.y)
        return terms

    def residuals(self, theta: np.ndarray) -> np.ndarray:
        """(n,) ln L_hat - ln L of a (5,) parameter vector."""
        return np.log(self._terms(theta[None])[0].sum(axis=0))

    def objective(self, theta: np.ndarray, w: np.ndarray, width: float) -> np.ndarray:
        """(k,) objective."""
        r = np.log(self._terms(theta).sum(axis=1))
        return np.einsum("kn,kn->k", w, huber(r, width))

    def derivatives(
        self, theta: np.ndarray, w: np.ndarray, width: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Objective (k,), gradient (k, 5) and generalised Hessian (k, 5, 5).

        With shares p_j of the three terms and c_j the gradients of their logarithms, the gradient of
        ln L_hat is m = sum_j p_j c_j and its Hessian sum_j p_j c_j c_j' - m m'. The second derivative of
        the Huber loss is 1 within its width and 0 outside.
        """
        p = self._terms(theta)
        total = p.sum(axis=1)
        p /= total[:, None]
        r = np.log(total)
        slope = np.clip(r, -width, width)  # derivative of the Huber loss
        psi = w * slope
        f = np.einsum("kn,kn->k", psi, r - 0.5 * slope)
        curvature = np.where(slope == r, w, 0.0) - psi  # of m m'
        m = np.empty((len(p), 5, len(self.y)))
        m[:, :3], m[:, 3], m[:, 4] = p, -self.u * p[:, 0], -self.v * p[:, 1]
        g = (m @ psi[..., None])[..., 0]
        H = (m * curvature[:, None]) @ m.transpose(0, 2, 1)
        p *= psi[:, None]
        H += (p.reshape(len(p), -1) @ self._products).reshape(-1, 5, 5)
        held = (theta[:, 2] <= self.lowest_e) & (g[:, 2] > 0)  # E is zero and stays there
        if held.any():
            g[held, 2] = H[held, 2, :] = H[held, :, 2] = 0
            H[held, 2, 2] = np.abs(H[held]).max((-1, -2))
        return f, g, H

    def run_derivatives(self, theta: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
        """Gradient (n, 5) and generalised Hessian (n, 25) of each run's part of the objective at one theta."""
        p = self._terms(theta[None])[0]
        total = p.sum(axis=0)
        p /= total
        r = np.log(total)
        slope = np.clip(r, -width, width)
        m = np.stack([*p, -self.u * p[0], -self.v * p[1]], axis=1)
        H = (((slope == r) - slope)[:, None, None] * m[:, :, None] * m[:, None, :]).reshape(-1, 25)
        H += slope[:, None] * np.einsum("jn,jni->ni", p, self._products.reshape(3, -1, 25))
        return slope[:, None] * m, H

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        """(n, 5) derivatives of ln L_hat in theta, at one (5,) parameter vector."""
        N, D = np.exp(self.u + self.centre[0]), np.exp(self.v + self.centre[1])
        return self.law(theta).jacobian(N, D, self.centre)

    def condition_number(self, theta: np.ndarray) -> float:
        """Condition number of the Jacobian of ln L_hat, columns scaled to length 1."""
        J = self.jacobian(theta)
        return float(np.linalg.cond(J / np.maximum(np.linalg.norm(J, axis=0), 1e-300)))


def huber(r: np.ndarray, width: float) -> np.ndarray:
    """r^2/2 within the width, linear outside."""
    slope = np.clip(r, -width, width)
    return slope * (r - 0.5 * slope)


def newton_step(g: np.ndarray, H: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Step -|H|^-1 g, where |H| has the absolute eigenvalues of H scaled to a unit diagonal.

    Returns:
        Steps (k, m), the decrease that each predicts (k,), and whether H is positive definite (k,).
    """
    diagonal = np.abs(np.einsum("kii->ki", H))
    scale = 1 / np.sqrt(np.maximum(diagonal, 1e-20 * diagonal.max(-1, keepdims=True) + 1e-300))
    values, vectors = np.linalg.eigh(H * scale[:, :, None] * scale[:, None, :])
    x = np.einsum("kij,ki->kj", vectors, g * scale)
    size = np.maximum(np.abs(values), 1e-11)
    step = -scale * np.einsum("kij,kj->ki", vectors, x / size)
    return step, 0.5 * (x**2 / size).sum(-1), values[:, 0] > -1e-10
