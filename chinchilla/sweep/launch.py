"""Launch a sweep: write its plan, then let workers train what is missing.

cluster.kind says where workers run: in this process (debug), as processes of this machine (local),
as a job array (slurm), or wherever a person starts them (torchrun). Launching again does only what is missing, tries failed runs again,
and adds new specs to the plan. Nothing is ever dropped from a plan.
"""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from chinchilla.config import RuntimeConfig, SweepCommand, TrainCommand
from chinchilla.core.errors import InputError
from chinchilla.core.files import writable_dir
from chinchilla.plan.cost import n_at_once
from chinchilla.plan.records import RunSpec, load_plan, save_plan
from chinchilla.sweep import local_pool
from chinchilla.sweep.claims import Claim, take
from chinchilla.sweep.hints import given, torchrun
from chinchilla.sweep.job_classes import assign
from chinchilla.sweep.preflight import limit_threads, worker_name
from chinchilla.sweep.provenance import record_launch
from chinchilla.sweep.retry import put_aside
from chinchilla.sweep.run_files import missing_specs, run_dir_of, save_runtime
from chinchilla.sweep.signals import stop_on_signals
from chinchilla.sweep.view.progress import SweepProgress
from chinchilla.sweep.view.status import SweepStatus, summary_line, sweep_status
from chinchilla.sweep.worker import Train, run_worker
from chinchilla.tracking import mirror

EXIT_OK, EXIT_FAILED, EXIT_AGAIN = 0, 1, 75
LAUNCH_WAIT_SECONDS = 90.0  # for another launcher of the same sweep to finish writing


def launch(
    command: SweepCommand | TrainCommand,
    specs: list[RunSpec],
    sweep_dir: Path,
    data_dir: Path,
    *,
    train: Train | None = None,
    program: tuple[str, ...] = local_pool.WORKER,
) -> int:
    """Train what is missing of a sweep.

    Args:
        command: cluster, runtime and output format. A `train` command keeps to its own runs where
            others wait in the same folder, and prints its own JSON.
        specs: the runs asked for; joined to those the folder's plan has.
        sweep_dir: the sweep's folder, made if needed.
        data_dir: token folder.
        train: debug only: stands in for `chinchilla.train.train_run`.
        program: local only: command that starts a worker.

    Returns:
        Exit code: 0 every run is over and none failed (or jobs were submitted to Slurm, or the
        folder was prepared for torchrun), 1 some failed, or are left because workers ended badly,
        75 some are left because this launcher was stopped or others train them.

    Raises:
        InputError: the folder holds another sweep or another version's files; no Slurm, or no such
            device here.
    """
    sweep_dir, data_dir = sweep_dir.resolve(), data_dir.resolve()
    device = command.runtime.device
    if command.cluster.kind in ("debug", "local") and device not in ("auto", "cpu"):
        from chinchilla.train.device import check_device

        check_device(device)
    if note := prepare(sweep_dir, specs, command.runtime, command.cluster.kind):
        print(note, file=sys.stderr)
    # A plan may hold more than was asked for now: a sweep trains all of it, `train` only its own.
    only = {s.run_id for s in specs} if isinstance(command, TrainCommand) else None
    missing = missing_specs(sweep_dir, only)
    kind = command.cluster.kind
    if missing and kind == "slurm":
        from chinchilla.sweep.slurm.submit import submit

        with turn(sweep_dir) as claim:
            left = missing_specs(sweep_dir, only)
            said = submit(command.cluster, sweep_dir, data_dir, left, claim.still_mine)
        print(json.dumps(said.to_dict()) if command.format == "json" else said.text())
        return EXIT_OK
    if missing and kind == "torchrun":
        assign(missing, command.cluster)
        _say_how(command, missing, sweep_dir, data_dir)
        return EXIT_OK
    words: list[str] = []
    if missing:
        # With format=json standard output carries one JSON document and nothing else.
        out = sys.stderr if command.format == "json" else sys.stdout
        try:
            with stop_on_signals() as stop, SweepProgress(sweep_dir, out, only):
                if kind == "debug":
                    limit_threads(command.cluster.threads_per_worker)
                    summary = run_worker(
                        sweep_dir,
                        data_dir,
                        command.runtime,
                        worker_name(),
                        train,
                        only=only,
                        stop=stop,
                    )
                    if summary.unfit:
                        words.append(summary.unfit)
                    if summary.needs_restart:
                        words.append(
                            "the GPU cannot be used any more by this process: launch again"
                        )
                else:
                    shape = local_pool.pool_shape(
                        command.cluster, command.runtime, n_at_once(missing)
                    )
                    with local_pool.start(sweep_dir, data_dir, shape, program) as workers:
                        workers.wait(stop)
                    words = workers.last_words()
        finally:
            mirror.finish()
    status = sweep_status(sweep_dir, only=only)
    _say(command, status, words, sweep_dir)
    if status.counts["failed"]:
        return EXIT_FAILED
    if status.done == len(status.rows):  # whatever became of a worker, others did its work
        return EXIT_OK
    return EXIT_FAILED if words else EXIT_AGAIN


