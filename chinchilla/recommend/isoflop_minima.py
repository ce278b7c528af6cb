"""Minima of IsoFLOP profiles, and the curves fitted through them: N_opt = k*C^a and L = E + K*C^-g.

Neither curve holds exactly over three decades of C: a recipe that suits large budgets is often poor for
small ones, so the smallest budgets bend both curves. Each curve is therefore fitted with several
weightings of the budgets, exp(-(ln C_max - ln C) / r) with r from RECENCY. `held_out` weights the
resulting forecasts by how well each predicts the sweep's own larger budgets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from chinchilla.fit.isoflop.approach2 import parabolas_of
from chinchilla.fit.isoflop.profile import Profile
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import Observations

RECENCY = {  # name -> ln C over which the weight of a budget falls by a factor e
    "the largest budgets": 1.0,
    "the larger budgets": 2.0,
    "nearly all budgets": 4.0,
    "all budgets alike": np.inf,
}
EXPONENTS = np.arange(0.02, 0.601, 0.02)  # grid of g; refined twice around the best value
# Standard deviation of ln N_opt and ln L about a curve with as many parameters as points.
SCATTER = {"N": 0.05, "L": 0.002}
MIN_LINE = 2  # budgets needed to fit N_opt
MIN_LOSS = 3  # budgets needed to fit the loss
MAX_OUTSIDE = 0.35  # distance in ln N outside the sizes tried at which a minimum is still accepted
# A refusal of approach 2 with one of these kinds still leaves parabolas with usable minima.
MINIMUM_AT_EDGE = ("vertex_at_edge", "vertex_outside")


@dataclass(frozen=True)
class Minima:
    """Minima of IsoFLOP profiles in order of C. N is NaN where only losses are known."""

    C: np.ndarray  # (m,) training FLOPs
    N: np.ndarray  # (m,) parameters
    L: np.ndarray  # (m,) nats per token
    # (m,) standard errors of ln N and ln L from the scatter of the runs about their profiles; 0 if unknown
    sd_N: np.ndarray = field(default_factory=lambda: np.zeros(0))
    sd_L: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        for name in ("sd_N", "sd_L"):
            if len(getattr(self, name)) != len(self.C):
                object.__setattr__(self, name, np.zeros(len(self.C)))

    def __len__(self) -> int:
        return len(self.C)

    @property
    def log_C(self) -> np.ndarray:
        """(m,) ln C."""
        return np.log(self.C)

    def where(self, keep: np.ndarray) -> "Minima":
        """The minima selected by a mask or an index array."""
        return Minima(*(getattr(self, f.name)[keep] for f in fields(self)))


def minima_of(obs: Observations, fits: FitResults) -> Minima:
    """Minima of the parabolas through the IsoFLOP budgets of `obs`, within approach 2's window.

    Parabolas assume no law. A minimum counts if it lies within MAX_OUTSIDE of the sizes tried. Approach 2
    itself requires two sizes on each side, but such a minimum still measures N_opt and the loss, and the
    held-out errors show how well. Empty if approach 2 was refused for another reason (no signal, flat
    profiles, losses that rise).
    """
    refused = fits.refused.get("isoflop")
    none = Minima(*(np.empty(0) for _ in "CNL"))
    if refused is not None and refused.kind not in MINIMUM_AT_EDGE:
        return none
    profiles = parabolas_of(obs, str(fits.command.get("isoflop_window", "auto")))
    noise = _relative_noise(profiles)
    rows = []
    for p in profiles:
        x = np.log(p.obs.N)
        if p.c is None or not x.min() - MAX_OUTSIDE < p.x_opt < x.max() + MAX_OUTSIDE:
            continue
        powers = np.array([1.0, u := p.x_opt - float(x.mean()), u * u])
        loss = float(powers @ p.c)
        sd_N = noise * loss * float(np.sqrt((p.pull**2).sum()))
        sd_L = noise * float(np.sqrt(((powers @ p.solver) ** 2).sum()))
        C = float(np.exp(np.log(p.obs.C).mean()))
        rows.append((C, float(np.exp(p.x_opt)), loss, sd_N, sd_L))
    if not rows:
        return none
    return Minima(*(np.array(column, float) for column in zip(*sorted(rows), strict=True)))


def _relative_noise(profiles: Sequence[Profile]) -> float:
    """Standard deviation of (loss - parabola) / loss, pooled over budgets."""
    square, degrees_of_freedom = 0.0, 0
    for p in profiles:
        if p.c is not None and len(p.obs) > 3:
            square += float(((p.residuals / p.obs.L) ** 2).sum())
            degrees_of_freedom += len(p.obs) - 3
    return float(np.sqrt(square / degrees_of_freedom)) if degrees_of_freedom else 0.0


@dataclass(frozen=True)
class CurveFit:
    """Parameters of one fitted curve and their covariance (empty if it has none)."""

    parameters: list[float]
    covariance: list[list[float]]


def size_lines(minima: Minima) -> dict[str, CurveFit]:
    """ln k and a of N_opt = k*C^a for each weighting of the budgets; empty if sizes are unknown."""
    if len(minima) < MIN_LINE or not np.isfinite(minima.N).all():
        return {}
    return {name: line(minima, r) for name, r in RECENCY.items()}


def loss_curves(minima: Minima) -> dict[str, CurveFit]:
    """E, ln K and g of L = E + K*C^-g for each weighting of the budgets; empty below MIN_LOSS minima."""
    if len(minima) < MIN_LOSS:
        return {}
    return {name: power_law_with_offset(minima, r) for name, r in RECENCY.items()}


def line(minima: Minima, r: float) -> CurveFit:
    """ln k and a of N_opt = k * C^a by weighted least squares in log-log.

    Args:
        minima: at least MIN_LINE.
        r: ln C over which the weight of a budget falls by a factor e; infinite for equal weights.
    """
    x, y, w = minima.log_C, np.log(minima.N), np.exp((minima.log_C - minima.log_C.max()) / r)
    middle = float(w @ x / w.sum())
    dx = x - middle
    a = float((w * dx) @ y / ((w * dx) @ dx))
    log_k = float(w @ y / w.sum()) - a * middle
    X = np.stack([np.ones_like(x), x], axis=1)
    return CurveFit([log_k, a], _covariance(X, y - log_k - a * x, w, minima.sd_N, SCATTER["N"]))


def power_law_with_offset(minima: Minima, r: float) -> CurveFit:
    """E, ln K and g of L = E + K * C^-g with E, K >= 0, by weighted least squares of relative residuals.

    E and K are linear for a given g, which is found on a grid that is refined twice.

    Args:
        minima: at least MIN_LOSS.
        r: as in `line`.
    """
    x, L = minima.log_C, minima.L
    u = x - x.max()  # so that K has the size of the loss
    w = np.exp(u / r)
    grid, best = EXPONENTS, (0.0, 0.0, 0.0)
    for step in (EXPONENTS[1] - EXPONENTS[0], 1e-3, 5e-5):
        best = _best_exponent(grid, u, L, np.sqrt(w) / L)
        grid = np.clip(np.linspace(best[2] - step, best[2] + step, 41), 1e-3, 1.0)
    E, K, g = best
    p = np.exp(-g * u)
    fitted = E + K * p
    # Covariance of E, ln K at the largest budget and g, then transformed to ln K of C^-g.
    X = np.stack([1 / fitted, K * p / fitted, -K * u * p / fitted], axis=1)
    V = np.array(_covariance(X, np.log(L / fitted), w, minima.sd_L, SCATTER["L"]))
    T = np.array([[1.0, 0, 0], [0, 1.0, x.max()], [0, 0, 1.0]])
    return CurveFit([E, float(np.log(max(K, 1e-300)) + g * x.max()), g], (T @ V @ T.T).tolist())


def _covariance(
    X: np.ndarray, residuals: np.ndarray, w: np.ndarray, sd: np.ndarray, scatter: float
) -> list[list[float]]:
    """Covariance of weighted least squares.

    The residual variance is unbiased for equal errors: the weighted sum of squares over the sum of
    weights minus the part absorbed by the fit. It is `scatter`^2 if no degree of freedom is left, and
    never below the variance of the minima themselves, `sd`^2.
    """
    m, p = X.shape
    inverse = np.linalg.pinv(X.T @ (w[:, None] * X), hermitian=True)
    squared = X.T @ (w[:, None] ** 2 * X)
    square = scatter**2
    if m > p:
        square = float(w @ residuals**2 / max(w.sum() - np.trace(inverse @ squared), 1e-12))
    square = max(square, float(w @ sd**2 / w.sum()))
    V: list[list[float]] = (square * inverse @ squared @ inverse).tolist()
    return V


def _best_exponent(
    grid: np.ndarray, u: np.ndarray, L: np.ndarray, scale: np.ndarray
) -> tuple[float, float, float]:
    """E, K and g with the smallest sum of squares over a grid of g; K at the largest budget."""
    p = np.exp(-grid[:, None] * u) * scale  # (k, m) regressor of K
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
    """ln N at ln C = x of (k, 2) lines, and the gradient with respect to their parameters (k, 2)."""
    gradient = np.stack([np.ones(len(rows)), np.full(len(rows), x)], axis=1)
    return rows[:, 0] + rows[:, 1] * x, gradient


def loss_at(rows: np.ndarray, x: float) -> tuple[np.ndarray, np.ndarray]:
    """ln L at ln C = x of (k, 3) curves E, ln K, g, and the gradient in these parameters (k, 3)."""
    E, log_K, g = rows.T
    term = np.exp(log_K - g * x)
    L = E + term
    return np.log(L), np.stack([1 / L, term / L, -x * term / L], axis=1)
