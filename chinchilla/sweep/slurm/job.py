"""A Slurm job of a sweep: runs one worker per GPU until nothing can be claimed.

submitit calls `run_job` in each job of an array.

A job that receives its warning (USR2: time limit or preemption) saves and releases its runs, and
requeues itself. A job whose workers find no run that fits into its remaining time also requeues
itself. A job that is ended (TERM: scancel or a requeue) saves and exits.

If a job class has several ranks, the job is one worker, and Slurm calls `run_job` in one task per
rank (`distributed_worker`). Only rank 0 requeues the job, and only its exit code counts.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from chinchilla.core.errors import InputError
from chinchilla.core.files import read_json
from chinchilla.sweep import local_pool
from chinchilla.sweep.job_classes import runs_of_job
from chinchilla.sweep.preflight import limit_threads
from chinchilla.sweep.run_files import RunFilter, load_runtime, missing_specs
from chinchilla.sweep.signals import WARNINGS, Stop, stop_on_signals, warning_seconds
from chinchilla.sweep.slurm.queue import clean_environment


def run_job(folder: Path) -> list[int]:
    """Run one job of the array recorded in `folder`; returns its workers' exit codes.

    Raises:
        RuntimeError: a worker failed.
    """
    settings = read_json(folder / "intention.json", "submission")
    if n_ranks(settings.get("job_class")) > 1:
        return [_run_rank(settings)]
    sweep_dir, n_workers = Path(settings["sweep_dir"]), int(settings["n_workers"])
    gpus = local_pool.visible_gpus() if n_workers > 1 else ()
    devices = tuple(gpus[i % len(gpus)] for i in range(n_workers)) if gpus else ()
    size = local_pool.PoolSize(n_workers, int(settings["threads"]), devices)
    only = runs_of_job(settings.get("job_class"))
    program = (*local_pool.WORKER, *(only.arguments if only else ()))
    deadline = _deadline(float(settings.get("timeout_min", 0)))
    data_dir = Path(settings["data_dir"])
    # These handlers replace submitit's, which would also requeue from forked helpers.
    with (
        stop_on_signals() as stop,
        local_pool.start(sweep_dir, data_dir, size, program, deadline) as workers,
    ):
        codes = workers.wait(stop)
        for line in workers.errors():
            print(line, file=sys.stderr, flush=True)
        # 75 without a stop: the remaining runs did not fit into this job's time.
        again = _should_requeue(stop) if stop else 75 in codes
        if again and missing_specs(sweep_dir, only):
            requeue(stop)
    if any(code not in (0, 75) for code in codes):
        raise RuntimeError(f"workers ended with exit codes {codes}; see {sweep_dir}/workers")
    return codes


def n_ranks(job_class: Mapping[str, Any] | None) -> int:
    """Ranks of a job, from `job_class` of its intention.json."""
    if not job_class:
        return 1
    return int(job_class.get("nodes", 1)) * int(job_class.get("ranks_per_node", 1))


def _run_rank(settings: Mapping[str, Any]) -> int:
    """Run this task's rank of a distributed worker; returns the exit code, on rank 0 only."""
    # Imports torch, which jobs that only start workers do not need.
    from chinchilla.sweep import distributed_worker

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stdout)
    limit_threads(int(settings["threads"]))
    sweep_dir, data_dir = Path(settings["sweep_dir"]), Path(settings["data_dir"])
    only = runs_of_job(settings["job_class"])
    deadline = _deadline(float(settings.get("timeout_min", 0)))
    with stop_on_signals() as stop:
        runtime = load_runtime(sweep_dir)
        slurm = distributed_worker.slurm_settings(os.environ)
        ranks = distributed_worker.join(runtime.device, settings=slurm)
        requeued: list[bool] = []
        if ranks.rank == 0:
            # srun ends all tasks of a job soon after one was killed (KillWait): requeue first, then
            # write files.
            ranks.on_lost = lambda: requeued.append(_requeue_now(sweep_dir, only))
        code = distributed_worker.work(
            ranks, sweep_dir, data_dir, stop, only=only, deadline=deadline
        )
        if ranks.rank:
            # Always 0: after another code, srun would kill rank 0 before it has recorded the cause
            # and requeued the job. Leaving here also keeps submitit from writing a result.
            distributed_worker.leave(0)
        if any(requeued):
            _exit_after_requeue(stop)
        # 75: out of time, warned, or a rank failed. A failed rank counts as an attempt or a stall
        # of the run, so that the job is not requeued without end. After code 1 (no run can be
        # trained here) the job is not requeued.
        again = code == 75 and (not stop or _should_requeue(stop))
        if again and missing_specs(sweep_dir, only):
            requeue(stop)
    if code not in (0, 75):
        raise RuntimeError("no run can be trained here; see the last line above")
    return code


def _deadline(timeout_min: float) -> float:
    """UNIX time of this job's warning; 0 if there is none, or if Slurm tells the workers."""
    if "SLURM_JOB_END_TIME" in os.environ or not timeout_min:
        return 0.0
    return time.time() + 60 * timeout_min - warning_seconds(60 * timeout_min)


def job_name() -> str:
    """Id of this job, or of this element of an array, for Slurm's commands."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        # Not SLURM_JOB_ID: for the last element it is the array's id, which means all elements.
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def _should_requeue(stop: Stop) -> bool:
    """Whether the signal received means that the job should continue later."""
    if stop.seen & set(WARNINGS):
        return True
    # If no signal was received here, another rank has received one, and it is not known which.
    if stop.seen and signal.SIGTERM not in stop.seen:
        return False
    # TERM is sent at a cancellation, a requeue, and the beginning of a preemption's grace time. Only
    # in the last case is the job still running; if it then exited, Slurm would count it as
    # completed.
    return _is_running()


def _is_running() -> bool:
    """Whether Slurm lists this job as running, not as ending."""
    command = ["squeue", "-h", "-j", job_name(), "-o", "%T"]
    try:
        done = subprocess.run(
            command, env=clean_environment(), capture_output=True, errors="replace", timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout.strip() == "RUNNING"


def _requeue_now(sweep_dir: Path, only: RunFilter | None) -> bool:
    """Requeue this job at once if it is running and runs are left; return whether it did."""
    try:
        return _is_running() and bool(missing_specs(sweep_dir, only)) and _call_requeue()
    except (OSError, InputError, subprocess.TimeoutExpired):
        return False


def requeue(stop: Stop) -> None:
    """Requeue this job and exit once Slurm sends TERM."""
    if _call_requeue():
        _exit_after_requeue(stop)
    sys.exit(75)


def _call_requeue() -> bool:
    done = subprocess.run(["scontrol", "requeue", job_name()], timeout=60, check=False)
    # The TERM of the requeue may end scontrol before it returns.
    return done.returncode in (0, -signal.SIGTERM)


def _exit_after_requeue(stop: Stop) -> NoReturn:
    deadline = time.monotonic() + 120
    while signal.SIGTERM not in stop.seen and time.monotonic() < deadline:
        time.sleep(0.5)
    # SystemExit, so that submitit does not replace the pickle that the requeued job will read.
    sys.exit(75)
