"""Which runs of a budget an IsoFLOP profile is fitted to: a window around the lowest loss, less outliers.

A parabola or the shape of the loss law describes a profile near its minimum. Far from it real sweeps
follow neither: at .01 tokens per parameter, or with warm-up longer than the run, the loss is several
times further from the minimum than the curve allows, and least squares moves the minimum to
accommodate those runs. So a profile uses the sizes within a window of the lowest measured loss.

The window is chosen from the data, once for all budgets: the widest of WIDTHS whose scatter about the
fitted parabolas is at most GROWTH times that of the narrowest, by the median and by the root mean
square (`choose_width`). On sweeps that follow the law it is
the widest in nine of ten; on profiles that reach far into the data-starved range it is the narrowest.
On ten published RefinedWeb sweeps (Porian et al. 2024) every exponent then lies within .03 of the
published one; with all sizes, five of ten do (docs/fitting.md).

Outliers inside the windows are runs whose studentized residual exceeds MAX_RESIDUAL robust standard
deviations, pooled over budgets, and MIN_MISS of the loss. They are excluded one at a time, the window
moves with the lowest loss that remains, and each is reported with the minimum it would have given.
NumPy only: this module must import without torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chinchilla.observations.table import Observations

WIDTHS = (1.3, 1.6, 2.0)  # in ln N, either way of the lowest loss: factors of 3.7, 5.0 and 7.4
GROWTH = 1.4  # scatter in a wider window over that in the narrowest, above which it is rejected
FLOOR = 2e-3  # of the loss: scatter below this is no evidence against a window
MAX_C_RATIO = 1.3  # of C inside a budget; the paper's points are within 10% either way
MIN_SIZES = 5  # sizes that a window holds where the budget has them
MIN_SIDE = 2  # of them on each side of the lowest loss
MAX_RESIDUAL = 6.0  # robust standard deviations of an outlier
MIN_MISS = 5e-3  # of the loss: a run nearer than this to its profile is no outlier
MAX_EXCLUDED = 0.2  # share of a budget's runs: more outliers than that are not single failures


@dataclass(frozen=True)
class Window:
    """The sizes used: `width` in ln N either way of each budget's lowest loss; None for all sizes.

    `scatter` holds, for each width tried, the robust standard deviation of the residuals over the
    loss; `outliers` the runs that were excluded, one record each.
    """

    width: float | None
    keep: np.ndarray  # (n,) bool: rows of the observations that profiles are fitted to
    scatter: dict[float, float] = field(default_factory=dict)
    outliers: list[dict[str, Any]] = field(default_factory=list)

    def record(self, obs: Observations) -> dict[str, Any]:
        """For frontier.json: width in ln N and as a factor, scatter by width, runs left out."""
        left_out = ~self.keep
        names = [o["run_id"] for o in self.outliers]
        left_out &= ~np.isin(obs.run_id, names)
        return {
            "width": self.width,
            "factor": None if self.width is None else float(np.exp(self.width)),
            "scatter": [{"width": w, "of_loss": s} for w, s in self.scatter.items()],
            "n_outside": int(left_out.sum()),
            "outliers": self.outliers,
        }


def find_window(obs: Observations, window: str) -> Window:
    """The runs of every budget that approach 2 is fitted to.

    Args:
        obs: (n,) final losses; every run names a budget.
        window: "auto", "all", or a width in ln N as text.
    """
    if window == "all":
        return Window(None, np.ones(len(obs), bool))
    labels = obs.budget_labels
    rows = [np.flatnonzero(labels == b) for b in np.unique(labels)]
    scatter: dict[float, float] = {}
    if window == "auto":
        width, scatter = choose_width(obs, rows)
    else:
        width = float(window)
    keep, outliers = _select(obs, rows, width)
    return Window(width, keep, scatter, outliers)


def near_lowest(x: np.ndarray, L: np.ndarray, width: float) -> np.ndarray:
    """(n,) bool: sizes within `width` of the lowest loss, widened to MIN_SIZES and MIN_SIDE.

    Args:
        x: (n,) ln N.
        L: (n,) losses.
        width: in ln N.
    """
    at = x[int(np.argmin(L))]
    keep = np.abs(x - at) <= width + 1e-9
    sizes = np.unique(x)
    for side in (sizes[sizes < at][::-1], sizes[sizes > at]):
        for size in side[:MIN_SIDE]:
            keep |= x == size
    by_distance = sizes[np.argsort(np.abs(sizes - at), kind="stable")]
    for size in by_distance:
        if len(np.unique(x[keep])) >= MIN_SIZES:
            break
        keep |= x == size
    return keep


def choose_width(
    obs: Observations, rows: Sequence[np.ndarray], widths: Sequence[float] = WIDTHS
) -> tuple[float, dict[float, float]]:
    """The widest window in which parabolas still describe the profiles, and the scatter in each.

    Args:
        obs: final losses.
        rows: the rows of each budget.
        widths: in ln N, rising.
    """
    sizes = {w: _sizes(obs, rows, w) for w in widths}
    scatter = {w: _robust(r) for w, r in sizes.items()}
    narrow = scatter[widths[0]]
    most = max(MAX_RESIDUAL * narrow, MIN_MISS)  # a single outlier says nothing about the window
    square = {
        w: float(np.sqrt(np.mean(np.minimum(r, most) ** 2))) for w, r in sizes.items() if len(r)
    }
    chosen = widths[0]
    for width in widths[1:]:
        grown = (
            found.get(width, 0.0) / max(found.get(widths[0], 0.0), FLOOR / GROWTH)
            for found in (scatter, square)
        )
        if max(grown) > GROWTH:
            break
        chosen = width
    return chosen, scatter


def _sizes(obs: Observations, rows: Sequence[np.ndarray], width: float) -> np.ndarray:
    """Sizes of the studentized residuals over the loss, of all budgets; empty without any."""
    found = [np.empty(0)]
    for i in rows:
        x, L = np.log(obs.N[i]), obs.L[i]
        keep = near_lowest(x, L, width)
        if (r := _residuals(x[keep], L[keep])) is not None:
            found.append(np.abs(r) / L[keep].min())
    return np.concatenate(found)


def _robust(sizes: np.ndarray) -> float:
    """Standard deviation by the median size; 0 without any."""
    return 1.4826 * float(np.median(sizes)) if len(sizes) else 0.0


def _residuals(x: np.ndarray, L: np.ndarray) -> np.ndarray | None:
    """(n,) residuals of a parabola over sqrt(1 - leverage); None where none can be estimated."""
    if len(np.unique(x)) < MIN_SIZES - 1 or len(x) < MIN_SIZES:
        return None
    X = (x - x.mean())[:, None] ** np.arange(3)
    Q = np.linalg.qr(X)[0]
    leverage = np.minimum((Q**2).sum(axis=1), 0.99)
    residuals: np.ndarray = (L - Q @ (Q.T @ L)) / np.sqrt(1 - leverage)
    return residuals


def _select(
    obs: Observations, rows: Sequence[np.ndarray], width: float
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The rows inside the windows without outliers, and a record of each outlier."""
    keep = np.zeros(len(obs), bool)
    outliers: list[dict[str, Any]] = []
    noise = max(_robust(_sizes(obs, rows, width)), 1e-12)
    for i in rows:
        # No profile at one budget, or no lowest loss: such a budget is refused as a whole.
        if obs.C[i].max() > MAX_C_RATIO * obs.C[i].min() or not np.ptp(obs.L[i]):
            keep[i] = True
            continue
        left = i
        allowed = int(MAX_EXCLUDED * len(i))
        while True:
            x, L = np.log(obs.N[left]), obs.L[left]
            near = near_lowest(x, L, width)
            r = _residuals(x[near], L[near])
            if r is None or not allowed:
                break
            size = np.abs(r) / float(np.median(L[near]))
            worst = int(size.argmax())
            if size[worst] <= max(MAX_RESIDUAL * noise, MIN_MISS):
                break
            row = int(left[np.flatnonzero(near)[worst]])
            outliers.append(
                {
                    "run_id": str(obs.run_id[row]),
                    "budget_flops": float(obs.budget_flops[row]),
                    "N": float(obs.N[row]),
                    "L": float(obs.L[row]),
                    "residual_sd": float(size[worst] / noise),
                }
            )
            left = left[left != row]
            allowed -= 1
        keep[left[near]] = True
    return keep, outliers
