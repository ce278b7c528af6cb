"""The report's section on diagnostics.json: verdicts, influential runs, counts, and two figures.

`Diagnostics` in; tables and matplotlib figures out, None where there is nothing to draw. The panel
or table of an unavailable item is left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from chinchilla.core.table import NONE, Cell, Table, cell
from chinchilla.core.units import count
from chinchilla.diagnose.conventions import count_of_C
from chinchilla.diagnose.findings import called, described
from chinchilla.diagnose.verdicts import Diagnostics
from chinchilla.fit.result import FitResult
from chinchilla.plots.style import (
    C_LABEL,
    COLORS,
    GREY,
    N_LABEL,
    house_style,
    legend_below,
    log_norm,
    log_scale,
    new_figure,
    padded,
    power_of_ten,
    sequential,
)
from chinchilla.report.figures import Drawing
from chinchilla.report.tables import flops

NAMES = {
    "identifiability": "Identifiability",
    "leave_one_out": "Without one run, budget or size",
    "windows": "Windows of loss, D/N and N",
    "curvature": "Curvature of the frontier",
    "extrapolation": "Held-out larger runs",
    "approach_2_against_3": "Approach 2 against 3",
    "residuals": "Residuals",
    "conventions": "Other counts of N and C",
}
OURS = COLORS["parametric"]
A_LABEL = "$a$, exponent of $N_{opt}$ (approach 3)"


def section(found: Diagnostics | None) -> dict[str, Any] | None:
    """The contents of the section for the template; None without diagnostics."""
    if found is None:
        return None
    tables = {
        "verdict-table": verdicts(found),
        "influential-table": influential(found),
        "counted-table": counted(found),
    }
    return {"summary": found.summary, "first": found.first, "tables": tables}


def figures(found: Diagnostics | None, parametric: FitResult | None) -> list[Drawing]:
    """Both figures in the page's order; without a figure where there is nothing to draw."""
    interval = None
    if parametric is not None and parametric.N_opt.p10 is not None:
        assert parametric.N_opt.p90 is not None
        interval = (parametric.N_opt.p10, parametric.N_opt.p90)
    return [
        Drawing(
            "exponent_paths",
            "The exponent on parts of the runs",
            exponent_paths(found, interval),
            "Approach 3's exponent a of N_opt, refitted: without the k highest losses; within a share "
            "of the range of tokens per parameter (T) or of N; on the runs up to C only. Line and band: "
            "all runs with the 80% interval. Bars: one standard deviation of the move that a law which "
            "holds would show. A path that leaves the band in one direction shows that the law does not "
            "hold over the whole range.",
            "The fitted exponent a as runs are left out in order.",
        ),
        Drawing(
            "influence",
            "Influence of runs and groups",
            influence(found, interval),
            "Left: how far leaving out one run moves N_opt beyond the runs, coloured by model size. "
            "Right: a without each budget, or without each of the sizes that move it most, with one "
            "standard deviation of the move that a law which holds would show; line and band as above.",
            "Change of the predicted optimum without each run, and of a without each group of runs.",
        ),
    ]


def verdicts(found: Diagnostics) -> Table:
    """Every item: verdict, message, effect, advice; in the order of `Diagnostics.items`."""
    table = Table(
        ["Item", "Verdict", "Found", "Effect", "What to do"],
        caption="Diagnostics, ordered by verdict and by the effect on the answer. a is approach 3's "
        "exponent of N_opt. Standard deviations are those of the move that a law which holds would "
        "show when the same runs are left out.",
    )
    for name, item in found.items.items():
        table.add_row(
            Cell(NAMES.get(name, name), None, "text"),
            Cell(called(item.verdict), None, f"verdict {item.verdict}"),
            Cell(" ".join(filter(None, (item.message, item.note))), None, "text long"),
            Cell(described(item) or NONE, None, "text"),
            Cell(item.advice or NONE, None, "text"),
        )
    return table


