"""Training curves with approach 1's envelope; approach 3's law under its runs, and residuals.

After figures 2 and 4 of Hoffmann et al. (2022), left. Each function draws on a given axis.
"""

import numpy as np
from matplotlib.axes import Axes

from chinchilla.fit.result import FitResult
from chinchilla.observations.stretches import rows_of_runs
from chinchilla.observations.table import Observations
from chinchilla.plots.isoflop import L_NAMES, budgets_of, fitted_loss
from chinchilla.plots.style import (
    C_LABEL,
    COLORS,
    D_LABEL,
    GREY,
    L_LABEL,
    MANY_POINTS,
    N_LABEL,
    inner_range,
    log_norm,
    log_scale,
    mark_outside,
    padded,
    power_of_ten,
    sequential,
    short_count,
    size_bar,
)

N_BINS = 240  # points of a line
MANY_LINES = 200  # of N_BINS points each; more are an image in the SVG


def draw_curves(ax: Axes, points: Observations) -> None:
    """Loss against FLOPs of every run, coloured by N, with axes and colour bar.

    The limits leave out losses far above those of the last decade of each run: the start of training
    and runs that diverged.
    """
    norm, colors = log_norm(points.N), sequential()
    shown, late = [], []
    many = min(len(points), N_BINS * points.n_runs) > N_BINS * MANY_LINES
    for rows in rows_of_runs(points.run_id, points.D):
        C, L = binned(points.C[rows], points.L[rows])
        color = colors(norm(points.N[rows][0]))
        ax.plot(C, L, color=color, linewidth=1.0, alpha=0.85, rasterized=many)
        shown.append((C, L))
        late.append(L[C >= C.max() / 10])
    L = np.concatenate(late)
    high = float(np.exp(inner_range(np.log(L))[1]))
    ax.set(xlim=padded(np.concatenate([C[L <= high] for C, L in shown]), 0.03))
    ax.set(ylim=padded(L[L <= high], 0.05))
    ax.set(xlabel=C_LABEL, ylabel=L_NAMES.get(points.loss_kind, "") + L_LABEL)
    log_scale(ax, "x", power_of_ten)
    log_scale(ax, "y", "{:.4g}".format)
    size_bar(ax, points.N)


def binned(x: np.ndarray, y: np.ndarray, n: int = N_BINS) -> tuple[np.ndarray, np.ndarray]:
    """Means of y in n log-spaced bins of ascending x, for less noise and smaller files."""
    finite = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
    x, y = x[finite], y[finite]
    if len(x) <= n:
        return x, y
    log_x = np.log(x)
    starts = np.searchsorted(log_x, np.linspace(log_x[0], log_x[-1], n + 1)[:-1])
    starts = starts[np.diff(starts, append=len(x)) > 0]  # of bins that are not empty
    size = np.diff(starts, append=len(x))
    return np.exp(np.add.reduceat(log_x, starts) / size), np.add.reduceat(y, starts) / size


def draw_envelope(ax: Axes, envelope: FitResult) -> None:
    """Approach 1's envelope: the lowest loss at each C."""
    found = {key: np.asarray(x) for key, x in envelope.details["envelope"].items()}
    C, L, censored = found["C"], found["L"], found["censored"]
    label = "lowest loss at each C (approach 1's envelope)"
    ax.plot(C[~censored], L[~censored], ".", color="black", markersize=3.5, label=label)
    if censored.any():
        label = "envelope at an edge of the sizes tried: not in the fit"
        ax.plot(C[censored], L[censored], ".", color="#9ca3af", markersize=3.5, label=label)


