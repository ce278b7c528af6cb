"""Forecasts of N_opt and of the loss at any budget, and the record that `chinchilla fit` stores.

A forecast is a weighted mean, in the logarithm, of a few members. Its interval combines the spread of
the members, their standard error (delta method), and the error scale measured on held-out budgets. The
weight of a member falls with its held-out score and with its standard error at the budget: the slope of
a few large budgets predicts well nearby and badly far away. NumPy and SciPy only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from scipy.special import stdtrit

from chinchilla.core.errors import InputError
from chinchilla.core.json_codec import decode
from chinchilla.fit.loss_law import FlopsPerToken
from chinchilla.fit.results import FitResults
from chinchilla.recommend.held_out import (
    ErrorScale,
    HeldOut,
    error_scale,
    forecast_weights,
    scores,
)
from chinchilla.recommend.isoflop_minima import (
    MIN_LOSS,
    CurveFit,
    Minima,
    line_at,
    loss_at,
    loss_curves,
    saturating,
    size_lines,
)
from chinchilla.recommend.laws import CandidateLaw, optimum

KINDS_OF = {  # quantity -> kinds of members that forecast it, each with its number of parameters
    "N": {"line": 2, "law": 7},
    "L": {"saturating": 3, "law": 7},
}
LEVEL = 0.8  # of intervals
# Error scales for approach 1, which no held-out budget measures: on synthetic curves with a known law
# N_opt was off by 25% and the loss by up to 2% at ten times the largest C.
ENVELOPE_ERROR = {"N": 0.15, "L": 0.008}
# Condition number of approach 3 -> standard deviation of a if the law is off by half a percent: the
# median errors measured by scripts/studies/condition_number.py, divided by .6745.
ERROR_OF_A = {100.0: 0.02, 175.0: 0.05, 250.0: 0.07, 400.0: 0.09, 750.0: 0.16, 2000.0: 0.27}


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

    Members are rows of parameters: ln k and a of a line (N = k*C^a); E, ln K and g of a saturating power
    law (L = E + K*C^-g); or E, A, B, alpha, beta, q and D0 of a loss law (`laws`), solved at C.
    `covariances` belong to the members. Laws have none: their standard error comes from resampled runs.
    """

    quantity: str  # N (parameters) or L (nats per token)
    kind: str  # line, saturating or law
    names: list[str]  # of the members
    scores: list[float]  # held-out errors of the logarithm; 0 where nothing was held out
    members: list[list[float]]
    covariances: list[list[list[float]]]
    error: ErrorScale

    def log_at(self, C: float, cost: FlopsPerToken | None = None) -> float:
        """The logarithm of the forecast at C FLOPs; NaN where a law has no optimum."""
        return self._mean_and_errors(C, cost)[0]

    def at(
        self, C: float, h: float, cost: FlopsPerToken | None = None, resampled: float = 0.0
    ) -> Estimate:
        """The forecast at C FLOPs with its 80% interval.

        Args:
            C: training FLOPs.
            h: distance of C in ln C beyond the budgets it was fitted to; 0 inside.
            cost: FLOPs per token, for laws; None is 6*N.
            resampled: standard deviation of the logarithm over resamples of the runs, if known.
        """
        middle, spread, standard_error = self._mean_and_errors(C, cost)
        sd = max(self.error.sd(h), spread, standard_error, resampled)
        half = float(stdtrit(self.error.freedom, (1 + LEVEL) / 2)) * sd
        return Estimate(*(float(np.exp(middle + x)) for x in (0.0, -half, half)))

    def slope(self, C: float, cost: FlopsPerToken | None = None) -> float:
        """d ln value / d ln C at C FLOPs."""
        step = 1e-3
        up, down = (self.log_at(float(C * np.exp(x)), cost) for x in (step, -step))
        return (up - down) / (2 * step)

    def _mean_and_errors(self, C: float, cost: FlopsPerToken | None) -> tuple[float, float, float]:
        """The forecast's logarithm, the spread of its members, and their mean standard error."""
        rows, error = np.asarray(self.members, float), np.zeros(len(self.members))
        if self.kind == "law":
            logs = optimum(rows, cost, C)[0 if self.quantity == "N" else 1]
        else:
            logs, gradient = (line_at if self.kind == "line" else loss_at)(rows, float(np.log(C)))
            if self.covariances:
                V = np.asarray(self.covariances, float)
                square = np.einsum("ki,kij,kj->k", gradient, V, gradient)
                error = np.sqrt(np.maximum(square, 0.0))
        known = np.isfinite(logs)  # a law may have no optimum there
        if not known.any():
            return float("nan"), 0.0, 0.0
        logs, error = logs[known], error[known]
        w = forecast_weights(np.array(self.scores)[known], self.quantity, error)
        middle = float(w @ logs)
        return middle, float(np.sqrt(w @ (logs - middle) ** 2)), float(w @ error)


