"""IsoFLOP curves: final losses against N at each budget, the fitted shape and its minimum.

After figure 3 of Hoffmann et al. (2022), left. `draw_on` draws on a given axis; runs that the fit
left out (sizes outside of the window, outliers) have markers of their own. Keys that are missing in
`FitResult.details` make a figure plainer and raise no error.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from chinchilla.fit.result import FitResult
from chinchilla.observations.table import Observations
from chinchilla.plots.style import (
    GREY,
    L_LABEL,
    N_LABEL,
    RED,
    inner_range,
    log_scale,
    mark_outside,
    padded,
    power_of_ten,
    sequential,
)

L_NAMES = {"train": "training ", "validation": "validation "}  # by loss_kind; "" for unknown
REACH = 1.15  # factor by which a curve extends beyond its smallest and largest model
MIN_SPAN = 0.02  # nats per token, smallest height of a panel
STAR: dict[str, Any] = {
    "marker": "*", "color": "black", "markeredgecolor": "white", "markersize": 13, "linestyle": "none",
}  # fmt: skip
STAR_LABEL = "minimum, $N_{opt}$"
LEFT_OUT: dict[str, dict[str, Any]] = {
    "window": {"marker": ".", "color": "#9ca3af", "label": "outside of the window, left out"},
    "outlier": {"marker": "x", "color": RED, "label": "outlier, left out"},
}


def draw_on(
    ax: Axes,
    frontier: FitResult | None,
    finals: Observations | None,
    standard_errors: Mapping[str, float] | None = None,
    labelled: bool = True,
) -> bool:
    """The whole figure except its legend and note: curves, minima, runs left out, axes.

    Args:
        ax: where to draw.
        frontier: approach 2's result; None draws the points alone.
        finals: final losses, for budgets that the result does not describe and runs left out.
        standard_errors: run_id -> standard error of its final loss, drawn as a bar.
        labelled: whether the legend names the budgets.

    Returns:
        Whether there was anything to draw.
    """
    budgets = budgets_of(frontier, finals)
    if not budgets:
        return False
    out = left_out(frontier, finals, budgets)
    colors = shades([b["budget_flops"] for b in budgets])
    draw(ax, budgets, colors, 1.0, standard_errors, labelled)
    ax.set(xlim=size_limits(budgets, out), ylim=loss_limits(budgets, 1.0))
    draw_left_out(ax, out, budgets, 1.0)
    kind = L_NAMES.get(loss_drawn(frontier, finals), "")
    ax.set(xlabel=N_LABEL, ylabel=f"final {kind}{L_LABEL}")
    log_scale(ax, "x")
    return True


def budgets_of(frontier: FitResult | None, finals: Observations | None) -> list[dict[str, Any]]:
    """The budgets of approach 2's details; without these, the runs that name a budget."""
    details = (frontier.details.get("budgets") or []) if frontier else []
    budgets = [b for b in details if len(b["N"])]
    if not budgets and finals is not None:
        named = finals.budget_labels
        groups = [(c, finals.where(named == c)) for c in np.unique(named[~np.isnan(named)])]
        budgets = [
            {"budget_flops": float(c), "N": o.N, "L": o.L, "run_ids": list(o.run_id)}
            for c, o in groups
        ]
    arrays = [
        {**b, "N": np.asarray(b["N"], float), "L": np.asarray(b["L"], float)} for b in budgets
    ]
    return sorted(arrays, key=lambda b: b["budget_flops"])


def left_out(
    frontier: FitResult | None, finals: Observations | None, budgets: Sequence[Mapping[str, Any]]
) -> dict[str, Observations]:
    """The runs of these budgets that approach 2 was not fitted to: "outlier" and "window"."""
    if frontier is None or finals is None or not all("run_ids" in b for b in budgets):
        return {}
    finals = finals.finals()
    used = [run for b in budgets for run in b["run_ids"]]
    out = np.isin(finals.budget_labels, [b["budget_flops"] for b in budgets])
    out &= ~np.isin(finals.run_id, used)
    window = frontier.details.get("window") or {}
    outlier = np.isin(finals.run_id, [str(o["run_id"]) for o in window.get("outliers", [])])
    return {"outlier": finals.where(out & outlier), "window": finals.where(out & ~outlier)}


def loss_drawn(frontier: FitResult | None, finals: Observations | None) -> str:
    """loss_kind of the fit, or else of its runs: train, validation or unknown."""
    kind = frontier.conventions.get("loss_kind", "unknown") if frontier else "unknown"
    return finals.loss_kind if kind == "unknown" and finals is not None else kind


def size_limits(
    budgets: Sequence[Mapping[str, Any]], out: Mapping[str, Observations] | None = None
) -> tuple[float, float]:
    """Limits around every model, including those left out, and the ends of the curves."""
    N = np.concatenate([*(b["N"] for b in budgets), *(o.N for o in (out or {}).values())])
    return padded(np.array([N.min() / REACH, N.max() * REACH]), 0.02)


def loss_limits(budgets: Sequence[Mapping[str, Any]], scale: float) -> tuple[float, float]:
    """Limits around the curves and the losses that are not outliers; curves beyond them are cut off.

    Outliers are losses far above or below the minimum of their budget, relative to those of all budgets
    with a minimum: one run at 5 nats does not flatten curves that are 0.1 deep.
    """
    depths = [b["L"] - (b.get("L_opt") or b["L"].min()) for b in budgets]
    fitted = [d for b, d in zip(budgets, depths, strict=True) if not b.get("refused")]
    low, high = inner_range(np.concatenate(fitted or depths))
    losses = [b["L"][(d >= low) & (d <= high)] for b, d in zip(budgets, depths, strict=True)]
    minima = [b["L_opt"] for b in budgets if b.get("L_opt") and not b.get("refused")]
    L = scale * np.concatenate([*losses, minima])
    curves = [fitted_loss(b, sizes_along(b)) for b in budgets]
    span = max(float(np.ptp(L)), MIN_SPAN)
    shown = np.concatenate([L, *(scale * c for c in curves if c is not None)])
    shown = shown.clip(L.min() - span / 3, L.max() + span / 3)
    return shown.min() - 0.08 * span, shown.max() + 0.04 * span


