"""Tables, plans, costs and recommendations as text for a terminal."""

import io
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from rich.box import ASCII, HEAVY_HEAD
from rich.console import Console
from rich.table import Table as RichTable

from chinchilla.config import ClusterConfig, RatesConfig
from chinchilla.core.table import BORDER, NONE, Table, with_interval_apart
from chinchilla.core.terminal import (
    print_message,
    print_rendered,
    stated_width,
    terminal_width,
    wrapped,
)
from chinchilla.core.units import byte_size, change, count, device_hours, duration, number
from chinchilla.plan.cost import plan_cost, reused_steps
from chinchilla.plan.memory import memory
from chinchilla.plan.records import RunSpec

if TYPE_CHECKING:
    from chinchilla.fit.results import FitResults
    from chinchilla.recommend import Recommendation

FILE_WIDTH = 120  # columns of a table that is not printed in a terminal
UNKNOWN_N = "shapes count all their parameters, because the runs do not state how they count N."


def between(interval: Sequence[float] | None) -> str:
    """An interval of counts; a dash without one."""
    return NONE if interval is None else f"{count(interval[0])}-{count(interval[1])}"


FORMATS: dict[str, Callable[[Any], str]] = {  # of numbers in records; others have three digits
    **dict.fromkeys(("N", "D"), count),
    **dict.fromkeys(("N_interval80", "D_interval80", "interval80"), between),
    **dict.fromkeys(("L_interval80", "interval"), lambda ends: "{:.4f}-{:.4f}".format(*ends)),
    **dict.fromkeys(("L", "predicted", "measured", "once", "unlimited"), "{:.4f}".format),
    **dict.fromkeys(("excess", "off"), change),
    "extra_loss": "{:+.4f}".format,
}


def print_table(table: Table) -> None:
    """Print a table under its caption, with the columns that the terminal has room for.

    The columns that are left out are named below it. Where the output is not a terminal and COLUMNS is
    not set, all columns are printed, and text wraps at 120 columns.
    """
    given = terminal_width(sys.stdout) or stated_width()
    width = given or FILE_WIDTH
    layout = table.layout(width, complete=given is None)
    is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    shown = RichTable(box=HEAVY_HEAD if is_unicode else ASCII)
    for i, length in layout.items():
        justify: Literal["left", "right"] = "right" if table.numeric[i] else "left"
        shown.add_column(table.columns[i], width=length, justify=justify, overflow="fold")
    following = [*(row[0].text for row in table.rows[1:]), None]
    for row, after in zip(table.rows, following, strict=True):
        ends_group = table.grouped and row[0].text != after
        cells = (
            "\n".join(with_interval_apart(row[i].text))
            if table.numeric[i] and len(row[i].text) > length
            else row[i].text
            for i, length in layout.items()
        )
        shown.add_row(*cells, end_section=ends_group)
    out = io.StringIO()
    print(f"\n{wrapped(table.caption, given)}", file=out)
    needed = sum(layout.values()) + BORDER * len(layout) + 1
    # With width alone, rich would assume 80 columns where TERM=dumb.
    Console(
        file=out,
        force_terminal=sys.stdout.isatty(),
        width=needed,
        height=len(table.rows),
        highlight=False,
        markup=False,
        emoji=False,
    ).print(shown)
    if left_out := [name for i, name in enumerate(table.columns) if i not in layout]:
        text = f"not shown at {width} columns: {'; '.join(left_out)}. Widen the terminal, or give format=json."
        print(wrapped(text, given), file=out)
    print_rendered(out.getvalue(), sys.stdout)


def new_table(title: str, columns: Sequence[str], left: Sequence[str] = (), **more: Any) -> Table:
    """An empty table; the columns in `left` hold text, the others numbers."""
    return Table(columns, caption=title, left=left, **more)


def print_records(
    caption: str,
    records: Iterable[Mapping[str, Any]],
    columns: Mapping[str, str],
    dispensable: Sequence[str] = (),
) -> None:
    """Print a table with a row for each record and a column (head: key) for each key."""
    left = ("by", "shape", "run", "verdict")
    table = new_table(caption, [*columns], left, dispensable=dispensable)
    for record in records:
        cells = ((FORMATS.get(key, "{:.3g}".format), record[key]) for key in columns.values())
        table.add_row(*(x if isinstance(x, str) else NONE if x is None else f(x) for f, x in cells))
    print_table(table)


