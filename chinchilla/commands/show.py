"""Tables, plans and costs as text for a terminal."""

import os
import sys
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable

from chinchilla.config import ClusterConfig, RatesConfig
from chinchilla.core.table import Table
from chinchilla.core.units import count, duration, number
from chinchilla.plan.cost import plan_cost, reused_steps
from chinchilla.plan.memory import memory
from chinchilla.plan.records import RunSpec

if TYPE_CHECKING:
    from chinchilla.fit.results import FitResults

UNLIMITED = 10_000  # columns, wider than any table


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


def show_table2(fits: "FitResults") -> None:
    """Print Table 2, ours and the paper's, how intervals were computed, and refused approaches."""
    from chinchilla.report.tables import interval_methods, name_of, table2

    print_table(table2(fits))
    notes = [f"[{name}] {method}" for name, method in interval_methods(fits).items()]
    notes += [f"{name_of(a)} refused: {r.reason}" for a, r in fits.refused.items()]
    for note in notes:
        print(textwrap.fill(note, 100, subsequent_indent="  "))


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
    print_table(_plan_table(specs, cluster, needed, shared))
    if any(shared.values()):
        cost = plan_cost(specs, cluster, 1)
        total = cost.flops + cost.shared_flops
        print(
            f"Horizons of a model share their stable phase: {cost.flops:.3g} FLOPs are trained of the "
            f"runs' {total:.3g} ({cost.flops / total:.0%})."
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


def _plan_table(
    specs: Sequence[RunSpec],
    cluster: ClusterConfig,
    needed: Mapping[str, float],
    shared: Mapping[str, int],
) -> Table:
    speed = cluster.peak_flops * cluster.mfu
    batch = ("batch",) if len({s.batch_tokens for s in specs}) > 1 else ()
    table = new_table(
        f"{specs[0].sweep}: {len(specs)} runs, C counted as {specs[0].flop_convention}",
        ("budget", "N", "D, tokens", "D/N", *batch, "steps", "peak lr", "C, FLOPs", "memory", "time"),
    )  # fmt: skip
    table.grouped = True
    for s in specs:
        table.add_row(
            "horizon" if s.budget_flops is None else f"{s.budget_flops:.3g}", count(s.N), count(s.D),
            f"{s.D / s.N:.1f}", *([count(s.batch_tokens)] if batch else []), f"{s.steps:,}",
            f"{s.peak_lr:.2e}", f"{s.C:.4g}", _bytes(needed[s.run_id]),
            duration(s.C / speed * (1 - shared[s.run_id] / s.steps)),
        )  # fmt: skip
    return table


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
    """FLOPs as device-hours, price, energy and CO2, with the rates used."""
    text = (
        f"{number(cost['device_hours'])} device-hours at {rates.peak_flops:.3g} FLOP/s x "
        f"{rates.mfu:.0%} MFU"
    )
    if cost["price"] is not None:
        text += f", {number(cost['price'])} at {rates.price_per_device_hour:g} an hour"
    if cost["energy_kwh"] is not None:
        text += (
            f", {number(cost['energy_kwh'])} kWh at {rates.device_watts:g} W x PUE {rates.pue:g}"
        )
    if cost["co2_kg"] is not None:
        text += f", {number(cost['co2_kg'])} kg CO2 at {rates.co2_grams_per_kwh:g} g/kWh"
    return text


def percent(x: float | None, without: str = "never") -> str:
    """A share in percent; `without` for None."""
    return without if x is None else f"{100 * x:+.3g}"


def between(low: float | None, high: float | None) -> str:
    """An interval of counts; empty without one."""
    return "" if low is None or high is None else f"{count(low)}-{count(high)}"


def _bytes(n: float) -> str:
    unit, size = next((u for u in (("TB", 1e12), ("GB", 1e9)) if n >= u[1]), ("MB", 1e6))
    return f"{n / size:.3g} {unit}"
