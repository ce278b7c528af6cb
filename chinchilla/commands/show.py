"""Plans as tables for a terminal, and what every table and line of costs here is made with."""

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from chinchilla.config import ClusterConfig, RatesConfig
from chinchilla.core.units import count, duration, number
from chinchilla.plan.cost import plan_cost, reused_steps
from chinchilla.plan.memory import memory
from chinchilla.plan.records import RunSpec


def show_plan(
    specs: Sequence[RunSpec],
    cluster: ClusterConfig,
    done: Collection[str] = (),
    cost_line: bool = True,
) -> None:
    """Print a plan run by run, then what is left of it will cost, and by which assumptions.

    Args:
        specs: the whole plan.
        cluster: speed, price and memory of a device.
        done: run_ids that have their result.
        cost_line: whether to print the cost; a sweep has an estimate of its own.
    """
    left = [s for s in specs if s.run_id not in done]
    if not left:
        print(f"{specs[0].sweep}: all {len(specs)} runs have their results.")
        return
    table = Table(
        title=f"{specs[0].sweep}: {len(specs)} runs, C counted as {specs[0].flop_convention}",
        title_justify="left",
    )
    batches = len({s.batch_tokens for s in specs}) > 1  # a law's follow from D
    for name in (
        "budget",
        "N",
        "D, tokens",
        "D/N",
        *(["batch"] if batches else []),
        "steps",
        "peak lr",
        "C, FLOPs",
        "memory",
        "time",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    speed = cluster.peak_flops * cluster.mfu
    over = reused_steps(specs)
    too_big = []
    for i, s in enumerate(specs):
        needed = memory(s, s.model.seq_len).total
        if needed > cluster.gpu_memory_gb * 1e9:
            too_big.append(s)
        last = i + 1 == len(specs) or specs[i + 1].budget_flops != s.budget_flops
        table.add_row(
            "horizon" if s.budget_flops is None else f"{s.budget_flops:.3g}", count(s.N), count(s.D),
            f"{s.D / s.N:.1f}", *([count(s.batch_tokens)] if batches else []), f"{s.steps:,}",
            f"{s.peak_lr:.2e}", f"{s.C:.4g}", _bytes(needed),
            duration(s.C / speed * (1 - over[s.run_id] / s.steps)), end_section=last,
        )  # fmt: skip
    console().print(table)
    if any(over.values()):
        whole = plan_cost(specs, cluster, 1)
        print(
            f"Horizons share their stable phases, each from the start of the one before's cool-down: "
            f"{whole.flops:.3g} FLOPs are trained of the runs' {whole.flops + whole.shared_flops:.3g} "
            f"({whole.flops / (whole.flops + whole.shared_flops):.0%})."
        )
    if cost_line:
        _show_cost(left, len(specs), cluster)
    if too_big:
        print(
            f"note: {len(too_big)} runs need more than {cluster.gpu_memory_gb:g} GB on one device "
            f"(largest N={count(max(s.N for s in too_big))}), even with one row a pass (fp32 weights, gradients and Adam state)."
        )


def _show_cost(left: Sequence[RunSpec], n: int, cluster: ClusterConfig) -> None:
    """What `left` of a plan's `n` runs cost, and by which assumptions."""
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
    """FLOPs as device-hours, money, energy and CO2, with the rates they stand on."""
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
    """A share in percent; None is what no amount reaches."""
    return without if x is None else f"{100 * x:+.3g}"


def print_table(table: Table) -> None:
    """A table under its title, which may be wider than the table."""
    title, table.title = table.title, None
    print(f"\n{title}")
    console().print(table)


def new_table(title: str, columns: Sequence[str], left: Sequence[str] = ()) -> Table:
    """Numbers right, the columns in `left` left and wrapping."""
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(
            name,
            justify="left" if name in left else "right",
            no_wrap=name not in left,
            overflow="fold",
        )
    return table


def between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{count(low)}-{count(high)}"


def _bytes(n: float) -> str:
    unit, size = next((u for u in (("TB", 1e12), ("GB", 1e9)) if n >= u[1]), ("MB", 1e6))
    return f"{n / size:.3g} {unit}"


def console() -> Console:
    return Console(
        width=None if sys.stdout.isatty() else 120, highlight=False, markup=False, emoji=False
    )