@dataclass(frozen=True)
class RecommendedModel:
    """Which approach is recommended for these runs, why, and its forecasts.

    `held_out` holds, by approach, the mean absolute error of ln N_opt ("N") and ln L ("L") on held-out
    budgets and the number of forecasts ("n"). `shape` holds approach 3's alpha and beta near the
    optimum, which determine the cost of a departure from the best size; None without approach 3.
    """

    approach: str  # isoflop, parametric, envelope or minima
    C_range: list[float]  # smallest and largest C that the forecasts are fitted to
    N: Forecast | None  # None if only losses at minima are known
    L: Forecast | None  # None if no loss curve could be fitted
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
        """The inverse of `to_dict`.

        Raises:
            InputError: naming `where`: unknown fields, other types, or values that no fit has.
        """
        model: RecommendedModel = decode(cls, value, where)
        for name, f in (("N", model.N), ("L", model.L)):
            if f is not None and not _is_consistent(f, name):
                raise InputError(
                    f"{where}.{name} is not a forecast of {name}: its kind, its members or its error scale "
                    "are inconsistent. Run `chinchilla fit` again."
                )
        return model


def _is_consistent(f: Forecast, quantity: str) -> bool:
    """Whether a forecast that was read from a file can be evaluated."""
    if f.quantity != quantity or f.kind not in KINDS_OF[quantity]:
        return False
    k, n = len(f.names), KINDS_OF[quantity][f.kind]
    rows = [*f.members, *(row for V in f.covariances for row in V)]
    return (
        k == len(f.scores) == len(f.members)
        and all(len(row) == n for row in rows)
        and len(rows) in (k, k + k * n)
        and min(f.scores, default=-1) >= 0
        and min(f.error.scale, f.error.freedom, f.error.offset) > 0
        and f.error.rate >= 0
    )


def forecasts_of_minima(minima: Minima, held_out: Mapping[str, HeldOut]) -> dict[str, Forecast]:
    """Forecasts of approach 2: N_opt from lines, the loss from curves E + K*C^-g."""
    forecasts = {}
    if lines := size_lines(minima):
        forecasts["N"] = _forecast("N", "line", lines, held_out["N"])
    if curves := loss_curves(minima):
        forecasts["L"] = _forecast("L", "saturating", curves, held_out["L"])
    return forecasts


def forecasts_of_laws(
    laws: Sequence[CandidateLaw], held_out: Mapping[str, HeldOut], condition: float = 1.0
) -> dict[str, Forecast]:
    """Approach 3, by quantity: the candidate laws, weighted by their held-out errors.

    If the runs hardly separate N from D, a misfit of half a percent moves a further than any resampling
    shows. The error scale of N_opt is then at least what ERROR_OF_A measured for `condition`, the
    condition number of the fit.

    Args:
        laws: candidates.
        held_out: errors of these laws, or of more laws of which these are the first.
        condition: of approach 3's fit.
    """
    members = {law.name: CurveFit(law.theta.tolist(), []) for law in laws}
    forecasts = {q: _forecast(q, "law", members, held_out[q]) for q in ("N", "L")}
    least = float(np.interp(np.log(condition), np.log(list(ERROR_OF_A)), list(ERROR_OF_A.values())))
    scale = max(forecasts["N"].error.scale, least)
    return forecasts | {"N": _with_scale(forecasts["N"], scale)}


def forecasts_of_envelope(fits: FitResults) -> dict[str, Forecast]:
    """Approach 1, by quantity: its line, and E + K*C^-g through its envelope."""
    result = fits.fitted["envelope"]
    line = CurveFit([float(np.log(result.N_opt.coefficient)), result.N_opt.exponent], [])
    forecasts = {"N": _forecast("N", "line", {"the envelope": line}, HeldOut.of())}
    C, N, L = (np.array([getattr(p, name) for p in result.points], float) for name in "CNL")
    if len(C) >= MIN_LOSS:
        curve = saturating(Minima(C, N, L), np.inf)
        forecasts["L"] = _forecast("L", "saturating", {"the envelope": curve}, HeldOut.of())
    return {q: _with_scale(f, ENVELOPE_ERROR[q]) for q, f in forecasts.items()}


def held_out_summary(
    forecasts: Mapping[str, Forecast], held_out: Mapping[str, HeldOut]
) -> dict[str, Any]:
    """The number of held-out errors ("n") and the scores of the weighted forecasts ("N", "L")."""
    summary: dict[str, Any] = {"n": max(len(held_out["N"]), len(held_out["L"]))}
    for quantity in ("N", "L"):
        f, summary[quantity] = forecasts.get(quantity), None
        if f is not None:
            pairs = held_out[quantity].weighted(forecast_weights(f.scores, quantity))
            summary[quantity] = float(scores(pairs)[0]) if len(pairs) else None
    return summary


def _forecast(
    quantity: str, kind: str, members: Mapping[str, CurveFit], held_out: HeldOut
) -> Forecast:
    own = scores(held_out)[: len(members)] if len(held_out) else np.zeros(len(members))
    rows = np.array([m.parameters for m in members.values()])
    g = rows[:, -1]  # the loss at the optimum approaches its asymptote as C^-g
    if kind == "law":
        alpha, beta, q = rows[:, 3:6].T
        g = q * alpha * beta / (alpha + beta)
    rate = float(np.mean(g)) if quantity == "L" else 0.0
    return Forecast(
        quantity=quantity,
        kind=kind,
        names=list(members),
        scores=own.tolist(),
        members=rows.tolist(),
        covariances=[m.covariance for m in members.values() if m.covariance],
        error=error_scale(held_out.weighted(forecast_weights(own, quantity)), quantity, rate),
    )


def _with_scale(f: Forecast, scale: float) -> Forecast:
    return replace(f, error=replace(f.error, scale=scale))