def influential(found: Diagnostics) -> Table:
    """The runs that move N_opt most."""
    table = Table(
        ["Run", "C, FLOPs", "N", "D, tokens", "ln L − law", "a", "N_opt"],
        caption=f"The runs that move N_opt at {flops(found.C_star)} FLOPs most when they are left "
        "out, with the changes of a and of N_opt.",
    )
    for r in _part(found, "leave_one_out", "runs").get("top", []):
        if r["a"] is not None:
            table.add_row(
                Cell(r["run_id"], None, "id"),
                cell(r["C"], flops),
                cell(r["N"], count),
                cell(r["D"], count),
                *(cell(r[key], "{:+.4f}".format) for key in ("residual", "a_change")),
                cell(r["N_opt_change"], "{:+.1%}".format),
            )
    return table


def counted(found: Diagnostics) -> Table:
    """a under each count of N and C, by approaches 2 and 3."""
    values = _values(found, "conventions")
    recorded = values.get("recorded", {}).get("C", "unknown")
    table = Table(
        ["N", "C", "a, approach 3", "a, approach 2 at equal C"],
        caption=f"The same runs under other counts of N and C. Counts: {values.get('source', '')}. "
        "Approach 2 by parabolas, each budget's runs moved to equal C by the law.",
    )
    for r in values.get("rows", []):
        table.add_row(
            r["N"].replace("_", "-"),
            count_of_C(r["C"], recorded),
            *(cell(r[by], "{:.3f}".format) for by in ("parametric", "isoflop_levelled")),
        )
    return table


def _values(found: Diagnostics, item: str) -> Mapping[str, Any]:
    return found.items[item].values if item in found.items else {}


def _part(found: Diagnostics, item: str, part: str) -> Mapping[str, Any]:
    """The values of one part of an item; empty where it is unavailable."""
    values: Mapping[str, Any] = _values(found, item).get(part, {})
    return values


@house_style()
def exponent_paths(
    found: Diagnostics | None, interval: tuple[float, float] | None
) -> Figure | None:
    """a as the highest losses leave, in windows, and against the largest C.

    Args:
        found: diagnostics of these fits.
        interval: 80% interval of a on all runs.
    """
    if found is None or found.a is None:
        return None
    drops = _fitted(_part(found, "windows", "drop_path").get("highest_loss", []))
    windows = _fitted(_part(found, "windows", "window_path").get("windows", []))
    cuts = _fitted(_part(found, "curvature", "largest_compute").get("cuts", []))
    cuts = [r for r in cuts if 5 * r["n"] >= max(c["n"] for c in cuts)]
    shown = [p for p in (drops, windows, cuts) if p]
    if not shown:
        return None
    figure, panels = new_figure(4.9, len(shown))
    limits = _limits([r for rows in shown for r in rows], found, interval)
    for ax, rows in zip(panels, shown, strict=True):
        _all_runs(ax, found, interval)
        ax.set_ylim(limits)
        ax.tick_params(labelleft=ax is panels[0])
        places = np.arange(len(rows))
        if rows is drops:
            _path(ax, places, rows)
            ax.set_xticks(places, [str(r["k"]) for r in rows])
            ax.set_xlabel("k, highest losses left out")
            ax.set_title("Highest losses")
        elif rows is windows:
            _path(ax, places, rows, joined=False)
            labels = [f"{'T' if r['of'] != 'N' else 'N'}: {_window(r['part'])}" for r in rows]
            ax.set_xticks(places, labels, rotation=90, fontsize=8)
            ax.set_title("Windows of T = D/N, of N")
        else:
            C = np.array([r["C_max"] for r in rows])
            _path(ax, C, rows)
            ax.set(xlim=padded(C, 0.08), xlabel="largest C used, training FLOPs")
            log_scale(ax, "x", power_of_ten)
            ax.set_title("Largest C")
    panels[0].set_ylabel(A_LABEL)
    legend_below(figure, panels[:1], 3)
    return figure