def sizes_along(budget: Mapping[str, Any]) -> np.ndarray:
    """Sizes at which a budget's curve is drawn."""
    return np.geomspace(budget["N"].min() / REACH, budget["N"].max() * REACH, 200)


def shades(budgets: Sequence[float]) -> dict[float, Any]:
    """A colour for each budget, in their order."""
    colors = sequential()
    return {C: colors(x) for C, x in zip(budgets, np.linspace(0, 1, len(budgets)), strict=True)}


def draw(
    ax: Axes,
    budgets: Sequence[Mapping[str, Any]],
    colors: Mapping[float, Any],
    scale: float,
    standard_errors: Mapping[str, float] | None = None,
    labelled: bool = True,
) -> None:
    """Points, shapes and minima of every budget; losses times `scale`."""
    size = 6 if sum(len(b["N"]) for b in budgets) <= 80 else 4
    minima = []
    for b in budgets:
        color, N, L = colors[b["budget_flops"]], b["N"], scale * b["L"]
        refused = bool(b.get("refused"))
        errors = [scale * (standard_errors or {}).get(str(i), 0.0) for i in b.get("run_ids", [])]
        if len(errors) == len(N) and any(errors):
            ax.errorbar(N, L, errors, fmt="none", ecolor=color, elinewidth=1, capsize=2)
        label = f"{power_of_ten(b['budget_flops'])} FLOPs" + (", refused" if refused else "")
        ax.plot(
            N, L, "o", color=color, markersize=size, label=label if labelled else None,
            markerfacecolor="white" if refused else color,
        )  # fmt: skip
        grid = sizes_along(b)
        curve = fitted_loss(b, grid)
        if curve is not None:
            line = "--" if refused else "-"
            ax.plot(grid, scale * curve, color=color, linewidth=1.4, linestyle=line)
        if b.get("N_opt") and b.get("L_opt") and not refused:
            minima.append((b["N_opt"], scale * b["L_opt"]))
    if minima:
        x, y = zip(*minima, strict=True)
        ax.plot(x, y, color="#374151", linewidth=1, linestyle=":", zorder=2.5)
        ax.plot(x, y, zorder=4, label=STAR_LABEL if labelled else None, **STAR)


def name_budgets(ax: Axes, budgets: Sequence[Mapping[str, Any]]) -> None:
    """Each budget's FLOPs at the left end of its curve, or of its points, inside the panel."""
    colors = shades([b["budget_flops"] for b in budgets])
    low, high = ax.get_ylim()
    left, right = ax.get_xlim()
    ax.set_xlim(left / (right / left) ** 0.1, right)
    log_scale(ax, "x")
    if any(b.get("refused") for b in budgets):
        refused_entry(ax)
    for b in budgets:
        N = sizes_along(b)
        L = fitted_loss(b, N)
        if L is None:
            order = np.argsort(b["N"])
            N, L = b["N"][order], b["L"][order]
        inside = np.flatnonzero((L >= low) & (L <= high))
        if len(inside):
            ax.annotate(
                power_of_ten(b["budget_flops"]),
                (N[inside[0]], L[inside[0]]), (-3, 0), textcoords="offset points", ha="right",
                va="center", fontsize="small", color=colors[b["budget_flops"]], zorder=4.5,
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )  # fmt: skip


def draw_left_out(
    ax: Axes,
    out: Mapping[str, Observations],
    budgets: Sequence[Mapping[str, Any]],
    scale: float,
    counted: bool = True,
) -> None:
    """Runs that the fit left out, and triangles for runs beyond the panel's limits, set before.

    `counted` gives the number of the latter in the legend.
    """
    for name, runs in out.items():
        if len(runs):
            ax.plot(runs.N, scale * runs.L, linestyle="", markersize=6, zorder=2, **LEFT_OUT[name])
    N = np.concatenate([*(b["N"] for b in budgets), *(o.N for o in out.values())])
    L = np.concatenate([*(b["L"] for b in budgets), *(o.L for o in out.values())])
    mark_outside(ax, N, scale * L, counted)


def fitted_loss(budget: Mapping[str, Any], N: np.ndarray) -> np.ndarray | None:
    """The fitted curve at N; None without one."""
    curve = budget.get("curve")
    return None if not curve else np.interp(np.log(N), np.log(curve["N"]), curve["L"])


def profile_residuals(
    budgets: Sequence[Mapping[str, Any]],
) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """For each budget with a minimum: its FLOPs, N / N_opt, and losses minus the fitted shape."""
    parts = []
    for b in budgets:
        fitted = fitted_loss(b, b["N"])
        if fitted is not None and b.get("N_opt") and not b.get("refused"):
            parts.append((float(b["budget_flops"]), b["N"] / b["N_opt"], b["L"] - fitted))
    return parts


def star_entry(ax: Axes) -> None:
    """The legend entry of the minima, for panels that are drawn without labels."""
    ax.plot([], [], label=STAR_LABEL, **STAR)


def refused_entry(ax: Axes) -> None:
    """The legend entry of refused budgets."""
    ax.plot([], [], "o--", color=GREY, markerfacecolor="white", label="refused: no minimum")
