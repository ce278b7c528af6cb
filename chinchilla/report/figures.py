"""The report's four figures, after figures 2, 3, A3 and 4 of Hoffmann et al. (2022).

Records in, a matplotlib Figure out, or None when there is nothing to draw. Missing keys of
`Frontier.details` make a figure plainer, never an error.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LogNorm
from matplotlib.figure import Figure

from chinchilla.config import APPROACHES
from chinchilla.fit.frontier import Frontier
from chinchilla.observations import Observations
from chinchilla.records import Curve, RunResult
from chinchilla.report.style import (
    COLORS,
    GREY,
    MARKERS,
    house_style,
    legend_below,
    log_norm,
    log_scale,
    new_figure,
    padded,
    plain,
    power_of_ten,
    sequential,
)
from chinchilla.report.tables import LABELS, name_of, published_near
from chinchilla.shapes import flops_per_token

N_LABEL = "N, parameters"
D_LABEL = "D, tokens"
# widths inside the runs and beyond, bottom to top: all plain, and none hides another
LINES = {"parametric": (5.6, 1.4), "envelope": (4.0, 1.0), "isoflop": (2.6, 0.7)}
C_LABEL = "C, training FLOPs"
L_LABEL = "loss, nats/token"
L_NAMES = {"train": "training ", "heldout": "held-out "}  # by loss_kind; unknown has none
VALLEY_REACH = 1.15  # how far a valley is drawn past its smallest and largest model


@house_style()
def training_curves(
    points: Observations | None,
    envelope: Frontier | None,
    results: Sequence[RunResult] = (),
    curves: Mapping[str, Curve] | None = None,
) -> Figure | None:
    """Loss against FLOPs of every run, coloured by N, with approach 1's envelope on top.

    Args:
        points: every measured point of the finished runs, as approach 1 read them.
        envelope: approach 1's frontier, if it could be fitted.
        results: all runs; those that did not finish are drawn grey and dashed.
        curves: run_id -> training curve, for the unfinished runs.
    """
    if points is None or not points.has_curves:
        return None
    figure, (ax,) = new_figure(5.4)
    norm, colors = log_norm(points.N), sequential()
    shown_C, shown_L = [], []
    for run_id in np.unique(points.run_id):
        run = points.where(points.run_id == run_id)
        order = np.argsort(run.D)
        C, L = _binned(run.C[order], run.L[order])
        ax.plot(C, L, color=colors(norm(run.N[0])), linewidth=1.0, alpha=0.85)
        shown_C.append(C)
        shown_L.append(L)
    _draw_envelope(ax, envelope)
    label = "did not finish"
    for r in results:
        curve = (curves or {}).get(r.spec.run_id)
        if r.status == "finished" or curve is None:
            continue
        per_step = flops_per_token(r.spec.model, r.spec.flop_convention) * r.spec.batch_tokens
        if points.loss_kind == "heldout":
            C, L = _binned(per_step * curve.held_out_step, curve.held_out_loss)
        else:
            C, L = _binned(per_step * (curve.step + 1), curve.loss)
        if len(C) == 0:
            continue
        ax.plot(C, L, color=GREY, linewidth=1.0, linestyle=(0, (4, 2)), label=label)
        label = "_" + label
    low, high = padded(np.concatenate(shown_L), 0.05)
    ax.set(xlim=padded(np.concatenate(shown_C), 0.03), ylim=(low, high))
    ax.set(xlabel=C_LABEL, ylabel=L_NAMES.get(points.loss_kind, "") + L_LABEL)
    log_scale(ax, "x", power_of_ten)
    log_scale(ax, "y", plain)
    _size_bar(figure, ax, norm, colors)
    legend_below(figure, ax, 3, markerscale=2)
    return figure


def _binned(x: np.ndarray, y: np.ndarray, n: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Means of y in n log-spaced bins of x: less noise, and a file a browser can open."""
    finite = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
    x, y = x[finite], y[finite]
    if len(x) <= n:
        return x, y
    bins = np.digitize(np.log(x), np.linspace(np.log(x[0]), np.log(x[-1]), n + 1)[1:-1])
    _, bins, size = np.unique(bins, return_inverse=True, return_counts=True)
    mean_log = np.bincount(bins, np.log(x)) / size
    return np.exp(mean_log), np.bincount(bins, y) / size


