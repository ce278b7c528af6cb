"""A Slurm job of a sweep: runs one worker per GPU until nothing can be claimed.

    python -P -m chinchilla.sweep.slurm.job SWEEP_DIR/slurm/TOKEN     (from the script that `submit` writes)

A job that receives its warning (USR2: time limit or preemption) saves and releases its runs, and
requeues itself. A job that is ended (TERM: scancel or a requeue) saves and exits.

In a container without Slurm's commands, the job leaves a file, and its batch script requeues it.

If a job class has several ranks, the job is one worker, and srun starts this program once per rank
(`distributed_worker`). Only rank 0 requeues the job, and only its exit code counts.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from chinchilla.core.errors import EXIT_AGAIN, EXIT_OK, InputError
from chinchilla.core.files.folders import end_waiting
from chinchilla.core.files.writing import guard, touch
from chinchilla.core.module_path import exclude_working_folder
from chinchilla.core.program import run_program, tracebacks_in
from chinchilla.core.terminal import log_to_output, print_error
from chinchilla.sweep import local_pool
from chinchilla.sweep.preflight import limit_threads
from chinchilla.sweep.run_files import check_code, missing_specs
from chinchilla.sweep.signals import WARNINGS, Stop, stop_on_signals
from chinchilla.sweep.slurm.queue import JobArray, SlurmError, run_slurm
from chinchilla.sweep.slurm.unstarted import started_file

FIRST_PORT, N_PORTS = 20_000, 12_000  # of rank 0; below the usual range of outgoing connections


def run_job(folder: Path) -> int:
    """Run one job of the array recorded in `folder`.

    Returns:
        Exit code: 0 at the end; 1 if a worker failed; 75 if runs are left, after requeueing the job.
    """
    # Not the sweep named in job.json, which others may have changed.
    job = replace(JobArray.load(folder), sweep_dir=str(guard(folder.parent.parent)))
    if not int(os.environ.get("SLURM_PROCID", 0)):
        with contextlib.suppress(OSError):  # only for messages about jobs that have no such file
            touch(started_file(folder, job_name()), wait=False)
    if job.n_ranks > 1:
        return _run_rank(job, folder)
    gpus = local_pool.visible_gpus() if job.n_workers > 1 else ()
    size = local_pool.PoolSize(job.n_workers, job.threads, gpus)
    sweep_dir, data_dir = Path(job.sweep_dir), Path(job.data_dir)
    program = (*local_pool.WORKER, *job.selection.arguments)
    with stop_on_signals() as stop:
        end_waiting(sweep_dir, stop)
        with local_pool.Pool(sweep_dir, data_dir, size, program) as workers:
            codes = workers.wait(stop)
        for line in workers.errors():
            print_error(line)
        if stop and _should_requeue(stop) and missing_specs(sweep_dir, job.selection):
            return requeue(folder, stop)
    return int(any(code not in (EXIT_OK, EXIT_AGAIN) for code in codes))


def _run_rank(job: JobArray, folder: Path) -> int:
    """Run this task's rank of a distributed worker; returns the exit code."""
    check_code(Path(job.sweep_dir))
    # Imports torch, which jobs that only start workers do not need.
    from chinchilla.sweep.distributed_worker import work

    limit_threads(job.threads)
    requeued: list[bool] = []
    is_first = not int(os.environ["SLURM_PROCID"])
    with stop_on_signals() as stop:
        code = work(
            Path(job.sweep_dir),
            Path(job.data_dir),
            stop,
            job.selection,
            slurm_settings(os.environ),
            # srun ends all tasks of a job soon after one was killed (KillWait): requeue first, then
            # write files.
            on_lost=lambda: requeued.append(_requeue_now(job, folder)),
            lost_code=EXIT_AGAIN if is_first else EXIT_OK,
        )
        if not is_first:
            # Always 0: after another code, srun would kill rank 0 before it has recorded the cause
            # and requeued the job.
            return 0
        if any(requeued):
            return _wait_for_end(stop)
        # EXIT_AGAIN: warned, or a rank failed. A failed rank counts as an attempt or a stall
        # of the run, so that the job is not requeued without end. After code 1 (no run can be
        # trained here) the job is not requeued.
        again = code == EXIT_AGAIN and (not stop or _should_requeue(stop))
        if again and missing_specs(Path(job.sweep_dir), job.selection):
            return requeue(folder, stop)
    return EXIT_OK if code == EXIT_AGAIN else code


