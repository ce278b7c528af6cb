"""What one Slurm job of a sweep does: a worker per GPU, until nothing can be claimed.

A job that is warned (USR2: time limit, preemption) saves, frees its runs and puts itself back in
the queue; so does one whose workers found no run short enough for the time it has left. One that is ended (scancel, an operator's requeue: TERM) saves and leaves the rest to Slurm.

A job whose shape has several ranks is one worker: Slurm starts this in a task for each rank
(`ranked`). Rank 0 speaks for the job: it alone requeues, and its exit code counts.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from chinchilla.core.errors import InputError
from chinchilla.core.files import read_json
from chinchilla.sweep import local_pool
from chinchilla.sweep.job_classes import bounds_words, runs_of_job
from chinchilla.sweep.preflight import limit_threads
from chinchilla.sweep.run_files import load_runtime, missing_specs
from chinchilla.sweep.signals import WARNINGS, Stop, stop_on_signals, warning_seconds
from chinchilla.sweep.slurm.queue import clean_environment


@dataclass(frozen=True)
class SlurmTask:
    """One array element. `folder` is that of its submission, whose intention.json says the rest."""

    folder: Path

    def __call__(self) -> list[int]:
        asked = read_json(self.folder / "intention.json", "submission")
        if n_ranks(asked.get("shape")) > 1:
            return [_one_rank(asked)]
        sweep_dir, n_workers = Path(asked["sweep_dir"]), int(asked["n_workers"])
        gpus = local_pool.visible_gpus() if n_workers > 1 else ()
        devices = tuple(gpus[i % len(gpus)] for i in range(n_workers)) if gpus else ()
        shape = local_pool.PoolShape(n_workers, int(asked["threads"]), devices)
        only = runs_of_job(sweep_dir, asked.get("shape"))
        program = (*local_pool.WORKER, *bounds_words(only))
        # These handlers replace submitit's, whose requeueing would run in forked helpers too.
        deadline = _deadline(float(asked.get("timeout_min", 0)))
        with (
            stop_on_signals() as stop,
            local_pool.start(
                sweep_dir, Path(asked["data_dir"]), shape, program, deadline
            ) as workers,
        ):
            codes = workers.wait(stop)
            for line in workers.last_words():
                print(line, file=sys.stderr, flush=True)
            # 75 from a worker that nobody stopped: what is left did not fit into this job's time.
            returns = _is_to_return(stop) if stop else 75 in codes
            if returns and missing_specs(sweep_dir, only):
                requeue(stop)
        if any(code not in (0, 75) for code in codes):
            raise RuntimeError(f"workers ended with exit codes {codes}; see {sweep_dir}/workers")
        return codes


def n_ranks(shape: Mapping[str, Any] | None) -> int:
    """Ranks of a job, by the `shape` of its intention.json."""
    return int(shape.get("nodes", 1)) * int(shape.get("ranks_per_node", 1)) if shape else 1


def _one_rank(asked: Mapping[str, Any]) -> int:
    """This task's part of a worker of many ranks; gives the worker's exit code, on rank 0 only."""
    from chinchilla.sweep import (
        distributed_worker,  # torch: not needed by jobs that only start workers
    )

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stdout)
    limit_threads(int(asked["threads"]))
    sweep_dir, data_dir = Path(asked["sweep_dir"]), Path(asked["data_dir"])
    only = runs_of_job(sweep_dir, asked["shape"])
    deadline = _deadline(float(asked.get("timeout_min", 0)))
    with stop_on_signals() as stop:
        runtime = load_runtime(sweep_dir)
        settings = distributed_worker.slurm_settings(os.environ)
        ranks = distributed_worker.join(runtime.device, runtime.shard_ranks, settings=settings)
        is_back: list[bool] = []
        if ranks.rank == 0:
            # srun ends all tasks of a job after one that was killed, and Slurm's KillWait is short:
            # first the queue, then what is to be written down.
            ranks.on_lost = lambda: is_back.append(_back_in_queue(sweep_dir, only))
        code = distributed_worker.work(
            ranks, sweep_dir, data_dir, stop, only=only, deadline=deadline
        )
        if ranks.rank:
            # 0 whatever happened: srun would kill rank 0 for a bad exit, before it has written down
            # why and put the job back. (And no result for submitit.)
            distributed_worker.leave(0)
        if any(is_back):
            _leave(stop)
        # Out of time, warned, or a rank failed: that used up one of a run's attempts, or it was cut
        # off, which is counted too, so it ends. Not so where no run could be trained (code 1).
        returns = code == 75 and (not stop or _is_to_return(stop))
        if returns and missing_specs(sweep_dir, only):
            requeue(stop)
    if code not in (0, 75):
        raise RuntimeError("no run can be trained here; the last line above says why")
    return code


def _deadline(timeout_min: float) -> float:
    """When this job will be warned, UNIX seconds; 0 where Slurm tells the workers itself, or nobody."""
    if "SLURM_JOB_END_TIME" in os.environ or not timeout_min:
        return 0.0
    return time.time() + 60 * timeout_min - warning_seconds(60 * timeout_min)


def job_name() -> str:
    """This job as Slurm's commands take it, and no other element of its array."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        # Not SLURM_JOB_ID: for the last element that is the array's own number, so all elements.
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def _is_to_return(stop: Stop) -> bool:
    """Whether the job was asked to stop by somebody who means it to go on later."""
    if stop.seen & set(WARNINGS):
        return True
    # Nothing seen: another rank was told, and has not said by what.
    if stop.seen and signal.SIGTERM not in stop.seen:
        return False
    # TERM comes first in a cancellation, a requeue and a preemption's grace time. Only in the last
    # is the job still running, and it would count as completed if we just left.
    return _is_running()


def _is_running() -> bool:
    """Whether Slurm has this job as running, and not as ending."""
    command = ["squeue", "-h", "-j", job_name(), "-o", "%T"]
    try:
        done = subprocess.run(
            command, env=clean_environment(), capture_output=True, errors="replace", timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout.strip() == "RUNNING"


def _back_in_queue(sweep_dir: Path, only: Collection[str] | None) -> bool:
    """Put this job back at once, if it is running and runs are left; whether it was."""
    try:
        return _is_running() and bool(missing_specs(sweep_dir, only)) and _ask_to_requeue()
    except (OSError, InputError, subprocess.TimeoutExpired):
        return False


def requeue(stop: Stop) -> None:
    """Put this job back in the queue, and leave when Slurm says so (TERM)."""
    if _ask_to_requeue():
        _leave(stop)
    sys.exit(75)


def _ask_to_requeue() -> bool:
    done = subprocess.run(["scontrol", "requeue", job_name()], timeout=60, check=False)
    # The requeue's own TERM may end scontrol before it can say that it worked.
    return done.returncode in (0, -signal.SIGTERM)


def _leave(stop: Stop) -> NoReturn:
    """End without a word to Slurm, once its TERM has come."""
    deadline = time.monotonic() + 120
    while signal.SIGTERM not in stop.seen and time.monotonic() < deadline:
        time.sleep(0.5)
    sys.exit(75)  # SystemExit: submitit writes no result over the pickle of the job's next start
