"""Ways to an interval for approach 3, side by side.

On the published points the standard error of a differs five-fold between methods, and the narrow
ones cover far less than they say (docs/fitting.md). Compared here: bootstraps over runs, over model
sizes, over budgets, within budgets; the paper's subsampling; the Powell sandwich, which needs no
refit; and the profile likelihood under Laplace errors. Resamplings other than the one in use are
refitted 100 times each, and left out for more than 1,000 runs, where they would take most of the
time of a fit. Quantities: a, the exponent of N_opt, and N_opt at a target C. NumPy only.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from chinchilla.fit import bootstrap
from chinchilla.fit.loss_law import FrontierSolver, log_N_opt
from chinchilla.fit.parametric.newton import Objective, Problem
from chinchilla.fit.parametric.solver import Laws, refit_loss_law
from chinchilla.fit.result import Interval, LossLaw
from chinchilla.observations.table import Observations

COMPARED = 100  # refits of each resampling that is compared
MAX_COMPARED_RUNS = 1_000  # of larger tables only the ways that need no further refits are compared
MIN_FITTED = 20  # resamples that must fit before percentiles mean anything
CHI2_80, CHI2_95 = 1.6424, 3.8415  # quantiles of one degree of freedom
PROFILE_POINTS = 12  # on each side of the optimum


def compare(
    obs: Observations,
    law: LossLaw,
    frame: FrontierSolver,
    have: dict[str, Laws],
    how: dict[str, Any],
    target_flops: float = 0.0,
    seed: int = 0,
) -> list[Interval]:
    """Every method's interval of a and of ln N_opt(target).

    Args:
        obs: (n,) final losses.
        law: the law of all of them.
        frame: how laws become frontiers here.
        have: refits that exist already, by resampling; the others are drawn anew.
        how: huber_delta and objective of the fits.
        target_flops: C of N_opt; 0 = ten times the largest C.
        seed: of the resampling.
    """
    if not any(len(laws.converged) for laws in have.values()):
        return []  # n_bootstrap=0: no interval was asked for
    C = target_flops or 10 * float(obs.C.max())
    quantities = _Quantities(frame, C)
    best = quantities(np.array([[law.E, law.A, law.B, law.alpha, law.beta]]))[0]
    r = np.log(obs.L / law(obs.N, obs.D))
    noisy = float(np.sqrt(np.mean(r**2))) > bootstrap.ZERO_WIDTH
    thetas = {name: laws.theta[laws.converged] for name, laws in have.items()}
    more = [name for name in bootstrap.RESAMPLINGS if name not in have]
    if len(obs) > MAX_COMPARED_RUNS:
        more = []
    if more:  # all at once, because a few slow refits then delay the others only once
        weights = np.concatenate([bootstrap.draw(name, obs, COMPARED, seed) for name in more])
        refits = refit_loss_law(obs.N, obs.D, obs.L, weights, law, **how)
        for i, name in enumerate(more):
            rows = slice(COMPARED * i, COMPARED * (i + 1))
            thetas[name] = refits.theta[rows][refits.converged[rows]]
    found = []
    for name in sorted(thetas, key=list(bootstrap.RESAMPLINGS).index):
        said = f"{len(thetas[name])} {bootstrap.RESAMPLINGS[name]}"
        found += _percentiles(said, quantities(thetas[name]), best, C, noisy)
    if how["objective"] == "huber":
        problem = Problem.of(obs.N, obs.D, obs.L)
        found += _sandwich(problem, law, quantities, best, how["huber_delta"])
        found += _profiles(problem, law, frame, best, C, how["huber_delta"])
    return found


@dataclass(frozen=True)
class _Quantities:
    """(k, 2) a and ln N_opt(C) of (k, 5) laws."""

    frame: FrontierSolver
    C: float

    def __call__(self, laws: np.ndarray) -> np.ndarray:
        a = self.frame.all_lines(laws)[:, 1]
        return np.stack([a, log_N_opt(laws, self.frame.cost, np.array([self.C]))[:, 0]], axis=1)


def _intervals(
    method: str, best: np.ndarray, se: np.ndarray, bounds: np.ndarray, C: float
) -> list[Interval]:
    """From (2,) estimates, (2,) standard errors and (2, 4) bounds at 2.5, 10, 90, 97.5%."""
    found = []
    for i, of in enumerate(("a", "N_opt")):
        estimate, row = float(best[i]), bounds[i]
        if of == "N_opt":
            estimate, row = float(np.exp(estimate)), np.exp(row)
        low95, p10, p90, high95 = (float(x) if np.isfinite(x) else None for x in row)
        ci95 = None if low95 is None or high95 is None else [low95, high95]
        spread = float(se[i]) if np.isfinite(se[i]) else None
        at = None if of == "a" else C
        found.append(Interval(method, of, estimate, spread, p10, p90, ci95, at))
    return found


def _percentiles(
    method: str, values: np.ndarray, best: np.ndarray, C: float, noisy: bool
) -> list[Interval]:
    values = values[np.isfinite(values).all(axis=1)]
    if len(values) < MIN_FITTED:
        return _intervals(f"{method}: too few could be fitted", best, *_nothing(), C)
    if noisy and bootstrap.unvaried(values[:, 0]):
        return _intervals(f"{method}: they do not vary here", best, *_nothing(), C)
    bounds = np.percentile(values, (2.5, 10, 90, 97.5), axis=0).T
    return _intervals(method, best, values.std(axis=0, ddof=1), bounds, C)


def _nothing() -> tuple[np.ndarray, np.ndarray]:
    return np.full(2, np.nan), np.full((2, 4), np.nan)


def _sandwich(
    problem: Problem, law: LossLaw, quantities: _Quantities, best: np.ndarray, delta: float
) -> list[Interval]:
    """V = H^-1 S H^-1 with S = sum psi^2 J J' and H from the density of residuals near zero.

    Powell (1984): in the Huber loss's linear zone the objective curves only through the share of
    residuals that cross zero, estimated by those within h; h by Hall and Sheather (1988).
    """
    theta = problem.theta(law)
    r, J, n = problem.residuals(theta), problem.jacobian(theta), len(problem.y)
    normal = NormalDist()
    width = n ** (-1 / 3) * normal.inv_cdf(0.975) ** (2 / 3) * (1.5 / (2 * np.pi)) ** (1 / 3)
    scale = min(float(r.std()), float(np.subtract(*np.percentile(r, (75, 25)))) / 1.349)
    h = max(delta, 2 * scale * normal.inv_cdf(min(0.5 + width, 0.99)))
    H = delta / h * J[np.abs(r) < h].T @ J[np.abs(r) < h]
    S = (J * (np.clip(r, -delta, delta) ** 2)[:, None]).T @ J
    try:
        inverse = np.linalg.inv(H)
    except np.linalg.LinAlgError:
        return _intervals("Powell sandwich: singular", best, *_nothing(), quantities.C)
    step = 1e-5
    moved = theta + step * np.concatenate([np.eye(5), -np.eye(5)])
    values = quantities(problem.laws(moved))
    gradient = (values[:5] - values[5:]).T / (2 * step)  # (2, 5)
    variance = np.einsum("qi,ij,qj->q", gradient, inverse @ S @ inverse, gradient)
    se = np.sqrt(np.maximum(variance, 0))
    z80, z95 = normal.inv_cdf(0.9), normal.inv_cdf(0.975)
    bounds = best[:, None] + se[:, None] * np.array([-z95, -z80, z80, z95])
    return _intervals("Powell sandwich, normal", best, se, bounds, quantities.C)


def _profiles(
    problem: Problem, law: LossLaw, frame: FrontierSolver, best: np.ndarray, C: float, delta: float
) -> list[Interval]:
    """Where 2 n ln(f/f_min) stays below chi-square's quantiles: Laplace errors of one scale."""
    bounds = np.full((2, 4), np.nan)
    if frame.cost is None:  # elsewhere a is no function of alpha and beta alone
        bounds[0] = _profile(problem, law, FixedExponent(), float(best[0]), 0.02, delta)
    fixed = FixedSize(problem.centre, np.log(C), frame)
    bounds[1] = _profile(problem, law, fixed, float(best[1]), 0.2, delta)
    method = "profile likelihood, Laplace errors of one scale"
    return _intervals(method, best, np.full(2, np.nan), bounds, C)


