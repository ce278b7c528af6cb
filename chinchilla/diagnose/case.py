"""What the diagnostics look at: final losses, the fits of them, and refits of parts of them.

A part of the runs gives another exponent even where the law is true. How far it would move is known:
for a least-squares law, Var(a_part - a_all) = Var(a_part) - Var(a_all), and the design alone says
how Var grows when runs leave. `Refits.expected` is that, scaled so that all runs have the standard
error of the bootstrap in frontier.json, and never below what as many average runs would do (a robust
fit is moved by runs without leverage too). `Refits.z` is the move in units of it. The diagnostics
call a move large by z, not by eye. NumPy only: this module must import without torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np

from chinchilla.errors import FitError
from chinchilla.fit.fits import Fits
from chinchilla.fit.frontier import LossLaw
from chinchilla.fit.loss_fit import OBJECTIVES, Laws, refit_loss_law
from chinchilla.fit.loss_law import LawFrontier
from chinchilla.observations import Observations
from chinchilla.shapes import ModelShape

MIN_RUNS = 8  # of a part that is fitted: five parameters and something left to miss
MIN_DISTINCT = 3  # sizes, and token counts, of a part
LARGE_Z = 2.5  # a move this many times what a true law would show is a caution
ROUNDING = 1e-5  # a standard error of a below this is no noise: a law fits its own losses so
SAME_SIZE = 1e-3  # sizes closer than this in ln N are one size, read off a figure


@dataclass(frozen=True)
class Finding:
    """One diagnostic: a verdict, what was found, what to do, and the numbers.

    `verdict` is ok, caution or unavailable; `kind` says why unavailable, in one word for programs.
    """

    verdict: str
    says: str
    do: str = ""
    kind: str = ""
    values: dict[str, Any] = field(default_factory=dict)


def large(n: int) -> float:
    """LARGE_Z for the largest of n moves: chance finds a larger one among many."""
    return max(LARGE_Z, NormalDist().inv_cdf(1 - 0.0062 / n))  # 2.5 for one


def judged(caution: bool, says: str, do: str, values: dict[str, Any]) -> Finding:
    """A Finding that is ok, or a caution with what to do."""
    return Finding("caution" if caution else "ok", says, do if caution else "", values=values)


@dataclass(frozen=True)
class Refits:
    """Approach 3 on k parts of the runs; NaN where a part could not be fitted."""

    laws: Laws
    n: np.ndarray  # (k,) runs in each
    a: np.ndarray  # (k,) exponent of N_opt
    log_N: np.ndarray  # (k,) ln N_opt(C_star)
    expected: np.ndarray  # (k,) standard deviation of a - a_all under a true law
    move: np.ndarray  # (k,) a - a_all

    @property
    def beta(self) -> np.ndarray:
        """(k,) exponent of D in the law."""
        return self.laws.theta[:, 4]

    @property
    def z(self) -> np.ndarray:
        """(k,) the move in units of what a true law would show; 0 where nothing was left out."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.expected > 0, self.move / self.expected, 0 * self.move)

    def row(self, i: int) -> dict[str, Any]:
        """The i-th as JSON; None for what could not be had."""
        numbers = {
            "a": self.a[i],
            "beta": self.beta[i],
            "log_N_opt": self.log_N[i],
            "expected_sd": self.expected[i],
            "z": self.z[i],
        }
        return {"n": int(self.n[i]), **{k: number(x) for k, x in numbers.items()}}