def show_table2(fits: "FitResults") -> None:
    """Print Table 2, ours and the paper's, how intervals were computed, and refused approaches."""
    from chinchilla.report.tables import interval_methods, name_of, table2

    print_table(table2(fits))
    notes = [f"[{name}] {method}" for name, method in interval_methods(fits).items()]
    notes += [f"{name_of(a)} refused: {r.reason}" for a, r in fits.refused.items()]
    for note in notes:
        print_message(note)


def print_recommendation(r: "Recommendation") -> None:
    """Print a recommendation and the reasons for it."""
    from chinchilla.recommend.evaluate import headline

    print_message(f"\n{headline(r)}")
    for text in r.reasons:
        if text != r.disagreement:  # the headline begins with it
            print_message(f"reason: {text}")


def show_plan(
    specs: Sequence[RunSpec],
    cluster: ClusterConfig,
    done: Collection[str] = (),
    cost_line: bool = True,
) -> None:
    """Print a plan run by run, then the cost of the runs without a result.

    Args:
        specs: the whole plan.
        cluster: speed, price and memory of a device.
        done: run_ids that have their result.
        cost_line: whether to print the cost; a sweep prints an estimate of its own.
    """
    left = [s for s in specs if s.run_id not in done]
    if not left:
        print_message(f"{specs[0].sweep}: all {len(specs)} runs have their results.")
        return
    needed = {s.run_id: memory(s, s.model.seq_len).total for s in specs}
    shared = reused_steps(specs)
    table = new_table(
        f"{specs[0].sweep}: {len(specs)} runs, recipe={specs[0].recipe}, C counted as {specs[0].flop_convention}",
        ("budget", "N", "D, tokens", "D/N", "batch", "steps", "peak lr", "C, FLOPs", "memory", "time"),
        grouped=True, n_names=2, dispensable=("C, FLOPs", "D/N", "memory", "batch", "peak lr"),
    )  # fmt: skip
    for s in specs:
        seconds = s.C / (cluster.peak_flops * cluster.mfu) * (1 - shared[s.run_id] / s.steps)
        table.add_row(
            "horizon" if s.budget_flops is None else f"{s.budget_flops:.3g}", count(s.N), count(s.D),
            f"{s.D / s.N:.1f}", count(s.batch_tokens), f"{s.steps:,}", f"{s.peak_lr:.2e}",
            f"{s.C:.4g}", byte_size(needed[s.run_id]), duration(seconds),
        )  # fmt: skip
    print_table(table)
    if any(shared.values()):
        cost = plan_cost(specs, cluster, 1)
        total = cost.flops + cost.shared_flops
        print_message(
            f"Horizons of a model share their stable phase: only {cost.flops:.3g} of the runs' "
            f"{total:.3g} FLOPs ({cost.flops / total:.0%}) are computed."
        )
    if cost_line:
        _show_cost(left, len(specs), cluster)
    too_big = [s for s in specs if needed[s.run_id] > cluster.gpu_memory_gb * 1e9]
    if too_big:
        print_message(
            f"note: {len(too_big)} runs need more than {cluster.gpu_memory_gb:g} GB on one device "
            f"(largest N={count(max(s.N for s in too_big))}), even with one row per forward pass "
            "(fp32 weights, gradients and Adam state)."
        )


def _show_cost(left: Sequence[RunSpec], n: int, cluster: ClusterConfig) -> None:
    """Print the cost of the `left` runs of a plan's `n`, with its assumptions."""
    workers = cluster.n_workers or (1 if cluster.kind == "debug" else os.cpu_count() or 1)
    cost = plan_cost(left, cluster, workers)
    hourly = cluster.price_per_device_hour
    share = f"{len(left)} of {n} runs are left; their " if len(left) < n else ""
    price = f", {number(cost.price)} at {hourly:g} an hour" if hourly else ""
    print_message(
        f"{share}cost: {cost.flops:.3g} FLOPs = {device_hours(cost.device_hours)} at "
        f"{cluster.peak_flops:.3g} FLOP/s x {cluster.mfu:.0%} MFU{price}; about "
        f"{duration(cost.seconds)} on {workers} workers, longest run {duration(cost.longest_run_seconds)}."
    )


def bill_text(cost: Mapping[str, Any], rates: RatesConfig) -> str:
    """FLOPs as device-hours, price and energy, with the rates used."""
    parts = {
        "device_hours": f"device-hours at {rates.peak_flops:.3g} FLOP/s x {rates.mfu:.0%} MFU",
        "price": f"at {rates.price_per_device_hour:g} an hour",
        "energy_kwh": f"kWh at {rates.device_watts:g} W",
    }
    return ", ".join(
        f"{number(cost[key])} {text}" for key, text in parts.items() if cost[key] is not None
    )