def _profile(
    problem: Problem,
    law: LossLaw,
    constraint: "FixedExponent | FixedSize",
    centre: float,
    reach: float,
    delta: float,
) -> np.ndarray:
    """(4,) bounds at 2.5, 10, 90 and 97.5%; NaN where the profile stays too low to be crossed."""
    theta, n = problem.theta(law), len(problem.y)
    aim = Objective("huber", (delta,))
    lowest = problem.solve(theta[None], np.ones((1, n)), Objective.named("huber", delta)).f[0]
    for _ in range(4):
        away = reach * np.linspace(-1, 1, 2 * PROFILE_POINTS + 1)
        start = constraint.start(np.tile(theta, (len(away), 1)), centre + away)
        end = problem.solve(start, np.ones((len(away), n)), aim, constraint)
        ratio = np.where(end.converged, 2 * n * np.log(np.maximum(end.f / lowest, 1.0)), np.nan)
        if np.nanmin(np.append(ratio[[0, -1]], np.inf)) > CHI2_95:
            break
        reach *= 2
    bounds = []
    for side, level in ((-1, CHI2_95), (-1, CHI2_80), (1, CHI2_80), (1, CHI2_95)):
        x, y = side * away, ratio
        keep = (x >= 0) & np.isfinite(y)
        order = np.argsort(x[keep])
        x, y = x[keep][order], y[keep][order]
        over = np.flatnonzero(y > level)
        if not len(over) or over[0] == 0:
            bounds.append(np.nan)
            continue
        i = over[0]
        share = (np.sqrt(level) - np.sqrt(y[i - 1])) / (np.sqrt(y[i]) - np.sqrt(y[i - 1]))
        bounds.append(centre + side * (x[i - 1] + share * (x[i] - x[i - 1])))
    return np.array(bounds)


