"""Held-out errors inside a sweep: each forecast is fitted to the smaller budgets and scored on the larger.

Every pair of a cut (at least MIN_FITTED budgets below) and a larger budget gives one error of ln N_opt
and one of ln L, at a distance h in ln C beyond the cut. From these come

* the score of a forecast, its mean absolute error, in which near and recent pairs, and those with many
  budgets below the cut, count more;
* the weight of a forecast among its kind, 1 / (score^2 + FLOOR^2 + e^2)^2 with e its own standard
  error where it is applied;
* the error scale s of the weighted forecast: its error at a distance h has the standard deviation
  s * sqrt(h0^2 + H^2), where H = h for N_opt, and H = (1 - e^(-g*h))/g for a loss that approaches its
  asymptote as C^-g: an error of the slope grows no further there. s^2 is shrunk towards PRIOR^2, which counts as PRIOR_N held-out budgets: it is
  what real sweeps show (docs/fitting.md), and keeps few or lucky errors from promising too much.

NumPy only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MIN_FITTED = 3  # budgets below a cut
RECENT = 2.8  # ln C over which the weight of a held-out budget falls by a factor e
NEAR = 0.3  # a pair at distance h weighs 1 / (NEAR + h)
MAX_CUTS = 12  # cuts, and budgets held out beyond each: more say the same again
FLOOR = {"N": 0.05, "L": 0.002}  # of a score: differences below it are chance
PRIOR = {"N": 0.08, "L": 0.0015}  # error per unit of ln C on sweeps in general
PRIOR_N = 4.0
OFFSET = {"N": 1.5, "L": 0.5}  # h0 in ln C
LARGEST = 1.0  # errors of ln N_opt or ln L beyond this count as this in scores


@dataclass(frozen=True)
class Pair:
    """One cut and one larger budget: the error of each forecast there, predicted minus measured."""

    x: float  # ln C of the held-out budget
    h: float  # its distance beyond the largest budget fitted
    errors: Mapping[str, float]  # by forecast, of ln N_opt or of ln L
    n: int = MIN_FITTED  # budgets fitted


def cuts(m: int) -> list[tuple[int, list[int]]]:
    """Numbers of budgets to fit, of m, and the indices of the larger budgets that each is scored on."""
    if m <= MIN_FITTED:
        return []
    fitted = np.unique(
        np.linspace(MIN_FITTED, m - 1, min(MAX_CUTS, m - MIN_FITTED)).round().astype(int)
    )
    return [
        (
            int(n),
            np.unique(np.linspace(n, m - 1, min(MAX_CUTS, m - n)).round().astype(int)).tolist(),
        )
        for n in fitted
    ]


def _weight(pair: Pair, last: float) -> float:
    """Of a pair in the error scale: recent budgets count more, and so do cuts that left many to fit.

    A forecast from three budgets says less of the forecast from all than one from nine.
    """
    return float((pair.n - MIN_FITTED + 1) * np.exp(-(last - pair.x) / RECENT))


def scores(pairs: Sequence[Pair]) -> dict[str, float]:
    """Weighted mean absolute error of each forecast; LARGEST where it has none."""
    last = max((p.x for p in pairs), default=0.0)
    found = {}
    for name in dict.fromkeys(name for p in pairs for name in p.errors):
        rows = [
            (_weight(p, last) / (NEAR + p.h), p.errors[name]) for p in pairs if name in p.errors
        ]
        known = [(w, min(abs(e), LARGEST)) for w, e in rows if np.isfinite(e)]
        total = sum(w for w, _ in known)
        found[name] = float(sum(w * e for w, e in known) / total) if total else LARGEST
    return found


def weights_of(
    found: Sequence[float], quantity: str, error: np.ndarray | float = 0.0
) -> np.ndarray:
    """(k,) weights of forecasts, adding up to one.

    Args:
        found: their scores.
        quantity: "N" or "L".
        error: (k,) their own standard errors where they are applied.
    """
    size = np.minimum(np.asarray(found, float), LARGEST) ** 2 + FLOOR[quantity] ** 2
    raw = (size + np.asarray(error, float) ** 2) ** -2.0
    return np.asarray(raw / raw.sum())


def combined(pairs: Sequence[Pair], weight: Mapping[str, float]) -> list[Pair]:
    """The errors of the weighted forecast, under the name ""."""
    found = []
    for p in pairs:
        known = [n for n, e in p.errors.items() if np.isfinite(e) and weight.get(n, 0.0) > 0]
        if known:
            w = np.array([weight[n] for n in known])
            error = float(w @ [p.errors[n] for n in known] / w.sum())
            found.append(Pair(p.x, p.h, {"": error}, p.n))
    return found


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


def error_scale(pairs: Sequence[Pair], quantity: str, rate: float = 0.0) -> ErrorScale:
    """The error scale of the weighted forecast (`combined`).

    Args:
        pairs: its held-out errors; none gives the prior.
        quantity: "N" or "L".
        rate: g, with which the loss approaches its asymptote; 0 for N_opt.
    """
    offset, prior = OFFSET[quantity], PRIOR[quantity]
    if not pairs:
        return ErrorScale(prior, offset, PRIOR_N, rate)
    last = max(p.x for p in pairs)
    w = np.array([_weight(p, last) for p in pairs])
    z = np.array([p.errors[""] / _distance(p.h, offset, rate) for p in pairs])
    n = len({p.x for p in pairs})
    mean_square = float(w @ np.minimum(np.abs(z), LARGEST) ** 2 / w.sum())
    scale = np.sqrt((PRIOR_N * prior**2 + n * mean_square) / (PRIOR_N + n))
    return ErrorScale(float(scale), offset, PRIOR_N + n, rate)
