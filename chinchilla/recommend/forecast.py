"""Forecasts of N_opt and of the loss at any budget, and the record that `chinchilla fit` stores.

A forecast is a weighted mean, in the logarithm, of a few members. Its interval combines the spread of
the members, their standard error (delta method), and the error scale measured on held-out budgets. The
weight of a member falls with its held-out score and with its standard error at the budget: the slope of
a few large budgets predicts well nearby and badly far away.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from scipy.special import stdtrit

from chinchilla.core.errors import InputError
from chinchilla.core.files.json_codec import decode
from chinchilla.fit.loss_law import FlopsPerToken
from chinchilla.fit.results import FitResults
from chinchilla.recommend.held_out import (
    ErrorScale,
    HeldOutErrors,
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
    power_law_with_offset,
    size_lines,
)
from chinchilla.recommend.laws import CandidateLaw, optimum

LEVEL = 0.8  # of intervals
# Error scales for approach 1, which no held-out budget measures: on synthetic curves with a known law
# N_opt was off by 25% and the loss by up to 2% at ten times the largest C.
ENVELOPE_ERROR = {"N": 0.15, "L": 0.008}
# Condition number of approach 3 -> standard deviation of a if the law is off by half a percent: the
# median errors measured by scripts/studies/condition_number.py, divided by .6745.
ERROR_OF_A = {100.0: 0.02, 175.0: 0.05, 250.0: 0.07, 400.0: 0.09, 750.0: 0.16, 2000.0: 0.27}


# ln values at C of members given as rows, and the gradients in their parameters (None: not known). The
# arguments are rows, C, FLOPs per token, and the quantity N or L.
Evaluate = Callable[
    [np.ndarray, float, FlopsPerToken | None, str], tuple[np.ndarray, np.ndarray | None]
]


@dataclass(frozen=True)
class Kind:
    """A kind of members: the function of C that their parameters stand for."""

    quantities: str  # that it forecasts
    parameters: tuple[str, ...]
    evaluate: Evaluate


LINE, OFFSET_LAW, LAW = "line", "power_law_with_offset", "law"
KINDS = {
    LINE: Kind("N", ("ln k", "a"), lambda rows, C, cost, q: line_at(rows, float(np.log(C)))),
    OFFSET_LAW: Kind(
        "L", ("E", "ln K", "g"), lambda rows, C, cost, q: loss_at(rows, float(np.log(C)))
    ),
    LAW: Kind(
        "NL",
        ("E", "A", "B", "alpha", "beta", "q", "D0"),
        lambda rows, C, cost, q: (optimum(rows, cost, C)[0 if q == "N" else 1], None),
    ),
}


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

    Members are rows of parameters (KINDS): ln k and a of a line (N = k*C^a); E, ln K and g of a power law
    with offset (L = E + K*C^-g); or E, A, B, alpha, beta, q and D0 of a loss law (`laws`), solved at C.
    `covariances` belong to the members. Laws have none: their standard error comes from resampled runs.
    """

    quantity: str  # N (parameters) or L (nats per token)
    kind: str  # a key of KINDS
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
        half = float(stdtrit(self.error.degrees_of_freedom, (1 + LEVEL) / 2)) * sd
        return Estimate(*(float(np.exp(middle + x)) for x in (0.0, -half, half)))

    def slope(self, C: float, cost: FlopsPerToken | None = None) -> float:
        """d ln value / d ln C at C FLOPs."""
        step = 1e-3
        up, down = (self.log_at(float(C * np.exp(x)), cost) for x in (step, -step))
        return (up - down) / (2 * step)

    def implausible_exponent(self) -> float | None:
        """Mean exponent of lines if N_opt falls with C or rises faster than C; None otherwise.

        Laws always give None: their alpha and beta are positive.
        """
        if self.kind != LINE:
            return None
        a = float(forecast_weights(self.scores, self.quantity) @ np.array(self.members)[:, 1])
        return None if 0 < a < 1 else a

    def _mean_and_errors(self, C: float, cost: FlopsPerToken | None) -> tuple[float, float, float]:
        """The forecast's logarithm, the spread of its members, and their mean standard error."""
        rows, error = np.asarray(self.members, float), np.zeros(len(self.members))
        logs, gradients = KINDS[self.kind].evaluate(rows, C, cost, self.quantity)
        if gradients is not None and self.covariances:
            V = np.asarray(self.covariances, float)
            variance = np.einsum("ki,kij,kj->k", gradients, V, gradients)
            error = np.sqrt(np.maximum(variance, 0.0))
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
    if f.quantity != quantity or f.kind not in KINDS or quantity not in KINDS[f.kind].quantities:
        return False
    k, n = len(f.names), len(KINDS[f.kind].parameters)
    rows = [*f.members, *(row for V in f.covariances for row in V)]
    return (
        k == len(f.scores) == len(f.members)
        and all(len(row) == n for row in rows)
        and len(rows) in (k, k + k * n)
        and min(f.scores, default=-1) >= 0
        and min(f.error.scale, f.error.degrees_of_freedom, f.error.offset) > 0
        and f.error.rate >= 0
    )


