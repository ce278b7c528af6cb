"""Approach 1 of Hoffmann et al. (2022), section 3.1: the lower envelope of training curves.

Fixed sizes, each trained to several horizons with a cosine matched to each. Every curve is smoothed
and read as a function of FLOPs; at 1500 log-spaced C the lowest loss over all runs is taken, with
the size N that reached it and the tokens D seen by then. Straight lines in log-log through these.

Stated here because the paper does not: the Gaussian's window is cut at +-window/2 with sigma =
window/4 and renormalised at the ends of a curve; curves are linear in ln C between their points; C
runs over the values at which at least three sizes have a curve, from the C of the cheapest run
upwards (below it every loss is from mid-run, and a few such points far to the left would turn the
line). Where the envelope sits on the smallest or largest size that has a curve at that C, a better
size may lie outside: that C is censored, shown but not fitted.

With a decaying learning rate a loss in mid-run is pessimistic, so the envelope should touch curves
near their ends only: `tail_share` says how far it does (paper, footnote 4: all of it in the last
15%). Without curves an endpoint envelope stands in: the best final loss among runs of about equal C
(bins of a factor 1.25), where no cheaper bin has a better one.
NumPy only: this module must import without torch.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from chinchilla.errors import FitError
from chinchilla.fit import bootstrap
from chinchilla.fit.frontier import Frontier, OptimalPoint, conventions, line
from chinchilla.observations import Observations

MIN_SIZES = 3  # distinct sizes on the uncensored envelope
TAIL = 0.85  # a point is in its run's tail after this share of the run's FLOPs
MIN_TAIL_SHARE = 0.85  # warn below this share of envelope points in tails
MAX_WINDOW_SHARE = 0.05  # a smoothing window is never longer than this share of its curve
ENDPOINT_BIN = 1.25  # runs within this factor of C compete in the endpoint envelope
MAX_POINTS = 200  # envelope points kept for the figure


@dataclass(frozen=True)
class _Curves:
    """All runs on one grid of C, so that a resample of runs is a masked minimum."""

    C: np.ndarray  # (g,) FLOPs, rising
    L: np.ndarray  # (r, g) loss of run r at C; inf where it has none
    D: np.ndarray  # (r, g) tokens seen there
    N: np.ndarray  # (r,) parameters
    C_end: np.ndarray  # (r,) FLOPs of the whole run


@dataclass(frozen=True)
class _Envelope:
    C: np.ndarray  # (m,)
    run: np.ndarray  # (m,) index of the run with the lowest loss
    N: np.ndarray  # (m,)
    D: np.ndarray  # (m,)
    L: np.ndarray  # (m,)
    censored: np.ndarray  # (m,) bool: on the smallest or largest size there

    @property
    def thinned(self) -> np.ndarray:
        """Indices of at most MAX_POINTS points, evenly spread: what a figure needs."""
        last = len(self.C) - 1
        return np.unique(np.linspace(0, last, MAX_POINTS).round().astype(int))


def fit_envelope(
    obs: Observations,
    *,
    smooth_steps: float = 10.0,
    envelope_points: int = 1_500,
    n_bootstrap: int = 400,
    seed: int = 0,
) -> Frontier:
    """Approach 1: lines through the lower envelope of the training curves.

    Args:
        obs: points along curves; with one point per run, the endpoint envelope is taken, which is
            weaker and labelled so.
        smooth_steps: Gaussian window in points of a curve (the paper: 10 steps); at most a
            twentieth of the curve. Held-out losses are not smoothed.
        envelope_points: log-spaced FLOP values.
        n_bootstrap: resamples of whole runs; 0 for no interval.
        seed: of the resampling.

    Returns:
        A Frontier with details["envelope"] (C, N, D, L, censored; thinned for the figure),
        details["tail_share"], and the refusals of runs that could not be read as curves.

    Raises:
        FitError: fewer than three sizes on the uncensored envelope.
    """
    sizes = len(np.unique(obs.N))
    if sizes < MIN_SIZES:
        raise FitError(
            f"approach 1 needs {MIN_SIZES} model sizes and these runs have {sizes}. Add sizes with "
            "grid.horizon_models."
        )
    endpoints_only = not obs.has_curves
    window = 0.0 if endpoints_only or obs.loss_kind == "heldout" else smooth_steps
    refusals: list[str] = []
    if endpoints_only:
        n_runs = len(obs)

        def envelope_of(keep: np.ndarray) -> _Envelope:
            return _endpoint_envelope(obs, keep)

    else:
        curves, refusals = _read_curves(obs, window, envelope_points)
        n_runs = len(curves.N)

        def envelope_of(keep: np.ndarray) -> _Envelope:
            return _lowest(curves, keep)

    everything = envelope_of(np.arange(n_runs))
    N_line, D_line = _lines(everything)
    counts = bootstrap.draw_counts(n_runs, n_bootstrap, seed)
    samples = np.full((n_bootstrap, 4), np.nan)
    for i, row in enumerate(counts):
        try:
            samples[i] = np.ravel(_lines(envelope_of(np.flatnonzero(row))))
        except FitError:
            continue
    N_opt, D_opt, bootstrap_counts, warnings = bootstrap.power_laws(N_line, D_line, samples)
    C_end = None if endpoints_only else curves.C_end
    details, more_warnings = _describe(everything, C_end)
    used = np.flatnonzero(~everything.censored[everything.thinned])
    kept = everything.thinned[used]
    rows = zip(*(getattr(everything, name)[kept] for name in ("C", "N", "D", "L")), strict=True)
    return Frontier(
        approach="envelope",
        N_opt=N_opt,
        D_opt=D_opt,
        points=[OptimalPoint(*map(float, row)) for row in rows],
        n_runs=n_runs,
        conventions=conventions(obs),
        settings={
            "endpoints_only": endpoints_only,
            "smooth_steps": window,
            "envelope_points": len(everything.C),
            "interpolation": "none" if endpoints_only else "linear in ln C",
            "n_bootstrap": n_bootstrap,
            "seed": seed,
            "interval": bootstrap.method(n_bootstrap, seed, "envelope taken anew over each"),
        },
        details={**details, "bootstrap": bootstrap_counts},
        refusals=refusals,
        warnings=warnings + more_warnings,
    )


def _describe(envelope: _Envelope, C_end: np.ndarray | None) -> tuple[dict[str, Any], list[str]]:
    """Details and warnings of an envelope; `C_end` is each run's last C, None without curves."""
    used = ~envelope.censored
    details: dict[str, Any] = {
        "censored_share": float(envelope.censored.mean()),
        "sizes_on_envelope": len(np.unique(envelope.N[used])),
        "C_range": [float(envelope.C[used].min()), float(envelope.C[used].max())],
        "envelope": {
            name: getattr(envelope, name)[envelope.thinned].tolist()
            for name in ("C", "N", "D", "L", "censored")
        },
    }
    warnings = []
    if C_end is None:
        warnings.append(
            "an envelope of run ends, not of training curves: weaker than the paper's approach 1. "
            "Give the curves (one row per point, sharing a run_id) for the real one."
        )
    else:
        tail = envelope.C[used] >= TAIL * C_end[envelope.run[used]]
        details["tail_share"] = float(tail.mean())
        if details["tail_share"] < MIN_TAIL_SHARE:
            warnings.append(
                f"only {details['tail_share']:.0%} of the envelope lies in the last "
                f"{1 - TAIL:.0%} of a run (the paper: all): in mid-run the learning rate is still "
                "high and the loss pessimistic. Add horizons between the ones trained."
            )
    if details["censored_share"] > 0:
        warnings.append(
            f"{details['censored_share']:.0%} of the envelope sits on the smallest or largest size "
            "that has a curve at that C and was not fitted: a better size may lie outside."
        )
    return details, warnings


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


