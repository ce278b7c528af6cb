"""The compute-optimal frontier: what every approach ends in.

N_opt(C) = coefficient * C^exponent and likewise D_opt, with intervals from resampled runs.
`Fits` (fits.py) holds the frontiers of one `chinchilla fit` and owns their file, frontier.json.
NumPy only: this module must import without torch.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chinchilla.config.fitting import APPROACHES
from chinchilla.errors import InputError
from chinchilla.observations import Observations


@dataclass(frozen=True)
class PowerLaw:
    """y = coefficient * C^exponent; p10, p90 and ci95 bound the exponent (resampled runs).

    `samples` are the bootstrap's ln coefficients and exponents, two rows of equal length: bands at
    any C come from them.
    """

    coefficient: float
    exponent: float
    p10: float | None = None  # None when no interval could be had (too few resamples fitted)
    p90: float | None = None
    ci95: list[float] | None = None  # [2.5th, 97.5th percentile]
    samples: list[list[float]] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{self.coefficient:.4g} * C^{self.exponent:.3f}"
        if self.p10 is None or self.p90 is None:
            return f"{text}, no interval"
        text += f", exponent {self.p10:.3f} to {self.p90:.3f} (10-90%)"
        if self.ci95:
            text += f", {self.ci95[0]:.3f} to {self.ci95[1]:.3f} (95%)"
        return text

    def __call__(self, C: np.ndarray | float) -> np.ndarray:
        """Value at FLOPs C, same shape as C.

        Raises:
            InputError: C is not positive.
        """
        if not np.all(np.asarray(C, float) > 0):
            raise InputError(f"C={C} FLOPs must be above 0.")
        return self.coefficient * np.asarray(C, float) ** self.exponent

    def band(
        self, C: np.ndarray | float, low: float = 10, high: float = 90
    ) -> tuple[np.ndarray, np.ndarray]:
        """Percentiles of the bootstrap's predictions at C; NaN without samples."""
        C = np.asarray(C, float)
        if not self.samples:
            return np.full_like(C, np.nan), np.full_like(C, np.nan)
        y = self.all_at(C)
        return np.percentile(y, low, axis=-1), np.percentile(y, high, axis=-1)

    def all_at(self, C: np.ndarray | float) -> np.ndarray:
        """(..., n_samples) the bootstrap's predictions at C; none without samples."""
        log_k, exponent = np.asarray(self.samples or [[], []], float)
        return np.exp(log_k + exponent * np.log(np.asarray(C, float))[..., None])


def conventions(obs: Observations) -> dict[str, str]:
    """How these observations count FLOPs and parameters, and which loss they hold."""
    return {
        "flop_convention": obs.flop_convention,
        "n_convention": obs.n_convention,
        "loss_kind": obs.loss_kind,
    }


def line(C: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Least-squares straight line in log-log, as (ln coefficient, exponent) of y = k * C^e.

    Args:
        C: (n,) FLOPs, at least two distinct values.
        y: (n,) parameters or tokens.
    """
    x, z = np.log(C), np.log(y)
    dx = x - x.mean()
    exponent = float(dx @ (z - z.mean()) / (dx @ dx))
    return float(z.mean() - exponent * x.mean()), exponent


@dataclass(frozen=True)
class OptimalPoint:
    """One point of the frontier: the best size found (or modelled) at FLOPs C."""

    C: float
    N: float
    D: float
    L: float  # nats per token
    budget_flops: float | None = None  # the isoFLOP budget it belongs to


@dataclass(frozen=True)
class LossLaw:
    """L(N, D) = E + A / N^alpha + B / D^beta, nats per token (section 3.3)."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    intervals: dict[str, list[float]] = field(default_factory=dict)  # name -> [p10, p90]

    def __str__(self) -> str:
        terms = f"{self.A:.4g} / N^{self.alpha:.4f} + {self.B:.4g} / D^{self.beta:.4f}"
        text = f"L(N, D) = {self.E:.4f} + {terms} nats per token"
        if self.intervals:
            bounds = (f"{k} {low:.4g} to {high:.4g}" for k, (low, high) in self.intervals.items())
            text += f"; 10-90%: {', '.join(bounds)}"
        return text

    def __call__(self, N: np.ndarray | float, D: np.ndarray | float) -> np.ndarray:
        """Loss at N parameters and D tokens, broadcast."""
        N, D = np.asarray(N, float), np.asarray(D, float)
        return self.E + self.A / N**self.alpha + self.B / D**self.beta


@dataclass(frozen=True)
class Interval:
    """One way to an interval, of one quantity: how much the method decides is seen side by side."""

    method: str
    of: str  # a, the exponent of N_opt; or N_opt, parameters at C
    estimate: float
    se: float | None  # of a; of ln N_opt. None where the method has none
    p10: float | None
    p90: float | None
    ci95: list[float] | None
    C: float | None = None  # FLOPs at which N_opt is meant


def called(approach: str) -> str:
    """An approach with its number in the paper: "approach 2 (isoflop)"; or losses at minima alone."""
    if approach == "minima":
        return "losses at minima"
    number = f" {APPROACHES.index(approach) + 1}" if approach in APPROACHES else ""
    return f"approach{number} ({approach})"


@dataclass(frozen=True)
class Frontier:
    """What one approach says about one set of observations."""

    approach: str  # envelope, isoflop, parametric
    N_opt: PowerLaw
    D_opt: PowerLaw
    points: list[OptimalPoint]
    n_runs: int
    conventions: dict[str, str]  # flop_convention, n_convention, loss_kind
    settings: dict[str, Any]  # every choice that decided the numbers, with the interval's method
    law: LossLaw | None = None  # approach 3 only
    # Approach 3: the resamples' laws, five rows E, A, B, alpha, beta; and ln L - ln L_hat of each
    # run as it is, not widened for the five parameters.
    law_samples: list[list[float]] = field(default_factory=list)
    log_residuals: list[float] = field(default_factory=list)
    certificate: dict[str, Any] | None = None  # approach 3: the proof of convergence
    intervals: list[Interval] = field(default_factory=list)  # ways to an interval, side by side
    details: dict[str, Any] = field(default_factory=dict)  # per budget parabolas, the envelope, ...
    refusals: list[str] = field(
        default_factory=list
    )  # parts of the data that could not be used, and why
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """A few lines for people: both power laws with their interval and its method, the law."""
        said = [f"{key.partition('_')[0]} {value}" for key, value in self.conventions.items()]
        lines = [
            f"{called(self.approach)}: {self.n_runs} runs; {', '.join(said)}",
            f"  N_opt = {self.N_opt}",
            f"  D_opt = {self.D_opt}",
            f"  interval: {self.settings.get('interval', 'none')}",
            *([f"  {self.law}"] if self.law else []),
            *(f"  warning: {text}" for text in self.warnings),
            *(f"  not used: {text}" for text in self.refusals),
        ]
        return "\n".join(lines)

    __repr__ = __str__  # a notebook shows it; the record itself fills pages

    def to_dict(self) -> dict[str, Any]:
        """For JSON: records as objects, lists as they are, not copied."""
        value: dict[str, Any] = _plain(self)
        return value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, list) and value and dataclasses.is_dataclass(value[0]):
        return [_plain(x) for x in value]
    return value
