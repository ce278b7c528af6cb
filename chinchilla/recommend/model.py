"""The recommendation as `chinchilla fit` stores it: forecasts of N_opt and of the loss at any budget.

A forecast is a weighted mean, in the logarithm, of a few members, with what its interval is made of:
the spread of the members, their standard error (delta method), and the error scale measured on held-out
budgets. A member's weight falls with its held-out score and with its standard error at the budget asked
about: the slope of a few large budgets predicts well nearby and badly far away.
NumPy and SciPy only.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.special import stdtrit

from chinchilla.core.errors import InputError
from chinchilla.core.json_codec import built
from chinchilla.fit.loss_law import FlopsPerToken
from chinchilla.recommend.forecast import line_at, loss_at
from chinchilla.recommend.held_out import ErrorScale, weights_of
from chinchilla.recommend.richer import optimum

KINDS = {"line": 2, "saturating": 3, "law": 7}  # kind of a member -> its number of parameters
QUANTITIES = {"line": "N", "saturating": "L", "law": "NL"}  # kind -> what it may forecast
LEADS = ("isoflop", "parametric", "envelope", "minima")
LEVEL = 0.8  # of intervals


@dataclass(frozen=True)
class Estimate:
    """A value and its 80% interval."""

    value: float
    low: float
    high: float

    @property
    def interval(self) -> list[float]:
        """[low, high]."""
        return [self.low, self.high]


@dataclass(frozen=True)
class Forecast:
    """N_opt or the loss at the optimum as a function of C.

    Members are rows of parameters: ln k and a of a line (N = k*C^a), E, ln K and g of a saturating power
    law (L = E + K*C^-g), or E, A, B, alpha, beta, q and D0 of a loss law (`richer`; approach 3's own has
    q = 1 and D0 = 0), solved at C; `covariances` are theirs, none for laws, whose standard error comes from resampled runs.
    """

    quantity: str  # N (parameters) or L (nats per token)
    kind: str  # a key of KINDS
    names: list[str]  # of the members
    scores: list[
        float
    ]  # held-out mean absolute errors of the logarithm; 0 where nothing was held out
    members: list[list[float]]
    covariances: list[list[list[float]]]
    error: ErrorScale

    def _members_at(self, C: float, cost: FlopsPerToken | None) -> tuple[np.ndarray, np.ndarray]:
        """(k,) the logarithm of each member's value at C FLOPs, and its standard error."""
        rows = np.asarray(self.members, float)
        if self.kind == "law":
            logs = optimum(rows, cost, C)[0 if self.quantity == "N" else 1]
            return logs, np.zeros(len(rows))
        logs, gradient = (line_at if self.kind == "line" else loss_at)(rows, float(np.log(C)))
        if not self.covariances:
            return logs, np.zeros(len(rows))
        V = np.asarray(self.covariances, float)
        square = np.einsum("ki,kij,kj->k", gradient, V, gradient)
        return logs, np.sqrt(np.maximum(square, 0.0))

    def log_at(self, C: float, cost: FlopsPerToken | None = None) -> float:
        """The logarithm of the forecast at C FLOPs; NaN where a law has no optimum."""
        return self._parts(C, cost)[0]

    def _parts(self, C: float, cost: FlopsPerToken | None) -> tuple[float, float, float]:
        """The forecast's logarithm, the spread of its members, and their mean standard error."""
        logs, error = self._members_at(C, cost)
        known = np.isfinite(logs)  # a law may have no optimum there
        if not known.any():
            return float("nan"), 0.0, 0.0
        logs, error = logs[known], error[known]
        w = weights_of(np.array(self.scores)[known].tolist(), self.quantity, error)
        middle = float(w @ logs)
        return middle, float(np.sqrt(w @ (logs - middle) ** 2)), float(w @ error)

    def at(
        self, C: float, h: float, cost: FlopsPerToken | None = None, resampled: float = 0.0
    ) -> Estimate:
        """The forecast at C FLOPs with its 80% interval.

        Args:
            C: training FLOPs.
            h: distance of C beyond the budgets it was fitted to, in ln C; 0 inside.
            cost: FLOPs per token, for laws; None is 6*N.
            resampled: standard deviation of the logarithm over resamples of the runs, where known.
        """
        middle, spread, standard = self._parts(C, cost)
        sd = max(self.error.sd(h), spread, standard, resampled)
        half = float(stdtrit(self.error.freedom, (1 + LEVEL) / 2)) * sd
        return Estimate(*(float(np.exp(middle + x)) for x in (0.0, -half, half)))

    def slope(self, C: float, cost: FlopsPerToken | None = None) -> float:
        """d ln value / d ln C at C FLOPs."""
        step = 1e-3
        up, down = (self.log_at(float(C * np.exp(x)), cost) for x in (step, -step))
        return (up - down) / (2 * step)


