"""Training curves as functions of FLOPs, on one grid of C: what approach 1 takes its envelope of.

Stated here because the paper does not: the Gaussian's window is cut at +-window/2 with sigma =
window/4 and renormalised at the ends of a curve; curves are linear in ln C between their points; C
runs over the values at which at least three sizes have a curve, from the C of the cheapest run
upwards (below it every loss is from mid-run, and a few such points far to the left would turn the
line). NumPy only.
"""

from dataclasses import dataclass

import numpy as np

from chinchilla.errors import FitError
from chinchilla.observations import Observations

MIN_SIZES = 3  # distinct sizes with a curve at a C, and on the uncensored envelope
MAX_WINDOW_SHARE = 0.05  # a smoothing window is never longer than this share of its curve


@dataclass(frozen=True)
class Curves:
    """All runs on one grid of C, so that a resample of runs is a masked minimum."""

    C: np.ndarray  # (g,) FLOPs, rising
    L: np.ndarray  # (r, g) loss of run r at C; inf where it has none
    D: np.ndarray  # (r, g) tokens seen there
    N: np.ndarray  # (r,) parameters
    C_end: np.ndarray  # (r,) FLOPs of the whole run
    on: np.ndarray  # (r, 2) first and last index of C at which it has a curve; (g, -1) for none


def smooth(L: np.ndarray, window: float) -> np.ndarray:
    """Gaussian mean of a curve over `window` points, renormalised at its ends.

    Args:
        L: (n,) losses, evenly spaced.
        window: full width in points; sigma is a quarter of it. At most MAX_WINDOW_SHARE of n.
    """
    half = int(min(window, MAX_WINDOW_SHARE * len(L)) / 2)
    if half < 1:
        return L
    offsets = np.arange(-half, half + 1)
    kernel = np.exp(-0.5 * (offsets / (half / 2)) ** 2)
    return np.convolve(L, kernel, "same") / np.convolve(np.ones_like(L), kernel, "same")


def read_curves(obs: Observations, window: float, n_points: int) -> tuple[Curves, list[str]]:
    """Smooth every curve and read it at common values of C."""
    runs, refusals = [], []
    order = np.lexsort((obs.D, obs.run_id))
    starts = np.flatnonzero(obs.run_id[order][1:] != obs.run_id[order][:-1]) + 1
    for rows in np.split(order, starts):
        run, run_id = obs.where(rows), obs.run_id[rows[0]]
        if len(run) < 2:
            refusals.append(f"run {run_id}: one point is no curve.")
        elif len(np.unique(run.N)) > 1 or np.any(np.diff(run.C) <= 0):
            refusals.append(f"run {run_id}: N changes along the curve, or C does not rise with D.")
        else:
            runs.append(run)
    sizes = np.array([run.N[0] for run in runs])
    if len(np.unique(sizes)) < MIN_SIZES:
        raise FitError(
            f"approach 1 needs curves of {MIN_SIZES} sizes and has {len(np.unique(sizes))}. "
            + " ".join(refusals[:3]),
            "too_few_sizes",
        )
    spans = np.array([[run.C[0], run.C[-1]] for run in runs])
    low, high = _shared_span(sizes, spans)
    C = np.geomspace(low, high, n_points)
    L, D = np.full((len(runs), n_points), np.inf), np.ones((len(runs), n_points))
    on = np.tile([n_points, -1], (len(runs), 1))
    for i, run in enumerate(runs):
        inside = (run.C[0] <= C) & (run.C[-1] >= C)
        if inside.any():
            on[i] = np.flatnonzero(inside)[[0, -1]]
        at = np.log(C[inside])
        L[i, inside] = np.interp(at, np.log(run.C), smooth(run.L, window))
        D[i, inside] = np.exp(np.interp(at, np.log(run.C), np.log(run.D)))
    return Curves(C, L, D, sizes, spans[:, 1], on), refusals


def _shared_span(sizes: np.ndarray, spans: np.ndarray) -> tuple[float, float]:
    """First and last C at which MIN_SIZES sizes have a curve and some run has ended."""
    edges = np.unique(spans)
    live = [
        len(np.unique(sizes[(spans[:, 0] <= c) & (spans[:, 1] >= c)])) >= MIN_SIZES for c in edges
    ]
    if sum(live) < 2:
        raise FitError(
            f"approach 1: at no C do {MIN_SIZES} sizes have a curve, so none can be seen to be "
            "better than both its neighbours. Train neighbouring sizes over overlapping FLOPs.",
            "no_overlap",
        )
    low, high = max(edges[live].min(), spans[:, 1].min()), edges[live].max()
    if low >= high:
        raise FitError(
            f"approach 1: no run has ended where {MIN_SIZES} sizes have a curve. Train neighbouring "
            "sizes over overlapping FLOPs.",
            "no_overlap",
        )
    return float(low), float(high)
