"""Plans and predictions as tables for a terminal."""

import os
import sys
from collections.abc import Collection, Sequence

from rich.console import Console
from rich.table import Table

from chinchilla.config import ClusterConfig
from chinchilla.fit.predict import Prediction
from chinchilla.plan import peak_memory_bytes, plan_cost
from chinchilla.records import RunSpec, count_label


def show_plan(specs: Sequence[RunSpec], cluster: ClusterConfig, done: Collection[str] = ()) -> None:
    """Print a plan run by run, then what is left of it will cost, and by which assumptions.

    Args:
        specs: the whole plan.
        cluster: speed, price and memory of a device.
        done: run_ids that have their result.
    """
    left = [s for s in specs if s.run_id not in done]
    if not left:
        print(f"{specs[0].sweep}: all {len(specs)} runs have their results.")
        return
    table = Table(
        title=f"{specs[0].sweep}: {len(specs)} runs, C counted as {specs[0].flop_convention}",
        title_justify="left",
    )
    for name in (
        "budget",
        "N",
        "D, tokens",
        "D/N",
        "steps",
        "peak lr",
        "C, FLOPs",
        "memory",
        "time",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    speed = cluster.peak_flops * cluster.mfu
    too_big = []
    for i, s in enumerate(specs):
        memory = peak_memory_bytes(s, s.model.seq_len)
        if memory > cluster.memory_gb * 1e9:
            too_big.append(s)
        last = i + 1 == len(specs) or specs[i + 1].budget_flops != s.budget_flops
        table.add_row(
            "horizon" if s.budget_flops is None else f"{s.budget_flops:.3g}", count_label(s.N), count_label(s.D),
            f"{s.D / s.N:.1f}", f"{s.steps:,}", f"{s.peak_lr:.2e}", f"{s.C:.4g}", _bytes(memory),
            _duration(s.C / speed), end_section=last,
        )  # fmt: skip
    console().print(table)
    workers = cluster.n_workers or (1 if cluster.kind == "debug" else os.cpu_count() or 1)
    cost = plan_cost(left, cluster, workers)
    hourly = cluster.price_per_device_hour
    share = f"{len(left)} of {len(specs)} runs are left; their " if done else ""
    price = f", {cost.price:,.2f} at {hourly:g} an hour" if hourly else ""
    print(
        f"{share}cost: {cost.flops:.3g} FLOPs = {cost.device_hours:.3g} device-hours at "
        f"{cluster.peak_flops:.3g} FLOP/s x {cluster.mfu:.0%} MFU{price}; about "
        f"{_duration(cost.seconds)} on {workers} workers, longest run {_duration(cost.longest_run_seconds)}."
    )
    if too_big:
        print(
            f"note: {len(too_big)} runs need more than {cluster.memory_gb:g} GB on one device "
            f"(largest N={count_label(max(s.N for s in too_big))}), even with one row a pass (fp32 weights, gradients and Adam state)."
        )


def show_predictions(rows: Sequence[Prediction]) -> None:
    """Print N_opt, D_opt and loss by source, one table for all budgets."""
    table = Table(title="compute-optimal allocation", title_justify="left")
    for name in (
        "C, FLOPs",
        "by",
        "N_opt",
        "10-90%",
        "D_opt, tokens",
        "10-90%",
        "D/N",
        "loss, nats/token",
    ):
        table.add_column(name, justify="left" if name == "by" else "right", no_wrap=name != "by")
    for row in rows:
        by = row.by if row.beyond is None else f"{row.by} ({row.beyond:.3g}x beyond)"
        loss = "" if row.L is None else f"{row.L:.4f}"
        table.add_row(
            f"{row.C:.3g}", by, count_label(row.N), _between(row.N_p10, row.N_p90), count_label(row.D),
            _between(row.D_p10, row.D_p90), f"{row.D / row.N:.1f}", loss,
        )  # fmt: skip
    console().print(table)


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{count_label(low)}-{count_label(high)}"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _bytes(n: float) -> str:
    unit, size = next((u for u in (("TB", 1e12), ("GB", 1e9)) if n >= u[1]), ("MB", 1e6))
    return f"{n / size:.3g} {unit}"


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)