@dataclass(frozen=True)
class RecommendedModel:
    """Which approach is recommended for these runs, why, and its forecasts.

    `held_out` holds, by approach, the mean absolute error of ln N_opt ("N") and ln L ("L") on held-out
    budgets and the number of forecasts ("n"); `shape` the exponents alpha and beta that say what a
    departure from the best size costs (approach 3 near the optimum), None without them.
    """

    approach: str  # isoflop, parametric, envelope, or minima
    C_range: list[float]  # smallest and largest C of what the forecasts are fitted to
    N: Forecast | None  # None where only losses at minima are known
    L: Forecast | None  # None where no loss law could be fitted
    reasons: list[str] = field(default_factory=list)
    outliers: list[dict[str, Any]] = field(default_factory=list)
    held_out: dict[str, dict[str, Any]] = field(default_factory=dict)
    shape: list[float] | None = None

    def beyond(self, C: float) -> float:
        """Distance of C outside of C_range in ln C; 0 inside."""
        low, high = self.C_range
        return float(max(np.log(C / high), np.log(low / C), 0.0))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Any, where: str) -> "RecommendedModel":
        """The inverse of `to_dict`, of a file that somebody may have edited.

        Raises:
            InputError: naming `where`: other fields, types, or values that no fit has.
        """
        found: RecommendedModel = built(cls, value, where)
        for name in ("N", "L"):
            forecast: Forecast | None = getattr(found, name)
            if forecast is not None and (wrong := _impossible(forecast)):
                raise InputError(f"{where}.{name}: {wrong}. Run `chinchilla fit` again.")
            if forecast is not None and (
                forecast.quantity != name or name not in QUANTITIES[forecast.kind]
            ):
                raise InputError(
                    f"{where}.{name} is a forecast of another quantity. Run `chinchilla fit` again."
                )
        if found.approach not in LEADS:
            raise InputError(
                f"{where}.approach {found.approach!r} is not one of {', '.join(LEADS)}."
            )
        if found.shape is not None and (len(found.shape) != 2 or not min(found.shape) > 0):
            raise InputError(f"{where}.shape must be two positive exponents, or null.")
        if len(found.C_range) != 2 or not 0 < found.C_range[0] <= found.C_range[1]:
            raise InputError(f"{where}.C_range must be the smallest and the largest C.")
        return found


def _impossible(f: Forecast) -> str:
    """What no forecast can be, in a few words; "" when all of it can be."""
    if f.kind not in KINDS:
        return f"kind {f.kind!r} is not one of {', '.join(KINDS)}"
    n = KINDS[f.kind]
    if len(f.members) != len(f.scores) or any(len(row) != n for row in f.members):
        return "members and scores do not match"
    if f.covariances and np.shape(f.covariances) != (len(f.members), n, n):
        return "members and covariances do not match"
    if len(f.names) != len(f.members):
        return "members and names do not match"
    if any(V[i][i] < 0 for V in f.covariances for i in range(n)):
        return "a variance is negative"
    if not f.scores or min(f.scores) < 0:
        return "scores are missing or negative"
    if not (min(f.error.scale, f.error.freedom, f.error.offset) > 0 and f.error.rate >= 0):
        return "the error scale is not positive"
    return ""
