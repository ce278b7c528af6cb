"""The engine of approach 3: many starts, or many resamples, minimised together.

What decides is the start, not the optimiser: from the paper's 4500 starts a tight L-BFGS reaches
the optimum of the published points in a third of the cases. So: centre ln N and ln D; for each
(alpha, beta) on a grid solve E, A, B by linear least squares (variable projection); then a
semi-smooth Newton on the paper's objective with the exact Hessian, the Huber width shrinking to its
final value. A problem with k parameter vectors is arrays with leading axis k. NumPy only.
"""

from dataclasses import dataclass

import numpy as np

from chinchilla.fit.frontier import LossLaw

GRID = np.geomspace(0.06, 1.5, 7)  # alpha and beta of the starts
WIDTHS = (10.0, 3.0, 1.0)  # Huber widths on the way, in units of the final one
TOLERANCE = 1e-13  # stop when a Newton step promises less than this share of the objective
MAX_STEPS = 300  # per Huber width
LENGTHS = (0.4, 0.15, 0.05, 0.01, 1e-3, 1e-5)  # of a step that gains too little
MAX_MOVE = np.array([2.0, 2.0, 2.0, 0.5, 0.5])  # longest step in each parameter


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
        a, b, e, alpha, beta = map(float, theta)
        A, B = np.exp(a + alpha * self.centre[0]), np.exp(b + beta * self.centre[1])
        return LossLaw(float(np.exp(e)), float(A), float(B), alpha, beta)

    def theta(self, law: LossLaw) -> np.ndarray:
        """The (5,) parameter vector of one law."""
        a = np.log(law.A) - law.alpha * self.centre[0]
        b = np.log(law.B) - law.beta * self.centre[1]
        return np.array([a, b, np.log(law.E), law.alpha, law.beta])

    def starts(self, w: np.ndarray, n_best: int = 0) -> np.ndarray:
        """Variable-projection starts: E, A, B by least squares of L_hat/L - 1 at each grid node.

        Args:
            w: (k, n) weights.
            n_best: keep so many per row of w, best first; 0 = the whole grid.

        Returns:
            (k, n_starts, 5) parameter vectors.
        """
        alpha, beta = (g.ravel() for g in np.meshgrid(GRID, GRID, indexing="ij"))
        inverse_L = np.exp(-self.y)
        X = np.stack(
            [
                np.exp(-np.outer(alpha, self.u)) * inverse_L,
                np.exp(-np.outer(beta, self.v)) * inverse_L,
                np.broadcast_to(inverse_L, (len(alpha), len(self.u))),
            ],
            axis=-1,
        )  # (g, n, 3)
        g, n, _ = X.shape
        pairs = (X[..., :, None] * X[..., None, :]).transpose(1, 0, 2, 3).reshape(n, -1)
        M = (w @ pairs).reshape(len(w), g, 3, 3)
        q = (w @ X.transpose(1, 0, 2).reshape(n, -1)).reshape(len(w), g, 3)
        ridge = 1e-10 * np.trace(M, axis1=-2, axis2=-1)[..., None, None] * np.eye(3)
        coefficients = np.linalg.solve(M + ridge, q[..., None])[..., 0]  # (k, g, 3) A, B, E
        coefficients = np.maximum(coefficients, 1e-2 * np.exp(self.y.mean()))
        misfit = np.einsum("kgi,kgij,kgj->kg", coefficients, M, coefficients) - 2 * (
            coefficients * q
        ).sum(-1)
        order = np.argsort(misfit, axis=1)[:, : n_best or g]
        exponents = np.stack([alpha, beta], axis=-1)[order]
        chosen = np.take_along_axis(coefficients, order[..., None], axis=1)
        return np.concatenate([np.log(chosen), exponents], axis=-1)

    def solve(self, theta: np.ndarray, w: np.ndarray, huber_delta: float) -> Solutions:
        """Minimise from k starts at once.

        Args:
            theta: (k, 5) starts.
            w: (k, n) weights of each minimisation.
            huber_delta: final Huber width.
        """
        for width in WIDTHS:
            tolerance = TOLERANCE if width == 1 else 1e-6
            end = self._newton(theta, w, width * huber_delta, tolerance)
            theta = end.theta
        return end

    def residuals(self, theta: np.ndarray) -> np.ndarray:
        """(n,) ln L_hat - ln L of one (5,) parameter vector."""
        return self._shares(theta[None])[1][0]

    def condition_number(self, theta: np.ndarray, w: np.ndarray) -> float:
        """Of the weighted Jacobian of ln L_hat in the five parameters, columns scaled to length 1."""
        J = self._jacobian(self._shares(theta[None])[0])[0] * np.sqrt(w)[:, None]
        return float(np.linalg.cond(J / np.maximum(np.linalg.norm(J, axis=0), 1e-300)))

    def _shares(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each term's share of the modelled loss (k, n, 3), and the residuals (k, n)."""
        a, b, e, alpha, beta = theta.T[..., None]  # each (k, 1)
        terms = np.stack(
            [a - alpha * self.u, b - beta * self.v, np.broadcast_to(e, (len(theta), len(self.u)))],
            axis=-1,
        )
        top = terms.max(-1)
        p = np.exp(terms - top[..., None])
        total = p.sum(-1)
        return p / total[..., None], top + np.log(total) - self.y

    def _jacobian(self, p: np.ndarray) -> np.ndarray:
        """d ln L_hat / d theta, (k, n, 5), from the shares (k, n, 3)."""
        return np.concatenate(
            [p, -p[..., :1] * self.u[:, None], -p[..., 1:2] * self.v[:, None]], axis=-1
        )

    def _objective(self, theta: np.ndarray, w: np.ndarray, delta: float) -> np.ndarray:
        size = np.abs(self._shares(theta)[1])
        huber = np.where(size <= delta, size**2 / 2, delta * (size - delta / 2))
        return (w * huber).sum(-1)

    def _derivatives(
        self, theta: np.ndarray, w: np.ndarray, delta: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Objective (k,), gradient (k, 5) and generalised Hessian (k, 5, 5).

        With m = LSE: m'' = sum_j p_j c_j c_j' - m' m'', c_1 = (1,0,0,-u,0), c_2 = (0,1,0,0,-v),
        c_3 = (0,0,1,0,0); Huber's second derivative is 1 inside its width and 0 outside.
        """
        p, r = self._shares(theta)
        size = np.abs(r)
        f = (w * np.where(size <= delta, size**2 / 2, delta * (size - delta / 2))).sum(-1)
        J = self._jacobian(p)
        psi = w * np.clip(r, -delta, delta)
        g = (psi[..., None] * J).sum(-2)
        H = J.transpose(0, 2, 1) @ (J * (w * (size <= delta) - psi)[..., None])
        for j, (k, x) in enumerate(((3, self.u), (4, self.v))):
            s = psi * p[..., j]
            H[:, j, j] += s.sum(-1)
            H[:, j, k] -= s @ x
            H[:, k, j] -= s @ x
            H[:, k, k] += s @ x**2
        H[:, 2, 2] += (psi * p[..., 2]).sum(-1)
        return f, g, H

    def _newton(
        self, theta: np.ndarray, w: np.ndarray, delta: float, tolerance: float
    ) -> Solutions:
        """Newton steps along |Hessian|, shortened where they gain too little; a start leaves the
        batch when it has converged."""
        theta = theta.copy()
        f, predicted = np.full(len(theta), np.inf), np.full(len(theta), np.inf)
        done = np.zeros(len(theta), bool)
        live = np.arange(len(theta))
        for _ in range(MAX_STEPS):
            f[live], g, H = self._derivatives(theta[live], w[live], delta)
            held = (theta[live, 2] <= self.lowest_e) & (g[:, 2] > 0)  # E is zero: leave it there
            g[held, 2] = H[held, 2, :] = H[held, :, 2] = 0
            H[held, 2, 2] = np.abs(H[held]).max((-1, -2))
            values, V = np.linalg.eigh(H)
            top = np.abs(values).max(-1, keepdims=True) + 1e-300
            along = np.einsum("kij,ki->kj", V, g)
            scaled = along / np.maximum(np.abs(values), 1e-12 * top)
            predicted[live] = (along * scaled).sum(-1) / 2
            # Residuals of 1e-14 are rounding: an exact fit has no relative decrease to wait for.
            floor = tolerance * f[live] + 1e-28 * w[live].sum(-1)
            stop = (predicted[live] <= floor) & (values[:, 0] >= -1e-6 * top[:, 0])
            done[live[stop]] = True
            live, V, scaled = live[~stop], V[~stop], scaled[~stop]
            if not len(live):
                break
            step = -np.einsum("kij,kj->ki", V, scaled)
            step /= np.maximum(1, (np.abs(step) / MAX_MOVE).max(-1, keepdims=True))
            theta[live], moved = self._line_search(
                theta[live], f[live], step, predicted[live], w[live], delta
            )
            live = live[moved]  # else: no descent left above rounding
        return Solutions(theta, f, predicted, done)

    def _line_search(
        self,
        theta: np.ndarray,
        f: np.ndarray,
        step: np.ndarray,
        predicted: np.ndarray,
        w: np.ndarray,
        delta: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The whole step where it gains a tenth of what it promised, else the best of LENGTHS."""

        def reach(rows: np.ndarray, length: float) -> tuple[np.ndarray, np.ndarray]:
            trial = theta[rows] + length * step[rows]
            trial[:, 2] = np.maximum(trial[:, 2], self.lowest_e)
            return trial, self._objective(trial, w[rows], delta)

        best, f_best = reach(np.arange(len(theta)), 1.0)
        rows = np.flatnonzero(f_best > f - 0.1 * predicted)
        for length in LENGTHS if len(rows) else ():
            trial, f_trial = reach(rows, length)
            lower = f_trial < f_best[rows]
            best[rows[lower]], f_best[rows[lower]] = trial[lower], f_trial[lower]
        moved = f_best <= f
        return np.where(moved[:, None], best, theta), moved
