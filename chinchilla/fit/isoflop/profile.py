"""One IsoFLOP profile: final losses of one budget against ln N, a curve through them, and its minimum.

Two curves, both linear in three coefficients for each budget:

* `Parabola`, the paper's (section 3.2): L = c0 + c1*u + c2*u^2 with u = ln N - its mean.
* `ExactShape`, the profile of the loss law: L = E + A/N^alpha + B/D^beta at one C, where E, A, B belong to
  the budget and alpha, beta are shared by all. At C = 6*N*D and w = ln(N/N_opt) it is
  E + K*(e^(-alpha*w)/alpha + e^(beta*w)/beta).

A parabola fitted to the exact shape has its minimum beside the optimum. For sizes centred on the
optimum, the shift is (alpha-beta)/6 * m4/m2 in ln N (m_k = mean k-th power of w) at every budget.
For Hoffmann et al.'s law and 15 sizes this is .33, 1.32, 2.99 and 5.37% of N_opt for grids of +-2,
4, 8 and 16 times (Czech et al. 2026, arXiv 2603.22339).
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from chinchilla.core.units import is_rounded, same_values
from chinchilla.fit.isoflop.window import MAX_C_RATIO
from chinchilla.fit.loss_law import FlopsPerToken
from chinchilla.fit.numerics import fit_line, quadratic_columns
from chinchilla.observations.table import Observations

MIN_SIZES = 4  # distinct sizes at a budget
MIN_SPREAD = 1e-6  # of the losses of a budget, relative
MIN_CURVATURE = 1.0  # standard errors
MIN_SIDE = 2  # distinct sizes on each side of the minimum
SEARCH_RADIUS = 12.0  # distance from the mean size within which a minimum is searched, in ln N


@dataclass(frozen=True)
class Parabola:
    """The paper's profile.

    The loss at the minimum is a weighted sum of the losses, and its ln C is the sum of the runs'
    ln C with the same weights. An error in C that all runs share therefore moves both together.
    """

    centre: float  # mean ln N of the runs

    def columns(self, obs: Observations) -> np.ndarray:
        """(n, 3) design matrix of the losses."""
        return quadratic_columns(np.log(obs.N) - self.centre)

    def losses(self, c: np.ndarray, x: np.ndarray) -> np.ndarray:
        """(n,) losses of the curve with coefficients c (3,) at x = ln N."""
        return quadratic_columns(x - self.centre) @ c

    def minima(self, c: np.ndarray) -> np.ndarray:
        """(k,) ln N at the minimum of each of the curves (k, 3); NaN, -inf or +inf without one."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(c[:, 2] > 0, self.centre - c[:, 1] / (2 * c[:, 2]), np.nan)

    def log_C(self, of_log_C: np.ndarray, x: np.ndarray) -> np.ndarray:
        """(k,) ln C of minima x, from the coefficients (3,) of the same curve through the runs' ln C."""
        return self.losses(of_log_C, x)


@dataclass(frozen=True)
class ExactShape:
    """The profile of the loss law at the runs' mean C, with the D of each run; methods as `Parabola`."""

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
        minima = np.interp(ratio, balance, x, left=-np.inf, right=np.inf)
        minima[c[:, 1] <= 0] = -np.inf  # the loss does not fall with N
        minima[c[:, 2] <= 0] = np.inf  # the loss does not fall with D
        minima[(c[:, 1] <= 0) & (c[:, 2] <= 0)] = np.nan
        return minima

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
        """ln N, and the ln(alpha*A/(beta*B)) for which it is optimal: a straight line at C = 6*N*D."""
        x = np.linspace(self.centre - SEARCH_RADIUS, self.centre + SEARCH_RADIUS, 601)
        q, slope = self.cost.trend_and_slope(x)
        rising = self.alpha * (x - self.centre) + self.beta * (q - self._central_cost)
        rising += np.log(np.maximum(slope, 1e-12))
        return x, np.maximum.accumulate(rising)