def forecasts_of_minima(minima: Minima, errors: Mapping[str, HeldOutErrors]) -> dict[str, Forecast]:
    """Approach 2, by quantity: N_opt from lines, the loss from curves E + K*C^-g."""
    forecasts = {}
    if lines := size_lines(minima):
        forecasts["N"] = _forecast("N", LINE, lines, errors["N"])
    if curves := loss_curves(minima):
        forecasts["L"] = _forecast("L", OFFSET_LAW, curves, errors["L"])
    return forecasts


def forecasts_of_laws(
    laws: Sequence[CandidateLaw], errors: Mapping[str, HeldOutErrors], condition: float = 1.0
) -> dict[str, Forecast]:
    """Approach 3, by quantity: the candidate laws, weighted by their held-out errors.

    If the runs hardly separate the effect of N from that of D, the fit is ill-conditioned: a law that is
    off by half a percent of the loss then has a wrong exponent a, and resampled runs do not show it. The
    error scale of N_opt is therefore at least the error of a that ERROR_OF_A gives for `condition`.

    Args:
        laws: candidates.
        errors: by quantity, held-out errors of these laws, or of more laws of which these are the first.
        condition: condition number of approach 3's fit.
    """
    members = {law.name: CurveFit(law.theta.tolist(), []) for law in laws}
    forecasts = {q: _forecast(q, LAW, members, errors[q]) for q in ("N", "L")}
    least = float(np.interp(np.log(condition), np.log(list(ERROR_OF_A)), list(ERROR_OF_A.values())))
    scale = max(forecasts["N"].error.scale, least)
    return forecasts | {"N": _with_scale(forecasts["N"], scale)}


def forecasts_of_envelope(fits: FitResults) -> dict[str, Forecast]:
    """Approach 1, by quantity: its line, and E + K*C^-g through its envelope."""
    result = fits.fitted["envelope"]
    line = CurveFit([float(np.log(result.N_opt.coefficient)), result.N_opt.exponent], [])
    forecasts = {"N": _forecast("N", LINE, {"the envelope": line}, HeldOutErrors.of())}
    C, N, L = (np.array([getattr(p, name) for p in result.points], float) for name in "CNL")
    if len(C) >= MIN_LOSS:
        curve = power_law_with_offset(Minima(C, N, L), np.inf)
        members = {"the envelope": curve}
        forecasts["L"] = _forecast("L", OFFSET_LAW, members, HeldOutErrors.of())
    return {q: _with_scale(f, ENVELOPE_ERROR[q]) for q, f in forecasts.items()}


def summary_of_errors(
    forecasts: Mapping[str, Forecast], errors: Mapping[str, HeldOutErrors]
) -> dict[str, Any]:
    """The number of held-out errors ("n") and the scores of the weighted forecasts ("N", "L")."""
    summary: dict[str, Any] = {"n": max(len(errors["N"]), len(errors["L"]))}
    for quantity in ("N", "L"):
        f, summary[quantity] = forecasts.get(quantity), None
        if f is not None:
            pairs = errors[quantity].weighted(forecast_weights(f.scores, quantity))
            summary[quantity] = float(scores(pairs)[0]) if len(pairs) else None
    return summary


def _forecast(
    quantity: str, kind: str, members: Mapping[str, CurveFit], pairs: HeldOutErrors
) -> Forecast:
    own = scores(pairs)[: len(members)] if len(pairs) else np.zeros(len(members))
    rows = np.array([m.parameters for m in members.values()])
    rate = float(np.mean(_loss_exponents(kind, rows))) if quantity == "L" else 0.0
    return Forecast(
        quantity=quantity,
        kind=kind,
        names=list(members),
        scores=own.tolist(),
        members=rows.tolist(),
        covariances=[m.covariance for m in members.values() if m.covariance],
        error=error_scale(pairs.weighted(forecast_weights(own, quantity)), quantity, rate),
    )


def _loss_exponents(kind: str, rows: np.ndarray) -> np.ndarray:
    """(k,) g of each member: its loss at the optimum approaches its asymptote as C^-g."""
    value = dict(zip(KINDS[kind].parameters, rows.T, strict=True))
    if kind == OFFSET_LAW:
        return value["g"]
    alpha, beta = value["alpha"], value["beta"]
    return np.asarray(value["q"] * alpha * beta / (alpha + beta))


def _with_scale(f: Forecast, scale: float) -> Forecast:
    return replace(f, error=replace(f.error, scale=scale))