def draw_surface(ax: Axes, result: FitResult, finals: Observations) -> None:
    """Contours of the law L(N, D) with the runs, and the efficient frontier."""
    law = result.law
    assert law is not None
    D_range, N_range = padded(finals.D, 0.12), padded(finals.N, 0.12)
    D, N = np.meshgrid(np.geomspace(*D_range, 120), np.geomspace(*N_range, 120))
    L = law(N, D)
    # Levels from the losses of the runs: corners without runs may have far larger losses.
    levels = np.unique(np.quantile(law(finals.N, finals.D), np.linspace(0.02, 0.98, 10)))
    shades = sequential()(np.linspace(0, 1, len(levels)))
    contours = ax.contour(D, N, L, levels=levels, colors=shades, linewidths=1.1)
    for beyond, width, label in ((10, 0.9, None), (1, 2.2, "efficient frontier")):
        C = np.array([finals.C.min() / beyond, finals.C.max() * beyond])
        line = (result.D_opt(C), result.N_opt(C))
        ax.plot(*line, color=COLORS["parametric"], linewidth=width, label=label)
    many = len(finals) > MANY_POINTS
    ax.plot(finals.D, finals.N, "o", color="black", markersize=4, label="runs", rasterized=many)
    ax.set(xlim=D_range, ylim=N_range, xlabel=D_LABEL, ylabel=N_LABEL)
    ax.set_title("Contours of $L(N, D)$, nats/token")
    log_scale(ax, "x")
    log_scale(ax, "y")
    ax.clabel(contours, fontsize=8, fmt="%.2f", inline_spacing=3)


def draw_law_residuals(ax: Axes, result: FitResult, finals: Observations) -> None:
    """Measured losses minus the law against C, coloured by N."""
    assert result.law is not None
    residual = finals.L - result.law(finals.N, finals.D)
    _draw_residuals(ax, finals.C, residual, finals.N, N_LABEL)
    ax.set(xlabel=C_LABEL, ylabel="measured − law, nats/token")
    log_scale(ax, "x", power_of_ten)


def draw_profile_residuals(ax: Axes, result: FitResult) -> None:
    """Losses minus the fitted shape of their budget against N / N_opt, coloured by the budget."""
    budgets = [b for b in budgets_of(result, None) if not b["refused"]]
    ratio = np.concatenate([b["N"] / b["N_opt"] for b in budgets])
    residual = np.concatenate([b["L"] - fitted_loss(b, b["N"]) for b in budgets])
    budget = np.concatenate([np.full(len(b["N"]), b["budget_flops"]) for b in budgets])
    _draw_residuals(ax, ratio, residual, budget, "budget, FLOPs")
    ax.set(xlabel="$N\\,/\\,N_{opt}$ of the budget", ylabel="measured − profile, nats/token")
    log_scale(ax, "x", "{:.4g}".format)


def draw_envelope_residuals(ax: Axes, result: FitResult) -> None:
    """ln of the sizes on the envelope over N_opt(C), against C."""
    C, N = np.array([[p.C, p.N] for p in result.points]).T
    _draw_residuals(ax, C, np.log(N / result.N_opt(C)), N, N_LABEL)
    ax.set(xlabel=C_LABEL, ylabel="$\\ln(N\\,/\\,N_{opt}(C))$ on the envelope")
    log_scale(ax, "x", power_of_ten)


def _draw_residuals(
    ax: Axes, x: np.ndarray, residual: np.ndarray, shade: np.ndarray, label: str
) -> None:
    """Residuals against x around zero, coloured by `shade`, within a range that leaves out outliers."""
    ax.axhline(0, color=GREY, linewidth=1)
    ax.scatter(
        x, residual, c=shade, norm=log_norm(shade), cmap=sequential(), s=32, edgecolors="white",
        linewidths=0.5, rasterized=len(x) > MANY_POINTS,
    )  # fmt: skip
    low, high = inner_range(residual)
    inside = np.abs(residual[(residual >= low) & (residual <= high)])
    half_height = 1.15 * max(float(inside.max(initial=0.0)), 1e-6)
    ax.set(xlim=padded(x), ylim=(-half_height, half_height))
    mark_outside(ax, x, residual)
    ax.set_title("Residuals")
    size_bar(ax, shade, label, short_count if label == N_LABEL else power_of_ten)