@dataclass(frozen=True)
class Profile:
    """The runs of one budget (N ascending), a curve fitted to them, and its minimum or a refusal."""

    budget: float
    obs: Observations
    shape: Parabola | ExactShape
    refused: str = ""  # reason why there is no minimum
    kind: str = ""  # the reason in one word, for programs
    x_opt: float = np.nan  # ln N at the minimum, even if it lies outside the sizes
    c: np.ndarray | None = None  # (3,) coefficients

    @cached_property
    def columns(self) -> np.ndarray:
        return self.shape.columns(self.obs)  # (n, 3)

    @cached_property
    def solver(self) -> np.ndarray:
        return np.linalg.pinv(self.columns)  # (3, n): coefficients = solver @ losses

    @cached_property
    def leverage(self) -> np.ndarray:
        """(n,) derivative of each fitted value by its own loss, at most .99."""
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
    def degrees_of_freedom(self) -> float:
        """Degrees of freedom of the HC2 variance of the minimum (Bell and McCaffrey 2002), at most n - 3."""
        weights = self.pull**2 / (1 - self.leverage)
        G = weights[:, None] * (np.eye(len(weights)) - self.columns @ self.solver)
        return float(np.trace(G) ** 2 / np.sum(G * G.T))

    def points(self, c: np.ndarray) -> np.ndarray:
        """(k, 2) ln C and ln N at the minima of curves (k, 3); NaN without one inside the sizes."""
        x, N = self.shape.minima(c), self.obs.N
        x = np.where((np.log(N[0]) < x) & (x < np.log(N[-1])), x, np.nan)
        log_C = self.shape.log_C(self.solver @ np.log(self.obs.C), x)
        return np.stack([np.where(np.isnan(x), np.nan, log_C), x], axis=1)


def fit_budget(
    obs: Observations, budget: float, exponents: tuple[float, float] | None, cost: FlopsPerToken
) -> Profile:
    """Fit one budget's losses by least squares, with the exact shape if alpha and beta are given.

    Args:
        obs: (n,) the budget's final losses, in any order.
        budget: label of the budget, FLOPs.
        exponents: alpha and beta, or None for a parabola.
        cost: FLOPs per token at a size.

    Returns:
        The profile; `kind` is one of duplicates, not_iso_flop, too_few_sizes, constant_loss,
        opens_downward, curve_misses, vertex_outside, vertex_at_edge and flat if it was refused.
    """
    obs = obs.where(np.argsort(obs.N, kind="stable"))
    shape: Parabola | ExactShape = Parabola(float(np.log(obs.N).mean()))
    if exponents is not None:
        shape = ExactShape(shape.centre, float(np.log(obs.C).mean()), *exponents, cost)
    profile = Profile(float(budget), obs, shape)
    refusal = _unusable(obs)
    if not refusal:
        c = profile.solver @ obs.L
        profile = replace(profile, c=c, x_opt=float(shape.minima(c[None])[0]))
        refusal = _no_minimum(profile)
    kind, refused = refusal or ("", "")
    return replace(profile, kind=kind, refused=refused)


def _unusable(obs: Observations) -> tuple[str, str] | None:
    """Kind and reason if a curve cannot be fitted to these runs."""
    sizes = np.unique(obs.N)
    rows = np.stack([same_values(x) for x in (obs.N, obs.D, obs.L)])[:, ~is_rounded(obs.L)]
    copies = rows.shape[1] - len(np.unique(rows, axis=1).T)  # two runs may share a rounded loss
    if copies:
        return (
            "duplicates",
            f"{copies} of {len(obs)} runs repeat another run's N, D and loss. One run counted twice "
            "would narrow the interval: remove the copies.",
        )
    ratio = float(obs.C.max() / obs.C.min())
    if ratio > MAX_C_RATIO:
        return (
            "not_iso_flop",
            f"its runs spent {obs.C.min():.3g} to {obs.C.max():.3g} FLOPs, a factor {ratio:.2f} (at most "
            f"{MAX_C_RATIO} within a budget). Check column C, or give some runs another budget_flops.",
        )
    if len(sizes) < MIN_SIZES:
        return (
            "too_few_sizes",
            f"{len(sizes)} model sizes cannot show an IsoFLOP curve. Train at least {MIN_SIZES} sizes "
            "around the expected optimum.",
        )
    if np.ptp(obs.L) < MIN_SPREAD * obs.L.mean():
        return (
            "constant_loss",
            f"all {len(obs)} runs end at {obs.L.mean():.6g} nats per token: no IsoFLOP curve. Check column "
            "L.",
        )
    return None


