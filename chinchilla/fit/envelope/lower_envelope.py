"""Lower envelopes: at each C the lowest loss over runs, with the size and tokens that reached it.

Either of training curves (`curve_envelopes`) or, for runs without curves, of their final losses
(`endpoint_envelopes`). Points where a better size may lie outside the sizes tried are censored, see
`approach1`. An envelope never rises with C: C where every curve lies above a loss that was reached with fewer
FLOPs is left out, as just beyond the end of a budget whose runs were the best.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.fit.envelope.curves import MIN_SIZES, Curves
from chinchilla.fit.numerics import fit_line
from chinchilla.fit.parametric.solver import check_ratios
from chinchilla.observations.table import Observations

ENDPOINT_BIN = 1.25  # runs within this factor of C compete in the endpoint envelope
MAX_POINTS = 200  # envelope points stored for the figure
RANKS = 12  # best runs stored at each C; a resample contains none of them once in 200,000 C


class Envelope(NamedTuple):
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
        return Envelope(*(column[keep] for column in self))


def curve_envelopes(curves: Curves) -> Callable[[np.ndarray], Envelope]:
    """Return a function from indices of runs to the envelope of their curves."""
    L, ranks = curves.L, np.argsort(curves.L, axis=0, kind="stable")[:RANKS]

    def envelope_of(keep: np.ndarray) -> Envelope:
        in_sample = np.zeros(len(curves.N), bool)
        in_sample[keep] = True
        ranked = in_sample[ranks]  # (RANKS, g)
        best = np.take_along_axis(ranks, ranked.argmax(axis=0)[None], axis=0)[0]
        missed = np.flatnonzero(~ranked.any(axis=0))
        best[missed] = keep[L[np.ix_(keep, missed)].argmin(axis=0)]
        lowest = L[best, np.arange(len(best))]
        at = np.flatnonzero(lowest < np.append(np.inf, np.minimum.accumulate(lowest)[:-1]))
        run = best[at]
        N = curves.N[run]
        censored = _censored(at, N, curves, keep)
        return Envelope(curves.C[at], run, N, curves.D[run, at], lowest[at], censored)

    return envelope_of


def _censored(at: np.ndarray, N: np.ndarray, curves: Curves, keep: np.ndarray) -> np.ndarray:
    """(m,) bool: where a better size than N may lie outside those of the runs `keep`, at C[at].

    These are all points up to the last win of the smallest size, all from the first win of the largest,
    and all up to the last win of a size while no larger one has a curve yet.
    """
    first, last = curves.on[keep].T
    some, shape = last >= 0, len(curves.C)
    sizes = curves.N[keep][some]
    # (g,) smallest and largest size with a curve at C or below, and largest with one at C or above.
    smallest, started, largest = np.full(shape, np.inf), np.zeros(shape), np.zeros(shape)
    np.minimum.at(smallest, first[some], sizes)
    np.maximum.at(started, first[some], sizes)
    np.maximum.at(largest, last[some], sizes)
    smallest, started = np.minimum.accumulate(smallest)[at], np.maximum.accumulate(started)[at]
    largest = np.maximum.accumulate(largest[::-1])[::-1][at]
    high = np.flatnonzero(N >= largest)
    end = high[0] if len(high) else len(at)
    low = np.flatnonzero((N <= smallest) | (N >= started))
    low = low[(low < end) | (N[low] <= smallest[low])]
    start = low[-1] + 1 if len(low) else 0
    i = np.arange(len(at))
    censored: np.ndarray = (i < start) | (i >= end)
    return censored


def check_competition(runs: Observations) -> None:
    """Refuse final losses with too few sizes at each C, where a line follows the plan of the sweep.

    On grids of sizes and D/N it is far from the line of the law (tests).
    """
    check_ratios(runs.N, runs.D, "approach 1 without curves")
    _, index = np.unique(_bins(runs), return_inverse=True)
    sizes = np.array([len(np.unique(runs.N[index == i])) for i in range(index.max() + 1)])
    if (n := float(sizes[index].mean())) < MIN_SIZES:
        raise FitError(
            "approach 1 without curves compares sizes at equal C, but on average only "
            f"{n - 1:.1f} other sizes lie within a factor {ENDPOINT_BIN} of a run's C: the line would "
            "follow the planned sizes and not the optimum. Give the curves, or "
            f"train {MIN_SIZES} sizes or more at each C.",
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


def envelope_lines(
    envelope: Envelope, has_curves: bool
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Fit lines of ln N_opt and ln D_opt over ln C.

    Args:
        envelope: lowest losses; censored points are left out.
        has_curves: whether the envelope is a staircase, whose steps' mid-points are fitted, or consists
            of single runs, which are fitted themselves.

    Returns:
        (ln coefficient, exponent) of N_opt, and of D_opt.

    Raises:
        FitError: too few sizes on the uncensored envelope (too_few_sizes).
    """
    used = ~envelope.censored
    if (n := len(set(envelope.N[used].tolist()))) < MIN_SIZES:
        share = envelope.censored.mean()
        left_out = f"; {share:.0%} of it was left out, because a better size may lie outside"
        raise FitError(
            f"approach 1 needs {MIN_SIZES} sizes on the envelope and finds "
            f"{n}{left_out if share else ''}. Train sizes on both sides, or the existing ones for "
            "longer.",
            "too_few_sizes",
        )
    logs = np.log([envelope.C, envelope.N, envelope.D])
    if has_curves:
        i = np.flatnonzero(np.diff(envelope.N) != 0)
        i = i[~(envelope.censored[i] & envelope.censored[i + 1])]
        x, y, z = (logs[:, i] + logs[:, i + 1]) / 2
        at = np.linspace(x[0], x[-1], len(envelope.C))
        logs = np.stack([at, np.interp(at, x, y), np.interp(at, x, z)])
    else:
        logs = logs[:, used]
    log_k, exponent = fit_line(logs[0], logs[1:])
    return (float(log_k[0]), float(exponent[0])), (float(log_k[1]), float(exponent[1]))
