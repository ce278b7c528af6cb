"""Selection of the runs for an IsoFLOP profile: a window around the lowest loss, without outliers.

A parabola or the shape of the loss law describes a profile near its minimum. Far from it real sweeps
deviate from both, as at .01 tokens per parameter, or with warm-up longer than the run.

The window is chosen from the data, once for all budgets: the widest of WIDTHS whose scatter about the
fitted parabolas is at most GROWTH times that of the narrowest, by the median and by the root mean
square. With this window, the exponents of all ten published RefinedWeb sweeps (Porian et al. 2024) are
within .03 of the published values; with all sizes, those of five are (docs/fitting.md).

Outliers inside the windows are runs whose studentized residual exceeds MAX_RESIDUAL robust standard
deviations, pooled over budgets, and MIN_MISS of the loss. They are excluded one at a time, and
after each the window is placed around the lowest remaining loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chinchilla.fit.numerics import quadratic_columns
from chinchilla.observations.table import Observations

WIDTHS = (1.3, 1.6, 2.0)  # in ln N on each side of the lowest loss: factors of 3.7, 5.0 and 7.4
GROWTH = 1.4  # scatter in a wider window over that in the narrowest, above which it is rejected
FLOOR = 2e-3  # of the loss: scatter below this does not reject a window
MAX_C_RATIO = 1.3  # largest over smallest C of a budget; the paper's points are within +-10%
MIN_SIZES = 5  # sizes in a window, if the budget has them
MIN_SIDE = 2  # of them on each side of the lowest loss
MAX_RESIDUAL = 6.0  # robust standard deviations of an outlier
MIN_MISS = 5e-3  # of the loss: a run closer than this to its profile is not an outlier
MAX_EXCLUDED = 0.2  # share of a budget's runs that may be excluded as outliers


@dataclass(frozen=True)
class Window:
    """The runs used: `width` in ln N on each side of each budget's lowest loss; None for all sizes."""

    width: float | None
    keep: np.ndarray  # (n,) bool: runs that profiles are fitted to
    outliers: np.ndarray  # (n,) bool: runs excluded as outliers


def find_window(obs: Observations, window: str) -> Window:
    """Select the runs of every budget that approach 2 is fitted to.

    Args:
        obs: (n,) final losses; every run has a budget.
        window: "auto" or "all".
    """
    none = np.zeros(len(obs), bool)
    if window == "all":
        return Window(None, ~none, none)
    labels = obs.budget_labels
    rows = [np.flatnonzero(labels == b) for b in np.unique(labels)]
    width = _choose_width(obs, rows)
    return Window(width, *_select(obs, rows, width))


def near_lowest(x: np.ndarray, L: np.ndarray, width: float) -> np.ndarray:
    """Mask of sizes within `width` of the lowest loss, widened to MIN_SIZES and MIN_SIDE.

    Args:
        x: (n,) ln N.
        L: (n,) losses.
        width: in ln N.
    """
    at = x[int(np.argmin(L))]
    keep = np.abs(x - at) <= width + 1e-9
    sizes = np.unique(x)
    for side in (sizes[sizes < at][::-1], sizes[sizes > at]):
        keep |= np.isin(x, side[:MIN_SIDE])
    for size in sizes[np.argsort(np.abs(sizes - at), kind="stable")]:
        if len(np.unique(x[keep])) >= MIN_SIZES:
            break
        keep |= x == size
    return keep


def _choose_width(obs: Observations, rows: Sequence[np.ndarray]) -> float:
    """The widest of WIDTHS in which parabolas describe the profiles of the budgets at `rows`."""
    residuals = {w: _absolute_residuals(obs, rows, w) for w in WIDTHS}
    scatter = {w: _robust(r) for w, r in residuals.items()}
    limit = max(MAX_RESIDUAL * scatter[WIDTHS[0]], MIN_MISS)  # bounds the effect of single outliers
    rms = {
        w: float(np.sqrt(np.mean(np.minimum(r, limit) ** 2))) if len(r) else 0.0
        for w, r in residuals.items()
    }
    chosen = WIDTHS[0]
    for width in WIDTHS[1:]:
        growth = [x[width] / max(x[WIDTHS[0]], FLOOR / GROWTH) for x in (scatter, rms)]
        if max(growth) > GROWTH:
            break
        chosen = width
    return chosen


def _absolute_residuals(obs: Observations, rows: Sequence[np.ndarray], width: float) -> np.ndarray:
    """Absolute studentized residuals of all budgets, over the lowest loss; empty without any."""
    parts = [np.empty(0)]
    for i in rows:
        x, L = np.log(obs.N[i]), obs.L[i]
        keep = near_lowest(x, L, width)
        if (r := _residuals(x[keep], L[keep])) is not None:
            parts.append(np.abs(r) / L[keep].min())
    return np.concatenate(parts)


def _robust(residuals: np.ndarray) -> float:
    """Standard deviation from the median of absolute residuals; 0 without any."""
    return 1.4826 * float(np.median(residuals)) if len(residuals) else 0.0


def _residuals(x: np.ndarray, L: np.ndarray) -> np.ndarray | None:
    """(n,) residuals of a parabola over sqrt(1 - leverage); None with too few sizes."""
    if len(np.unique(x)) < MIN_SIZES - 1 or len(x) < MIN_SIZES:
        return None
    Q = np.linalg.qr(quadratic_columns(x - x.mean()))[0]
    leverage = np.minimum((Q**2).sum(axis=1), 0.99)
    residuals: np.ndarray = (L - Q @ (Q.T @ L)) / np.sqrt(1 - leverage)
    return residuals


def _select(
    obs: Observations, rows: Sequence[np.ndarray], width: float
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) masks of the runs inside the windows without outliers, and of the outliers."""
    keep, outliers = np.zeros(len(obs), bool), np.zeros(len(obs), bool)
    noise = max(_robust(_absolute_residuals(obs, rows, width)), 1e-12)
    for i in rows:
        # Without a single C or a lowest loss, the budget is refused as a whole later.
        if obs.C[i].max() > MAX_C_RATIO * obs.C[i].min() or not np.ptp(obs.L[i]):
            keep[i] = True
            continue
        left = i
        while True:
            x, L = np.log(obs.N[left]), obs.L[left]
            near = near_lowest(x, L, width)
            r = _residuals(x[near], L[near])
            if r is None or len(i) - len(left) >= int(MAX_EXCLUDED * len(i)):
                break
            size = np.abs(r) / float(np.median(L[near]))
            worst = int(size.argmax())
            if size[worst] <= max(MAX_RESIDUAL * noise, MIN_MISS):
                break
            row = left[near][worst]
            outliers[row] = True
            left = left[left != row]
        keep[left[near]] = True
    return keep, outliers
