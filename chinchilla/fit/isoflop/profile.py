"""One IsoFLOP profile: final losses of one budget against ln N, its shape and its minimum.

Two shapes, both linear in three coefficients a budget:

* `Parabola`, the paper's (section 3.2): L = c0 + c1*u + c2*u^2 with u = ln N - its mean.
* `ExactShape`, what the loss law says a profile is: L = E + A/N^alpha + B/D^beta along one C, with
  E, A, B of the budget's own and alpha, beta shared by all. At C = 6*N*D and w = ln(N/N_opt) it is
  E + K*(e^(-alpha*w)/alpha + e^(beta*w)/beta).

The minimum of a parabola through the exact shape lies beside the optimum, for sizes centred on it by
(alpha-beta)/6 * m4/m2 in ln N (m_k = mean k-th power of w), the same at every budget. For Hoffmann et
al.'s law and 15 sizes that is .33, 1.32, 2.99, 5.37 % of N_opt for grids of +-2, 4, 8, 16 times
(Czech et al. 2026, arXiv 2603.22339); sizes off centre shift it further. NumPy only.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from chinchilla.core.units import is_rounded, same_values
from chinchilla.fit.isoflop.window import MAX_C_RATIO
from chinchilla.fit.loss_law import FlopsPerToken
from chinchilla.observations.table import Observations

MIN_SIZES = 4  # distinct sizes at a budget
MIN_SPREAD = 1e-6  # of the losses of a budget, relative
MIN_CURVATURE = 1.0  # standard errors
MIN_SIDE = 2  # distinct sizes on each side of the minimum
REACH = 12.0  # how far from the sizes a minimum is looked for, in ln N


class Shape(Protocol):
    """A curve in ln N with three coefficients."""

    def columns(self, obs: Observations) -> np.ndarray:
        """(n, 3) regressors of the runs' losses."""

    def losses(self, c: np.ndarray, x: np.ndarray) -> np.ndarray:
        """(n,) losses of the curve with coefficients c (3,) at x = ln N."""

    def minima(self, c: np.ndarray) -> np.ndarray:
        """(k,) ln N at the minimum of each of the curves (k, 3); NaN, -inf or +inf without one."""

    def log_C(self, of_log_C: np.ndarray, x: np.ndarray) -> np.ndarray:
        """(k,) ln FLOPs that belong to minima x, given the columns' fit (3,) of the runs' ln C."""


