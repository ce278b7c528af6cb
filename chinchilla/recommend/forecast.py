"""Forecasts through the minima of IsoFLOP profiles: N_opt(C) as a line, the loss as E + K*C^-g.

Neither holds exactly over three decades: recipes that suit the larger budgets are often poor at the
smallest, so that the smallest budgets bend both curves. Each forecast is therefore fitted with several
weightings of the budgets, exp(-(ln C_max - ln C) / r) with r from RECENCY; `held_out` weighs them by
how well each predicts the sweep's own larger budgets. NumPy only.
"""

from dataclasses import dataclass, field, fields

import numpy as np

RECENCY = {  # name -> ln C over which a budget's weight falls by a factor e
    "the largest budgets": 1.0,
    "the larger budgets": 2.0,
    "nearly all budgets": 4.0,
    "all budgets alike": np.inf,
}
EXPONENTS = np.arange(0.02, 0.601, 0.02)  # g tried first; then twice a finer grid around the best
SCATTER = {
    "N": 0.05,
    "L": 0.002,
}  # of ln N_opt and ln L about a curve through as few points as it has parameters
MIN_LINE = 2  # budgets for N_opt
MIN_LOSS = 3  # budgets for the loss


@dataclass(frozen=True)
class Minima:
    """Minima of IsoFLOP profiles, C rising. N is NaN where only losses are known."""

    C: np.ndarray  # (m,) training FLOPs
    N: np.ndarray  # (m,) parameters
    L: np.ndarray  # (m,) nats per token
    # (m,) standard errors of ln N and ln L, from the scatter of the runs about their profiles; 0 where
    # they are not known.
    sd_N: np.ndarray = field(default_factory=lambda: np.zeros(0))
    sd_L: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        for name in ("sd_N", "sd_L"):
            if len(getattr(self, name)) != len(self.C):
                object.__setattr__(self, name, np.zeros(len(self.C)))

    def __len__(self) -> int:
        return len(self.C)

    @property
    def x(self) -> np.ndarray:
        """(m,) ln C."""
        return np.log(self.C)

    def where(self, keep: np.ndarray) -> "Minima":
        """The minima selected by a mask or an index array."""
        return Minima(*(getattr(self, f.name)[keep] for f in fields(self)))


def recency_weights(x: np.ndarray, r: float) -> np.ndarray:
    """(m,) weights of budgets at ln C = x; r in ln C, infinite for equal weights."""
    return np.exp(-(x.max() - x) / r)


@dataclass(frozen=True)
class Member:
    """Parameters of one curve, and their covariance from its residuals."""

    parameters: list[float]
    covariance: list[list[float]]


def line(minima: Minima, r: float) -> Member:
    """ln k and a of N_opt = k * C^a, by weighted least squares in log-log."""
    x, y, w = minima.x, np.log(minima.N), recency_weights(minima.x, r)
    middle = float(w @ x / w.sum())
    dx = x - middle
    a = float((w * dx) @ y / ((w * dx) @ dx))
    log_k = float(w @ y / w.sum()) - a * middle
    X = np.stack([np.ones_like(x), x], axis=1)
    return Member([log_k, a], _covariance(X, y - log_k - a * x, w, minima.sd_N, SCATTER["N"]))


def saturating(minima: Minima, r: float) -> Member:
    """E, K and g of L = E + K * C^-g with E, K >= 0, by weighted least squares of relative residuals.

    For each g the other two are linear; g is found on a grid that is refined twice.
    """
    x, L = minima.x, minima.L
    u = x - x.max()  # so that K is of the size of the loss
    w = recency_weights(x, r)
    grid, best = EXPONENTS, (0.0, 0.0, 0.0)
    for step in (EXPONENTS[1] - EXPONENTS[0], 1e-3, 5e-5):
        best = _best_of(grid, u, L, np.sqrt(w) / L)
        grid = np.clip(np.linspace(best[2] - step, best[2] + step, 41), 1e-3, 1.0)
    E, K, g = best
    p = np.exp(-g * u)
    fitted = E + K * p
    # In E, ln K at the largest budget, and g; then in ln K of C^-g, so that rows need no reference.
    X = np.stack([1 / fitted, K * p / fitted, -K * u * p / fitted], axis=1)
    V = np.array(_covariance(X, np.log(L / fitted), w, minima.sd_L, SCATTER["L"]))
    T = np.array([[1.0, 0, 0], [0, 1.0, x.max()], [0, 0, 1.0]])
    return Member([E, float(np.log(max(K, 1e-300)) + g * x.max()), g], (T @ V @ T.T).tolist())


def _covariance(
    X: np.ndarray, residuals: np.ndarray, w: np.ndarray, sd: np.ndarray, least: float
) -> list[list[float]]:
    """Covariance of weighted least squares.

    The residuals' variance is unbiased for equal errors: the weighted sum of squares over the sum of the
    weights less what the fit takes out of it; `least`^2 where no residual is left. It is never below
    that of the minima themselves, `sd`: a curve through three minima misses none of them.
    """
    m, p = X.shape
    inverse = np.linalg.pinv(X.T @ (w[:, None] * X), hermitian=True)
    meat = X.T @ (w[:, None] ** 2 * X)
    square = least**2
    if m > p:
        square = float(w @ residuals**2 / max(w.sum() - np.trace(inverse @ meat), 1e-12))
    square = max(square, float(w @ sd**2 / w.sum()))
    V: list[list[float]] = (square * inverse @ meat @ inverse).tolist()
    return V


def _best_of(
    grid: np.ndarray, u: np.ndarray, L: np.ndarray, scale: np.ndarray
) -> tuple[float, float, float]:
    """E, K and g with the least sum of squares over a grid of g; K at the largest budget."""
    p = np.exp(-grid[:, None] * u) * scale  # (k, m) the term of K
    y = L * scale
    ee, ep, pp = scale @ scale, p @ scale, (p**2).sum(axis=1)
    ey, py = scale @ y, p @ y
    det = ee * pp - ep**2
    with np.errstate(divide="ignore", invalid="ignore"):
        E = (ey * pp - py * ep) / det
        K = (ee * py - ep * ey) / det
    E, K = (
        np.where(K < 0, ey / ee, np.where(E < 0, 0.0, E)),
        np.where(K < 0, 0.0, np.where(E < 0, py / pp, K)),
    )
    rss = ((E[:, None] * scale + K[:, None] * p - y) ** 2).sum(axis=1)
    i = int(np.nanargmin(rss))
    return float(E[i]), float(K[i]), float(grid[i])


def line_at(rows: np.ndarray, x: float) -> tuple[np.ndarray, np.ndarray]:
    """ln N at ln C = x of (k, 2) lines, and the gradient in their parameters (k, 2)."""
    gradient = np.stack([np.ones(len(rows)), np.full(len(rows), x)], axis=1)
    return rows[:, 0] + rows[:, 1] * x, gradient


def loss_at(rows: np.ndarray, x: float) -> tuple[np.ndarray, np.ndarray]:
    """ln L at ln C = x of (k, 3) curves E, ln K, g, and the gradient in these parameters (k, 3)."""
    E, log_K, g = rows.T
    term = np.exp(log_K - g * x)
    L = E + term
    return np.log(L), np.stack([1 / L, term / L, -x * term / L], axis=1)
