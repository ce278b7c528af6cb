"""The engine of approach 3: many starts, or many resamples, minimised together.

What decides is the start, not the optimiser: from the paper's 4500 starts a tight L-BFGS reaches
the optimum of the published points in a third of the cases. So: centre ln N and ln D; for each
(alpha, beta) on a grid solve E, A, B by linear least squares (variable projection); then a
semi-smooth Newton on the paper's objective with the exact Hessian, the Huber width shrinking to its
final value. A problem with k parameter vectors is arrays with leading axis k. NumPy only.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from chinchilla.fit.result import LossLaw

GRID = np.geomspace(0.06, 1.5, 9)  # alpha and beta of the starts
FAR = 2  # nodes between the best start and those from its sides: a factor 2.2
TOLERANCE = 1e-13  # stop when a Newton step promises less than this share of the objective
LOOSE = 1e-4  # the same on the way, where only a start for the next width is wanted
SYMMETRIC = np.array(  # of a 5x5 matrix, where each entry stands in its upper triangle
    [[0, 1, 2, 3, 4], [1, 5, 6, 7, 8], [2, 6, 9, 10, 11], [3, 7, 10, 12, 13], [4, 8, 11, 13, 14]]
)
MAX_STEPS = 200  # per Huber width
LENGTHS = (0.4, 0.15, 0.05, 0.01, 1e-3, 1e-5)  # of a step that gains too little
MAX_MOVE = np.array([2.0, 2.0, 2.0, 0.5, 0.5])  # longest step in a, b, e, alpha, beta
CHUNK = 24_000  # numbers of one array worked on at a time: it stays in the cache


@dataclass(frozen=True)
class Objective:
    """What is minimised: sum_i w_i Huber_width(ln L_hat_i - ln L_i), and the way there.

    `widths` are Huber widths in log-loss, the last one final; infinity is least squares.
    """

    name: str
    widths: tuple[float, ...]

    @classmethod
    def named(cls, name: str, huber_delta: float) -> "Objective":
        """huber (the paper's), lad (least absolute deviations), least_squares.

        lad ends here at a width so small that `lad.py` can finish exactly.
        """
        if name == "least_squares":
            return cls(name, (np.inf,))
        if name == "lad":
            return cls(name, (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5))
        return cls(name, (10 * huber_delta, huber_delta))

    @property
    def width(self) -> float:
        """The final Huber width."""
        return self.widths[-1]


class Constraint(Protocol):
    """theta as a function of fewer free parameters z."""

    def lift(self, z: np.ndarray) -> np.ndarray:
        """(k, 5) theta from (k, m) z."""

    def pull(self, z: np.ndarray, g: np.ndarray, H: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient (k, m) and Hessian (k, m, m) in z from those in theta."""


@dataclass(frozen=True)
class Solutions:
    """Where k minimisations ended."""

    theta: np.ndarray  # (k, 5) a, b, e, alpha, beta in centred coordinates
    f: np.ndarray  # (k,) objective
    predicted: np.ndarray  # (k,) decrease that one more undamped Newton step promises
    converged: np.ndarray  # (k,) bool


@dataclass(frozen=True)
class Problem:
    """Final losses in centred logarithms: u = ln N - mean, v = ln D - mean, y = ln L."""

    u: np.ndarray  # (n,)
    v: np.ndarray  # (n,)
    y: np.ndarray  # (n,)
    centre: tuple[float, float]  # means of ln N and ln D

    @property
    def lowest_e(self) -> float:
        """e where E is a hundred-thousandth of the smallest loss: zero, for every purpose."""
        return float(self.y.min() + np.log(1e-5))

    @classmethod
    def of(cls, N: np.ndarray, D: np.ndarray, L: np.ndarray) -> "Problem":
        """From parameters, tokens and nats per token, each (n,)."""
        x, z = np.log(N), np.log(D)
        return cls(x - x.mean(), z - z.mean(), np.log(L), (float(x.mean()), float(z.mean())))

    def law(self, theta: np.ndarray) -> LossLaw:
        """The law of one (5,) parameter vector."""
        E, A, B, alpha, beta = map(float, self.laws(theta[None])[0])
        return LossLaw(E, A, B, alpha, beta)

    def laws(self, theta: np.ndarray) -> np.ndarray:
        """(k, 5) E, A, B, alpha, beta of (k, 5) parameter vectors."""
        a, b, e, alpha, beta = theta.T
        with np.errstate(over="ignore"):  # of a resample that ran away: infinite, so not counted
            A, B = np.exp(a + alpha * self.centre[0]), np.exp(b + beta * self.centre[1])
        return np.stack([np.exp(e), A, B, alpha, beta], axis=1)

    def theta(self, law: LossLaw) -> np.ndarray:
        """The (5,) parameter vector of one law."""
        a = np.log(law.A) - law.alpha * self.centre[0]
        b = np.log(law.B) - law.beta * self.centre[1]
        return np.array([a, b, np.log(law.E), law.alpha, law.beta])

    def starts(self, w: np.ndarray, which: str = "sides") -> np.ndarray:
        """Variable-projection starts: E, A, B by least squares of L_hat/L - 1 at each grid node.

        Args:
            w: (k, n) weights.
            which: "best", the best node; "sides", that and the best with an alpha or a beta at
                least 2.2 times smaller or larger, so that starts come from all sides; "grid", all.

        Returns:
            (k, n_starts, 5) parameter vectors, best first.
        """
        alpha, beta = (g.ravel() for g in np.meshgrid(GRID, GRID, indexing="ij"))
        inverse_L = np.exp(-self.y)
        P = np.exp(-np.outer(GRID, self.u)) * inverse_L  # (m, n) the N term of each exponent
        Q = np.exp(-np.outer(GRID, self.v)) * inverse_L
        i, j = (g.ravel() for g in np.meshgrid(*(np.arange(len(GRID)),) * 2, indexing="ij"))
        g = len(alpha)
        M, q = np.empty((len(w), g, 3, 3)), np.empty((len(w), g, 3))
        for row, one in enumerate(w):
            Pw, Qw = P * one, Q * one
            M[row, :, 0, 0], M[row, :, 1, 1] = (Pw * P).sum(1)[i], (Qw * Q).sum(1)[j]
            M[row, :, 0, 1] = M[row, :, 1, 0] = (Pw @ Q.T)[i, j]
            M[row, :, 0, 2] = M[row, :, 2, 0] = (Pw @ inverse_L)[i]
            M[row, :, 1, 2] = M[row, :, 2, 1] = (Qw @ inverse_L)[j]
            M[row, :, 2, 2] = one @ inverse_L**2
            q[row, :, 0], q[row, :, 1], q[row, :, 2] = Pw.sum(1)[i], Qw.sum(1)[j], one @ inverse_L
        ridge = 1e-10 * np.trace(M, axis1=-2, axis2=-1)[..., None, None] * np.eye(3)
        coefficients = np.linalg.solve(M + ridge, q[..., None])[..., 0]  # (k, g, 3) A, B, E
        coefficients = np.maximum(coefficients, 1e-2 * np.exp(self.y.mean()))
        misfit = np.einsum("kgi,kgij,kgj->kg", coefficients, M, coefficients) - 2 * (
            coefficients * q
        ).sum(-1)
        order = np.argsort(misfit, axis=1)
        if which == "best":
            order = order[:, :1]
        elif which == "sides":
            i_off, j_off = i[order] - i[order[:, :1]], j[order] - j[order[:, :1]]
            sides = (i_off == 0, i_off <= -FAR, i_off >= FAR, j_off <= -FAR, j_off >= FAR)
            order = np.take_along_axis(order, np.stack([x.argmax(1) for x in sides], 1), 1)
        exponents = np.stack([alpha, beta], axis=-1)[order]
        chosen = np.take_along_axis(coefficients, order[..., None], axis=1)
        return np.concatenate([np.log(chosen), exponents], axis=-1)

    def solve(
        self,
        start: np.ndarray,
        w: np.ndarray,
        objective: Objective,
        constraint: Constraint | None = None,
    ) -> Solutions:
        """Minimise from k starts at once.

        Args:
            start: (k, 5) starts; with a constraint (k, m) values of its free parameters.
            w: (k, n) weights of each minimisation.
            objective: what, and by which widths.
            constraint: restricts theta.
        """
        w = np.broadcast_to(w, (len(start), len(self.u)))
        z = start
        for width in objective.widths:
            tolerance = TOLERANCE if width == objective.width else LOOSE
            z, f, predicted, converged = _Descent(self, w, width, constraint).run(z, tolerance)
        return Solutions(constraint.lift(z) if constraint else z, f, predicted, converged)

    def promised(self, theta: np.ndarray, w: np.ndarray, objective: Objective) -> float:
        """Decrease that a Newton step from (5,) theta promises: what certifies a minimum."""
        _, g, H = _Descent(self, w[None], objective.width, None).derivatives(theta[None], w[None])
        return float(_newton_step(g, H)[1][0])

    def residuals(self, theta: np.ndarray) -> np.ndarray:
        """ln L_hat - ln L, (n,) or (k, n), of (5,) or (k, 5) parameter vectors."""
        a, b, e, alpha, beta = np.asarray(theta).T[..., None]
        total = np.exp(a - alpha * self.u) + np.exp(b - beta * self.v) + np.exp(e)
        return np.log(total) - self.y

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        """(n, 5) derivatives of ln L_hat in theta, at one (5,) parameter vector."""
        a, b, e, alpha, beta = theta
        terms = [np.exp(a - alpha * self.u), np.exp(b - beta * self.v), np.exp(e) + 0 * self.u]
        p1, p2, p3 = terms / np.sum(terms, axis=0)
        return np.stack([p1, p2, p3, -self.u * p1, -self.v * p2], axis=1)

    def condition_number(self, theta: np.ndarray, w: np.ndarray) -> float:
        """Of the weighted Jacobian of ln L_hat in the five parameters, columns scaled to length 1."""
        J = self.jacobian(theta) * np.sqrt(w)[:, None]
        return float(np.linalg.cond(J / np.maximum(np.linalg.norm(J, axis=0), 1e-300)))


class _Descent:
    """Semi-smooth Newton on k minimisations, at one Huber width."""

    def __init__(
        self, problem: Problem, w: np.ndarray, width: float, constraint: Constraint | None
    ) -> None:
        self.problem, self.w, self.width, self.constraint = problem, w, width, constraint
        u, v = problem.u, problem.v
        self.moments = np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=1)  # (n, 6)
        self.inverse_L = np.exp(-problem.y)

    def run(
        self, z: np.ndarray, tolerance: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Newton steps, shortened where they gain too little; a row leaves when it has converged.

        About CHUNK numbers of an array are worked on at a time. A row that leaves is replaced by
        the next one that waits, so that a few slow rows do not hold up the others.

        Returns:
            z (k, m), objective (k,), predicted decrease (k,), converged (k,).
        """
        z = z.copy()
        k, at_once = len(z), max(1, CHUNK // len(self.problem.u))
        f, predicted = np.full(k, np.inf), np.full(k, np.inf)
        done, steps = np.zeros(k, bool), np.zeros(k, int)
        live, begun = np.arange(0), 0
        while True:
            fresh = min(k, begun + at_once - len(live))
            live, begun = np.append(live, np.arange(begun, fresh)), fresh
            if not len(live):
                break
            w = self.w if len(live) == k else self.w[live]
            f[live], g, H = self.derivatives(z[live], w)
            step, predicted[live], convex = _newton_step(g, H)
            # Residuals of 1e-14 are rounding: an exact fit has no relative decrease to wait for.
            floor = tolerance * f[live] + 1e-28 * w.sum(-1)
            stop = (predicted[live] <= floor) & convex
            done[live[stop]] = True
            if stop.any():
                live, step, w = live[~stop], step[~stop], w[~stop]
                if not len(live):
                    continue
            most = MAX_MOVE[: step.shape[1]] if self.constraint is None else 0.5
            step /= np.maximum(1, (np.abs(step) / most).max(-1, keepdims=True))
            z[live], moved = self.line_search(z[live], f[live], step, predicted[live], w)
            steps[live] += 1
            live = live[moved & (steps[live] < MAX_STEPS)]  # else: no descent left above rounding
        return z, f, predicted, done

    def theta(self, z: np.ndarray) -> np.ndarray:
        return z if self.constraint is None else self.constraint.lift(z)

    def shares(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The N term and the D term over L, and the residuals: each (k, n)."""
        a, b, e, alpha, beta = theta.T[..., None]  # each (k, 1)
        p1 = np.exp(np.minimum(a - alpha * self.problem.u - self.problem.y, 300))
        p2 = np.exp(np.minimum(b - beta * self.problem.v - self.problem.y, 300))
        total = p1 + p2
        total += np.exp(e) * self.inverse_L
        r = np.log(total)
        p1 /= total
        p2 /= total
        return p1, p2, r

    def huber(self, size: np.ndarray) -> np.ndarray:
        small = np.minimum(size, self.width)
        return small * (size - 0.5 * small)

    def objective(self, z: np.ndarray, w: np.ndarray) -> np.ndarray:
        a, b, e, alpha, beta = self.theta(z).T[..., None]
        total = np.exp(np.minimum(a - alpha * self.problem.u - self.problem.y, 300))
        total += np.exp(np.minimum(b - beta * self.problem.v - self.problem.y, 300))
        total += np.exp(e) * self.inverse_L
        return np.einsum("kn,kn->k", w, self.huber(np.abs(np.log(total))))

    def derivatives(
        self, z: np.ndarray, w: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Objective (k,), gradient (k, m) and generalised Hessian (k, m, m).

        With m = LSE: m'' = sum_j p_j c_j c_j' - m' m'', c_1 = (1,0,0,-u,0), c_2 = (0,1,0,0,-v),
        c_3 = (0,0,1,0,0); Huber's second derivative is 1 inside its width and 0 outside. Each entry
        is a sum over runs of shares times a monomial in u and v.
        """
        theta = self.theta(z)
        p1, p2, r = self.shares(theta)
        psi = np.clip(r, -self.width, self.width)
        inside = psi == r
        f = np.einsum("kn,kn->k", w, self.huber(np.abs(r)))
        psi *= w
        h = np.where(inside, w, 0.0) - psi  # weight of J J'
        terms = np.empty((8, *p1.shape))
        np.multiply(psi, p1, out=terms[0])
        np.multiply(psi, p2, out=terms[1])
        np.multiply(h, p1, out=terms[2])
        np.multiply(h, p2, out=terms[3])
        np.multiply(terms[2], p1, out=terms[4])
        np.multiply(terms[2], p2, out=terms[5])
        np.multiply(terms[3], p2, out=terms[6])
        terms[7] = psi
        s1, s2, h1, h2, h11, h12, h22, s0 = terms @ self.moments  # each (k, 6)
        h13, h23 = h1 - h11 - h12, h2 - h12 - h22  # p3 = 1 - p1 - p2
        g = np.empty((len(z), 5))
        g[:, 0], g[:, 1], g[:, 2] = s1[:, 0], s2[:, 0], s0[:, 0] - s1[:, 0] - s2[:, 0]
        g[:, 3], g[:, 4] = -s1[:, 1], -s2[:, 2]
        h33 = h.sum(-1) - h1[:, 0] - h2[:, 0] - h13[:, 0] - h23[:, 0]
        upper = (
            h11[:, 0] + s1[:, 0], h12[:, 0], h13[:, 0], -h11[:, 1] - s1[:, 1], -h12[:, 2],
            h22[:, 0] + s2[:, 0], h23[:, 0], -h12[:, 1], -h22[:, 2] - s2[:, 2],
            h33 + g[:, 2], -h13[:, 1], -h23[:, 2],
            h11[:, 3] + s1[:, 3], h12[:, 4],
            h22[:, 5] + s2[:, 5],
        )  # fmt: skip
        H = np.stack(upper, axis=1)[:, SYMMETRIC]
        if self.constraint is not None:
            return f, *self.constraint.pull(z, g, H)
        held = (z[:, 2] <= self.problem.lowest_e) & (g[:, 2] > 0)  # E is zero: leave it there
        if held.any():
            g[held, 2] = H[held, 2, :] = H[held, :, 2] = 0
            H[held, 2, 2] = np.abs(H[held]).max((-1, -2))
        return f, g, H

    def line_search(
        self,
        z: np.ndarray,
        f: np.ndarray,
        step: np.ndarray,
        predicted: np.ndarray,
        w: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The first of the whole step and LENGTHS that gains a tenth of what it promised there,
        else the best of them."""

        def reach(rows: np.ndarray, length: float) -> tuple[np.ndarray, np.ndarray]:
            trial = z[rows] + length * step[rows]
            if self.constraint is None:
                trial[:, 2] = np.maximum(trial[:, 2], self.problem.lowest_e)
            return trial, self.objective(trial, w[rows])

        best, f_best = reach(np.arange(len(z)), 1.0)
        rows = np.flatnonzero(f_best > f - 0.1 * predicted)
        for length in LENGTHS:
            if not len(rows):
                break
            trial, f_trial = reach(rows, length)
            lower = f_trial < f_best[rows]
            best[rows[lower]], f_best[rows[lower]] = trial[lower], f_trial[lower]
            rows = rows[f_trial > f[rows] - 0.1 * length * predicted[rows]]
        moved = f_best <= f
        return np.where(moved[:, None], best, z), moved


def _newton_step(g: np.ndarray, H: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """-|H|^-1 g by an LDL' whose pivots are made positive.

    Returns:
        Steps (k, m), the decrease each promises (k,), and whether H was positive definite (k,).
    """
    m = g.shape[1]
    scale = 1 / np.sqrt(np.maximum(np.abs(np.einsum("kii->ki", H)), 1e-300))  # unit diagonal
    A = np.empty((len(g), m, m + 1))
    np.multiply(H * scale[:, :, None], scale[:, None, :], out=A[:, :, :m])
    A[:, :, m] = g * scale
    pivots, d = np.empty_like(g), np.empty_like(g)
    for j in range(m):
        pivots[:, j] = A[:, j, j]
        d[:, j] = np.maximum(np.abs(A[:, j, j]), 1e-11)
        if j + 1 < m:
            A[:, j + 1 :] -= (A[:, j + 1 :, j] / d[:, j, None])[:, :, None] * A[:, j, None, :]
    x = A[:, :, m] / d
    predicted = 0.5 * (x * A[:, :, m]).sum(-1)
    for j in range(m - 2, -1, -1):
        x[:, j] -= (A[:, j, j + 1 : m] * x[:, j + 1 :]).sum(-1) / d[:, j]
    return -x * scale, predicted, np.all(pivots > -1e-10, axis=-1)
