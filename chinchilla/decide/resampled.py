"""The laws that resamples of the runs give: where intervals of losses and costs come from.

frontier.json keeps each approach's resampled lines, which is enough for N_opt and D_opt at any C.
A loss, or a cost at a loss, needs the whole law of each resample; they are fitted again here, from
the observations beside frontier.json and with the very resamples of the fit. NumPy only.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chinchilla.decide.options import Allocation, allocate, cheapest
from chinchilla.errors import InputError, Refusal
from chinchilla.fit import bootstrap
from chinchilla.fit.frontier import Frontier, LossLaw
from chinchilla.fit.loss_fit import OBJECTIVES, refit_loss_law
from chinchilla.fit.loss_law import FlopsPerToken
from chinchilla.observations import Observations

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
        """Of (k,) finite values; None where there are too few."""
        if len(values) < FEWEST:
            return None
        low, p10, p90, high = (float(x) for x in np.percentile(values, LEVELS))
        return cls(p10, p90, [low, high])


@dataclass(frozen=True)
class ResampledLaws:
    """k laws E, A, B, alpha, beta (theta, (k, 5)) and the fit's own log-residuals (n,)."""

    theta: np.ndarray
    residuals: np.ndarray  # ln L - ln L_hat of each run, widened by sqrt(n/(n-5))

    def laws(self) -> list[LossLaw]:
        return [LossLaw(E, A, B, alpha, beta) for E, A, B, alpha, beta in self.theta.tolist()]

    def loss(self, N: float, D: float) -> np.ndarray:
        """(k,) nats per token at N and D."""
        E, A, B, alpha, beta = self.theta.T
        return E + A / N**alpha + B / D**beta

    def measured(self, N: float, D: float, seed: int = 0) -> np.ndarray:
        """(20*k,) what a new run may measure: each law's loss times a run's own residual."""
        rng = np.random.default_rng(seed)
        law = np.repeat(self.loss(N, D), 20)
        return law * np.exp(rng.choice(self.residuals, len(law))) if len(self.residuals) else law

    def optima(self, C: float, cost: FlopsPerToken | None) -> list[Allocation]:
        """Each law's best use of C FLOPs."""
        return [allocate(law, C, cost) for law in self.laws()]

    def cheapest(self, L: float, cost: FlopsPerToken | None) -> list[Allocation]:
        """Each law's least compute for loss L; the laws that never reach it are left out."""
        found = []
        for law in self.laws():
            try:
                found.append(cheapest(law, L, cost))
            except Refusal:
                continue
        return found


def resampled_laws(frontier: Frontier, obs: Observations) -> ResampledLaws:
    """Approach 3 on the resamples that `frontier` was fitted with.

    Args:
        frontier: approach 3, with its law and settings.
        obs: the observations it was fitted to.

    Raises:
        InputError: these are not those observations.
    """
    law, settings = frontier.law, frontier.settings
    assert law is not None
    obs = obs.finals()
    if len(obs) != frontier.n_runs:
        raise InputError(
            f"observations.csv has {len(obs)} runs, but frontier.json was fitted to "
            f"{frontier.n_runs}. Run `chinchilla fit` again."
        )
    drawn = bootstrap.draw(
        str(settings.get("resampling", "pairs")),
        obs,
        int(settings["n_bootstrap"]),
        int(settings["seed"]),
    )
    objective = next(key for key, said in OBJECTIVES.items() if said == settings["objective"])
    again = refit_loss_law(
        obs.N, obs.D, obs.L, drawn, law, float(settings["huber_delta"]), objective
    )
    n = len(obs)  # five of the residuals are spent on the five parameters
    residuals = np.log(obs.L / law(obs.N, obs.D)) * np.sqrt(n / max(n - 5, 1))
    return ResampledLaws(again.theta[again.converged], residuals)


def beside(frontier_file: str) -> Path:
    """observations.csv beside a frontier.json that is named itself or by its folder."""
    path = Path(frontier_file)
    return (path if path.is_dir() else path.parent) / "observations.csv"
