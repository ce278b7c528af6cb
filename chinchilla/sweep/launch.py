"""Launch a sweep: write its plan, then train the runs that have no result.

cluster.kind selects where workers run: in this process (debug), in processes on this machine (local),
in a Slurm job array (slurm), or wherever `chinchilla worker` is started (manual). Launching again adds new
runs to the plan, retries failed runs, and trains the runs without a result. Runs are never removed
from a plan.
"""

import contextlib
import dataclasses
import errno
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from chinchilla.config import ClusterConfig, RuntimeConfig, SweepCommand, TrainCommand
from chinchilla.config.command_line.words import shell_word
from chinchilla.core.errors import EXIT_AGAIN, EXIT_FAILED, EXIT_OK, InputError
from chinchilla.core.files.folders import FolderGone, end_waiting, unguard, wait_for_folder
from chinchilla.core.files.writing import guard, writable_dir
from chinchilla.core.terminal import print_error, print_lines, print_message
from chinchilla.plan.cost import n_at_once
from chinchilla.plan.plan_file import save_plan
from chinchilla.plan.records import RunSpec
from chinchilla.sweep import local_pool
from chinchilla.sweep.claims import STALE_SECONDS, Claim, acquire, latest_claim
from chinchilla.sweep.damage.access import blocked_reason, move_aside, restore_access
from chinchilla.sweep.damage.repair import known_specs, repair_sweep, replace_plan
from chinchilla.sweep.damage.run_state import run_state, runs_to_train
from chinchilla.sweep.job_classes import Selection, assign
from chinchilla.sweep.preflight import limit_threads, worker_name
from chinchilla.sweep.rescue import rescue_message
from chinchilla.sweep.retry import make_trainable
from chinchilla.sweep.run_files import (
    clean_sweep,
    correct_marks,
    load_runtime,
    missing_specs,
    run_dir_of,
    save_runtime,
)
from chinchilla.sweep.signals import stop_on_signals
from chinchilla.sweep.view.live import show_progress
from chinchilla.sweep.view.status import SweepStatus, summary_line, sweep_status
from chinchilla.sweep.worker import Train, Worker
from chinchilla.tracking.mirror import wait_for_mirrors

LAUNCH_WAIT_SECONDS = 90.0  # longest wait for another launcher of the same sweep
SILENT_SECONDS = 5.0  # of this wait, before it is reported


