"""Lower envelopes: at each C the lowest loss over runs, with the size and tokens that reached it.

Either of training curves (`curve_envelopes`) or, for runs without curves, of their final losses
(`endpoint_envelopes`). Points where a better size may lie outside the sizes tried are censored, see
`approach1`. An envelope never rises with C: C where every curve lies above a loss that was reached with fewer
FLOPs is left out, as just beyond the end of a budget whose runs were the best. NumPy only.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.fit.envelope.curves import MIN_SIZES, Curves
from chinchilla.fit.parametric.solver import check_ratios
from chinchilla.observations.table import Observations

ENDPOINT_BIN = 1.25  # runs within this factor of C compete in the endpoint envelope
MAX_POINTS = 200  # envelope points stored for the figure
RANKS = 12  # best runs stored at each C; a resample contains none of them once in 200,000 C


@dataclass(frozen=True)
class Envelope:
    """Lowest losses, C ascending."""

    C: np.ndarray  # (m,)
    run: np.ndarray  # (m,) index of the run with the lowest loss
    N: np.ndarray  # (m,)
    D: np.ndarray  # (m,)
    L: np.ndarray  # (m,)
    censored: np.ndarray  # (m,) bool: a better size may lie outside those tried

    @property
    def thinned(self) -> np.ndarray:
        """Indices of at most MAX_POINTS evenly spread points, for the figure."""
        last = len(self.C) - 1
        return np.unique(np.linspace(0, last, MAX_POINTS).round().astype(int))

    def where(self, keep: np.ndarray) -> "Envelope":
        names = ("C", "run", "N", "D", "L", "censored")
        return Envelope(*(getattr(self, name)[keep] for name in names))


def curve_envelopes(
    curves: Curves, losses: np.ndarray, n_ranks: int = RANKS
) -> Callable[[np.ndarray], Envelope]:
    """Return a function from indices of runs to the envelope of their curves.

    Args:
        curves: (r,) runs.
        losses: (r, g) losses that may be on the envelope; infinite elsewhere.
        n_ranks: best runs stored at each C, to speed up resamples; 1 is enough for all runs.
    """
    if n_ranks == 1:
        ranks = losses.argmin(axis=0)[None]
    else:
        ranks = np.argsort(losses, axis=0, kind="stable")[:n_ranks]

    def envelope_of(keep: np.ndarray) -> Envelope:
        in_sample = np.zeros(len(curves.N), bool)
        in_sample[keep] = True
        ranked = in_sample[ranks]  # (n_ranks, g)
        best = np.take_along_axis(ranks, ranked.argmax(axis=0)[None], axis=0)[0]
        missed = np.flatnonzero(~ranked.any(axis=0))
        best[missed] = keep[losses[np.ix_(keep, missed)].argmin(axis=0)]
        lowest = losses[best, np.arange(len(best))]
        at = np.flatnonzero(lowest < np.append(np.inf, np.minimum.accumulate(lowest)[:-1]))
        run = best[at]
        envelope = Envelope(
            curves.C[at], run, curves.N[run], curves.D[run, at], lowest[at], np.zeros(len(at), bool)
        )
        return censor(envelope, curves, keep)

    return envelope_of


def censor(envelope: Envelope, curves: Curves, keep: np.ndarray) -> Envelope:
    """Mark the points where a better size may lie outside those of the runs in `keep`.

    These are all points up to the last win of the smallest size, all from the first win of the largest,
    and all up to the last win of a size while no larger one has a curve yet.
    """
    smallest, started, largest = _size_ranges(curves, keep)
    at = np.searchsorted(curves.C, envelope.C)
    high = np.flatnonzero(envelope.N >= largest[at])
    last = high[0] if len(high) else len(at)
    low = np.flatnonzero((envelope.N <= smallest[at]) | (envelope.N >= started[at]))
    low = low[(low < last) | (envelope.N[low] <= smallest[at[low]])]
    first = low[-1] + 1 if len(low) else 0
    i = np.arange(len(at))
    return replace(envelope, censored=(i < first) | (i >= last))


def _size_ranges(curves: Curves, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(g,) smallest and largest size with a curve at C or below, and largest with one at C or above."""
    first, last = curves.on[keep].T
    some = last >= 0
    N = curves.N[keep][some]
    smallest, started = np.full(len(curves.C), np.inf), np.zeros(len(curves.C))
    largest = np.zeros(len(curves.C))
    np.minimum.at(smallest, first[some], N)
    np.maximum.at(started, first[some], N)
    np.maximum.at(largest, last[some], N)
    largest = np.maximum.accumulate(largest[::-1])[::-1]
    return np.minimum.accumulate(smallest), np.maximum.accumulate(started), largest


def convex_hull(envelope: Envelope) -> Envelope:
    """The points on the lower convex hull of (ln C, ln L)."""
    x, y = np.log(envelope.C).tolist(), np.log(envelope.L).tolist()  # lists are faster here
    hull: list[int] = []
    for i, (x_i, y_i) in enumerate(zip(x, y, strict=True)):
        while len(hull) >= 2:
            j, k = hull[-2:]
            if (y[k] - y[j]) * (x_i - x[j]) < (y_i - y[j]) * (x[k] - x[j]):
                break
            hull.pop()
        hull.append(i)
    return envelope.where(np.array(hull))


def check_competition(runs: Observations) -> None:
    """Refuse final losses with too few sizes at each C, where a line follows the plan of the sweep.

    On grids of sizes and D/N it is far from the line of the law (tests).
    """
    check_ratios(runs.N, runs.D, "approach 1 has ends of runs alone, no curves, and")
    _, index = np.unique(_bins(runs), return_inverse=True)
    sizes = np.array([len(np.unique(runs.N[index == i])) for i in range(index.max() + 1)])
    if (n := float(sizes[index].mean())) < MIN_SIZES:
        raise FitError(
            f"approach 1 has ends of runs alone, no curves, and a run competes with {n - 1:.1f} other "
            f"sizes within a factor {ENDPOINT_BIN} of its C on average: the line would follow the plan's "
            f"sizes and not the optimum. Give the curves, or train {MIN_SIZES} sizes or more at each C.",
            "no_overlap",
        )


def _bins(runs: Observations) -> np.ndarray:
    """(n,) bin of C of each run."""
    index: np.ndarray = np.floor(np.log(runs.C / runs.C.min()) / np.log(ENDPOINT_BIN) + 0.5)
    return index


def endpoint_envelopes(runs: Observations) -> Callable[[np.ndarray], Envelope]:
    """Return a function from indices of runs to their envelope: the best run in each bin of C."""
    bins = _bins(runs)
    order = np.lexsort((runs.L, bins))
    in_sample = np.zeros(len(runs), bool)

    def envelope_of(keep: np.ndarray) -> Envelope:
        in_sample[:] = False
        in_sample[keep] = True
        rows = order[in_sample[order]]
        best = rows[np.append(True, bins[rows[1:]] != bins[rows[:-1]])]
        L = runs.L[best]
        on = best[L < np.append(np.inf, np.minimum.accumulate(L)[:-1])]
        N = runs.N[on]
        censored = (N == runs.N[keep].min()) | (N == runs.N[keep].max())
        return Envelope(runs.C[on], on, N, runs.D[on], runs.L[on], censored)

    return envelope_of
