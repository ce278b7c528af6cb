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
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from chinchilla.fit.loss_law import FlopsPerToken
from chinchilla.observations.table import Observations
from chinchilla.recommend.isoflop_minima import Minima, line_at, loss_at, loss_curves, size_lines
from chinchilla.recommend.laws import CandidateLaw, log_loss, optimum, refits

MIN_FITTED = 3  # budgets below a split
RECENCY_SCALE = 2.8  # ln C over which the weight of a held-out budget falls by a factor e
DISTANCE_OFFSET = 0.3  # a pair at distance h weighs 1 / (DISTANCE_OFFSET + h)
MAX_SPLITS = 12  # splits, and held-out budgets of each; more are redundant
FLOOR = {"N": 0.05, "L": 0.002}  # score differences below this are chance
PRIOR = {"N": 0.08, "L": 0.0015}  # error per unit of ln C on sweeps in general
PRIOR_N = 4.0  # weight of the prior, in held-out budgets
OFFSET = {"N": 1.5, "L": 0.5}  # h0 in ln C
MAX_ERROR = 1.0  # errors of ln N_opt and ln L are clipped to this in scores
QUANTILES = (0.5, 0.6, 0.7, 0.8, 0.9)  # of ln C: splits for runs without budgets


@dataclass(frozen=True)
class HeldOutErrors:
    """Errors of k forecasts at p pairs of a split and a larger budget, predicted minus measured logarithm."""

    log_C: np.ndarray  # (p,) of the held-out budgets
    distance: np.ndarray  # (p,) in ln C beyond the largest budget fitted
    n_fitted: np.ndarray  # (p,) budgets fitted
    errors: np.ndarray  # (p, k) of ln N_opt or of ln L; NaN without a forecast

    @classmethod
    def of(cls, rows: Sequence[tuple[float, float, int, np.ndarray]] = ()) -> "HeldOutErrors":
        """Of the four values of each pair."""
        if not rows:
            return cls(np.empty(0), np.empty(0), np.empty(0), np.empty((0, 0)))
        return cls(*(np.array(column, float) for column in zip(*rows, strict=True)))

    def __len__(self) -> int:
        return len(self.log_C)

    def weighted(self, weight: np.ndarray) -> "HeldOutErrors":
        """Errors (p, 1) of the weighted mean of the first forecasts, without pairs where none has an error."""
        if not len(self):
            return self
        errors = self.errors[:, : len(weight)]
        w = np.where(np.isfinite(errors), weight, 0.0)
        keep = w.any(axis=1)
        mean = (w * np.nan_to_num(errors)).sum(axis=1)[keep] / w.sum(axis=1)[keep]
        return HeldOutErrors(
            self.log_C[keep], self.distance[keep], self.n_fitted[keep], mean[:, None]
        )

    @property
    def weights(self) -> np.ndarray:
        """(p,) recent budgets, and splits with many budgets below, count more."""
        recent = np.exp((self.log_C - self.log_C.max(initial=-np.inf)) / RECENCY_SCALE)
        return np.asarray((self.n_fitted - MIN_FITTED + 1) * recent)


def splits(m: int) -> list[tuple[int, list[int]]]:
    """Ways to split m budgets: how many to fit, and the indices of the larger budgets to score on."""
    if m <= MIN_FITTED:
        return []

    def spread(first: int) -> list[int]:
        """At most MAX_SPLITS indices from `first` to m - 1."""
        n = min(MAX_SPLITS, m - first)
        return np.unique(np.linspace(first, m - 1, n).round().astype(int)).tolist()

    return [(n, spread(n)) for n in spread(MIN_FITTED)]


def errors_of_minima(minima: Minima) -> dict[str, HeldOutErrors]:
    """Held-out errors of the curves through IsoFLOP minima, under "N" and "L"."""

    def forecast_from(n: int) -> Callable[[float], tuple[np.ndarray, np.ndarray]]:
        below = minima.where(np.arange(len(minima)) < n)
        lines, curves = (
            np.array([fit.parameters for fit in fits.values()]).reshape(-1, size)
            for fits, size in ((size_lines(below), 2), (loss_curves(below), 3))
        )
        return lambda C: (line_at(lines, float(np.log(C)))[0], loss_at(curves, float(np.log(C)))[0])

    return _errors_at(minima, (forecast_from(n) for n, _ in splits(len(minima))))