@dataclass(frozen=True)
class Case:
    """Final losses and what `chinchilla fit` found in them.

    Args:
        obs: one row per run.
        fits: frontier.json.
        C_star: FLOPs at which changes of N_opt are stated.
        n_bootstrap: resamples of runs for the isoFLOP vertices.
        seed: of the resampling.
        shapes: run_id -> model, where a sweep knows them.
    """

    obs: Observations
    fits: Fits
    C_star: float
    n_bootstrap: int = 400
    seed: int = 0
    shapes: Mapping[str, ModelShape] = field(default_factory=dict)

    @cached_property
    def law(self) -> LossLaw:
        """Approach 3's law.

        Raises:
            FitError: approach 3 has none.
        """
        frontier = self.fits.fitted.get("parametric")
        if frontier is None or frontier.law is None:
            refused = self.fits.refused.get("parametric")
            why = f" ({refused.reason})" if refused else ""
            raise FitError(f"approach 3 was not fitted{why}.", "no_law")
        return replace(frontier.law, intervals={})

    @cached_property
    def loss_settings(self) -> dict[str, Any]:
        """How approach 3 was fitted, as keywords of `fit_loss_law`."""
        told = self.fits.fitted["parametric"].settings
        names = {words: name for name, words in OBJECTIVES.items()}
        return {
            "huber_delta": told.get("huber_delta", 1e-3),
            "objective": names.get(str(told.get("objective")), "huber"),
        }

    @cached_property
    def frame(self) -> LawFrontier:
        """How a law becomes a line for these runs."""
        return LawFrontier.of(self.obs)

    def line(self, law: LossLaw, C: float | None = None) -> tuple[float, float]:
        """a and ln N_opt(C), C_star if not given, of one law; NaN where it has no frontier."""
        try:
            (log_k, a), _ = self.frame.lines(law)
        except FitError:
            return np.nan, np.nan
        return a, log_k + a * float(np.log(C or self.C_star))

    @cached_property
    def a(self) -> float:
        """Exponent of N_opt by approach 3 on all runs."""
        return self.line(self.law)[0]

    @cached_property
    def se_a(self) -> tuple[float, str]:
        """Standard error of a and where it comes from."""
        samples = self.fits.fitted["parametric"].N_opt.samples
        if samples:
            return max(float(np.std(samples[1], ddof=1)), ROUNDING), "bootstrap over runs"
        r = self.residuals
        q = float(self._variance(np.ones((1, len(r)), bool))[0])
        se = max(float(np.sqrt(r @ r / len(r) * q)), ROUNDING)
        return se, "equal errors, no bootstrap in frontier.json"

    @cached_property
    def residuals(self) -> np.ndarray:
        """(n,) ln L - ln L_hat."""
        return np.log(self.obs.L / self.law(self.obs.N, self.obs.D))

    @cached_property
    def size(self) -> np.ndarray:
        """(n,) index of each run's size, smallest first; sizes within SAME_SIZE are one."""
        x = np.log(self.obs.N)
        order = np.argsort(x, kind="stable")
        index = np.empty(len(x), int)
        index[order] = np.cumsum(np.append(False, np.diff(x[order]) > SAME_SIZE))
        return index

    @cached_property
    def budgets(self) -> np.ndarray:
        """(n,) isoFLOP budget of each run to six digits, NaN for none."""
        return np.array([float(f"{b:.6g}") for b in self.obs.budget_flops])

    def named_budgets(self) -> np.ndarray:
        """Distinct budgets, rising; empty where no run names one."""
        return np.unique(self.budgets[np.isfinite(self.budgets)])

    def cuts(self) -> tuple[np.ndarray, np.ndarray]:
        """Values of C to cut at, and the (k, n) runs up to each.

        The budgets where runs name at least three; a run counts as up to a budget if it spent no
        more over it than the runs that belong to one do. Else quantiles of C.
        """
        budgets, C = self.named_budgets(), self.obs.C
        if len(budgets) >= 3:
            slack = max(1.0, float(np.nanmax(C / self.budgets))) * (1 + 1e-9)
            return budgets, budgets[:, None] * slack >= C
        cuts = np.quantile(C, (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0))
        return cuts, cuts[:, None] >= C

    def refit(self, keep: np.ndarray) -> Refits:
        """Approach 3 on parts of the runs.

        Args:
            keep: (k, n) bool.

        Raises:
            FitError: approach 3 has no law on all runs.
        """
        obs, law = self.obs, self.law
        n = keep.sum(axis=1)
        possible = np.array([self._can_fit(row) for row in keep], bool)
        theta, objective = np.full((len(keep), 5), np.nan), np.full(len(keep), np.nan)
        converged = np.zeros(len(keep), bool)
        if possible.any():
            weights = keep[possible].astype(float)
            found = refit_loss_law(obs.N, obs.D, obs.L, weights, law, **self.loss_settings)
            theta[possible], objective[possible] = found.theta, found.objective
            converged[possible] = found.converged
        laws = Laws(theta, objective, converged)
        lines = self.frame.all_lines(theta)  # (k, 4)
        log_N = lines[:, 0] + lines[:, 1] * np.log(self.C_star)
        q = self._variance(np.vstack([np.ones((1, len(obs)), bool), keep]))
        grown = np.maximum(q[1:] / q[0], len(obs) / np.maximum(n, 1))
        expected = self.se_a[0] * np.sqrt(np.maximum(grown - 1, 0))
        return Refits(laws, n, lines[:, 1], log_N, expected, lines[:, 1] - self.a)

    def _can_fit(self, keep: np.ndarray) -> bool:
        sizes, tokens = len(np.unique(self.size[keep])), len(np.unique(self.obs.D[keep]))
        return keep.sum() >= MIN_RUNS and min(sizes, tokens) >= MIN_DISTINCT

    def _variance(self, keep: np.ndarray) -> np.ndarray:
        """(k,) variance of a on each part per unit variance of ln L, at the law of all runs."""
        J = jacobian(self.law, self.obs.N, self.obs.D)
        M = np.einsum("kn,ni,nj->kij", keep.astype(float), J, J)
        g = self._gradient()
        return np.einsum("i,kij,j->k", g, np.linalg.pinv(M, hermitian=True), g)

    def _gradient(self) -> np.ndarray:
        """(5,) d a / d (ln A, ln B, ln E, alpha, beta), A and B taken at the mean ln N and ln D."""
        u, v = float(np.log(self.obs.N).mean()), float(np.log(self.obs.D).mean())
        law, step = self.law, 1e-5

        def a(move: np.ndarray) -> float:
            A, B, E = np.exp(move[:3]) * (law.A, law.B, law.E)
            alpha, beta = law.alpha + move[3], law.beta + move[4]
            A, B = A * np.exp(move[3] * u), B * np.exp(move[4] * v)
            return self.line(LossLaw(float(E), float(A), float(B), alpha, beta))[0]

        return np.array([(a(h) - a(-h)) / (2 * step) for h in step * np.eye(5)])


def jacobian(law: LossLaw, N: np.ndarray, D: np.ndarray, centred: bool = True) -> np.ndarray:
    """d ln L / d (ln A, ln B, ln E, alpha, beta) at each run, (n, 5).

    Args:
        law: where.
        N: (n,) parameters.
        D: (n,) tokens.
        centred: A and B are the coefficients at the mean ln N and ln D of these runs; else at
            N = 1 and D = 1, as the law is written.
    """
    u, v = np.log(N), np.log(D)
    if centred:
        u, v = u - u.mean(), v - v.mean()
    L = law(N, D)
    p, q = law.A / N**law.alpha / L, law.B / D**law.beta / L
    return np.stack([p, q, law.E / L, -p * u, -q * v], axis=1)


def number(x: float) -> float | None:
    """A float for JSON: None for NaN and infinity."""
    return float(x) if np.isfinite(x) else None