def launch(
    command: SweepCommand | TrainCommand,
    specs: list[RunSpec],
    sweep_dir: Path,
    data_dir: Path,
    *,
    train: Train | None = None,
    program: tuple[str, ...] = local_pool.WORKER,
    announce: Callable[[], None] = lambda: None,
) -> int:
    """Train the runs of a sweep that have no result.

    Args:
        command: cluster, runtime and output format. A `train` command trains only its run, even if
            the folder's plan has others, and prints its own JSON.
        specs: runs to add to the folder's plan; one for `train`.
        sweep_dir: the sweep's folder, created if needed.
        data_dir: token folder.
        train: substitute for `chinchilla.train.train_run`; used if cluster.kind is debug.
        program: command that starts a worker; used if cluster.kind is local.
        announce: prints the plan; called after the checks, so that a refusal is all that is printed.

    Returns:
        Exit code: 0 if every run has ended and none failed (or jobs were submitted to Slurm, or the
        folder was prepared for workers that are started by hand); 1 if runs failed, or are left because
        workers failed; 75 if runs are left because this launcher was stopped or other workers train them.

    Raises:
        InputError: the folder holds another sweep or files of another version; Slurm or the device
            is not available here.
    """
    sweep_dir, data_dir = sweep_dir.resolve(), data_dir.resolve()
    kind, device = command.cluster.kind, command.runtime.device
    if kind in ("debug", "local") and device not in ("auto", "cpu"):
        from chinchilla.train.device import pick_device

        pick_device(device)
    # A sweep trains the whole plan, `train` only its own run.
    only = Selection()
    if isinstance(command, TrainCommand):
        [spec] = specs
        only = Selection(run_id=spec.run_id)
    if kind in ("slurm", "manual"):
        _check_jobs(command, specs, sweep_dir, only)
    prepare(sweep_dir, specs, command.runtime, data_dir)
    announce()
    missing = missing_specs(sweep_dir, only)
    errors: list[str] = []
    if missing and kind == "slurm":
        from chinchilla.sweep.slurm.submit import submit

        with launch_lock(sweep_dir) as claim:
            left = missing_specs(sweep_dir, only)
            submission = submit(
                command.cluster, sweep_dir, data_dir, left, claim.still_mine, only.run_id
            )
        as_json = command.format == "json"
        print_lines(json.dumps(dataclasses.asdict(submission)) if as_json else submission.text())
        return EXIT_OK
    if missing and kind == "manual":
        line, n = worker_command(command.cluster, sweep_dir, only), len(missing)
        if command.format == "json":
            print_lines(json.dumps({"sweep_dir": str(sweep_dir), "n_left": n, "command": line}))
            return EXIT_OK
        nodes, ranks = command.cluster.nodes, command.cluster.ranks_per_node
        how = "Start a worker" if nodes * ranks > 1 else "Start any number of workers, each"
        where = "" if nodes == 1 else f" on each of {nodes} nodes (FIRST_NODE is one of them)"
        runs = "1 run is" if n == 1 else f"{n} runs are"
        print_message(f"{runs} left; nothing was started. {how}{where} with:")
        print_lines(f"  {line}\n  status:  chinchilla status {shell_word(sweep_dir)}")
        return EXIT_OK
    if missing:
        # With format=json standard output holds one JSON document and nothing else.
        out = sys.stderr if command.format == "json" else sys.stdout
        try:
            with stop_on_signals() as stop, show_progress(sweep_dir, out, only):
                end_waiting(sweep_dir, stop)
                if kind == "debug":
                    limit_threads(command.cluster.threads_per_worker)
                    worker = Worker(
                        sweep_dir, data_dir, command.runtime, train=train, only=only, stop=stop
                    )
                    summary = worker.run()
                    errors += [summary.cannot_train] if summary.cannot_train else []
                    if summary.needs_restart:
                        errors.append("this process can no longer use the GPU: launch again")
                else:
                    size = local_pool.pool_size(
                        command.cluster, command.runtime, n_at_once(missing)
                    )
                    words = (*program, *only.arguments)
                    with local_pool.Pool(sweep_dir, data_dir, size, words) as workers:
                        workers.wait(stop)
                    errors += workers.errors()
        except FolderGone as error:  # reported below, if it is still gone
            errors.append(f"{error.strerror}")
        finally:
            wait_for_mirrors()
    try:
        wait_for_folder(sweep_dir, wait=False)
    except FolderGone as error:  # with the logs of its workers
        print_error(f"{error.strerror}. {rescue_message(sweep_dir)}".strip())
        return EXIT_FAILED
    status = sweep_status(sweep_dir, only=only)
    _print_status(command, status, errors, sweep_dir)
    if status.counts["failed"] or status.counts["blocked"]:
        return EXIT_FAILED
    if status.done == len(status.rows):  # even if a worker failed: others trained its runs
        return EXIT_OK
    return EXIT_FAILED if errors else EXIT_AGAIN


def _check_jobs(
    command: SweepCommand | TrainCommand, specs: list[RunSpec], sweep_dir: Path, only: Selection
) -> None:
    """Check the settings of jobs, and that Slurm answers, before anything is written.

    Raises:
        InputError: a run fits no job class, ranks do not suit a run, or Slurm does not answer.
    """
    known, _ = known_specs(sweep_dir)
    if missing := runs_to_train(sweep_dir, [s for s in (*known, *specs) if only(s)]):
        assign(missing, command.cluster, command.runtime.shard_ranks)
        if command.cluster.kind == "slurm":
            from chinchilla.sweep.slurm.submit import check_submission

            check_submission(command.cluster, sweep_dir, missing)


def prepare(
    sweep_dir: Path, specs: list[RunSpec], runtime: RuntimeConfig, data_dir: Path | None = None
) -> None:
    """Write the plan and runtime.json, repair the folder, and make failed and damaged runs trainable again.

    Raises:
        InputError: the folder holds another sweep, a plan of another schema, or results measured on
            other validation tokens. Nothing was written.
    """

    def planned() -> tuple[list[RunSpec], str]:
        found, problem = known_specs(sweep_dir)
        other = {s.sweep for s in found} - {s.sweep for s in specs}
        if specs and other:
            raise InputError(
                f"sweep_dir={sweep_dir} holds sweep {', '.join(sorted(other))}, not "
                f"{specs[0].sweep}. Give each sweep its own folder."
            )
        _refuse_other_validation_tokens(sweep_dir, found, runtime)
        return found, problem

    planned()  # refused before the lock, which is a file in the folder
    unguard(sweep_dir)
    writable_dir(sweep_dir, "sweep_dir")
    guard(sweep_dir)  # before files are removed: no link below the folder is followed
    clean_sweep(sweep_dir)
    with launch_lock(sweep_dir):
        repair_sweep(sweep_dir)
        before, problem = planned()
        known = {s.run_id for s in before}
        new = list({s.run_id: s for s in specs if s.run_id not in known}.values())
        if problem:
            replace_plan(sweep_dir, before + new)
        elif new or not before:
            save_plan(before + new, sweep_dir / "plan.jsonl")
        save_runtime(runtime, sweep_dir, data_dir)
        make_trainable(sweep_dir, specs or before)
        correct_marks(sweep_dir, before + new)


