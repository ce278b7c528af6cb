"""Training curves as functions of FLOPs on one grid of C, from which approach 1 takes its envelope.

Details that the paper leaves open: the Gaussian's window is cut at +-window/2 with sigma = window/4. Curves are
linear in ln C and start after their last gap of more than a factor 3 in C (often after a first point in
warm-up). C covers the values at which at least three sizes have a curve. Where learning rates decay
(schedule="matched") it starts at the C of the cheapest run, because below it every loss is from mid-run.

The runs of one budget end at C values that differ by up to one step. Beyond the second longest end the
longest run would be alone and have the lowest loss there, whatever its size. Each curve is therefore extended
to the last of the ends that belong together (`common_ends`), by the slope of its loss in ln C over its last
15%.
"""

from dataclasses import dataclass

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.fit.numerics import fit_line
from chinchilla.observations.stretches import rows_of_runs, six_digits
from chinchilla.observations.table import Observations

N_POINTS = 1_500  # log-spaced values of C, as in the paper
WINDOW = 10.0  # points of a curve, full width of the smoothing: the paper's 10 steps
MIN_SIZES = 3  # distinct sizes with a curve at a C, and on the uncensored envelope
MAX_WINDOW_SHARE = 0.05  # a smoothing window is never longer than this share of its curve
TAIL = 0.85  # a point is in its run's tail after this share of the run's FLOPs
MAX_GAP = 3.0  # factor in C between points of one curve; on L = 1.7 + .5*D^-.3 the line is .007 off
SAME_END = 1.02  # ends within this factor of C count as one C
SAME_BUDGET = 1.1  # the same for runs of one budget_flops; a run that ends earlier is incomplete


@dataclass(frozen=True)
class Curves:
    """All runs on one grid of C."""

    C: np.ndarray  # (g,) FLOPs, ascending
    L: np.ndarray  # (r, g) loss of each run at C; inf outside its curve
    D: np.ndarray  # (r, g) tokens seen at C
    N: np.ndarray  # (r,) parameters
    C_end: np.ndarray  # (r,) FLOPs at the end; equal for runs of one budget
    D_end: np.ndarray  # (r,) tokens of the whole run, as measured
    on: np.ndarray  # (r, 2) first and last index of C on the curve; (g, -1) if none


def smooth(L: np.ndarray) -> np.ndarray:
    """Smooth evenly spaced losses (n,) by a Gaussian over WINDOW points, at most MAX_WINDOW_SHARE of n."""
    half = int(min(WINDOW, MAX_WINDOW_SHARE * len(L)) / 2)
    if half < 1:
        return L
    offsets = np.arange(-half, half + 1)
    kernel = np.exp(-0.5 * (offsets / (half / 2)) ** 2)
    return np.convolve(L, kernel, "same") / np.convolve(np.ones_like(L), kernel, "same")


def read_curves(obs: Observations, schedule: str = "matched") -> tuple[Curves, list[str]]:
    """Smooth every curve, extend it to the end of its budget and interpolate it at common values of C.

    Args:
        obs: points along runs. Validation losses are not smoothed.
        schedule: of the learning rate, matched or constant.

    Returns:
        The curves, and a sentence for each run that could not be used.

    Raises:
        FitError: curves of too few sizes (too_few_sizes), or at no C enough of them (no_overlap).
    """
    runs, refusals = _split(obs)
    sizes = np.array([obs.N[rows][0] for rows in runs])
    if len(np.unique(sizes)) < MIN_SIZES:
        raise FitError(
            f"approach 1 needs curves of {MIN_SIZES} sizes and has {len(np.unique(sizes))}. "
            + " ".join(refusals[:3]),
            "too_few_sizes",
        )
    C_end, D_end, budgets = (
        np.array([column[rows][-1] for rows in runs]) for column in (obs.C, obs.D, obs.budget_flops)
    )
    shared_end = common_ends(C_end, six_digits(budgets))
    spans = np.stack([[obs.C[rows][0] for rows in runs], shared_end], axis=1)
    low, high = _shared_span(sizes, spans, schedule)
    C = np.geomspace(low, high, N_POINTS)
    ln_C = np.log(C)
    L, D = np.full((len(runs), N_POINTS), np.inf), np.ones((len(runs), N_POINTS))
    on = np.tile([N_POINTS, -1], (len(runs), 1))
    for i, rows in enumerate(runs):
        inside = (spans[i, 0] <= C) & (spans[i, 1] >= C)
        if inside.any():
            on[i] = np.flatnonzero(inside)[[0, -1]]
        x, y, z = np.log(obs.C[rows]), obs.L[rows], np.log(obs.D[rows])
        y = y if obs.loss_kind == "validation" else smooth(y)
        if shared_end[i] > C_end[i]:
            beyond = np.log(shared_end[i] / C_end[i])
            x, y, z = (
                np.append(v, v[-1] + slope * beyond)
                for v, slope in ((x, 1.0), (y, _last_slope(x, y)), (z, 1.0))
            )
        L[i, inside] = np.interp(ln_C[inside], x, y)
        D[i, inside] = np.exp(np.interp(ln_C[inside], x, z))
    return Curves(C, L, D, sizes, shared_end, D_end, on), refusals