def prepare(sweep_dir: Path, specs: list[RunSpec], runtime: RuntimeConfig, kind: str) -> str:
    """Write the plan and runtime.json, and make failed runs trainable again.

    Returns:
        A line to say when the sweep was launched with other code before; else nothing.

    Raises:
        InputError: the folder holds another sweep, or files of another schema.
    """
    writable_dir(sweep_dir, "sweep_dir")
    with turn(sweep_dir):
        plan = sweep_dir / "plan.jsonl"
        planned = load_plan(plan) if plan.exists() else []
        other = {s.sweep for s in planned} - {s.sweep for s in specs}
        if specs and other:
            raise InputError(
                f"sweep_dir={sweep_dir} holds sweep {', '.join(sorted(other))}, not "
                f"{specs[0].sweep}. Give each sweep its own folder."
            )
        have = {s.run_id for s in planned}
        new = list({s.run_id: s for s in specs if s.run_id not in have}.values())
        if new or not plan.exists():
            save_plan(planned + new, plan)
        save_runtime(runtime, sweep_dir)
        for spec in specs or planned:
            put_aside(run_dir_of(sweep_dir, spec))
        return record_launch(sweep_dir, kind)


@contextlib.contextmanager
def turn(sweep_dir: Path) -> Iterator[Claim]:
    """Launchers of one sweep take turns by claiming sweep_dir/launch, as workers claim runs.

    Raises:
        InputError: another launcher has it and keeps it.
    """
    folder = sweep_dir / "launch"
    deadline = time.monotonic() + LAUNCH_WAIT_SECONDS
    while (claim := take(folder, worker_name(), to_train=False)) is None:
        if time.monotonic() > deadline:
            raise InputError(
                f"another launcher has been preparing this sweep for long ({folder}). "
                "Try again when it is through."
            )
        time.sleep(0.1)
    try:
        yield claim
    finally:
        claim.release()


def _say_how(
    command: SweepCommand | TrainCommand, missing: list[RunSpec], sweep_dir: Path, data_dir: Path
) -> None:
    line = torchrun(command.cluster, sweep_dir, data_dir)
    if command.format == "json":
        told = {"sweep_dir": str(sweep_dir), "n_left": len(missing), "command": line}
        print(json.dumps(told))
        return
    n, nodes = len(missing), command.cluster.nodes
    runs = f"{n} run{'' if n == 1 else 's'}"
    precision = ", ".join(sorted({s.precision for s in missing}))
    where = "" if nodes == 1 else f", on each of {nodes} nodes (FIRST_NODE is one of them)"
    print(
        f"{runs} to train in {precision}; nothing was started. Start a worker of all ranks{where}:"
    )
    print(f"  {line}")
    print(f"  look:  chinchilla status {given('sweep_dir', sweep_dir)}")


def _say(
    command: SweepCommand | TrainCommand, status: SweepStatus, words: list[str], sweep_dir: Path
) -> None:
    for line in words:
        print(line, file=sys.stderr)
    if command.format == "json":
        if isinstance(command, SweepCommand):
            print(json.dumps(status.to_dict()))
        return
    print(summary_line(status))
    for row in status.rows:
        if row.state in ("diverged", "failed"):
            print(f"  {row.state} {row.run_id}: {row.reason}")
    if status.counts["failed"]:
        print(f"  tracebacks: {sweep_dir}/runs/<run>/error.txt; launch again to retry them")
    for row in status.rows:
        if row.state == "running":
            print(f"  {row.run_id} is being trained by {row.worker}")
    if status.done < len(status.rows):
        print("  the rest is not over yet; the same command goes on from here")