def _read_curves(obs: Observations, window: float, n_points: int) -> tuple[_Curves, list[str]]:
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
            + " ".join(refusals[:3])
        )
    spans = np.array([[run.C[0], run.C[-1]] for run in runs])
    low, high = _shared_span(sizes, spans)
    C = np.geomspace(low, high, n_points)
    L, D = np.full((len(runs), n_points), np.inf), np.ones((len(runs), n_points))
    for i, run in enumerate(runs):
        inside = (run.C[0] <= C) & (run.C[-1] >= C)
        at = np.log(C[inside])
        L[i, inside] = np.interp(at, np.log(run.C), smooth(run.L, window))
        D[i, inside] = np.exp(np.interp(at, np.log(run.C), np.log(run.D)))
    return _Curves(C, L, D, sizes, spans[:, 1]), refusals


def _shared_span(sizes: np.ndarray, spans: np.ndarray) -> tuple[float, float]:
    """First and last C at which MIN_SIZES sizes have a curve and some run has ended."""
    edges = np.unique(spans)
    live = [
        len(np.unique(sizes[(spans[:, 0] <= c) & (spans[:, 1] >= c)])) >= MIN_SIZES for c in edges
    ]
    if sum(live) < 2:
        raise FitError(
            f"approach 1: at no C do {MIN_SIZES} sizes have a curve, so none can be seen to be "
            "better than both its neighbours. Train neighbouring sizes over overlapping FLOPs."
        )
    low, high = max(edges[live].min(), spans[:, 1].min()), edges[live].max()
    if low >= high:
        raise FitError(
            f"approach 1: no run has ended where {MIN_SIZES} sizes have a curve. Train neighbouring "
            "sizes over overlapping FLOPs."
        )
    return float(low), float(high)