def _draw_envelope(ax: Axes, envelope: Frontier | None) -> None:
    if envelope is None:
        return
    found = envelope.details.get("envelope") or {}
    if "C" in found and "L" in found:
        C, L = np.asarray(found["C"], float), np.asarray(found["L"], float)
        censored = np.asarray(found.get("censored", np.zeros(len(C))), bool)
    else:
        C = np.array([p.C for p in envelope.points])
        L = np.array([p.L for p in envelope.points])
        censored = np.zeros(len(C), bool)
    label = "lowest loss at each C (approach 1's envelope)"
    ax.plot(C[~censored], L[~censored], ".", color="black", markersize=3.5, label=label)
    if censored.any():
        label = "the same at an edge of the sizes tried: not in the fit"
        ax.plot(C[censored], L[censored], ".", color="#9ca3af", markersize=3.5, label=label)


def _size_bar(figure: Figure, ax: Axes, norm: LogNorm, colors: Colormap) -> None:
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=ax, pad=0.01, aspect=35)
    bar.ax.set_ylabel(N_LABEL)
    log_scale(bar.ax, "y")
    bar.outline.set_visible(False)


@house_style()
def isoflop_valleys(
    frontier: Frontier | None,
    finals: Observations | None,
    standard_errors: Mapping[str, float] | None = None,
) -> Figure | None:
    """Final loss against N at each budget, the shape fitted to it, and the bottom (approach 2).

    Args:
        frontier: approach 2's frontier; None draws the points alone.
        finals: final losses, for budgets that the frontier does not describe.
        standard_errors: run_id -> standard error of its final loss, drawn as a bar.
    """
    budgets = _budgets(frontier, finals)
    if not budgets:
        return None
    figure, (ax,) = new_figure(5.6)
    _draw_valleys(ax, budgets, _shades([b["budget_flops"] for b in budgets]), 1.0, standard_errors)
    ax.set(xlim=_size_limits(budgets), ylim=_loss_limits(budgets, 1.0))
    kind = L_NAMES.get(loss_drawn(frontier, finals), "")
    ax.set(xlabel=N_LABEL, ylabel=f"final {kind}{L_LABEL}")
    log_scale(ax, "x")
    legend_below(figure, ax, 5)
    return figure


@house_style()
def valleys_side_by_side(
    corpora: Sequence[tuple[str, Frontier | None, Observations]],
    bits_per_nat: Sequence[float] | None,
) -> Figure | None:
    """The isoFLOP valleys of several corpora, a panel each: one N axis, a budget in one colour.

    Args:
        corpora: name, approach 2's frontier (None draws the points alone) and final losses.
        bits_per_nat: of each corpus; then all panels are in bits per byte, to one scale. None: each
            in its own nats per token.
    """
    panels = [_budgets(frontier, finals) for _, frontier, finals in corpora]
    if not all(panels):
        return None
    figure, axes = new_figure(5.2, len(panels))
    everything = sorted({b["budget_flops"] for budgets in panels for b in budgets})
    shades = _shades(everything)
    kinds = [L_NAMES.get(loss_drawn(frontier, finals), "") for _, frontier, finals in corpora]
    scales = bits_per_nat or [1.0] * len(panels)
    N_range = _size_limits([b for budgets in panels for b in budgets])
    limits = np.array([_loss_limits(p, k) for p, k in zip(panels, scales, strict=True)])
    spans = np.ptp(limits, axis=1)
    for i, (ax, budgets) in enumerate(zip(axes, panels, strict=True)):
        span = spans.max() if bits_per_nat else spans[i]  # to one scale where the unit is one
        middle = limits[i].mean()
        for C in everything if i == 0 else ():
            ax.plot([], [], "o", color=shades[C], label=f"{power_of_ten(C)} FLOPs")
        _draw_valleys(ax, budgets, shades, scales[i], labelled=False)
        ax.set(xlim=N_range, ylim=(middle - span / 2, middle + span / 2), xlabel=N_LABEL)
        ax.set_title(corpora[i][0], parse_math=False)
        log_scale(ax, "x")
        if i == 0 or not bits_per_nat:
            kind = kinds[i] if kinds[i] == kinds[0] or not bits_per_nat else ""
            ax.set_ylabel(f"final {kind}" + ("loss, bits/byte" if bits_per_nat else L_LABEL))
    style: dict[str, Any] = {"markeredgecolor": "white", "markersize": 13, "linestyle": "none"}
    axes[0].plot([], [], marker="*", color="black", label="bottom, $N_{opt}$", **style)
    refused = any(b.get("refused") for budgets in panels for b in budgets)
    if refused:
        axes[0].plot([], [], "o--", color=GREY, markerfacecolor="white", label="refused: no bottom")
    legend_below(figure, axes[0], 6 if refused else 5)
    return figure