def slurm_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """torchrun's variables from those of srun."""
    job, start = int(environment["SLURM_JOB_ID"]), int(environment.get("SLURM_RESTART_COUNT", 0))
    host = "127.0.0.1"
    if int(environment.get("SLURM_JOB_NUM_NODES", 1)) > 1:
        nodes = environment["SLURM_JOB_NODELIST"]
        host = run_slurm(
            "scontrol", "show", "hostnames", nodes, hint="so no rank can start."
        ).split()[0]
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_NTASKS"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "MASTER_ADDR": host,
        # Another port after each restart: a killed process may still hold the old one.
        "MASTER_PORT": str(FIRST_PORT + (13 * job + start) % N_PORTS),
    }


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
    # If no signal was received here, another rank has received one or has failed.
    if stop.seen and signal.SIGTERM not in stop.seen:
        return False
    # TERM is sent at a cancellation, a requeue, and the beginning of a preemption's grace time. Only
    # in the last case is the job still running; if it then exited, Slurm would count it as
    # completed.
    return _is_running()


def _is_running() -> bool:
    """Whether Slurm lists this job as running, not as ending. If it cannot be asked, the script asks."""
    if shutil.which("squeue") is None:
        return True
    try:
        state = run_slurm("squeue", "-h", "-j", job_name(), "-o", "%T")
    except SlurmError:
        return False
    return state.strip() == "RUNNING"


def _requeue_now(job: JobArray, folder: Path) -> bool:
    """Requeue this job at once if it is running and runs are left; return whether it did."""
    try:
        left = missing_specs(Path(job.sweep_dir), job.selection)
        return _is_running() and bool(left) and _call_requeue(folder)
    except (OSError, InputError, subprocess.TimeoutExpired):
        return False


def requeue(folder: Path, stop: Stop) -> int:
    """Requeue this job and wait until Slurm sends TERM; returns the exit code EXIT_AGAIN."""
    return _wait_for_end(stop) if _call_requeue(folder) else EXIT_AGAIN


def _call_requeue(folder: Path) -> bool:
    """Requeue this job, or, without scontrol, ask its batch script to do so; return whether it did."""
    try:
        done = subprocess.run(["scontrol", "requeue", job_name()], timeout=60, check=False)
    except FileNotFoundError:
        touch(folder / f"requeue-{job_name()}", wait=False)
        return False
    # The TERM of the requeue may end scontrol before it returns.
    return done.returncode in (0, -signal.SIGTERM)


def _wait_for_end(stop: Stop) -> int:
    deadline = time.monotonic() + 120
    while signal.SIGTERM not in stop.seen and time.monotonic() < deadline:
        time.sleep(0.5)
    return EXIT_AGAIN


def main() -> int:
    """Run the job of the folder given on the command line."""
    return run_program(lambda: _main(sys.argv[1:]))


def _main(arguments: list[str]) -> int:
    log_to_output()
    if len(arguments) != 1:
        raise InputError(f"{len(arguments)} arguments are given. Give the folder of one job array.")
    if "SLURM_JOB_ID" not in os.environ:
        raise InputError(
            "SLURM_JOB_ID is not set. A container in which a job runs must receive its variables "
            "SLURM_* and CUDA_* (slurm/README.md)."
        )
    folder = Path(arguments[0])
    with tracebacks_in(folder):
        code = run_job(folder)
    if "torch" in sys.modules:  # the job is one worker of several ranks
        from chinchilla.sweep.distributed_worker import leave

        leave(code)
    return code


if __name__ == "__main__":
    exclude_working_folder()
    sys.exit(main())
