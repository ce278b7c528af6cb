"""The result of one approach: power laws N_opt(C) and D_opt(C), with intervals from resampled runs.

`FitResults` (results.py) holds the results of one `chinchilla fit` and owns their file, frontier.json.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from chinchilla.config.fit import APPROACHES
from chinchilla.core.errors import InputError
from chinchilla.core.files.json_codec import IN_MEMORY
from chinchilla.fit.loss_law import LossLaw
from chinchilla.observations.table import Observations

__all__ = ["FitResult", "LossLaw", "OptimalPoint", "PowerLaw"]

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

RANGE_TOLERANCE = 1.01  # a C outside the runs by less than this factor counts as inside
TARGET_FACTOR = 10.0  # times the largest C: where answers are stated by default
# The observations in memory, or a function that reads them.
RunsOf = Observations | Callable[[], Observations] | None


@dataclass(frozen=True)
class PowerLaw:
    """y = coefficient * C^exponent, with intervals of the exponent.

    `samples` holds the ln coefficients and exponents of the resamples, two rows of equal length, from which
    bands at any C are computed.
    """

    coefficient: float
    exponent: float
    p10: float | None = None  # None if there is no interval
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

    @property
    def exponent_text(self) -> str:
        """The exponent with its 80% interval: 0.487 [0.462, 0.534]."""
        if self.p10 is None or self.p90 is None:
            return f"{self.exponent:.3f} (no interval)"
        return f"{self.exponent:.3f} [{self.p10:.3f}, {self.p90:.3f}]"

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
    """Conventions by which the observations count FLOPs and parameters, and the kind of loss."""
    return {
        "flop_convention": obs.flop_convention,
        "n_convention": obs.n_convention,
        "loss_kind": obs.loss_kind,
    }


@dataclass(frozen=True)
class OptimalPoint:
    """One point of the frontier: the measured or modelled best size at FLOPs C."""

    C: float
    N: float
    D: float
    L: float  # nats per token
    budget_flops: float | None = None  # the isoFLOP budget it belongs to


def approach_label(approach: str) -> str:
    """Label of an approach with its number in the paper, such as "approach 2 (isoflop)"."""
    if approach == "minima":
        return "losses at minima"
    number = f" {APPROACHES.index(approach) + 1}" if approach in APPROACHES else ""
    return f"approach{number} ({approach})"


@dataclass(frozen=True)
class FitResult:
    """The result of one approach on one set of observations."""

    approach: str  # envelope, isoflop, parametric
    N_opt: PowerLaw
    D_opt: PowerLaw
    points: list[OptimalPoint]
    n_runs: int
    conventions: dict[str, str]  # flop_convention, n_convention, loss_kind
    settings: dict[str, Any]  # every setting, and the method of the interval
    law: LossLaw | None = None  # approach 3 only
    # Approach 3: laws of the resamples, five rows E, A, B, alpha, beta; and ln L - ln L_hat of each run,
    # without correction for the five fitted parameters.
    law_samples: list[list[float]] = field(default_factory=list)
    log_residuals: list[float] = field(default_factory=list)
    certificate: dict[str, Any] | None = None  # approach 3: evidence of convergence
    details: dict[str, Any] = field(default_factory=dict)  # per budget parabolas, the envelope, ...
    refusals: list[str] = field(default_factory=list)  # runs and budgets not used, with reasons
    warnings: list[str] = field(default_factory=list)
    # The observations that were fitted, or a function that reads them.
    runs: RunsOf = field(default=None, compare=False, repr=False, metadata=IN_MEMORY)

    def __str__(self) -> str:
        """Both power laws with their intervals and method, the law, warnings and unused data."""
        samples = zip(("E", "A", "B", "alpha", "beta"), self.law_samples, strict=False)
        bounds = ["{} {:.4g} to {:.4g}".format(k, *np.percentile(x, (10, 90))) for k, x in samples]
        counted = [f"{key.partition('_')[0]} {value}" for key, value in self.conventions.items()]
        lines = [
            f"{approach_label(self.approach)}: {self.n_runs} runs; {', '.join(counted)}",
            f"  N_opt = {self.N_opt}",
            f"  D_opt = {self.D_opt}",
            f"  80% interval: {self.settings.get('interval', 'none')}",
            *([f"  {self.law}"] if self.law else []),
            *([f"  10-90%: {', '.join(bounds)}"] if bounds else []),
            *(f"  warning: {text}" for text in self.warnings),
            *(f"  not used: {text}" for text in self.refusals),
        ]
        return "\n".join(lines)

    __repr__ = __str__

    @property
    def a(self) -> float:
        """Exponent of N_opt."""
        return self.N_opt.exponent

    @property
    def b(self) -> float:
        """Exponent of D_opt."""
        return self.D_opt.exponent

    def observations(self) -> Observations:
        """Return the observations that were fitted.

        Raises:
            InputError: they are not known, or their file is missing or has changed.
        """
        return observations_at(self.runs)

    def predict(self, C: Any) -> "DataFrame":
        """Predict by this approach alone at C training FLOPs, a number or a list; one row each.

        Columns are C, N, D, D/N, the bounds of the 80% intervals (N_low, N_high, D_low, D_high), approach,
        and beyond, which is C over the largest C of the points. Approach 3 adds L, L_low and L_high.
        """
        c = np.array(budgets(C))
        N, D = self.N_opt(c), self.D_opt(c)
        columns = {"C": c, "N": N, "D": D, "D/N": D / N}
        for name, line in (("N", self.N_opt), ("D", self.D_opt)):
            columns[f"{name}_low"], columns[f"{name}_high"] = line.band(c)
        if self.law is not None:
            columns["L"] = self.law(N, D)
            if self.law_samples:
                E, A, B, alpha, beta = np.asarray(self.law_samples)[:, :, None]  # each (k, 1)
                losses = E + A / N**alpha + B / D**beta
                columns["L_low"], columns["L_high"] = np.percentile(losses, (10, 90), axis=0)
        beyond = c / max((p.C for p in self.points), default=np.nan)
        return frame({**columns, "approach": self.approach, "beyond": beyond})

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Plot the runs and the fit on `ax`, or in a new figure.

        Approach 1: training curves and their envelope. Approach 2: IsoFLOP profiles, with excluded runs.
        Approach 3: contours of the law.
        """
        from chinchilla.plots.results import plot_result

        return plot_result(self, ax)

    def plot_residuals(self, ax: "Axes | None" = None) -> "Axes":
        """Plot the residuals on `ax`, or in a new figure.

        Approach 1: sizes on the envelope over N_opt(C). Approach 2: losses minus the profile of their
        budget. Approach 3: losses minus the law.
        """
        from chinchilla.plots.results import plot_result_residuals

        return plot_result_residuals(self, ax)


