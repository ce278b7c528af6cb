"""IsoFLOP curves: final losses against N at each budget, the fitted shape and its minimum.

After figure 3 of Hoffmann et al. (2022), left. `draw_on` draws on a given axis; runs that the fit
left out (sizes outside of the window, outliers) have a marker of their own.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from chinchilla.fit.result import FitResult
from chinchilla.observations.table import Observations
from chinchilla.plots.style import (
    GREY,
    L_LABEL,
    MANY_POINTS,
    N_LABEL,
    inner_range,
    log_scale,
    mark_outside,
    padded,
    power_of_ten,
    sequential,
)

L_NAMES = {"train": "training ", "validation": "validation "}  # by loss_kind; "" for unknown
CURVE_MARGIN = 1.15  # factor by which a curve extends beyond its smallest and largest model
MAX_NAMED = 16  # budgets in the legend; of more, evenly spread ones
MIN_SPAN = 0.02  # nats per token, smallest height of a panel


def draw_on(
    ax: Axes,
    result: FitResult | None,
    finals: Observations | None,
    *,
    standard_errors: Mapping[str, float] | None = None,
    scale: float = 1.0,
    colors: Mapping[float, Any] | None = None,
    xlim: tuple[float, float] | None = None,
    ylim: tuple[float, float] | None = None,
) -> bool:
    """The whole figure except its legend and note: curves, minima, runs left out, axes.

    Args:
        ax: where to draw.
        result: approach 2's result; None draws the points alone.
        finals: final losses, for budgets that the result does not describe and runs left out.
        standard_errors: run_id -> standard error of its final loss, drawn as a bar.
        scale: factor of the losses.
        colors: of each budget; by default in their order.
        xlim: limits of N; by default around the models.
        ylim: limits of the scaled loss; by default those of `loss_limits`.

    Returns:
        Whether there was anything to draw.
    """
    budgets = budgets_of(result, finals)
    if not budgets:
        return False
    colors = colors or shades(b["budget_flops"] for b in budgets)
    n_runs = sum(len(b["N"]) for b in budgets)
    size = 6 if n_runs <= 80 else 4
    named = set(np.linspace(0, len(budgets) - 1, MAX_NAMED).round().astype(int).tolist())
    for i, b in enumerate(budgets):
        color, N, L = colors[b["budget_flops"]], b["N"], scale * b["L"]
        errors = [scale * (standard_errors or {}).get(str(i), 0.0) for i in b["run_ids"]]
        if any(errors):
            ax.errorbar(N, L, errors, fmt="none", ecolor=color, elinewidth=1, capsize=2)
        label = f"{power_of_ten(b['budget_flops'])} FLOPs" if i in named else "_"
        fill = "white" if b["refused"] else color
        ax.plot(
            N, L, "o", color=color, markersize=size, label=label, markerfacecolor=fill,
            rasterized=n_runs > MANY_POINTS,
        )  # fmt: skip
        curve = fitted_loss(b, _sizes_along(b))
        if curve is not None:
            line = "--" if b["refused"] else "-"
            ax.plot(_sizes_along(b), scale * curve, color=color, linewidth=1.4, linestyle=line)
    minima = [(b["N_opt"], scale * b["L_opt"]) for b in budgets if b["L_opt"] and not b["refused"]]
    if minima:
        x, y = zip(*minima, strict=True)
        ax.plot(x, y, color="#374151", linewidth=1, linestyle=":", zorder=2.5)
        ax.plot(
            x, y, "*", color="black", markeredgecolor="white", markersize=13, zorder=4,
            label="minimum, $N_{opt}$",
        )  # fmt: skip
    if any(b["refused"] for b in budgets):
        ax.plot([], [], "o--", color=GREY, markerfacecolor="white", label="refused: no minimum")
    N, L = (np.concatenate([b[key] for b in budgets]) for key in ("N", "L"))
    if finals is not None:
        finals = finals.finals()
        out = np.isin(finals.budget_labels, [b["budget_flops"] for b in budgets])
        out &= ~np.isin(finals.run_id, [run for b in budgets for run in b["run_ids"]])
        if out.any():
            left_out = finals.where(out)
            label = "left out of the fit"
            ax.plot(
                left_out.N, scale * left_out.L, "x", color="#9ca3af", markersize=5, zorder=2,
                label=label,
            )  # fmt: skip
            N, L = np.append(N, left_out.N), np.append(L, left_out.L)
    ax.set(xlim=xlim or size_limits(N), ylim=ylim or loss_limits(budgets, scale))
    mark_outside(ax, N, scale * L)
    ax.set(xlabel=N_LABEL, ylabel=f"final {loss_name(result, finals)}{L_LABEL}")
    log_scale(ax, "x")
    return True


def budgets_of(result: FitResult | None, finals: Observations | None) -> list[dict[str, Any]]:
    """The budgets of approach 2's details; without these, the runs that name a budget."""
    stored = (result.details.get("budgets") or []) if result else []
    budgets = [b for b in stored if len(b["N"])]
    if not budgets and finals is not None:
        none = dict.fromkeys(("refused", "N_opt", "L_opt", "curve", "coefficients"))
        labels = finals.budget_labels
        for C in np.unique(labels[~np.isnan(labels)]):
            o = finals.where(labels == C)
            runs = {"budget_flops": float(C), "N": o.N, "L": o.L, "run_ids": list(o.run_id)}
            budgets.append(runs | none)
    arrays = [
        {**b, "N": np.asarray(b["N"], float), "L": np.asarray(b["L"], float)} for b in budgets
    ]
    return sorted(arrays, key=lambda b: b["budget_flops"])