def _refuse_other_validation_tokens(
    sweep_dir: Path, specs: list[RunSpec], runtime: RuntimeConfig
) -> None:
    """Raise InputError if these runs have results measured on another number of validation tokens.

    A fit of validation losses compares runs with each other, and run_id does not contain the number.
    """
    try:
        earlier = load_runtime(sweep_dir).validation_tokens
    except InputError:  # none, damaged or of another version: it is written anew
        return
    given = runtime.validation_tokens
    states = ((s.run_id, run_state(run_dir_of(sweep_dir, s)).name) for s in specs)
    finished = (run_id for run_id, state in states if state == "finished")
    if earlier != given and (run_id := next(finished, None)):
        raise InputError(
            f"runtime.validation_tokens={given}, but {sweep_dir} has validation losses on {earlier} tokens, "
            f"such as that of {run_id}, and losses on other tokens cannot be compared. Give "
            f"runtime.validation_tokens={earlier}, or another folder."
        )


@contextlib.contextmanager
def launch_lock(sweep_dir: Path) -> Iterator[Claim]:
    """Exclude other launchers of the same sweep, by a claim on sweep_dir/launch.

    Raises:
        InputError: another launcher holds it for longer than LAUNCH_WAIT_SECONDS, or it is not accessible.
    """
    folder = sweep_dir / "launch"
    deadline = time.monotonic() + LAUNCH_WAIT_SECONDS
    report_at = time.monotonic() + SILENT_SECONDS
    try:
        if os.path.lexists(folder) and not folder.is_dir():
            move_aside(folder)
        restore_access(folder)
        while (claim := acquire(folder, worker_name(), to_train=False)) is None:
            if time.monotonic() > report_at:
                report_at = math.inf
                print_message(_waiting_text(folder, deadline - time.monotonic()), file=sys.stderr)
            if time.monotonic() > deadline:
                raise InputError(
                    f"another launcher has held {folder} for over {LAUNCH_WAIT_SECONDS:g} s. Try again "
                    "when it has finished."
                )
            time.sleep(0.1)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM):
            raise
        raise InputError(blocked_reason(error, folder)) from None
    try:
        yield claim
    finally:
        claim.release()


def _waiting_text(folder: Path, seconds: float) -> str:
    """What a launch waits for, and at most how long."""
    holder = latest_claim(folder)
    if holder is None or not holder.damaged:
        by = f"{holder.worker} on {holder.host}" if holder else "another launcher"
        return f"waiting for up to {seconds:.0f} s: {by} is launching this sweep ({folder})"
    seconds = min(seconds, STALE_SECONDS)
    file = folder / f"claim-{holder.fence}.json"
    return (
        f"waiting for up to {seconds:.0f} s: {file} is damaged, and another launcher may be at work"
    )


def worker_command(cluster: ClusterConfig, sweep_dir: Path, only: Selection) -> str:
    """Command that starts a worker for the runs of `only`.

    With several ranks, torchrun starts it, on each node; with several nodes the command contains
    FIRST_NODE, to be replaced by the name of one of them.
    """
    threads = [f"threads={cluster.threads_per_worker}"] if cluster.threads_per_worker else []
    line = f"chinchilla worker {shell_word(sweep_dir)}"
    line = " ".join([line, *map(shlex.quote, (*threads, *only.arguments))])
    if cluster.nodes * cluster.ranks_per_node == 1:
        return line
    rendezvous = "--standalone"
    if cluster.nodes > 1:
        rendezvous = (
            f"--nnodes {cluster.nodes} --rdzv-backend c10d --rdzv-endpoint FIRST_NODE:29500"
        )
    # --no-python: `python -m` would look for modules in the working folder first.
    return f"torchrun {rendezvous} --nproc-per-node {cluster.ranks_per_node} --no-python {line}"


def _print_status(
    command: SweepCommand | TrainCommand, status: SweepStatus, errors: list[str], sweep_dir: Path
) -> None:
    for line in errors:
        print_error(line)
    if command.format == "json":
        if isinstance(command, SweepCommand):
            print_lines(json.dumps(status.to_dict()))
        return
    print_message(summary_line(status))
    for row in status.rows:
        if row.state in ("diverged", "failed", "blocked"):
            print_message(f"  {row.state} {row.run_id}: {row.reason}")
    if status.counts["failed"]:
        print_message(f"  tracebacks: {sweep_dir}/runs/<run>/error.txt; launch again to retry them")
    for row in status.rows:
        if row.state == "running":
            print_message(f"  {row.run_id} is being trained by {row.worker}")
    if status.done + status.counts["blocked"] < len(status.rows):
        print_message("  some runs have not ended; run the same command again to continue")