class FixedExponent:
    """theta with beta = alpha * a / (1 - a); z = (a, then a, b, e, alpha of theta)."""

    def start(self, theta: np.ndarray, value: np.ndarray) -> np.ndarray:
        return np.concatenate([value[:, None], theta[:, :4]], axis=1)

    def lift(self, z: np.ndarray) -> np.ndarray:
        beta = z[:, 4] * z[:, 0] / (1 - z[:, 0])
        return np.concatenate([z[:, 1:], beta[:, None]], axis=1)

    def pull(self, z: np.ndarray, g: np.ndarray, H: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        T = np.zeros((len(z), 5, 5))  # d theta / d z; the fixed value does not move
        T[:, [0, 1, 2, 3], [1, 2, 3, 4]] = 1
        T[:, 4, 4] = z[:, 0] / (1 - z[:, 0])
        return _pulled(T, g, H)


class FixedSize:
    """theta whose best size at C is exp(value); z = (value, then b, e, alpha, beta of theta).

    At the best size a - alpha*u + ln alpha = b - beta*v + ln beta + ln(dlnc/dlnN), with u and v
    the centred logarithms of that size and of the tokens it leaves: a follows from the others.
    """

    def __init__(self, centre: tuple[float, float], log_C: float, frame: FrontierSolver) -> None:
        self.centre, self.log_C, self.frame = centre, log_C, frame

    def _at(self, value: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """u, v and ln(dlnc/dlnN) at ln N = value."""
        if self.frame.cost is None:
            log_c, slope = np.log(6) + value, np.ones_like(value)
        else:
            log_c, slope = self.frame.cost.trend_and_slope(value)
        return value - self.centre[0], self.log_C - log_c - self.centre[1], np.log(slope)

    def start(self, theta: np.ndarray, value: np.ndarray) -> np.ndarray:
        return np.concatenate([value[:, None], theta[:, 1:]], axis=1)

    def lift(self, z: np.ndarray) -> np.ndarray:
        u, v, log_slope = self._at(z[:, 0])
        b, _, alpha, beta = z[:, 1:].T
        with np.errstate(invalid="ignore", divide="ignore"):
            a = b - beta * v + np.log(beta) + log_slope + alpha * u - np.log(alpha)
        return np.concatenate([a[:, None], z[:, 1:]], axis=1)

    def pull(self, z: np.ndarray, g: np.ndarray, H: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        u, v, _ = self._at(z[:, 0])
        alpha, beta = z[:, 3], z[:, 4]
        T = np.zeros((len(z), 5, 5))
        T[:, [1, 2, 3, 4], [1, 2, 3, 4]] = 1
        T[:, 0, 1], T[:, 0, 3], T[:, 0, 4] = 1, u - 1 / alpha, 1 / beta - v
        g_z, H_z = _pulled(T, g, H)
        H_z[:, 3, 3] += g[:, 0] / alpha**2
        H_z[:, 4, 4] -= g[:, 0] / beta**2
        return g_z, H_z


def _pulled(T: np.ndarray, g: np.ndarray, H: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and Hessian in z through the Jacobian T; the first of z stays where it is."""
    g_z = np.einsum("kij,ki->kj", T, g)
    H_z = T.transpose(0, 2, 1) @ H @ T
    H_z[:, 0, 0] = 1
    return g_z, H_z