def observations_at(runs: RunsOf) -> Observations:
    """Return the observations that a result holds or can read.

    Raises:
        InputError: it has none.
    """
    if runs is None:
        raise InputError(
            "the runs that were fitted are needed here and are not known. Fit them again, or load the "
            "results from the folder that `chinchilla fit` or FitResults.save wrote."
        )
    return runs if isinstance(runs, Observations) else runs()


def target_budget(largest_C: float, exact: bool = False) -> float:
    """The budget at which answers are stated by default: ten times the largest C of the runs.

    Args:
        largest_C: FLOPs.
        exact: do not round to two digits.
    """
    C = TARGET_FACTOR * float(largest_C)
    return C if exact else float(f"{C:.2g}")


def budgets(C: Any) -> list[float]:
    """FLOPs as a list of floats; refuses values that are not positive and finite."""
    try:
        values = np.atleast_1d(np.asarray(C, float)).ravel()
    except (TypeError, ValueError):
        values = np.zeros(1)
    if not (np.isfinite(values) & (values > 0)).all():
        raise InputError(f"C={C}: give training FLOPs above 0, a number or a list of numbers.")
    return [float(c) for c in values]


def frame(rows: Any) -> "DataFrame":
    """Data frame of rows or columns."""
    try:
        import pandas as pd
    except ImportError:
        raise InputError(
            "predict() needs pandas, which is not installed. Run `pip install pandas`."
        ) from None
    return pd.DataFrame(rows)