def loss_name(result: FitResult | None, finals: Observations | None) -> str:
    """ "training ", "validation " or "", of the fit or else of its runs."""
    kind = result.conventions.get("loss_kind", "unknown") if result else "unknown"
    if kind == "unknown" and finals is not None:
        kind = finals.loss_kind
    return L_NAMES.get(kind, "")


def size_limits(N: np.ndarray) -> tuple[float, float]:
    """Limits around models of N parameters and the ends of the curves."""
    return padded(np.array([N.min() / CURVE_MARGIN, N.max() * CURVE_MARGIN]), 0.02)


def loss_limits(budgets: Sequence[Mapping[str, Any]], scale: float) -> tuple[float, float]:
    """Limits around the curves and the losses that are not outliers; curves beyond them are cut off.

    Outliers are losses far above or below the minimum of their budget, relative to those of all budgets
    with a minimum: one run at 5 nats does not flatten curves that are 0.1 deep.
    """
    depths = [b["L"] - (b["L_opt"] or b["L"].min()) for b in budgets]
    fitted = [d for b, d in zip(budgets, depths, strict=True) if not b["refused"]]
    low, high = inner_range(np.concatenate(fitted or depths))
    losses = [b["L"][(d >= low) & (d <= high)] for b, d in zip(budgets, depths, strict=True)]
    minima = [b["L_opt"] for b in budgets if b["L_opt"] and not b["refused"]]
    L = scale * np.concatenate([*losses, minima])
    curves = [fitted_loss(b, _sizes_along(b)) for b in budgets]
    span = max(float(np.ptp(L)), MIN_SPAN)
    shown = np.concatenate([L, *(scale * c for c in curves if c is not None)])
    shown = shown.clip(L.min() - span / 3, L.max() + span / 3)
    return shown.min() - 0.08 * span, shown.max() + 0.04 * span


def _sizes_along(budget: Mapping[str, Any]) -> np.ndarray:
    """Sizes at which a budget's curve is drawn."""
    return np.geomspace(budget["N"].min() / CURVE_MARGIN, budget["N"].max() * CURVE_MARGIN, 200)


def shades(budgets: Iterable[float]) -> dict[float, Any]:
    """A colour for each budget, in their order."""
    ordered = list(budgets)
    return dict(zip(ordered, sequential()(np.linspace(0, 1, len(ordered))), strict=True))


def fitted_loss(budget: Mapping[str, Any], N: np.ndarray) -> np.ndarray | None:
    """The fitted curve at N; None without one."""
    curve = budget.get("curve")
    return None if not curve else np.interp(np.log(N), np.log(curve["N"]), curve["L"])
