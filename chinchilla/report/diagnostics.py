"""The report's section on diagnostics.json: verdicts, influential runs, counts, and a figure.

`Diagnostics` in; tables and matplotlib figures out, None where there is nothing to draw. The panel
or table of an unavailable item is left out.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from chinchilla.core.table import NONE, Cell, Table, cell
from chinchilla.core.units import change, count
from chinchilla.diagnose.conventions import count_of_C
from chinchilla.diagnose.findings import diagnostic_label
from chinchilla.diagnose.verdicts import Diagnostics
from chinchilla.fit.result import FitResult
from chinchilla.plots.style import (
    COLORS,
    GREY,
    house_style,
    legend_below,
    new_figure,
)
from chinchilla.report.figures import Drawing
from chinchilla.report.tables import flops

LISTED = 5  # runs in the table of influential runs
OURS = COLORS["parametric"]
PANELS: tuple[tuple[str, str, str, Callable[[Mapping[str, Any]], str]], ...] = (
    # item, its part, title, label of a refit
    ("windows", "drop_path", "Highest losses out", lambda row: str(row["k"])),
    ("windows", "window_path", "Windows of D/N, N", lambda row: row["window"]),
    ("curvature", "largest_compute", "Runs up to C", lambda row: flops(row["C"])),
    ("leave_one_out", "budgets", "One budget out", lambda row: flops(row["C"])),
)


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


def figure(found: Diagnostics | None, parametric: FitResult | None) -> Drawing:
    """The section's figure; without one where there is nothing to draw."""
    return Drawing(
        "exponent_paths",
        "The exponent on parts of the runs",
        exponent_paths(found, parametric),
        "Approach 3's exponent a of N_opt, refitted: without the k highest losses; within a share of the "
        "range of D/N or of N; on the runs up to C only; without one budget. Line and band: all runs with "
        "the 80% interval. Bars: one standard deviation of the change expected if the law is correct. "
        "Values that leave the band in one direction show that the law does not hold over the whole range.",
    )


def verdicts(found: Diagnostics) -> Table:
    """Every item as the terminal shows it: verdict, message, effect, advice."""
    table = Table(
        ["Item", "Verdict", "Found", "Effect", "What to do"],
        caption="Diagnostics, ordered by verdict and by the effect on the answer. a is approach 3's "
        "exponent of N_opt. Standard deviations (SD) are those of the change that is expected, if "
        "the law is correct, when the same runs are left out.",
    )
    for name, item in found.items.items():
        table.add_row(
            Cell(diagnostic_label(name).capitalize(), None, "text"),
            Cell(item.verdict, None, f"verdict {item.verdict}"),
            Cell(item.message, None, "text long"),
            Cell(item.effect_text or NONE, None, "text"),
            Cell(item.advice or NONE, None, "text"),
        )
    return table


def influential(found: Diagnostics) -> Table:
    """The runs that change N_opt most when they are left out."""
    table = Table(
        ["Run", "C, FLOPs", "N", "D, tokens", "ln L − law", "a", "N_opt"],
        caption=f"The runs that change N_opt at {flops(found.C_star)} FLOPs most when they are left "
        "out; a without them, and the change of N_opt.",
    )
    rows = sorted(_refits(found, "leave_one_out", "runs"), key=lambda r: -abs(r["log_N_move"]))
    for r in rows[:LISTED]:
        table.add_row(
            Cell(r["name"].removeprefix("run "), None, "id"),
            cell(r["C"], flops),
            *(cell(r[key], count) for key in ("N", "D")),
            cell(r["residual"], "{:+.4f}".format),
            cell(r["a"], "{:.3f}".format),
            cell(float(np.expm1(r["log_N_move"])), change),
        )
    return table


def counted(found: Diagnostics) -> Table:
    """a under each count of N and C."""
    values = found.items["conventions"].values
    rows = values.get("rows", [])
    return Table.of(
        {
            "N": (Cell(r["N"].replace("_", "-")) for r in rows),
            "C": (Cell(count_of_C(r["C"])) for r in rows),
            "a": (cell(r["a"], "{:.3f}".format) for r in rows),
        },
        "Approach 3's exponent a for the same runs under other counts of N and C. Counts: "
        f"{values.get('source', '')}.",
    )


def _refits(found: Diagnostics, item: str, part: str) -> list[dict[str, Any]]:
    """The rows of one part of an item that could be fitted; empty where it is unavailable."""
    parts = found.items[item].parts
    rows = parts[part].values.get("rows", []) if part in parts else []
    return [row for row in rows if row["log_N_move"] is not None]


@house_style()
def exponent_paths(found: Diagnostics | None, parametric: FitResult | None) -> Figure | None:
    """a on parts of the runs: a panel for each kind of part, with one axis of a.

    Args:
        found: diagnostics of these fits.
        parametric: approach 3's result, for the 80% interval of a on all runs.
    """
    if found is None:
        return None
    shown = [(title, label, _refits(found, *part)) for *part, title, label in PANELS]
    shown = [panel for panel in shown if panel[2]]
    if not shown or parametric is None:
        return None
    drawn, axes = new_figure(4.9, len(shown))
    law = parametric.N_opt
    known = [law.exponent, law.p10, law.p90, *(row["a"] for *_, rows in shown for row in rows)]
    low, high = (f(x for x in known if x is not None) for f in (min, max))
    margin = 0.12 * max(high - low, 0.02)
    for ax, (title, label, rows) in zip(axes, shown, strict=True):
        ax.axhline(law.exponent, color=GREY, linewidth=1.2, label="all runs")
        if law.p10 is not None and law.p90 is not None:
            text = "80% interval, all runs"
            ax.axhspan(law.p10, law.p90, color=OURS, alpha=0.15, linewidth=0, label=text)
        a, sd = ([row[key] for row in rows] for key in ("a", "a_sd"))
        ax.errorbar(
            range(len(rows)), a, sd, fmt="s", color=OURS, markersize=5, elinewidth=1.0, capsize=2,
            markeredgecolor="white", markeredgewidth=0.4, zorder=4, label="refit ± expected change",
        )  # fmt: skip
        ax.set_xticks(range(len(rows)), [label(row) for row in rows], rotation=90, fontsize=8)
        ax.set_ylim(low - margin, high + margin)
        ax.tick_params(labelleft=ax is axes[0])
        ax.grid(visible=False, axis="x")
        ax.set_title(title)
    axes[0].set_ylabel("$a$, exponent of $N_{opt}$ (approach 3)")
    legend_below(drawn, axes[:1], 3)
    return drawn