@house_style()
def influence(found: Diagnostics | None, interval: tuple[float, float] | None) -> Figure | None:
    """Change of N_opt without each run, and a without each budget (or size)."""
    if found is None or found.a is None:
        return None
    runs = _part(found, "leave_one_out", "runs").get("runs", [])
    runs = [r for r in runs if r["log_N_opt_move"] is not None]
    budgets = _fitted(_part(found, "leave_one_out", "budgets").get("all", []))
    groups = budgets or _fitted(_part(found, "leave_one_out", "sizes").get("top", []))
    if not runs or not groups:
        return None
    figure, (left, right) = new_figure(4.8, 2)
    C, N, move = (np.array([r[key] for r in runs]) for key in ("C", "N", "log_N_opt_move"))
    norm, colors = log_norm(N), sequential()
    left.axhline(0, color=GREY, linewidth=1)
    dots = left.scatter(
        C, 100 * np.expm1(move), c=N, norm=norm, cmap=colors, s=30, edgecolors="white",
        linewidths=0.4, zorder=3,
    )  # fmt: skip
    left.set(xlim=padded(C), xlabel=C_LABEL)
    left.set_ylabel(f"change of $N_{{opt}}$ at {flops(found.C_star)} FLOPs, %")
    left.set_title("Without one run")
    log_scale(left, "x", power_of_ten)
    bar = figure.colorbar(dots, ax=left, pad=0.01, aspect=35)
    bar.ax.set_ylabel(N_LABEL)
    log_scale(bar.ax, "y")
    bar.outline.set_visible(False)
    _all_runs(right, found, interval)
    _path(right, np.arange(len(groups)), groups, joined=False)
    labels = [flops(g["budget_flops"]) if budgets else count(g["N"]) for g in groups]
    right.set_xticks(np.arange(len(groups)), labels, rotation=90 if len(labels) > 6 else 0)
    right.set(xlabel="budget left out, FLOPs" if budgets else "size left out, parameters")
    right.set_ylabel(A_LABEL)
    right.set_ylim(*_limits(groups, found, interval, bars=True))
    right.set_title("Without one budget" if budgets else "Without one size")
    legend_below(figure, [right], 3)
    return figure


def _fitted(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [r for r in rows if r["a"] is not None]


def _window(part: str) -> str:
    return part.replace("without the ", "no ").replace("quarter", "¼")


def _all_runs(ax: Axes, found: Diagnostics, interval: tuple[float, float] | None) -> None:
    assert found.a is not None
    ax.axhline(found.a, color=GREY, linewidth=1.2, label="all runs")
    if interval is not None:
        ax.axhspan(*interval, color=OURS, alpha=0.15, linewidth=0, label="80% interval, all runs")
    ax.grid(visible=False, axis="x")


def _path(ax: Axes, x: np.ndarray, rows: Sequence[Mapping[str, Any]], joined: bool = True) -> None:
    a = np.array([r["a"] for r in rows])
    sd = np.array([r["expected_sd"] or 0.0 for r in rows])
    ax.errorbar(
        x, a, yerr=sd, color=OURS, marker="s", markersize=5, linewidth=1.2 if joined else 0,
        elinewidth=1.0, capsize=2, markeredgecolor="white", markeredgewidth=0.4, zorder=4,
        label="refit ± expected move",
    )  # fmt: skip


def _limits(
    rows: Sequence[Mapping[str, Any]],
    found: Diagnostics,
    interval: tuple[float, float] | None,
    bars: bool = False,
) -> tuple[float, float]:
    """Limits that contain every refit and the interval, and the bars if `bars` is true."""
    values = [found.a, *(interval or ()), *(r["a"] for r in rows)]
    if bars:
        values += [r["a"] + side * (r["expected_sd"] or 0.0) for r in rows for side in (-1, 1)]
    known = [v for v in values if v is not None]
    low, high = min(known), max(known)
    margin = 0.12 * max(high - low, 0.02)
    return low - margin, high + margin
