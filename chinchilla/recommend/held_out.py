"""Held-out errors inside a sweep: forecasts are fitted to the smaller budgets and scored on the larger.

Every pair of a split (at least MIN_FITTED budgets below it) and a larger budget gives one error of
ln N_opt and one of ln L, at a distance h in ln C beyond the split. They determine

* the score of a forecast: its weighted mean absolute error, in which near and recent pairs, and pairs
  with many budgets below the split, count more;
* the weight of a forecast among its kind: 1 / (score^2 + FLOOR^2 + e^2)^2, where e is its own standard
  error at the C where it is evaluated;
* the error scale s of the weighted forecast: at a distance h the standard deviation of its error is
  s * sqrt(h0^2 + H^2). H = h for N_opt. For a loss that approaches its asymptote as C^-g,
  H = (1 - e^(-g*h))/g, because an error of the slope stops growing there. s^2 is shrunk towards
  PRIOR^2, which counts as PRIOR_N held-out budgets. The prior is estimated from public
  sweeps (docs/fitting.md); it limits the effect of few or accidentally small errors.

NumPy only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chinchilla.fit.loss_law import FlopsPerToken
from chinchilla.observations.table import Observations
from chinchilla.recommend.isoflop_minima import (
    CurveFit,
    Minima,
    line_at,
    loss_at,
    loss_curves,
    size_lines,
)
from chinchilla.recommend.laws import CandidateLaw, log_loss, optimum

MIN_FITTED = 3  # budgets below a split
RECENT = 2.8  # ln C over which the weight of a held-out budget falls by a factor e
NEAR = 0.3  # a pair at distance h weighs 1 / (NEAR + h)
MAX_SPLITS = 12  # splits, and held-out budgets of each; more are redundant
FLOOR = {"N": 0.05, "L": 0.002}  # score differences below this are chance
PRIOR = {"N": 0.08, "L": 0.0015}  # error per unit of ln C on sweeps in general
PRIOR_N = 4.0  # weight of the prior, in held-out budgets
OFFSET = {"N": 1.5, "L": 0.5}  # h0 in ln C
MAX_ERROR = 1.0  # errors of ln N_opt and ln L are clipped to this in scores
QUANTILES = (0.5, 0.6, 0.7, 0.8, 0.9)  # of ln C: splits for runs without budgets


@dataclass(frozen=True)
class HeldOut:
    """Errors of each forecast at one held-out budget, predicted minus measured logarithm."""

    log_C: float  # of the held-out budget
    distance: float  # in ln C beyond the largest budget fitted
    errors: Mapping[str, float]  # by forecast; of ln N_opt or of ln L
    n_fitted: int = MIN_FITTED  # budgets fitted


def splits(m: int) -> list[tuple[int, list[int]]]:
    """Ways to split m budgets: how many to fit, and the indices of the larger budgets to score on."""
    if m <= MIN_FITTED:
        return []

    def spread(first: int, n: int) -> list[int]:
        """At most MAX_SPLITS indices from `first` to m - 1."""
        return np.unique(np.linspace(first, m - 1, min(MAX_SPLITS, n)).round().astype(int)).tolist()

    return [(n, spread(n, m - n)) for n in spread(MIN_FITTED, m - MIN_FITTED)]


def errors_of_minima(minima: Minima) -> dict[str, list[HeldOut]]:
    """Held-out errors of the curves through IsoFLOP minima, under "N" and "L"."""
    x = minima.log_C
    held_out: dict[str, list[HeldOut]] = {"N": [], "L": []}
    for n, larger in splits(len(x)):
        below = minima.where(np.arange(len(x)) < n)
        lines, curves = size_lines(below), loss_curves(below)
        for j in larger:
            at, h = float(x[j]), float(x[j] - x[n - 1])
            if lines:
                errors = _curve_errors(lines, line_at, at, float(np.log(minima.N[j])))
                held_out["N"].append(HeldOut(at, h, errors, n))
            errors = _curve_errors(curves, loss_at, at, float(np.log(minima.L[j])))
            held_out["L"].append(HeldOut(at, h, errors, n))
    return held_out


def _curve_errors(
    curves: dict[str, CurveFit], at: Callable[..., Any], x: float, measured: float
) -> dict[str, float]:
    """ln predicted - ln measured of each curve at ln C = x."""
    logs = at(np.array([c.parameters for c in curves.values()]), x)[0]
    return dict(zip(curves, (logs - measured).tolist(), strict=True))


def errors_of_laws(
    obs: Observations,
    laws: Sequence[CandidateLaw],
    minima: Minima,
    cost: FlopsPerToken | None,
    settings: dict[str, Any],
) -> dict[str, list[HeldOut]]:
    """Held-out errors of approach 3's laws, at the same splits and budgets as `errors_of_minima`.

    If no budget could be held out, the splits are quantiles of C, and the error of ln L is the root mean
    square over the runs between one split and the next.
    """
    names = [law.name for law in laws]
    if len(minima) <= MIN_FITTED:
        return {"N": [], "L": _errors_between_quantiles(obs, laws, settings)}
    x = minima.log_C
    ends = (x[:-1] + x[1:]) / 2  # between budgets, because a run's C may differ from its budget
    below = [np.log(obs.C) <= ends[n - 1] for n, _ in splits(len(x))]
    refits = _refits(obs, laws, below, settings)
    held_out: dict[str, list[HeldOut]] = {"N": [], "L": []}
    for theta, (n, larger) in zip(refits, splits(len(x)), strict=True):
        for j in larger:
            log_N, log_L = optimum(theta, cost, float(minima.C[j]))
            for quantity, logs, measured in (("N", log_N, minima.N[j]), ("L", log_L, minima.L[j])):
                errors = dict(zip(names, (logs - np.log(measured)).tolist(), strict=True))
                held_out[quantity].append(HeldOut(float(x[j]), float(x[j] - x[n - 1]), errors, n))
    return held_out


def _errors_between_quantiles(
    obs: Observations, laws: Sequence[CandidateLaw], settings: dict[str, Any]
) -> list[HeldOut]:
    log_C, log_N, log_D = np.log(obs.C), np.log(obs.N), np.log(obs.D)
    edges = np.unique(np.quantile(log_C, (*QUANTILES, 1.0)))
    refits = _refits(obs, laws, [log_C <= edge for edge in edges[:-1]], settings)
    held_out = []
    for i, split in enumerate(edges[:-1]):
        for j in range(i + 1, len(edges)):
            above = (log_C > edges[j - 1]) & (log_C <= edges[j])
            if not above.any():
                continue
            errors = {}
            for law, theta in zip(laws, refits[i], strict=True):
                rows = above & law.keep
                if rows.any():
                    r = np.log(obs.L[rows]) - log_loss(theta, log_N[rows], log_D[rows])
                    errors[law.name] = float(np.sqrt(np.mean(r**2)))
            middle = float(log_C[above].mean())
            held_out.append(HeldOut(middle, middle - float(split), errors))
    return held_out


def _refits(
    obs: Observations,
    laws: Sequence[CandidateLaw],
    below: list[np.ndarray],
    settings: dict[str, Any],
) -> np.ndarray:
    """(n_splits, n_laws, 7) each law refitted to its runs below each split; NaN where none converged."""
    return np.stack([law.refits(obs, below, settings) for law in laws], axis=1)


def _weight(pair: HeldOut, last: float) -> float:
    """Weight in the error scale: recent budgets and splits with many budgets below count more."""
    return float((pair.n_fitted - MIN_FITTED + 1) * np.exp(-(last - pair.log_C) / RECENT))


def scores(held_out: Sequence[HeldOut]) -> dict[str, float]:
    """Weighted mean absolute error of each forecast; MAX_ERROR if it has no finite error."""
    last = max((p.log_C for p in held_out), default=0.0)
    by_name = {}
    for name in dict.fromkeys(name for p in held_out for name in p.errors):
        rows = [
            (_weight(p, last) / (NEAR + p.distance), p.errors[name])
            for p in held_out
            if name in p.errors
        ]
        known = [(w, min(abs(e), MAX_ERROR)) for w, e in rows if np.isfinite(e)]
        total = sum(w for w, _ in known)
        by_name[name] = float(sum(w * e for w, e in known) / total) if total else MAX_ERROR
    return by_name


def forecast_weights(
    scores: Sequence[float], quantity: str, error: np.ndarray | float = 0.0
) -> np.ndarray:
    """(k,) weights of forecasts, with sum 1.

    Args:
        scores: (k,) held-out scores.
        quantity: "N" or "L".
        error: (k,) standard errors of the forecasts where they are evaluated.
    """
    size = np.minimum(np.asarray(scores, float), MAX_ERROR) ** 2 + FLOOR[quantity] ** 2
    raw = (size + np.asarray(error, float) ** 2) ** -2.0
    return np.asarray(raw / raw.sum())


def combined(held_out: Sequence[HeldOut], weight: Mapping[str, float]) -> list[HeldOut]:
    """The errors of the weighted forecast, under the name ""."""
    pairs = []
    for p in held_out:
        known = [n for n, e in p.errors.items() if np.isfinite(e) and weight.get(n, 0.0) > 0]
        if known:
            w = np.array([weight[n] for n in known])
            error = float(w @ [p.errors[n] for n in known] / w.sum())
            pairs.append(HeldOut(p.log_C, p.distance, {"": error}, p.n_fitted))
    return pairs


@dataclass(frozen=True)
class ErrorScale:
    """Standard deviation of a forecast's error at a distance in ln C: scale * sqrt(offset^2 + H^2)."""

    scale: float
    offset: float
    freedom: float  # degrees of freedom of Student's t for intervals
    rate: float = 0.0  # g of H = (1 - e^(-g*h))/g; 0 for H = h

    def sd(self, h: float) -> float:
        """At a distance h >= 0 beyond the budgets."""
        return self.scale * _distance(h, self.offset, self.rate)


def _distance(h: float, offset: float, rate: float) -> float:
    reach = h if rate * h < 1e-9 else -float(np.expm1(-rate * h)) / rate
    return float(np.hypot(offset, reach))


def error_scale(held_out: Sequence[HeldOut], quantity: str, rate: float = 0.0) -> ErrorScale:
    """The error scale of the weighted forecast.

    Args:
        held_out: its errors, from `combined`; without any the prior is returned.
        quantity: "N" or "L".
        rate: g, with which the loss approaches its asymptote; 0 for N_opt.
    """
    offset, prior = OFFSET[quantity], PRIOR[quantity]
    if not held_out:
        return ErrorScale(prior, offset, PRIOR_N, rate)
    last = max(p.log_C for p in held_out)
    w = np.array([_weight(p, last) for p in held_out])
    z = np.array([p.errors[""] / _distance(p.distance, offset, rate) for p in held_out])
    n = len({p.log_C for p in held_out})
    mean_square = float(w @ np.minimum(np.abs(z), MAX_ERROR) ** 2 / w.sum())
    scale = np.sqrt((PRIOR_N * prior**2 + n * mean_square) / (PRIOR_N + n))
    return ErrorScale(float(scale), offset, PRIOR_N + n, rate)