@dataclass(frozen=True)
class Parabola:
    """The paper's profile. Its minimum is a weighted sum of the losses, and the C that belongs to it
    is the same sum of the runs' ln C: an error in C common to the runs moves both together."""

    centre: float  # mean ln N of the runs

    def columns(self, obs: Observations) -> np.ndarray:
        return self._powers(np.log(obs.N))

    def losses(self, c: np.ndarray, x: np.ndarray) -> np.ndarray:
        return self._powers(x) @ c

    def minima(self, c: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(c[:, 2] > 0, self.centre - c[:, 1] / (2 * c[:, 2]), np.nan)

    def log_C(self, of_log_C: np.ndarray, x: np.ndarray) -> np.ndarray:
        return self._powers(x) @ of_log_C

    def _powers(self, x: np.ndarray) -> np.ndarray:
        return (x - self.centre)[:, None] ** np.arange(3)


@dataclass(frozen=True)
class ExactShape:
    """The law's own profile at the runs' mean C; each run counts at the D that it had."""

    centre: float  # mean ln N of the runs
    mean_log_C: float
    alpha: float
    beta: float
    cost: FlopsPerToken

    def columns(self, obs: Observations) -> np.ndarray:
        return self._terms(np.log(obs.N), self.mean_log_C - np.log(obs.D))

    def losses(self, c: np.ndarray, x: np.ndarray) -> np.ndarray:
        return self._terms(x, self.cost.trend_and_slope(x)[0]) @ c

    def minima(self, c: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.log(self.alpha * c[:, 1]) - np.log(self.beta * c[:, 2])
        x, balance = self._balance
        found = np.interp(ratio, balance, x, left=-np.inf, right=np.inf)
        found[c[:, 1] <= 0] = -np.inf  # no gain from parameters
        found[c[:, 2] <= 0] = np.inf  # no gain from tokens
        found[(c[:, 1] <= 0) & (c[:, 2] <= 0)] = np.nan
        return found

    def log_C(self, of_log_C: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.full(len(x), self.mean_log_C)

    def _terms(self, x: np.ndarray, log_cost: np.ndarray) -> np.ndarray:
        """1, N^-alpha and D^-beta with ln D = ln C - log_cost, scaled to about 1."""
        q = log_cost - self._central_cost
        return np.stack(
            [np.ones_like(x), np.exp(-self.alpha * (x - self.centre)), np.exp(self.beta * q)],
            axis=1,
        )

    @cached_property
    def _central_cost(self) -> float:
        """ln FLOPs per token at the mean ln N."""
        return float(self.cost.trend_and_slope(np.array(self.centre))[0])

    @cached_property
    def _balance(self) -> tuple[np.ndarray, np.ndarray]:
        """ln N and the ln(alpha*A/(beta*B)) whose optimum it is: a straight line at C = 6*N*D."""
        x = np.linspace(self.centre - REACH, self.centre + REACH, 601)
        q, slope = self.cost.trend_and_slope(x)
        rising = self.alpha * (x - self.centre) + self.beta * (q - self._central_cost)
        rising += np.log(np.maximum(slope, 1e-12))
        return x, np.maximum.accumulate(rising)


@dataclass(frozen=True)
class Profile:
    """One budget's runs (sizes rising), a shape fitted to them, and its minimum or why it has none."""

    budget: float
    obs: Observations
    shape: Shape
    refused: str = ""  # for people; empty where there is a minimum
    kind: str = ""  # the same in one word for programs
    x_opt: float = np.nan  # ln N at the minimum, also where it lies outside the sizes
    c: np.ndarray | None = None  # (3,) coefficients

    @cached_property
    def columns(self) -> np.ndarray:
        return self.shape.columns(self.obs)  # (n, 3)

    @cached_property
    def solver(self) -> np.ndarray:
        return np.linalg.pinv(self.columns)  # (3, n): coefficients = solver @ losses

    @cached_property
    def leverage(self) -> np.ndarray:
        """(n,) how much each loss decides its own fitted value; 1 would leave no residual."""
        return np.minimum(np.einsum("ij,ji->i", self.columns, self.solver), 0.99)

    @cached_property
    def residuals(self) -> np.ndarray:
        assert self.c is not None
        return self.obs.L - self.columns @ self.c  # (n,)

    @cached_property
    def pull(self) -> np.ndarray:
        """(n,) d ln N at the minimum / d loss of each run."""
        assert self.c is not None
        step = np.diag(1e-4 * np.abs(self.c) + 1e-12)
        rise = self.shape.minima(self.c + step) - self.shape.minima(self.c - step)
        return (rise / (2 * np.diag(step))) @ self.solver

    @cached_property
    def freedom(self) -> float:
        """Degrees of freedom of the minimum's variance by HC2 (Bell and McCaffrey 2002): what equal
        noise would give a weighted sum of squared residuals, at most n - 3."""
        weights = self.pull**2 / (1 - self.leverage)
        G = weights[:, None] * (np.eye(len(weights)) - self.columns @ self.solver)
        return float(np.trace(G) ** 2 / np.sum(G * G.T))

    @cached_property
    def of_log_C(self) -> np.ndarray:
        return self.solver @ np.log(self.obs.C)  # (3,)

    def inside(self, x: np.ndarray) -> np.ndarray:
        """x, NaN where it is not among the sizes tried."""
        return np.where((np.log(self.obs.N[0]) < x) & (x < np.log(self.obs.N[-1])), x, np.nan)

    def points(self, c: np.ndarray) -> np.ndarray:
        """(k, 2) ln C and ln N at the minima of curves (k, 3); NaN without one."""
        x = self.inside(self.shape.minima(c))
        return np.stack([np.where(np.isnan(x), np.nan, self.shape.log_C(self.of_log_C, x)), x], 1)


def fit_profile(obs: Observations, budget: float, shape: Shape) -> Profile:
    """Least squares of one budget's losses; kinds of refusal: duplicates, not_iso_flop,
    too_few_sizes, constant_loss, opens_downward, curve_misses, vertex_outside, vertex_at_edge, flat.

    Args:
        obs: (n,) the budget's final losses, in any order.
        budget: FLOPs, the label.
        shape: what to fit.
    """
    obs = obs.where(np.argsort(obs.N, kind="stable"))
    sizes = np.unique(obs.N)
    profile = Profile(budget, obs, shape)
    rows = np.stack([same_values(x) for x in (obs.N, obs.D, obs.L)])[:, ~is_rounded(obs.L)]
    copies = rows.shape[1] - len(np.unique(rows, axis=1).T)  # two runs may share a rounded loss
    unequal = float(obs.C.max() / obs.C.min())

    def no(kind: str, reason: str, **found: Any) -> Profile:
        return Profile(budget, obs, shape, reason, kind, **found)

    if copies:
        return no(
            "duplicates",
            f"{copies} of {len(obs)} runs repeat another run's N, D and loss. One run counted twice "
            "would narrow the interval: remove the copies.",
        )
    if unequal > MAX_C_RATIO:
        return no(
            "not_iso_flop",
            f"its runs spent {obs.C.min():.3g} to {obs.C.max():.3g} FLOPs, a factor {unequal:.2f}: "
            f"no profile at one budget (at most {MAX_C_RATIO}). Check column C, or name another "
            "budget_flops for some.",
        )
    if len(sizes) < MIN_SIZES:
        return no(
            "too_few_sizes",
            f"{len(sizes)} model sizes cannot show a IsoFLOP curve. Train at least {MIN_SIZES} sizes "
            "around the expected optimum.",
        )
    if np.ptp(obs.L) < MIN_SPREAD * obs.L.mean():
        return no(
            "constant_loss",
            f"all {len(obs)} runs end at {obs.L.mean():.6g} nats per token: no IsoFLOP curve. Check column "
            "L.",
        )
    c = profile.solver @ obs.L
    x = float(shape.minima(c[None])[0])
    found = {"c": c, "x_opt": x}
    if np.isnan(x):
        return no(
            "opens_downward",
            f"the {'parabola' if isinstance(shape, Parabola) else 'profile'} opens downward: the "
            f"losses have no IsoFLOP curve between N={sizes[0]:.3g} and N={sizes[-1]:.3g}. Train "
            "smaller and larger models at this budget, and look for diverged runs.",
            **found,
        )
    side = "larger" if x > np.log(sizes[0] * sizes[-1]) / 2 else "smaller"
    below, above = int((np.log(sizes) < x).sum()), int((np.log(sizes) > x).sum())
    if np.isnan(profile.inside(np.array(x))):
        best = obs.N[obs.L == obs.L.min()]  # rounded losses may be the lowest at several sizes
        best = best[(sizes[0] < best) & (best < sizes[-1])]
        if len(best):
            return no(
                "curve_misses",
                f"the fitted curve has no minimum between N={sizes[0]:.3g} and N={sizes[-1]:.3g}, although "
                f"the lowest measured loss (N={best[0]:.3g}) lies inside: the curve does not describe these "
                "losses. Use isoflop_window=auto, or look for diverged runs.",
                **found,
            )
        return no(
            "vertex_outside",
            f"no minimum between N={sizes[0]:.3g} and N={sizes[-1]:.3g}: the loss still falls "
            f"towards {side} models. Train {side} models at this budget, or remove its rows.",
            **found,
        )
    if min(below, above) < MIN_SIDE:
        return no(
            "vertex_at_edge",
            f"the minimum N={np.exp(x):.3g} has {below} smaller and {above} larger sizes tried; "
            f"{MIN_SIDE} on each side are needed. Train {side} models at this budget, or remove its "
            "rows.",
            **found,
        )
    if (t := _curvature(obs)) < MIN_CURVATURE:
        return no(
            "flat",
            f"the IsoFLOP curve is not deeper than the scatter about it: its curvature is {t:.1f} times "
            "its own standard error. Train sizes further from the optimum, or repeat runs.",
            **found,
        )
    return Profile(budget, obs, shape, **found)


def _curvature(obs: Observations) -> float:
    """The curvature of a parabola through the losses, over its standard error."""
    X = Parabola(float(np.log(obs.N).mean())).columns(obs)
    solver = np.linalg.pinv(X)
    c = solver @ obs.L
    variance = float(np.sum((obs.L - X @ c) ** 2)) / max(len(obs) - 3, 1)
    return float(c[2] / np.sqrt(variance * (solver[2] @ solver[2]) + 1e-300))


def fit_budget(
    obs: Observations, budget: float, exponents: tuple[float, float] | None, cost: FlopsPerToken
) -> Profile:
    """`fit_profile` with a parabola, or with the exact shape where alpha and beta are given."""
    centre = float(np.log(obs.N).mean())
    shape: Shape = Parabola(centre)
    if exponents is not None:
        shape = ExactShape(centre, float(np.log(obs.C).mean()), *exponents, cost)
    return fit_profile(obs, float(budget), shape)


def weighted_fits(X: np.ndarray, Y: np.ndarray, w: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Weighted least squares, many weightings and several responses at once.

    Args:
        X: (n, 3) regressors.
        Y: (n, m) responses.
        w: (k, n) weights of each fit.
        sizes: (n,) model sizes; a fit in which under three of them have weight is NaN.

    Returns:
        (k, 3, m) coefficients.
    """
    distinct, index = np.unique(sizes, return_inverse=True)
    seen = (w @ (index[:, None] == np.arange(len(distinct)))) > 0  # (k, n_sizes)
    enough = seen.sum(-1) >= 3
    M = np.einsum("kn,ni,nj->kij", w, X, X)
    M[~enough] = np.eye(3)
    C = np.linalg.solve(M, np.einsum("kn,ni,nm->kim", w, X, Y))
    C[~enough] = np.nan
    return C


def parabolas(x: np.ndarray, Y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Weighted least-squares parabolas in x: (k, 3, m) coefficients, lowest power first.

    Args:
        x: (n,) abscissae; centre them first.
        Y: (n, m) columns to fit.
        w: (k, n) weights of each fit.
    """
    return weighted_fits(x[:, None] ** np.arange(3), Y, w, x)


def minima(profiles: list[Profile]) -> np.ndarray:
    """(m, 2) ln C and ln N of each profile's minimum."""
    return np.array([p.points(p.c[None])[0] for p in profiles if p.c is not None])


def lines(at: np.ndarray, cost: FlopsPerToken) -> np.ndarray:
    """(k, 4): ln coefficient and exponent of N_opt and of D_opt, by least squares through k sets of
    m minima (k, m, 2). A minimum that is NaN is left out; NaN where no more than half are left."""
    x, y = at[..., 0], at[..., 1]
    seen = np.isfinite(y)
    n = seen.sum(-1)
    enough = (n >= 2) & (n > y.shape[-1] / 2)
    found = np.full((len(at), 4), np.nan)
    x, y, w = x[enough], y[enough], seen[enough]
    D = x - cost.log_and_slope(np.where(w, y, cost.log_N[0]))[0]
    middle = np.where(w, x, 0).sum(-1) / w.sum(-1)
    dx = np.where(w, x - middle[:, None], 0)
    for column, z in ((0, y), (2, D)):
        z = np.where(w, z, 0)
        slope = (dx * z).sum(-1) / (dx**2).sum(-1)
        found[enough, column] = z.sum(-1) / w.sum(-1) - slope * middle
        found[enough, column + 1] = slope
    return found