def loss_drawn(frontier: Frontier | None, finals: Observations | None) -> str:
    """loss_kind of the valleys, as the fit or else its runs say: train, heldout or unknown."""
    kind = frontier.conventions.get("loss_kind", "unknown") if frontier else "unknown"
    return finals.loss_kind if kind == "unknown" and finals is not None else kind


def _size_limits(budgets: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Around every model and the ends of the curves through them."""
    N = np.concatenate([b["N"] for b in budgets])
    return padded(np.array([N.min() / VALLEY_REACH, N.max() * VALLEY_REACH]), 0.02)


def _loss_limits(budgets: Sequence[Mapping[str, Any]], scale: float) -> tuple[float, float]:
    """Around every loss and the curves; a curve that leaves the losses by a third is cut off."""
    L = scale * np.concatenate([b["L"] for b in budgets])
    drawn = [scale * curve for b in budgets if (curve := _valley(b, _reach(b))) is not None]
    span = max(float(np.ptp(L)), 0.02)
    curves = np.concatenate([L, *drawn]).clip(L.min() - span / 3, L.max() + span / 3)
    return curves.min() - 0.08 * span, curves.max() + 0.04 * span


def _reach(budget: Mapping[str, Any]) -> np.ndarray:
    """Sizes at which a budget's curve is drawn."""
    return np.geomspace(min(budget["N"]) / VALLEY_REACH, max(budget["N"]) * VALLEY_REACH, 200)


def _shades(budgets: Sequence[float]) -> dict[float, Any]:
    """A colour for each budget, in their order."""
    colors = sequential()
    return {C: colors(x) for C, x in zip(budgets, np.linspace(0, 1, len(budgets)), strict=True)}


def _draw_valleys(
    ax: Axes,
    budgets: Sequence[Mapping[str, Any]],
    shades: Mapping[float, Any],
    scale: float,
    standard_errors: Mapping[str, float] | None = None,
    labelled: bool = True,
) -> None:
    """Points, shapes and bottoms of every budget; losses times `scale`."""
    size = 6 if sum(len(b["N"]) for b in budgets) <= 80 else 4
    bottoms = []
    for b in budgets:
        color = shades[b["budget_flops"]]
        N, L = np.asarray(b["N"], float), scale * np.asarray(b["L"], float)
        refused = bool(b.get("refused"))
        label = f"{power_of_ten(b['budget_flops'])} FLOPs" + (", refused" if refused else "")
        errors = [scale * (standard_errors or {}).get(str(i), 0.0) for i in b.get("run_ids", [])]
        if len(errors) == len(N) and any(errors):
            ax.errorbar(N, L, errors, fmt="none", ecolor=color, elinewidth=1, capsize=2)
        points: dict[str, Any] = {"markerfacecolor": "white" if refused else color}
        if labelled:
            points["label"] = label
        ax.plot(N, L, "o", color=color, markersize=size, **points)
        grid = _reach(b)
        curve = _valley(b, grid)
        if curve is not None:
            line = "--" if refused else "-"
            ax.plot(grid, scale * curve, color=color, linewidth=1.4, linestyle=line)
        if b.get("N_opt") and b.get("L_opt") and not refused:
            bottoms.append((b["N_opt"], scale * b["L_opt"]))
    if bottoms:
        x, y = zip(*bottoms, strict=True)
        ax.plot(x, y, color="#374151", linewidth=1, linestyle=":", zorder=2.5)
        style: dict[str, Any] = {"markeredgecolor": "white", "markersize": 13, "linestyle": "none"}
        if labelled:
            style["label"] = "bottom, $N_{opt}$"
        ax.plot(x, y, marker="*", color="black", zorder=4, **style)


def _budgets(frontier: Frontier | None, finals: Observations | None) -> list[dict[str, Any]]:
    """Approach 2's budgets as it saw them; without it, the points that name a budget."""
    said = [b for b in (frontier.details.get("budgets") or [] if frontier else []) if len(b["N"])]
    if said or finals is None:
        return sorted(said, key=lambda b: b["budget_flops"])
    named = finals.budget_flops
    groups = [(c, finals.where(named == c)) for c in np.unique(named[~np.isnan(named)])]
    return [
        {"budget_flops": float(c), "N": o.N, "L": o.L, "run_ids": list(o.run_id)} for c, o in groups
    ]


def _valley(budget: Mapping[str, Any], N: np.ndarray) -> np.ndarray | None:
    """The fitted shape: its curve where approach 2 kept one, else c0 + c1 x + c2 x^2, x = ln N."""
    x, curve = np.log(N), budget.get("curve")
    if curve:
        return np.interp(x, np.log(curve["N"]), curve["L"])
    coefficients = budget.get("coefficients")
    if coefficients is None or len(coefficients) != 3:
        return None
    c0, c1, c2 = coefficients
    return c0 + c1 * x + c2 * x**2


@house_style()
def optimal_sizes(frontiers: Mapping[str, Frontier]) -> Figure | None:
    """N_opt and D_opt against C: points, line and 80% band of each approach; the paper's lines."""
    covered = np.array([p.C for f in frontiers.values() for p in f.points])
    if len(covered) == 0:
        return None
    figure, panels = new_figure(5.2, 2)
    low, high = float(covered.min()), float(covered.max())
    grid = np.geomspace(low / 2, high * 10, 200)
    for ax, quantity in zip(panels, ("N", "D"), strict=True):
        shown = []
        for approach in APPROACHES:
            f = frontiers.get(approach)
            if f is None or not f.points:
                ax.plot([], [], " ", label=f"{LABELS[approach]}, ours: no answer")
                continue
            color, law = COLORS[approach], f.N_opt if quantity == "N" else f.D_opt
            (width, thin), zorder = LINES[approach], 2.1 + 0.1 * list(LINES).index(approach)
            C, y = np.array([(p.C, getattr(p, quantity)) for p in f.points]).T
            inside = np.geomspace(C.min(), C.max(), 20)
            ax.fill_between(grid, *law.band(grid), color=color, alpha=0.15, linewidth=0)
            ax.plot(grid, law(grid), color=color, linewidth=thin, zorder=zorder)
            ax.plot(
                inside, law(inside), color=color, linewidth=width, solid_capstyle="butt",
                zorder=zorder,
            )  # fmt: skip
            own = approach != "parametric"  # its points are computed from the law, not measured
            style: dict[str, Any] = {"color": color, "markeredgecolor": "white"}
            ax.plot(
                [], [], marker=MARKERS[approach] if own else "", linewidth=width, markersize=8,
                markeredgewidth=0.5, label=f"{name_of(approach, f)}, ours", **style,
            )  # fmt: skip
            shown.append(law(grid))
            if own:
                some = slice(None, None, max(1, len(C) // 40))
                ax.plot(
                    C[some], y[some], MARKERS[approach], markersize=7 if len(C) <= 20 else 4.5,
                    markeredgewidth=0.5, zorder=4, **style,
                )  # fmt: skip
                shown.append(y)
        for approach, (near, N) in published_near(grid).items():
            y = N if quantity == "N" else near / (6 * N)
            ax.plot(
                near, y, color=COLORS[approach], linewidth=1.1, linestyle=(0, (5, 3)),
                label=f"{LABELS[approach]}, paper",
            )  # fmt: skip
            shown.append(y)
        for beyond in ((grid[0], low), (high, grid[-1])):
            shade = ax.axvspan(*beyond, color="#f0f1f4", zorder=0, linewidth=0)
        shade.set_label("beyond the runs")
        if any(f.N_opt.samples for f in frontiers.values()):
            ax.fill_between([], [], color=GREY, alpha=0.3, linewidth=0, label="80% interval")
        else:
            ax.plot([], [], " ", label="no 80% interval")
        ax.set(xlim=(grid[0], grid[-1]), ylim=padded(np.concatenate(shown), 0.03))
        ax.set(xlabel=C_LABEL, ylabel=N_LABEL if quantity == "N" else D_LABEL)
        ax.set_title("Parameters, $N_{opt}$" if quantity == "N" else "Tokens, $D_{opt}$")
        log_scale(ax, "x", power_of_ten)
        log_scale(ax, "y")
    legend_below(figure, panels[0], 3)
    return figure


@house_style()
def loss_surface(frontier: Frontier | None, finals: Observations | None) -> Figure | None:
    """Approach 3: contours of L(N, D) under the runs, and what the law leaves unexplained."""
    if frontier is None or frontier.law is None or finals is None or len(finals) == 0:
        return None
    law, colors = frontier.law, sequential()
    figure, (left, right) = new_figure(4.8, 2)
    D_range, N_range = padded(finals.D, 0.12), padded(finals.N, 0.12)
    D, N = np.meshgrid(np.geomspace(*D_range, 120), np.geomspace(*N_range, 120))
    L = law(N, D)
    contours = left.contour(D, N, L, levels=10, cmap=colors, linewidths=1.1)
    for beyond, width, label in ((10, 0.9, None), (1, 2.2, "efficient frontier")):
        C = np.array([finals.C.min() / beyond, finals.C.max() * beyond])
        line = (frontier.D_opt(C), frontier.N_opt(C))
        left.plot(*line, color=COLORS["parametric"], linewidth=width, label=label)
    left.plot(finals.D, finals.N, "o", color="black", markersize=4, label="runs")
    left.set(xlim=D_range, ylim=N_range, xlabel=D_LABEL, ylabel=N_LABEL)
    left.set_title("Contours of $L(N, D)$, nats/token")
    log_scale(left, "x")
    log_scale(left, "y")
    left.clabel(contours, fontsize=8, fmt="%.2f", inline_spacing=3)
    norm = log_norm(finals.N)
    residual = finals.L - law(finals.N, finals.D)
    right.axhline(0, color=GREY, linewidth=1)
    right.scatter(
        finals.C, residual, c=finals.N, norm=norm, cmap=colors, s=34, edgecolors="white",
        linewidths=0.5,
    )  # fmt: skip
    reach = 1.15 * max(float(np.abs(residual).max()), 1e-6)
    right.set(xlim=padded(finals.C), ylim=(-reach, reach), xlabel=C_LABEL)
    right.set_ylabel("measured − law, nats/token")
    right.set_title("Residuals")
    log_scale(right, "x", power_of_ten)
    _size_bar(figure, right, norm, colors)
    legend_below(figure, left, 2)
    return figure
