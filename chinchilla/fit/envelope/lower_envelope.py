"""Lower envelopes: at each C the lowest loss over runs, with the size and tokens that reached it.

Of training curves (`lower_envelope`) or, where runs have no curves, of their ends (`endpoint_envelopes`). Where
a better size may lie outside those tried, points are marked as censored; `envelope.py` says why.

An envelope never rises with C: where every curve lies above a loss that was reached with fewer FLOPs,
as it does just beyond the end of a budget whose runs were the best, C is not on the frontier and is
left out.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.fit.envelope.curves import MIN_SIZES, TAIL, Curves
from chinchilla.fit.parametric.solver import one_ray
from chinchilla.observations.table import Observations

ENDPOINT_BIN = 1.25  # runs within this factor of C compete in the endpoint envelope
MAX_POINTS = 200  # envelope points kept for the figure
RANKS = 12  # best runs kept at each C; a resample misses all of them once in 200,000 C


@dataclass(frozen=True)
class Envelope:
    """Lowest losses, C rising."""

    C: np.ndarray  # (m,)
    run: np.ndarray  # (m,) index of the run with the lowest loss
    N: np.ndarray  # (m,)
    D: np.ndarray  # (m,)
    L: np.ndarray  # (m,)
    censored: np.ndarray  # (m,) bool: a better size may lie outside those tried

    @property
    def thinned(self) -> np.ndarray:
        """Indices of at most MAX_POINTS points, evenly spread: what a figure needs."""
        last = len(self.C) - 1
        return np.unique(np.linspace(0, last, MAX_POINTS).round().astype(int))

    def where(self, keep: np.ndarray) -> "Envelope":
        names = ("C", "run", "N", "D", "L", "censored")
        return Envelope(*(getattr(self, name)[keep] for name in names))


def curve_envelopes(
    curves: Curves, part: str, n_ranks: int = RANKS
) -> Callable[[np.ndarray], Envelope]:
    """A function of the indices of runs that gives the envelope of `part` of their curves.

    Args:
        curves: (r,) runs.
        part: all, tail or hull.
        n_ranks: best runs kept at each C for resamples; 1 where all runs are asked for once.
    """
    entering = curves.L
    if part == "tail":
        entering = np.where(curves.C >= TAIL * curves.C_end[:, None], curves.L, np.inf)
    if n_ranks == 1:
        ranks = entering.argmin(axis=0)[None]
    else:
        ranks = np.argsort(entering, axis=0, kind="stable")[:n_ranks]
    return partial(lower_envelope, curves, entering, ranks, part)


def lower_envelope(
    curves: Curves, entering: np.ndarray, ranks: np.ndarray, part: str, keep: np.ndarray
) -> Envelope:
    """The envelope over the runs in `keep`.

    `entering` (r, g) holds the losses that may be on it, `ranks` the best runs at each C: in a
    resample the first of them that was drawn, and all runs are looked at where none was.
    """
    kept = np.zeros(len(curves.N), bool)
    kept[keep] = True
    drawn = kept[ranks]  # (RANKS, g)
    best = np.take_along_axis(ranks, drawn.argmax(axis=0)[None], axis=0)[0]
    missed = np.flatnonzero(~drawn.any(axis=0))
    best[missed] = keep[entering[np.ix_(keep, missed)].argmin(axis=0)]
    lowest_L = entering[best, np.arange(len(best))]  # inf where no run may enter
    at = np.flatnonzero(lowest_L < np.append(np.inf, np.minimum.accumulate(lowest_L)[:-1]))
    run = best[at]
    lowest = Envelope(
        curves.C[at],
        run,
        curves.N[run],
        curves.D[run, at],
        curves.L[run, at],
        np.zeros(len(at), bool),
    )
    return _censor(_hull(lowest) if part == "hull" else lowest, curves.C, *_tried(curves, keep))


def _tried(curves: Curves, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(g,) the smallest and the largest size with a curve at C or cheaper, the largest at C or dearer."""
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


def _censor(
    lowest: Envelope, C: np.ndarray, smallest: np.ndarray, started: np.ndarray, largest: np.ndarray
) -> Envelope:
    """Everything up to the last win of the smallest size, and from the first of the largest.

    Likewise everything up to the last win of a size while no larger one has a curve yet.
    """
    at = np.searchsorted(C, lowest.C)
    high = np.flatnonzero(lowest.N >= largest[at])
    last = high[0] if len(high) else len(at)
    low = np.flatnonzero((lowest.N <= smallest[at]) | (lowest.N >= started[at]))
    low = low[(low < last) | (lowest.N[low] <= smallest[at[low]])]
    first = low[-1] + 1 if len(low) else 0
    i = np.arange(len(at))
    return replace(lowest, censored=(i < first) | (i >= last))


def _hull(lowest: Envelope) -> Envelope:
    """The points on the lower convex hull of (ln C, ln L)."""
    x, y = np.log(lowest.C).tolist(), np.log(lowest.L).tolist()  # lists: ten times faster here
    hull: list[int] = []
    for i, (x_i, y_i) in enumerate(zip(x, y, strict=True)):
        while len(hull) >= 2:
            j, k = hull[-2:]
            if (y[k] - y[j]) * (x_i - x[j]) < (y_i - y[j]) * (x[k] - x[j]):
                break
            hull.pop()
        hull.append(i)
    return lowest.where(np.array(hull))


def check_competition(runs: Observations) -> None:
    """Refuse run ends among which hardly a size could lose: a line through them is their plan's.

    On grids of sizes by D/N it lies far from the law's line (tests).
    """
    one_ray(runs.N, runs.D, "approach 1 has ends of runs alone, no curves, and")
    _, index = np.unique(_bins(runs), return_inverse=True)
    sizes = np.array([len(np.unique(runs.N[index == i])) for i in range(index.max() + 1)])
    if (n := float(sizes[index].mean())) < MIN_SIZES:
        raise FitError(
            f"approach 1 has ends of runs alone, no curves, and a run competes with {n - 1:.1f} other "
            f"sizes within a factor {ENDPOINT_BIN} of its C on average: the line would be the plan's "
            f"and not the optimum's. Give the curves, or train {MIN_SIZES} sizes or more at each C.",
            "no_overlap",
        )


def _bins(runs: Observations) -> np.ndarray:
    """(n,) number of the bin of C that each run is in."""
    index: np.ndarray = np.floor(np.log(runs.C / runs.C.min()) / np.log(ENDPOINT_BIN) + 0.5)
    return index


def endpoint_envelopes(runs: Observations, part: str) -> Callable[[np.ndarray], Envelope]:
    """Of the runs kept: the best in each bin of C, where no cheaper bin has a better; or the hull."""
    bins = np.round(np.log(runs.C), 6) if part == "hull" else _bins(runs)
    order = np.lexsort((runs.L, bins))
    kept = np.zeros(len(runs), bool)

    def envelope_of(keep: np.ndarray) -> Envelope:
        kept[:] = False
        kept[keep] = True
        rows = order[kept[order]]
        best = rows[np.append(True, bins[rows[1:]] != bins[rows[:-1]])]
        L = runs.L[best]
        on = best[L < np.append(np.inf, np.minimum.accumulate(L)[:-1])]
        N = runs.N[on]
        censored = (N == runs.N[keep].min()) | (N == runs.N[keep].max())
        found = Envelope(runs.C[on], on, N, runs.D[on], runs.L[on], censored)
        return _hull(found) if part == "hull" else found

    return envelope_of