def errors_of_laws(
    obs: Observations,
    laws: Sequence[CandidateLaw],
    minima: Minima,
    cost: FlopsPerToken | None,
    settings: dict[str, Any],
) -> dict[str, HeldOutErrors]:
    """Held-out errors of approach 3's laws, at the same splits and budgets as `errors_of_minima`.

    If no budget could be held out, the splits are quantiles of C, and the error of ln L is the root mean
    square over the runs between one split and the next.
    """

    def refitted(ends: np.ndarray) -> np.ndarray:
        """(n_splits, n_laws, 7) each law refitted to its runs up to each ln C."""
        below = [np.log(obs.C) <= end for end in ends]
        return np.stack([refits(law, obs, below, settings) for law in laws], axis=1)

    if len(minima) <= MIN_FITTED:
        edges = np.unique(np.quantile(np.log(obs.C), (*QUANTILES, 1.0)))
        return {
            "N": HeldOutErrors.of(),
            "L": _errors_between(obs, laws, edges, refitted(edges[:-1])),
        }
    x = minima.log_C
    ends = (x[:-1] + x[1:]) / 2  # between budgets, because a run's C may differ from its budget
    fits = refitted(np.array([ends[n - 1] for n, _ in splits(len(x))]))
    return _errors_at(minima, (partial(optimum, theta, cost) for theta in fits))


def _errors_at(
    minima: Minima, forecasts: Iterable[Callable[[float], tuple[np.ndarray, np.ndarray]]]
) -> dict[str, HeldOutErrors]:
    """Errors of (k,) ln N_opt and ln L at the larger minima, with one forecast for each of `splits`."""
    x = minima.log_C
    rows: dict[str, list[tuple[float, float, int, np.ndarray]]] = {"N": [], "L": []}
    for (n, larger), forecast in zip(splits(len(x)), forecasts, strict=True):
        for j in larger:
            log_N, log_L = forecast(float(minima.C[j]))
            for quantity, logs, measured in (("N", log_N, minima.N[j]), ("L", log_L, minima.L[j])):
                errors = logs - np.log(measured)
                rows[quantity].append((float(x[j]), float(x[j] - x[n - 1]), n, errors))
    return {quantity: HeldOutErrors.of(pairs) for quantity, pairs in rows.items()}


def _errors_between(
    obs: Observations, laws: Sequence[CandidateLaw], edges: np.ndarray, fits: np.ndarray
) -> HeldOutErrors:
    """Errors of ln L of the laws (n_splits, n_laws, 7) fitted below an edge, between later edges of ln C."""
    log_C, log_N, log_D = np.log(obs.C), np.log(obs.N), np.log(obs.D)
    rows = []
    for i, split in enumerate(edges[:-1]):
        for j in range(i + 1, len(edges)):
            above = (log_C > edges[j - 1]) & (log_C <= edges[j])
            if not above.any():
                continue
            errors = np.full(len(laws), np.nan)
            for k, (law, theta) in enumerate(zip(laws, fits[i], strict=True)):
                own = above & law.keep
                if own.any():
                    r = np.log(obs.L[own]) - log_loss(theta, log_N[own], log_D[own])
                    errors[k] = np.sqrt(np.mean(r**2))
            middle = float(log_C[above].mean())
            rows.append((middle, middle - float(split), MIN_FITTED, errors))
    return HeldOutErrors.of(rows)


def scores(pairs: HeldOutErrors) -> np.ndarray:
    """(k,) weighted mean absolute error of each forecast; MAX_ERROR if it has no finite error."""
    known = np.isfinite(pairs.errors)
    sizes = np.minimum(np.abs(np.where(known, pairs.errors, 0.0)), MAX_ERROR)
    w = pairs.weights / (DISTANCE_OFFSET + pairs.distance)
    total = w @ known
    return np.where(total > 0, w @ sizes / np.where(total > 0, total, 1.0), MAX_ERROR)


def forecast_weights(
    scores: Sequence[float] | np.ndarray, quantity: str, error: np.ndarray | float = 0.0
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


@dataclass(frozen=True)
class ErrorScale:
    """Standard deviation of a forecast's error at a distance in ln C: scale * sqrt(offset^2 + H^2)."""

    scale: float
    offset: float
    degrees_of_freedom: float  # of Student's t for intervals
    rate: float = 0.0  # g of H = (1 - e^(-g*h))/g; 0 for H = h

    def sd(self, h: float) -> float:
        """At a distance h >= 0 beyond the budgets."""
        H = h if self.rate == 0 else -float(np.expm1(-self.rate * h)) / self.rate
        return self.scale * float(np.hypot(self.offset, H))


def error_scale(pairs: HeldOutErrors, quantity: str, rate: float = 0.0) -> ErrorScale:
    """The error scale of the weighted forecast.

    Args:
        pairs: its errors (p, 1), from `HeldOutErrors.weighted`; without any the prior is returned.
        quantity: "N" or "L".
        rate: g, with which the loss approaches its asymptote; 0 for N_opt.
    """
    prior = ErrorScale(PRIOR[quantity], OFFSET[quantity], PRIOR_N, rate)
    if not len(pairs):
        return prior
    w = pairs.weights
    unit = [prior.sd(h) / prior.scale for h in pairs.distance]
    sizes = np.minimum(np.abs(pairs.errors[:, 0] / unit), MAX_ERROR)
    n = len(np.unique(pairs.log_C))
    square = (PRIOR_N * prior.scale**2 + n * (w @ sizes**2 / w.sum())) / (PRIOR_N + n)
    return replace(prior, scale=float(np.sqrt(square)), degrees_of_freedom=PRIOR_N + n)
