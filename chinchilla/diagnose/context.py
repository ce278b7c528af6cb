"""The runs and fits that the diagnostics examine, and refits of parts of the runs.

A fit of a part of the runs differs from the fit of all runs even if the law holds exactly. For least
squares the size of that difference is known: Var(part - all) = Var(part) - Var(all), and the design alone
determines how much the variance grows. `Refits.a_sd` and `log_N_sd` are its square root for a and for
ln N_opt at C_star. They are scaled so that the fit of all runs has the standard error of the bootstrap in
frontier.json, and are never smaller than after leaving out as many average runs (a robust fit also moves
if runs without leverage are left out).
This module must import without torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.core.shapes import ModelShape
from chinchilla.diagnose.findings import finite
from chinchilla.fit.loss_law import FrontierSolver
from chinchilla.fit.parametric.solver import (
    OBJECTIVES,
    estimate_refits,
    n_levels,
    part_sums,
    refit_loss_law,
)
from chinchilla.fit.result import LossLaw
from chinchilla.fit.results import FitResults
from chinchilla.observations.checks import N_PARAMETERS, robust_sd
from chinchilla.observations.table import Observations

MIN_RUNS = 8  # of a part: five parameters, and residuals
MIN_DISTINCT = 3  # sizes, and token counts, of a part
MIN_SHARE = 3  # a part that grows to all runs holds at least one in MIN_SHARE of them
MAX_REFITS = 1_000  # parts that are all minimised; with objective=lad any number
N_EXACT = 100  # parts that are minimised if there are more; the others are estimated
ROUNDING = 1e-5  # a smaller standard error of a is rounding, from losses exactly on a law
SAME_SIZE = 1e-3  # sizes closer than this in ln N are one size, as when read from a figure


@dataclass(frozen=True)
class Refits:
    """Approach 3 on k parts of the runs; NaN where a part could not be fitted."""

    n: np.ndarray  # (k,) runs in each
    theta: np.ndarray  # (k, 5) E, A, B, alpha, beta
    a: np.ndarray  # (k,) exponent of N_opt
    a_sd: np.ndarray  # (k,) standard deviation of a - a of all runs if the law holds
    log_N_move: np.ndarray  # (k,) ln N_opt(C_star) - that of all runs
    log_N_sd: np.ndarray  # (k,) standard deviation of `log_N_move` if the law holds

    @property
    def fitted(self) -> np.ndarray:
        """(k,) bool: the parts that could be fitted."""
        return np.isfinite(self.a)

    def row(self, i: int) -> dict[str, Any]:
        """The i-th refit as JSON; None where it could not be made."""
        numbers = {
            "a": self.a[i],
            "a_sd": self.a_sd[i],
            "beta": self.theta[i, 4],
            "log_N_move": self.log_N_move[i],
            "log_N_sd": self.log_N_sd[i],
        }
        return {"n": int(self.n[i]), **{name: finite(x) for name, x in numbers.items()}}


@dataclass(frozen=True)
class Context:
    """Final losses and the fits that `chinchilla fit` made of them.

    Args:
        obs: one row per run.
        fits: frontier.json.
        C_star: FLOPs at which moves of N_opt are stated.
        n_bootstrap: resamples of runs for the IsoFLOP minima.
        seed: of the resampling.
        shapes: run_id -> model, for runs of a sweep.
    """

    obs: Observations
    fits: FitResults
    C_star: float
    n_bootstrap: int = 400
    seed: int = 0
    shapes: Mapping[str, ModelShape] = field(default_factory=dict)

    @cached_property
    def law(self) -> LossLaw:
        """Approach 3's law.

        Raises:
            FitError: approach 3 was not fitted.
        """
        if "parametric" not in self.fits.fitted:
            raise self.not_fitted("parametric", "approach 3")
        law = self.fits.fitted["parametric"].law
        assert law is not None
        return law

    def not_fitted(self, name: str, title: str) -> FitError:
        """The error that an approach was not fitted, with the first sentence of the reason."""
        refused = self.fits.refused.get(name)
        why = f" ({refused.reason.partition('. ')[0].removesuffix('.')})" if refused else ""
        return FitError(f"{title} was not fitted{why}.")

    @cached_property
    def loss_settings(self) -> dict[str, Any]:
        """The settings of approach 3, as keyword arguments of `fit_loss_law`."""
        settings = self.fits.fitted["parametric"].settings
        names = {words: name for name, words in OBJECTIVES.items()}
        return {
            "huber_delta": settings["huber_delta"],
            "objective": names[settings["objective"]],
        }

    @cached_property
    def solver(self) -> FrontierSolver:
        """Converts a law to its frontier for the C and the FLOP count of these runs."""
        return FrontierSolver.of(self.obs)

    def line(self, law: LossLaw, C: float | None = None) -> tuple[float, float]:
        """a and ln N_opt(C) of a law, at C_star by default."""
        (log_k, a), _ = self.solver.lines(law)
        return a, log_k + a * float(np.log(C or self.C_star))

    @cached_property
    def a(self) -> float:
        """Exponent of N_opt by approach 3 on all runs."""
        return self.line(self.law)[0]

    @cached_property
    def log_N(self) -> float:
        """ln N_opt(C_star) by approach 3 on all runs."""
        return self.line(self.law)[1]

    @cached_property
    def residuals(self) -> np.ndarray:
        """(n,) ln L - ln L_hat."""
        return np.log(self.obs.L / self.law(self.obs.N, self.obs.D))

    # ------------------------------------------------------------------ standard errors

    @cached_property
    def se(self) -> np.ndarray:
        """(2,) standard errors of a and of ln N_opt(C_star), from the bootstrap in frontier.json if it has one."""
        samples = self.fits.fitted["parametric"].N_opt.samples
        se = self._equal_errors
        if samples:
            log_k, a = np.asarray(samples, float)
            se = np.std([a, log_k + a * np.log(self.C_star)], axis=1, ddof=1)
        return np.maximum(se, ROUNDING)

    @property
    def inflation(self) -> float:
        """Variance of the fit over that of least squares with equal errors, at least 1."""
        return max(1.0, float(self.se[1] / max(self._equal_errors[1], ROUNDING)) ** 2)

    @cached_property
    def _equal_errors(self) -> np.ndarray:
        """(2,) standard errors of least squares with equal errors."""
        q = self._variance(np.ones((1, len(self.obs)), bool))[:, 0]
        return np.sqrt(np.mean(self.residuals**2) * q)

    @cached_property
    def _noise(self) -> np.ndarray:
        """(2,) standard errors for moves. A bootstrap of few runs may be too small, so they are at least
        those of the efficient fit with normal errors of the median size of the residuals."""
        n = len(self.obs)
        rms = float(np.sqrt(np.mean(self.residuals**2)))
        typical = robust_sd(self.residuals) * np.sqrt(n / max(n - N_PARAMETERS, 1))
        return np.maximum(self.se, self._equal_errors * typical / max(rms, 1e-300))

    def _variance(self, keep: np.ndarray) -> np.ndarray:
        """(2, k) variance of a and of ln N_opt(C_star) on each part, per unit variance of ln L."""
        N, D = self.obs.N, self.obs.D
        J = self.law.jacobian(N, D, centre(N, D))
        products = (J[:, :, None] * J[:, None, :]).reshape(len(J), -1)
        M = part_sums(keep, products).reshape(-1, 5, 5)
        g = self._gradient
        return np.einsum("mi,kij,mj->mk", g, np.linalg.pinv(M, hermitian=True), g)

    @cached_property
    def _gradient(self) -> np.ndarray:
        """(2, 5) derivatives of a and ln N_opt(C_star) in (ln A, ln B, ln E, alpha, beta).

        A and B are the terms' coefficients at the mean ln N and ln D.
        """
        (u, v), law, step = centre(self.obs.N, self.obs.D), self.law, 1e-5

        def at(move: np.ndarray) -> np.ndarray:
            A, B, E = np.exp(move[:3]) * (law.A, law.B, law.E)
            alpha, beta = law.alpha + move[3], law.beta + move[4]
            A, B = A * np.exp(move[3] * u), B * np.exp(move[4] * v)
            return np.array(self.line(LossLaw(float(E), float(A), float(B), alpha, beta)))

        return np.stack([(at(h) - at(-h)) / (2 * step) for h in step * np.eye(5)], axis=1)

    # ------------------------------------------------------------------ parts of the runs

    @cached_property
    def size(self) -> np.ndarray:
        """(n,) index of each run's size, smallest first; sizes within SAME_SIZE are one."""
        x = np.log(self.obs.N)
        order = np.argsort(x, kind="stable")
        index = np.empty(len(x), int)
        index[order] = np.cumsum(np.append(False, np.diff(x[order]) > SAME_SIZE))
        return index

    def named_budgets(self) -> np.ndarray:
        """Distinct budgets in ascending order; empty if no run has one."""
        labels = self.obs.budget_labels
        return np.unique(labels[np.isfinite(labels)])

    def cuts(self) -> tuple[np.ndarray, np.ndarray]:
        """Values of C to cut at, and the (k, n) runs up to each: part of the runs, at least a third.

        The cuts are the budgets if there are at least three, else quantiles of C; of cuts that are equal
        to three digits, the largest. A run belongs below a budget if its C exceeds it by no more than the
        runs of a budget exceed their own.
        """
        cuts, C, slack = self.named_budgets(), self.obs.C, 1.0
        if len(cuts) >= 3:
            slack = max(1.0, float(np.nanmax(C / self.obs.budget_labels))) * (1 + 1e-9)
        else:
            cuts = np.quantile(C, np.linspace(0.3, 0.9, 7))
        cuts = np.array([*{f"{c:.3g}": c for c in cuts}.values()])
        return growing_parts(cuts, cuts[:, None] * slack >= C)

    def refit(self, keep: np.ndarray) -> Refits:
        """Approach 3 on parts of the runs.

        Of more than MAX_REFITS parts, all are estimated by one Newton step from the law of all runs, and
        the N_EXACT that move N_opt most are minimised. One step is not accurate for absolute residuals, so
        that with objective=lad all are minimised.

        Args:
            keep: (k, n) bool.

        Raises:
            FitError: approach 3 was not fitted to all runs.
        """
        obs, law = self.obs, self.law
        n = keep.sum(axis=1)
        possible = np.flatnonzero(
            (n >= MIN_RUNS)
            & (n_levels(self.size, keep) >= MIN_DISTINCT)
            & (n_levels(obs.D, keep) >= MIN_DISTINCT)
        )
        theta, runs = np.full((len(keep), 5), np.nan), (obs.N, obs.D, obs.L)
        smooth = self.loss_settings["objective"] != "lad"
        if smooth and len(possible) > MAX_REFITS and 2 * n[possible].min() > len(obs):
            theta[possible] = estimate_refits(*runs, keep[possible], law, **self.loss_settings)
            moved = np.abs(self._log_N_of(theta[possible]) - self.log_N)
            possible = possible[np.argsort(-moved, kind="stable")[:N_EXACT]]
        theta[possible] = refit_loss_law(*runs, keep[possible], law, **self.loss_settings).theta
        a = self.solver.all_lines(theta)[:, 1]
        q = self._variance(np.vstack([np.ones((1, len(obs)), bool), keep]))  # (2, 1 + k)
        growth = np.maximum(q[:, 1:] / q[:, :1], len(obs) / np.maximum(n, 1))
        a_sd, log_N_sd = self._noise[:, None] * np.sqrt(np.maximum(growth - 1, 0))
        log_N_move = self._log_N_of(theta) - self.log_N
        return Refits(n, theta, a, a_sd, log_N_move, log_N_sd)

    def _log_N_of(self, theta: np.ndarray) -> np.ndarray:
        """(k,) ln N_opt(C_star) of (k, 5) laws."""
        log_k, a = self.solver.all_lines(theta)[:, :2].T
        log_N: np.ndarray = log_k + a * np.log(self.C_star)
        return log_N


def growing_parts(cuts: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cuts, and their (k, n) runs, that hold at least one in MIN_SHARE of the runs and not all."""
    n = keep.sum(axis=1)
    some = (n < keep.shape[1]) & (MIN_SHARE * n >= keep.shape[1])
    return cuts[some], keep[some]


def centre(N: np.ndarray, D: np.ndarray) -> tuple[float, float]:
    """Mean ln N and ln D: with A and B as the coefficients there, the parameters correlate least."""
    return float(np.log(N).mean()), float(np.log(D).mean())
