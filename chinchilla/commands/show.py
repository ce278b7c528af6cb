"""Tables, plans, costs and recommendations as text for a terminal."""

import os
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable

from chinchilla.config import ClusterConfig, RatesConfig
from chinchilla.core.table import NONE, Table
from chinchilla.core.units import count, duration, number
from chinchilla.plan.cost import plan_cost, reused_steps
from chinchilla.plan.memory import memory
from chinchilla.plan.records import RunSpec

if TYPE_CHECKING:
    from chinchilla.fit.results import FitResults
    from chinchilla.recommend import Recommendation

UNLIMITED = 10_000  # columns, wider than any table
UNKNOWN_N = "shapes count all their parameters, because the runs do not state how they count N."


def between(interval: Sequence[float] | None) -> str:
    """An interval of counts; a dash without one."""
    return NONE if interval is None else f"{count(interval[0])}-{count(interval[1])}"


FORMATS: dict[str, Callable[[Any], str]] = {  # of numbers in records; others have three digits
    **dict.fromkeys(("N", "D"), count),
    **dict.fromkeys(("N_interval80", "D_interval80", "interval80"), between),
    **dict.fromkeys(("L_interval80", "interval"), lambda ends: "{:.4f}-{:.4f}".format(*ends)),
    **dict.fromkeys(("L", "predicted", "measured", "once", "unlimited"), "{:.4f}".format),
    **dict.fromkeys(("excess", "off"), lambda share: f"{100 * share:+.3g}%"),
    "extra_loss": "{:+.4f}".format,
}


def console() -> Console:
    """A rich console; 120 columns wide where the output is not a terminal."""
    width = None if sys.stdout.isatty() else 120
    return Console(width=width, highlight=False, markup=False, emoji=False)


def print_table(table: Table) -> None:
    """Print a table under its caption, at least as wide as its numbers and longest words need.

    In a narrower terminal the rows wrap: rich would cut the digits and units off instead.
    """
    shown = RichTable()
    for i, (name, is_number) in enumerate(zip(table.columns, table.numeric, strict=True)):
        width = max(map(len, [name, *(row[i].text for row in table.rows)])) if is_number else None
        shown.add_column(
            name,
            justify="right" if is_number else "left",
            no_wrap=is_number,
            min_width=width,
            overflow="fold",
        )
    following = [*(row[0].text for row in table.rows[1:]), None]
    for row, after in zip(table.rows, following, strict=True):
        ends_group = table.grouped and row[0].text != after
        shown.add_row(*(cell.text for cell in row), end_section=ends_group)
    print(f"\n{table.caption}")
    terminal = console()
    unlimited = terminal.options.update_width(UNLIMITED)
    terminal.width = max(terminal.width, Measurement.get(terminal, unlimited, shown).minimum)
    terminal.print(shown)


def new_table(title: str, columns: Sequence[str], left: Sequence[str] = ()) -> Table:
    """An empty table; the columns in `left` hold text, the others numbers."""
    return Table(columns, caption=title, left=left)


def print_records(
    caption: str, records: Iterable[Mapping[str, Any]], columns: Mapping[str, str]
) -> None:
    """Print a table with a row for each record and a column (head: key) for each key."""
    table = new_table(caption, [*columns], left=("by", "shape", "run", "verdict"))
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
        print(textwrap.fill(note, 100, subsequent_indent="  "))


def print_recommendation(r: "Recommendation") -> None:
    """Print a recommendation and the reasons for it."""
    from chinchilla.recommend.evaluate import headline

    print(f"\n{headline(r)}")
    for text in r.reasons:
        if text != r.disagreement:  # the headline begins with it
            print(f"reason: {text}")


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
        print(f"{specs[0].sweep}: all {len(specs)} runs have their results.")
        return
    needed = {s.run_id: memory(s, s.model.seq_len).total for s in specs}
    shared = reused_steps(specs)
    table = new_table(
        f"{specs[0].sweep}: {len(specs)} runs, recipe={specs[0].recipe}, C counted as {specs[0].flop_convention}",
        ("budget", "N", "D, tokens", "D/N", "batch", "steps", "peak lr", "C, FLOPs", "memory", "time"),
    )  # fmt: skip
    table.grouped = True
    for s in specs:
        seconds = s.C / (cluster.peak_flops * cluster.mfu) * (1 - shared[s.run_id] / s.steps)
        table.add_row(
            "horizon" if s.budget_flops is None else f"{s.budget_flops:.3g}", count(s.N), count(s.D),
            f"{s.D / s.N:.1f}", count(s.batch_tokens), f"{s.steps:,}", f"{s.peak_lr:.2e}",
            f"{s.C:.4g}", _bytes(needed[s.run_id]), duration(seconds),
        )  # fmt: skip
    print_table(table)
    if any(shared.values()):
        cost = plan_cost(specs, cluster, 1)
        total = cost.flops + cost.shared_flops
        print(
            f"Horizons of a model share their stable phase: only {cost.flops:.3g} of the runs' "
            f"{total:.3g} FLOPs ({cost.flops / total:.0%}) are computed."
        )
    if cost_line:
        _show_cost(left, len(specs), cluster)
    too_big = [s for s in specs if needed[s.run_id] > cluster.gpu_memory_gb * 1e9]
    if too_big:
        print(
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
    print(
        f"{share}cost: {cost.flops:.3g} FLOPs = {number(cost.device_hours)} device-hours at "
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


def _bytes(n: float) -> str:
    return f"{n / 1e9:.3g} GB" if n >= 1e9 else f"{n / 1e6:.3g} MB"
