"""N_opt and D_opt against C: points, line and 80% band of each approach, and the recommended answer.

After figure A3 of Hoffmann et al. (2022). Each function draws on a given axis.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from chinchilla.config.fit import APPROACHES
from chinchilla.core.errors import Refusal
from chinchilla.core.units import count
from chinchilla.fit.result import FitResult, approach_label
from chinchilla.fit.results import FitResults
from chinchilla.plots.style import (
    C_LABEL,
    COLORS,
    D_LABEL,
    MARKERS,
    N_LABEL,
    legend_inside,
    log_scale,
    padded,
    power_of_ten,
)
from chinchilla.recommend.evaluate import default_budget, recommendation

# line widths inside the range of the runs and beyond it; the widest is drawn first
LINES = {"parametric": (5.6, 1.4), "envelope": (4.0, 1.0), "isoflop": (2.6, 0.7)}
N_BUDGETS = 16  # budgets at which the recommended answer is evaluated for its band
BEYOND = 15.0  # the panel ends at so many times the largest C


def budgets_shown(fitted: Mapping[str, FitResult]) -> tuple[np.ndarray, float, float]:
    """C along the panel, and the smallest and largest C of the points of at least one approach."""
    covered = [p.C for f in fitted.values() for p in f.points]
    low, high = min(covered), max(covered)
    return np.geomspace(low / 2, high * BEYOND, 200), low, high


def draw_optima(
    ax: Axes, fitted: Mapping[str, FitResult], quantity: str, labels: Mapping[str, str]
) -> None:
    """Lines, bands and points of N or D of every approach; `labels` are those of the legend."""
    grid = budgets_shown(fitted)[0]
    for approach in APPROACHES:
        f = fitted.get(approach)
        if f is None:
            if approach in labels:
                ax.plot([], [], " ", label=f"{labels[approach]}: no answer")
            continue
        color, law = COLORS[approach], f.N_opt if quantity == "N" else f.D_opt
        (width, thin), zorder = LINES[approach], 2.1 + 0.1 * list(LINES).index(approach)
        C, y = np.array([(p.C, getattr(p, quantity)) for p in f.points]).T
        inside = np.geomspace(C.min(), C.max(), 20)
        ax.fill_between(grid, *law.band(grid), color=color, alpha=0.15, linewidth=0)
        ax.plot(grid, law(grid), color=color, linewidth=thin, zorder=zorder)
        ax.plot(
            inside, law(inside), color=color, linewidth=width, solid_capstyle="butt", zorder=zorder
        )
        own = approach != "parametric"  # its points are computed from the law, not measured
        style: dict[str, Any] = {"color": color, "markeredgecolor": "white"}
        ax.plot(
            [], [], marker=MARKERS[approach] if own else "", linewidth=width, markersize=8,
            markeredgewidth=0.5, label=labels[approach], **style,
        )  # fmt: skip
        if own:
            some = slice(None, None, max(1, len(C) // 40))
            ax.plot(
                C[some], y[some], MARKERS[approach], markersize=7 if len(C) <= 20 else 4.5,
                markeredgewidth=0.5, zorder=4, **style,
            )  # fmt: skip


def exponents_inside(ax: Axes, fitted: Mapping[str, FitResult], quantity: str) -> None:
    """The exponent and its 80% interval of each approach, inside the panel."""
    name = "a" if quantity == "N" else "b"
    lines, texts = [], []
    for approach, f in fitted.items():
        lines.append(Line2D([], [], color=COLORS[approach], linewidth=3))
        texts.append(f"${name}$ = {(f.N_opt if quantity == 'N' else f.D_opt).exponent_text}")
    legend_inside(ax, f"exponent ${name}$ [80% interval]", (lines, texts), "upper left")


def finish(ax: Axes, fitted: Mapping[str, FitResult], quantity: str) -> None:
    """Limits around the lines, labels, and shading outside of the range of the runs."""
    grid, low, high = budgets_shown(fitted)
    for beyond in ((grid[0], low), (high, grid[-1])):
        shade = ax.axvspan(*beyond, color="#f0f1f4", zorder=0, linewidth=0)
    shade.set_label("beyond the runs")
    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.get_lines()])
    ax.set(xlim=(grid[0], grid[-1]), ylim=padded(drawn, 0.03))
    ax.set(xlabel=C_LABEL, ylabel=N_LABEL if quantity == "N" else D_LABEL)
    ax.set_title("Parameters, $N_{opt}$" if quantity == "N" else "Tokens, $D_{opt}$")
    log_scale(ax, "x", power_of_ten)
    log_scale(ax, "y")


def draw_recommended(ax: Axes, fits: FitResults, quantity: str) -> None:
    """The recommended line with its 80% band, and the answer at ten times the largest C."""
    grid = budgets_shown(fits.fitted)[0]
    budgets = np.geomspace(grid[0], grid[-1], N_BUDGETS)
    try:
        answers = [recommendation(fits, float(C)) for C in budgets]
        answer = recommendation(fits, default_budget(fits))
        name = "a" if quantity == "N" else "b"
        value = fits.a if quantity == "N" else fits.b
    except Refusal:
        return
    y = np.array([getattr(r, quantity) for r in answers], float)
    low, high = np.array([getattr(r, f"{quantity}_interval80") for r in answers], float).T
    at, ends = getattr(answer, quantity), getattr(answer, f"{quantity}_interval80")
    ax.fill_between(
        budgets, low, high, facecolor="none", edgecolor="#9ca3af", hatch="///", linewidth=0,
        zorder=1.5, label="recommended, 80% interval",
    )  # fmt: skip
    ax.plot(
        budgets, y, color="black", linewidth=1.2, linestyle="--", zorder=3,
        label=f"recommended, {approach_label(answer.approach)}: ${name}$ = {value:.3f}",
    )  # fmt: skip
    label = (
        f"{quantity} = {count(at)} ({count(ends[0])}-{count(ends[1])}) at {power_of_ten(answer.C)}"
    )
    ax.plot([answer.C] * 2, ends, color="black", marker="_", markersize=6, zorder=6)
    ax.plot(answer.C, at, "*", color="black", markersize=12, zorder=6, label=label)