def _lowest(curves: _Curves, keep: np.ndarray) -> _Envelope:
    """The envelope over the runs in `keep`."""
    order = keep[np.argsort(curves.N[keep], kind="stable")]
    L = curves.L[order]  # (r, g), sizes rising
    live = np.isfinite(L)
    some = live.any(axis=0)
    best = order[L.argmin(axis=0)][some]
    smallest = curves.N[order][live.argmax(axis=0)][some]
    largest = curves.N[order][::-1][live[::-1].argmax(axis=0)][some]
    N = curves.N[best]
    at = np.flatnonzero(some)
    return _Envelope(
        curves.C[some],
        best,
        N,
        curves.D[best, at],
        curves.L[best, at],
        (N == smallest) | (N == largest),
    )


def _endpoint_envelope(runs: Observations, keep: np.ndarray) -> _Envelope:
    """The best run in each bin of C, where no cheaper bin has a better one."""
    bins = np.floor(np.log(runs.C / runs.C.min()) / np.log(ENDPOINT_BIN) + 0.5)[keep]
    order = np.lexsort((runs.L[keep], bins))
    first = np.append(True, np.diff(bins[order]) > 0)
    best = keep[order][first]
    L = runs.L[best]
    on = best[L < np.append(np.inf, np.minimum.accumulate(L)[:-1])]
    N = runs.N[on]
    edge = (runs.N[keep].min(), runs.N[keep].max())
    return _Envelope(runs.C[on], on, N, runs.D[on], runs.L[on], np.isin(N, edge))


def _lines(envelope: _Envelope) -> tuple[tuple[float, float], tuple[float, float]]:
    used = ~envelope.censored
    N, C = envelope.N[used], envelope.C[used]
    if (n := len(np.unique(N))) < MIN_SIZES:
        raise FitError(
            f"approach 1 needs {MIN_SIZES} sizes on the envelope and finds {n}; "
            f"{envelope.censored.mean():.0%} of it was left out for sitting on the smallest or largest "
            "size there. Add sizes on both sides, or train the ones there are for longer."
        )
    return line(C, N), line(C, envelope.D[used])
