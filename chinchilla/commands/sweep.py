"""The commands sweep, worker, status, logs, retry and cancel."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chinchilla import config
from chinchilla.commands.shared import print_json
from chinchilla.commands.show import new_table, print_table
from chinchilla.config.command_line.words import shell_word
from chinchilla.core.errors import Refusal
from chinchilla.core.provenance import code_here, several_versions
from chinchilla.core.terminal import print_lines, print_message
from chinchilla.core.units import byte_size, duration
from chinchilla.plan.plan_file import read_plan

if TYPE_CHECKING:
    from chinchilla.sweep.cost import Estimate


def sweep(command: config.SweepCommand) -> int:
    """Plan a sweep, show its cost, then train every run that has no result."""
    from chinchilla.commands.data import show_use, use_record
    from chinchilla.commands.plan import derived, planned
    from chinchilla.commands.show import show_plan
    from chinchilla.plan.grid import check_comparable, check_same_recipe
    from chinchilla.sweep.cost import estimate
    from chinchilla.sweep.damage.repair import known_specs
    from chinchilla.sweep.damage.run_state import runs_to_train
    from chinchilla.sweep.launch import launch
    from chinchilla.sweep.preflight import free_bytes

    specs, use = planned(command)
    sweep_dir = Path(command.sweep_dir or f"runs/{command.grid.name}")
    planned_before, _ = known_specs(sweep_dir)
    all_specs = [*planned_before, *specs]
    if planned_before:
        check_comparable(all_specs)
        check_same_recipe(planned_before, specs)
    left = runs_to_train(sweep_dir, all_specs)
    *rows, total = estimate(left, command.cluster, command.runtime, os.cpu_count() or 1, all_specs)
    refused = _refusal(total, command.max_gpu_hours)
    if command.dry_run and command.format == "json":
        return print_json(
            {
                "runs": [dataclasses.asdict(s) | derived(s) for s in specs],
                "n_left": len(left),
                "estimate": {
                    "job_classes": [dataclasses.asdict(row) for row in rows],
                    "total": dataclasses.asdict(total),
                },
                "refused": refused or None,
                "sources": use_record(use),
            }
        )
    if refused and not command.dry_run:
        raise Refusal(refused)

    def announce() -> None:
        if command.format == "json":
            return
        show_use(use, command.epochs)
        done = {s.run_id for s in specs} - {s.run_id for s in left}
        show_plan(specs, command.cluster, done, cost_line=False)
        if left:
            _show_estimate([*rows, *([total] if len(rows) > 1 else [])], command.cluster)
            needed, free = total.disk_bytes, free_bytes(sweep_dir)
            if needed > free:
                print_message(
                    f"note: the sweep may need {byte_size(needed)} of disk space; sweep_dir={sweep_dir} "
                    f"has {byte_size(free)} free."
                )

    if command.dry_run:
        announce()
        if refused:
            print_message(f"This would be refused: {refused}")
        print_message("dry_run=true: nothing was launched.")
        return 0
    return launch(command, specs, sweep_dir, Path(command.data_dir), announce=announce)


def _refusal(total: "Estimate", limit: float) -> str:
    """Why a sweep is refused if its device-hours exceed the limit (0: none)."""
    if not limit or total.gpu_hours <= limit:
        return ""
    return (
        f"{total.n_runs} runs are expected to take {total.gpu_hours:.4g} GPU-hours, above "
        f"max_gpu_hours={limit:g}. Raise max_gpu_hours, or plan fewer or shorter runs."
    )


def _show_estimate(rows: Sequence["Estimate"], cluster: config.ClusterConfig) -> None:
    """Print a row per job class, a total, and the assumptions."""
    priced = any(row.price for row in rows)
    jobs = "jobs" if cluster.kind == "slurm" else "workers"
    columns = (
        "job class", "runs", jobs, "C, FLOPs", "device-hours", *(["price"] if priced else []),
        "wall time", "disk",
    )  # fmt: skip
    table = new_table(
        "cost of the runs left to train",
        columns,
        ("job class",),
        dispensable=("C, FLOPs", jobs, "disk"),
    )
    for row in rows:
        table.add_row(
            row.name, str(row.n_runs), str(row.n_jobs), f"{row.flops:.3g}", f"{row.gpu_hours:.3g}",
            *([f"{row.price:,.2f}"] if priced else []), duration(row.seconds), byte_size(row.disk_bytes),
        )  # fmt: skip
    print_table(table)
    print_message(
        f"At {cluster.peak_flops:.3g} FLOP/s x {cluster.mfu:.0%} MFU"
        + (f" and {cluster.price_per_device_hour:g} a device-hour" if priced else "")
        + (", unless a job class sets others" if cluster.resources else "")
        + ". Retries, interruptions and idle devices are not included."
    )


def worker(command: config.WorkerCommand) -> int:
    """Train runs of a prepared sweep until none can be claimed."""
    from chinchilla.sweep.worker import run_worker

    return run_worker(command)


def status(command: config.StatusCommand) -> int:
    """Show the status of a sweep."""
    from chinchilla.sweep.slurm.unstarted import unstarted_lines
    from chinchilla.sweep.view.jobs import jobs_in_queue, queue_line
    from chinchilla.sweep.view.live import watch
    from chinchilla.sweep.view.status import status_table, summary_line, sweep_status

    sweep_dir, as_json = Path(command.sweep_dir), command.format == "json"
    current, queue = sweep_status(sweep_dir), jobs_in_queue(sweep_dir)
    if as_json and not command.watch:
        return print_json({**current.to_dict(), "queue": queue})
    for problem in current.problems:
        print_message(f"warning: {problem}", file=sys.stderr)
    if not as_json:
        print_table(status_table(current, command.rows))
    if command.watch:
        return watch(sweep_dir, command.interval_seconds, as_json=as_json)
    print_message(summary_line(current))
    if note := several_versions((row.code for row in current.rows), code_here().label):
        print_message(f"note: {note}")
    if queue is not None:
        for line in (queue_line(queue), *unstarted_lines(queue["unstarted"])):
            print_message(line)
    return 0


def logs(command: config.LogsCommand) -> int:
    """Show the attempts, claims and logs of a run, or the errors and latest logs of a sweep."""
    from chinchilla.sweep.retry import find_runs
    from chinchilla.sweep.view.logs import run_logs, sweep_logs

    sweep_dir = _sweep_dir(command.sweep_dir)
    if command.run:
        [spec] = find_runs(sweep_dir, [command.run])
        sections = run_logs(sweep_dir, spec, command.lines)
    else:
        sections = sweep_logs(sweep_dir, command.lines)
    if command.format == "json":
        return print_json(sections)
    for i, (heading, lines) in enumerate(sections.items()):
        show = print_lines if i else print_message  # the sections after the first quote files
        show("\n".join([heading, *(f"  {line}" for line in lines), ""]))
    return 0


def retry(command: config.RetryCommand) -> int:
    """Make failed runs trainable again."""
    from chinchilla.sweep.retry import retry as retry_runs

    sweep_dir = _sweep_dir(command.sweep_dir)
    result = retry_runs(sweep_dir, command.runs, command.diverged)
    if command.format == "json":
        return print_json(result)
    n = len(result["again"])
    text = f"{n or 'no'} run{'' if n == 1 else 's'} will be trained again"
    if busy := result["busy"]:
        text += f"; {len(busy)} are in use by another process: try again"
    if blocked := result["blocked"]:
        text += (
            f"; {len(blocked)} are blocked (`chinchilla status {shell_word(sweep_dir)}` says why)"
        )
    if diverged := result["kept_diverged"]:
        text += f"; {len(diverged)} diverged are unchanged (diverged=true includes them)"
    print_message(f"{text}.")
    for run_id in result["again"]:
        print_message(f"  {run_id}")
    if result["again"]:
        print_message(
            f"Launch them in {sweep_dir} with the same command as before. Their old files are kept under "
            "other names, such as result-failed-1.json."
        )
    return 0


def cancel(command: config.CancelCommand) -> int:
    """Cancel the Slurm jobs of a sweep."""
    from chinchilla.sweep.slurm.submit import cancel as cancel_jobs

    sweep_dir = Path(command.sweep_dir)
    if not (sweep_dir / "slurm").is_dir():  # jobs can be cancelled even if the plan is damaged
        _sweep_dir(command.sweep_dir)
    result = cancel_jobs(sweep_dir)
    if command.format == "json":
        return print_json(result)
    if ids := result["job_ids"]:
        s = "" if result["n_jobs"] == 1 else "s"
        print_message(
            f"cancelled {result['n_jobs']} job{s}: {' '.join(ids)}. Runs in training are saved; the "
            "same sweep command continues them."
        )
    else:
        print_message(
            "no job of yours for this sweep is in Slurm's queue: nothing to cancel. Stop workers "
            "outside of Slurm with Ctrl-C in the terminal of their launcher."
        )
    return 0


def _sweep_dir(folder: str) -> Path:
    """The folder as a path, after checking that it holds a sweep."""
    read_plan(Path(folder) / "plan.jsonl")
    return Path(folder)