def _no_minimum(profile: Profile) -> tuple[str, str] | None:
    """Kind and reason if the fitted curve has no minimum that the runs support."""
    obs, x, sizes = profile.obs, profile.x_opt, np.unique(profile.obs.N)
    between = f"between N={sizes[0]:.3g} and N={sizes[-1]:.3g}"
    if np.isnan(x):
        name = "parabola" if isinstance(profile.shape, Parabola) else "profile"
        return (
            "opens_downward",
            f"the {name} opens downward: the losses have no IsoFLOP curve {between}. Train "
            "smaller and larger models at this budget, and look for diverged runs.",
        )
    side = "larger" if x > np.log(sizes[0] * sizes[-1]) / 2 else "smaller"
    if not np.log(sizes[0]) < x < np.log(sizes[-1]):
        best = obs.N[obs.L == obs.L.min()]  # rounded losses may be the lowest at several sizes
        best = best[(sizes[0] < best) & (best < sizes[-1])]
        if len(best):
            return (
                "curve_misses",
                f"the fitted curve has no minimum {between}, although the lowest measured loss "
                f"(N={best[0]:.3g}) lies inside: the curve does not describe these losses. Use "
                "isoflop_window=auto, or look for diverged runs.",
            )
        return (
            "vertex_outside",
            f"no minimum {between}: the loss still falls towards {side} models. Train {side} models at "
            "this budget, or remove its rows.",
        )
    below, above = int((np.log(sizes) < x).sum()), int((np.log(sizes) > x).sum())
    if min(below, above) < MIN_SIDE:
        return (
            "vertex_at_edge",
            f"the minimum N={np.exp(x):.3g} has {below} smaller and {above} larger sizes tried; "
            f"{MIN_SIDE} on each side are needed. Train {side} models at this budget, or remove its "
            "rows.",
        )
    if (t := _curvature(obs)) < MIN_CURVATURE:
        return (
            "flat",
            f"the IsoFLOP curve is not deeper than the scatter about it: its curvature is {t:.1f} times "
            "its own standard error. Train sizes further from the optimum, or repeat runs.",
        )
    return None


def _curvature(obs: Observations) -> float:
    """Curvature of a parabola through the losses, over its standard error."""
    X = Parabola(float(np.log(obs.N).mean())).columns(obs)
    solver = np.linalg.pinv(X)
    c = solver @ obs.L
    variance = float(np.sum((obs.L - X @ c) ** 2)) / max(len(obs) - 3, 1)
    return float(c[2] / np.sqrt(variance * (solver[2] @ solver[2]) + 1e-300))


def parabolas(x: np.ndarray, Y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Weighted least-squares parabolas in x, for many weightings and several responses at once.

    Args:
        x: (n,) centred abscissae.
        Y: (n, m) responses.
        w: (k, n) weights of each fit.

    Returns:
        (k, 3, m) coefficients, lowest power first; NaN where under three distinct x have weight.
    """
    X = quadratic_columns(x)
    order = np.argsort(x, kind="stable")
    starts = np.unique(x[order], return_index=True)[1]
    present = np.logical_or.reduceat(w[:, order] > 0, starts, axis=1)  # (k, n_distinct)
    enough = present.sum(-1) >= 3
    M = np.einsum("kn,ni,nj->kij", w, X, X)
    M[~enough] = np.eye(3)
    C = np.linalg.solve(M, np.einsum("kn,ni,nm->kim", w, X, Y))
    C[~enough] = np.nan
    return C


def minima(profiles: list[Profile]) -> np.ndarray:
    """(m, 2) ln C and ln N of each profile's minimum."""
    return np.array([p.points(p.c[None])[0] for p in profiles if p.c is not None])


def lines(at: np.ndarray, cost: FlopsPerToken) -> np.ndarray:
    """Least-squares lines through k sets of m minima.

    Args:
        at: (k, m, 2) ln C and ln N; a minimum that is NaN is left out.
        cost: FLOPs per token at a size.

    Returns:
        (k, 4) ln coefficient and exponent of N_opt and of D_opt; NaN where no more than half of the
        minima are left.
    """
    x, y = at[..., 0], at[..., 1]
    keep = np.isfinite(y)
    n = keep.sum(-1)
    enough = (n >= 2) & (n > y.shape[-1] / 2)
    found = np.full((len(at), 4), np.nan)
    x, y, keep = x[enough], y[enough], keep[enough]
    D = x - cost.log_cost(np.where(keep, y, cost.log_N[0]))
    found[enough] = np.stack([*fit_line(x, y, keep), *fit_line(x, D, keep)], axis=1)
    return found
