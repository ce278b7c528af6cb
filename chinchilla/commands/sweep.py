"""The commands that launch a sweep and look after it: sweep, status, logs, retry, cancel."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from chinchilla import config
from chinchilla.commands.shared import print_json
from chinchilla.commands.show import console
from chinchilla.core.errors import Refusal
from chinchilla.core.files import writable_dir
from chinchilla.plan.records import RunSpec, load_plan

if TYPE_CHECKING:
    from chinchilla.sweep.cost import Estimate


def sweep(command: config.SweepCommand) -> int:
    """Plan, show the cost, then train every run that has no result yet."""
    from chinchilla.commands.data import use_record
    from chinchilla.commands.show import show_plan
    from chinchilla.commands.train import derived, planned
    from chinchilla.plan.grid import check_comparable, check_same_recipe
    from chinchilla.sweep.cost import check_gpu_hours, estimate
    from chinchilla.sweep.launch import launch
    from chinchilla.sweep.preflight import free_bytes
    from chinchilla.sweep.run_files import clean_sweep

    specs, use = planned(command)
    sweep_dir = Path(command.sweep_dir or f"runs/{command.grid.name}")
    plan = sweep_dir / "plan.jsonl"
    there = load_plan(plan) if plan.exists() else []
    whole = [*there, *specs]
    if there:
        check_comparable(whole)
        check_same_recipe(there, specs)
    left = _left(sweep_dir, whole)
    cost = estimate(left, command.cluster, command.runtime, os.cpu_count() or 1, whole)
    refused: Refusal | None = None
    try:
        check_gpu_hours(cost, command.max_gpu_hours, command.yes)
    except Refusal as error:
        refused = error
    if command.dry_run and command.format == "json":
        runs = [dataclasses.asdict(s) | derived(s) for s in specs]
        return print_json(
            {
                "runs": runs,
                "n_left": len(left),
                "estimate": cost.to_dict(),
                "refused": str(refused) if refused else None,
                "sources": use_record(use),
            }
        )
    if command.format == "text":
        done = {s.run_id for s in specs} - {s.run_id for s in left}
        show_plan(specs, command.cluster, done, cost_line=False)
        if left:
            _show_estimate(cost, command.cluster)
            most, free = cost.total.peak_disk_bytes, free_bytes(sweep_dir)
            if most > free:
                here = f"sweep_dir={sweep_dir}"
                print(f"note: {here} may take {_bytes(most)}, and {_bytes(free)} are free there.")
    if refused and not command.dry_run:
        raise refused
    if refused:
        print(f"This would be refused: {refused}")
    if command.dry_run:
        print("dry_run=true: nothing was launched.")
        return 0
    writable_dir(sweep_dir, "sweep_dir")
    clean_sweep(sweep_dir)
    return launch(command, specs, sweep_dir, Path(command.data_dir))


def _left(sweep_dir: Path, specs: list[RunSpec]) -> list[RunSpec]:
    """Of these runs those that a launch would train, each once."""
    from chinchilla.sweep.retry import state_of
    from chinchilla.sweep.run_files import run_dir_of

    runs = {s.run_id: s for s in specs}.values()
    return [s for s in runs if state_of(run_dir_of(sweep_dir, s)) not in ("finished", "diverged")]


def _show_estimate(cost: "Estimate", cluster: config.ClusterConfig) -> None:
    """A line for each shape of jobs and one for all, then what the numbers mean."""
    from chinchilla.core.units import duration

    priced = any(row.price for row in cost.shapes)
    jobs = "jobs" if cluster.kind == "slurm" else "workers"
    table = Table(title="what is left to train", title_justify="left")
    columns = ["runs", jobs, "C, FLOPs", "device-hours", "at worst", "wall time", "disk", "at most"]
    if priced:
        columns[5:5] = ["price", "at worst"]
    table.add_column("shape")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in cost.shapes if len(cost.shapes) == 1 else [*cost.shapes, cost.total]:
        prices = [f"{row.price:,.2f}", _or_unbounded(row.worst_price, ",.2f")] if priced else []
        table.add_row(
            row.name, str(row.n_runs), str(row.n_jobs), f"{row.flops:.3g}", f"{row.gpu_hours:.3g}",
            _or_unbounded(row.worst_gpu_hours, ".3g"), *prices, duration(row.seconds),
            _bytes(row.disk_bytes), _bytes(row.peak_disk_bytes),
        )  # fmt: skip
    console().print(table)
    print(
        f"At {cluster.peak_flops:.3g} FLOP/s x {cluster.mfu:.0%} MFU"
        + (f" and {cluster.price_per_device_hour:g} a device-hour" if priced else "")
        + (", unless a shape says otherwise" if cluster.resources else "")
        + f". At worst: {cost.worst_case}."
    )


def _or_unbounded(x: float | None, form: str) -> str:
    return "unbounded" if x is None else format(x, form)


def _bytes(n: float) -> str:
    unit, size = next((u for u in (("TB", 1e12), ("GB", 1e9)) if n >= u[1]), ("MB", 1e6))
    return f"{n / size:.3g} {unit}"


def status(command: config.StatusCommand) -> int:
    """Show what a sweep has done."""
    from chinchilla.sweep.slurm.job_records import in_queue
    from chinchilla.sweep.view.status import render_status, sweep_status
    from chinchilla.sweep.view.watch import exit_code, watch

    sweep_dir = Path(command.sweep_dir)
    if command.watch:
        terminal = console() if sys.stdout.isatty() else None
        last = watch(
            sweep_dir, command.interval_seconds, rows=command.rows,
            as_json=command.format == "json", console=terminal,
        )  # fmt: skip
        return exit_code(last)
    found, queue = sweep_status(sweep_dir), in_queue(sweep_dir)
    if command.format == "json":
        return print_json(
            {**found.to_dict(), "queue": dataclasses.asdict(queue) if queue else None}
        )
    console().print(render_status(found, queue, command.rows))
    return 0


def logs(command: config.LogsCommand) -> int:
    """Show what became of a run, and the ends of the logs that tell of it."""
    from chinchilla.sweep.retry import find_runs
    from chinchilla.sweep.view.logs import run_logs, sweep_logs

    sweep_dir = _sweep_dir(command.sweep_dir)
    if command.run:
        [spec] = find_runs(sweep_dir, [command.run])
        found = run_logs(sweep_dir, spec, command.lines)
    else:
        found = sweep_logs(sweep_dir, command.lines)
    if command.format == "json":
        return print_json(found.to_dict())
    print(found.text())
    return 0


def retry(command: config.RetryCommand) -> int:
    """Make failed runs trainable again; say how to train them."""
    from chinchilla.sweep.hints import given
    from chinchilla.sweep.retry import retry as retry_runs

    sweep_dir = _sweep_dir(command.sweep_dir)
    found = retry_runs(sweep_dir, command.runs, command.diverged)
    if command.format == "json":
        return print_json(dataclasses.asdict(found))
    print(found.sentence)
    for run_id in found.again:
        print(f"  {run_id}")
    if found.again:
        print(
            f"The same sweep command (chinchilla sweep ... {given('sweep_dir', sweep_dir)}) launches "
            f"them; what they left is kept in their runs, as {', '.join(found.kept)} and so on."
        )
    return 0


def cancel(command: config.CancelCommand) -> int:
    """End a sweep's Slurm jobs."""
    from chinchilla.sweep.slurm.cancel import cancel as cancel_jobs

    sweep_dir = Path(command.sweep_dir)
    if not (sweep_dir / "submitit").is_dir():  # a damaged plan keeps nobody from ending jobs
        _sweep_dir(command.sweep_dir)
    found = cancel_jobs(sweep_dir)
    if command.format == "json":
        return print_json(found.to_dict())
    print(found.text())
    return 0


def _sweep_dir(given: str) -> Path:
    """The folder, once it is sure that a sweep is in it."""
    load_plan(Path(given) / "plan.jsonl")  # says clearly when there is none
    return Path(given)
