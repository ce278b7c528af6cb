"""A sweep on Slurm: an array of detached workers, submitted by submitit.

submitit writes the sbatch script and starts our Python in the job; everything else is ours. Its
results and pickles are never read: what a sweep has done is in the sweep's folder, also when
Slurm's accounting is late, wrong or absent. A warned job (time limit, preemption: USR2) saves, frees
its cell and puts itself back in the queue.
"""

import dataclasses
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chinchilla.config import ClusterConfig
from chinchilla.errors import InputError
from chinchilla.files import write_json
from chinchilla.records import load_plan
from chinchilla.sweep import pool
from chinchilla.sweep.cells import missing_specs
from chinchilla.sweep.claims import utc_now
from chinchilla.sweep.stopping import Stop, stop_on_signals

WARNING_SECONDS = 180  # USR2 so long before the time limit: a step, an evaluation, a checkpoint


@dataclass(frozen=True)
class Submission:
    """What was submitted, and where to look."""

    job_ids: list[str]
    comment: str  # finds the array in squeue, whatever became of this launcher
    folder: str  # sbatch script and logs
    sweep_dir: str

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def text(self) -> str:
        array = self.job_ids[0].split("_")[0]
        return (
            f"submitted {len(self.job_ids)} workers: {', '.join(self.job_ids)}\n"
            f"  look:  chinchilla status sweep_dir={self.sweep_dir}   (jobs: squeue -j {array})\n"
            f"  logs:  {self.folder} and {self.sweep_dir}/workers\n"
            f"  stop:  scancel {array}   (the same sweep command goes on from there)"
        )


@dataclass(frozen=True)
class SlurmTask:
    """What one array element does: a worker per GPU of the job, until nothing can be claimed."""

    sweep_dir: Path
    data_dir: Path
    n_workers: int
    threads: int

    def __call__(self) -> list[int]:
        gpus = pool.visible_gpus() if self.n_workers > 1 else ()
        devices = tuple(gpus[i % len(gpus)] for i in range(self.n_workers)) if gpus else ()
        shape = pool.PoolShape(self.n_workers, self.threads, devices)
        # These handlers replace submitit's, whose requeueing would run in forked helpers too.
        with stop_on_signals() as stop, pool.start(self.sweep_dir, self.data_dir, shape) as workers:
            codes = workers.wait(stop)
            for line in workers.last_words():
                print(line, file=sys.stderr, flush=True)
            if signal.SIGUSR2 in stop.seen and missing_specs(self.sweep_dir):
                requeue(stop)
        if any(code not in (0, 75) for code in codes):
            raise RuntimeError(
                f"workers ended with exit codes {codes}; see {self.sweep_dir}/workers"
            )
        return codes


def requeue(stop: Stop) -> None:
    """Put this job back in the queue, and leave when Slurm says so (TERM)."""
    job = os.environ["SLURM_JOB_ID"]
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        # Not SLURM_JOB_ID: for the last element that is the array's own number, so all elements.
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    done = subprocess.run(["scontrol", "requeue", job], timeout=60, check=False)
    # The requeue's own TERM may end scontrol before it can say that it worked.
    if done.returncode in (0, -signal.SIGTERM):
        deadline = time.monotonic() + 120
        while signal.SIGTERM not in stop.seen and time.monotonic() < deadline:
            time.sleep(0.5)
    sys.exit(75)  # SystemExit: submitit writes no result over the pickle of the job's next start


def submit(cluster: ClusterConfig, sweep_dir: Path, data_dir: Path, n_missing: int) -> Submission:
    """Submit an array of workers and return at once.

    Args:
        cluster: resources of one array element; `n_workers` elements, never more than runs.
        sweep_dir: holds plan.jsonl and runtime.json, on a file system the nodes share.
        data_dir: token folder, shared too.
        n_missing: runs without a result.

    Raises:
        InputError: no Slurm on this machine, or n_workers not given.
    """
    if cluster.n_workers < 1:
        raise InputError(
            "cluster.n_workers=0: say how many Slurm jobs share the sweep, such as "
            f"cluster.n_workers={min(8, n_missing)}."
        )
    for name in ("sbatch", "srun"):
        if shutil.which(name) is None:
            raise InputError(
                f"cluster.kind=slurm, but {name} is not on this machine. Launch on a login node, "
                "or choose cluster=local."
            )
    import submitit

    token = uuid.uuid4().hex[:8]
    folder = sweep_dir / "submitit" / token  # own folder: results of equal job numbers are stale
    sweep = load_plan(sweep_dir / "plan.jsonl")[0].sweep
    comment = f"chinchilla:{sweep}:{token}"
    per_job = max(1, cluster.gpus_per_node)
    threads = cluster.threads_per_worker or max(1, cluster.cpus_per_task // per_job)
    task = SlurmTask(sweep_dir, data_dir, per_job, threads)
    executor = submitit.AutoExecutor(
        folder=folder,
        cluster="slurm",
        slurm_max_num_timeout=1000,
        # A warning that comes before Python has its handlers would end the job.
        slurm_python="env --ignore-signal=USR2 " + shlex.quote(sys.executable),
    )
    executor.update_parameters(
        name=f"chinchilla-{sweep}",
        timeout_min=cluster.timeout_min,
        nodes=1,
        tasks_per_node=1,
        cpus_per_task=cluster.cpus_per_task,
        mem_gb=cluster.mem_gb,
        slurm_comment=comment,
        slurm_signal_delay_s=WARNING_SECONDS,
        slurm_srun_args=["--kill-on-bad-exit=1", f"--cpus-per-task={cluster.cpus_per_task}"],
        slurm_additional_parameters={"requeue": True},
        slurm_setup=cluster.setup or None,
        **({"gpus_per_node": cluster.gpus_per_node} if cluster.gpus_per_node else {}),
        **{
            f"slurm_{key}": value
            for key in ("partition", "account", "qos", "constraint")
            if (value := getattr(cluster, key))
        },
    )
    record = {"comment": comment, "submitted_utc": utc_now(), "job_ids": []}
    folder.mkdir(parents=True)
    write_json(folder / "submission.json", record)  # the intention, should we die in between
    n_jobs = min(cluster.n_workers, -(-n_missing // per_job))
    try:
        with executor.batch():
            jobs = [executor.submit(task) for _ in range(n_jobs)]
    except (
        submitit.core.utils.FailedJobError,
        submitit.core.utils.FailedSubmissionError,
    ) as error:
        raise InputError(f"sbatch refused the sweep's jobs: {error}") from None
    ids = [str(job.job_id) for job in jobs]
    write_json(folder / "submission.json", {**record, "job_ids": ids})
    return Submission(ids, comment, str(folder), str(sweep_dir))
