"""The laws that resamples of the runs gave: where intervals of sizes, losses and costs come from.

frontier.json keeps approach 3's law of every resample and the residuals of the runs. Each law is
asked the same question as the fitted one, so a point and its interval always speak of the same
thing. NumPy only.
"""

from dataclasses import dataclass

import numpy as np

from chinchilla.core.errors import Refusal
from chinchilla.decide.allocation import Allocation, allocate_each, cheapest
from chinchilla.fit.loss_law import FlopsPerToken
from chinchilla.fit.result import FitResult, LossLaw

LEVELS = (2.5, 10, 90, 97.5)  # percentiles: a 95% and an 80% interval
FEWEST = 20  # resampled laws below which no interval is stated


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of a bootstrap: 10th and 90th, and the 2.5th and 97.5th."""

    p10: float
    p90: float
    ci95: list[float]

    @classmethod
    def of(cls, values: np.ndarray) -> "Percentiles | None":
        """Of (k,) values, those that are not finite left out; None where there are too few."""
        values = values[np.isfinite(values)]
        if len(values) < FEWEST:
            return None
        low, p10, p90, high = (float(x) for x in np.percentile(values, LEVELS))
        return cls(p10, p90, [low, high])


@dataclass(frozen=True)
class ResampledLaws:
    """k laws E, A, B, alpha, beta (theta, (k, 5)) and the fit's own log-residuals (n,)."""

    theta: np.ndarray
    residuals: np.ndarray  # ln L - ln L_hat of each run, widened by sqrt(n/(n-5))

    @classmethod
    def of(cls, frontier: FitResult | None) -> "ResampledLaws | None":
        """Those that a frontier keeps; None without."""
        if frontier is None or not frontier.law_samples:
            return None
        n = len(frontier.log_residuals)  # five of the residuals are spent on the five parameters
        widened = np.array(frontier.log_residuals) * np.sqrt(n / max(n - 5, 1))
        return cls(np.array(frontier.law_samples, float).T, widened)

    def laws(self) -> list[LossLaw]:
        return [LossLaw(E, A, B, alpha, beta) for E, A, B, alpha, beta in self.theta.tolist()]

    def loss(self, N: float | np.ndarray, D: float | np.ndarray) -> np.ndarray:
        """(k,) nats per token at N and D, which may be (k,) themselves."""
        E, A, B, alpha, beta = self.theta.T
        return E + A / N**alpha + B / D**beta

    def measured(self, N: float, D: float, seed: int = 0) -> np.ndarray:
        """(20*k,) what a new run may measure: each law's loss times a run's own residual."""
        rng = np.random.default_rng(seed)
        law = np.repeat(self.loss(N, D), 20)
        return law * np.exp(rng.choice(self.residuals, len(law))) if len(self.residuals) else law

    def optima(
        self, C: float, cost: FlopsPerToken | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """N, D and L, (k,) each: every law's best use of C FLOPs; NaN for a law without one."""
        N, D = allocate_each(self.theta, C, cost)
        return N, D, self.loss(N, D)

    def cheapest(self, L: float, cost: FlopsPerToken | None) -> list[Allocation]:
        """Each law's least compute for loss L; the laws that never reach it are left out."""
        found = []
        for law in self.laws():
            try:
                found.append(cheapest(law, L, cost))
            except Refusal:
                continue
        return found