def _split(obs: Observations) -> tuple[list[slice | np.ndarray], list[str]]:
    """Rows of the usable part of each run in the order of D, and a list of what could not be used."""
    runs, refusals, n_trimmed = [], list[str](), 0
    for rows in rows_of_runs(obs.run_id, obs.D):
        N, C, run_id = obs.N[rows], obs.C[rows], obs.run_id[rows][0]
        if np.any(N != N[0]) or np.any(np.diff(C) <= 0):
            refusals.append(f"run {run_id}: N changes along the curve, or C does not rise with D.")
            continue
        gaps = np.flatnonzero(C[1:] > MAX_GAP * C[:-1])
        if len(gaps):
            n_trimmed += 1
            first = int(gaps[-1]) + 1
            rows = slice(rows.start + first, rows.stop) if isinstance(rows, slice) else rows[first:]
            C = C[first:]
        if len(C) < 2:
            refusals.append(
                f"run {run_id}: fewer than two points after its last gap of over a factor {MAX_GAP:g} in C."
            )
            continue
        runs.append(rows)
    if n_trimmed:
        refusals.append(
            f"{n_trimmed} runs: points before a gap of over a factor {MAX_GAP:g} in C were left out."
        )
    return runs, refusals


def common_ends(C_end: np.ndarray, budget: np.ndarray) -> np.ndarray:
    """Extend the end of each run to the last of the ends that belong together.

    Args:
        C_end: (r,) FLOPs of the whole runs.
        budget: (r,) isoFLOP budget of each (`Observations.budget_labels`), NaN for none.

    Returns:
        (r,) for each run, the largest end that is within a factor SAME_END of its own, or within
        SAME_BUDGET for a run of the same budget.
    """
    ranked = np.sort(C_end)
    last = ranked[np.searchsorted(ranked, SAME_END * C_end, "right") - 1]
    named = np.flatnonzero(np.isfinite(budget))
    if len(named):
        _, group = np.unique(budget[named], return_inverse=True)
        longest = np.zeros(group.max() + 1)
        np.maximum.at(longest, group, C_end[named])
        whole = longest[group] <= SAME_BUDGET * C_end[named]
        last[named] = np.maximum(last[named], np.where(whole, longest[group], 0))
    return last


def _last_slope(x: np.ndarray, y: np.ndarray) -> float:
    """Least-squares slope over the last 15% of C, at least two points; at most 0."""
    tail = np.append(x[:-2] >= x[-1] + np.log(TAIL), [True, True])
    return min(float(fit_line(x[tail], y[tail])[1]), 0.0)


def _shared_span(sizes: np.ndarray, spans: np.ndarray, schedule: str) -> tuple[float, float]:
    """First and last C at which MIN_SIZES sizes have a curve and, for "matched", a run has ended."""
    edges = np.unique(spans)
    n_sizes = np.zeros(len(edges), int)  # with a curve at each edge
    for size in np.unique(sizes):
        first, last = np.sort(spans[sizes == size], axis=0).T
        n_begun = np.searchsorted(first, edges, "right")
        n_sizes += n_begun > np.searchsorted(last, edges, "left")
    live = n_sizes >= MIN_SIZES
    low, high = (edges[live][0], edges[live][-1]) if live.any() else (0.0, 0.0)
    if schedule == "matched":
        low = max(low, spans[:, 1].min())
    if low >= high:
        raise FitError(
            f"approach 1: there is no C at which {MIN_SIZES} sizes have a curve (with decaying learning "
            "rates: no such C beyond the end of the cheapest run), so no size can be compared with both "
            "of its neighbours. Train neighbouring sizes over overlapping FLOPs.",
            "no_overlap",
        )
    return float(low), float(high)
