"""Submit a sweep to Slurm: one array of detached workers per job class.

submitit writes the sbatch script and starts our Python in the job. Its results and pickles are not
used: the state of a sweep is in the sweep's folder, so it does not depend on Slurm's accounting.
`queue` records and finds what has been submitted.
"""

import contextlib
import dataclasses
import io
import re
import shlex
import shutil
import signal
import socket
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from chinchilla.config import ClusterConfig
from chinchilla.core.errors import InputError
from chinchilla.core.files import write_json
from chinchilla.core.provenance import code_here
from chinchilla.plan.cost import n_at_once
from chinchilla.plan.records import RunSpec
from chinchilla.sweep.claims import utc_now
from chinchilla.sweep.job_classes import JobClass, assign, job_classes
from chinchilla.sweep.run_files import sweep_argument
from chinchilla.sweep.signals import warning_seconds
from chinchilla.sweep.slurm import queue
from chinchilla.sweep.slurm.job import run_job

# Messages of sbatch after which the job may be in the queue nevertheless.
_DOUBTFUL = re.compile(
    "timed out|no answer|make sense|contact|communicat|zero bytes|unknown reason", re.IGNORECASE
)
PROGRAMS = ("sbatch", "srun", "squeue", "scontrol")


@dataclass(frozen=True)
class Submission:
    """Jobs submitted by this launch and those found in the queue."""

    sweep_dir: str
    job_ids: list[str]  # arrays submitted now
    n_submitted: int  # jobs in them
    job_classes: dict[str, int]  # jobs submitted now, by class
    earlier_job_ids: list[str]  # arrays of this sweep that were in the queue before
    n_earlier: int  # live jobs in them
    n_other_classes: int  # of these, jobs of classes that the settings no longer have
    adopted: list[str]  # arrays found in the queue that no launcher had recorded
    states: dict[str, int]  # of the earlier jobs: RUNNING, PENDING (Resources), ...
    n_over_cap: int  # jobs not submitted because of cluster.max_queued_jobs

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def text(self) -> str:
        by_class = ", ".join(f"{n} {name}" for name, n in self.job_classes.items())
        lines = [
            f"submitted {_n_workers(self.n_submitted)}{_as_jobs(self.job_ids)}"
            + (f": {by_class}" if len(self.job_classes) > 1 else "")
        ]
        if self.n_earlier:
            states = ", ".join(f"{n} {state}" for state, n in self.states.items())
            lines.append(
                f"  {_n_workers(self.n_earlier)} had been submitted before"
                f"{_as_jobs(self.earlier_job_ids)}: {states}"
            )
        if self.n_other_classes:
            lines.append(
                f"  {self.n_other_classes} of them belong to job classes that cluster.resources no "
                "longer has; they continue (chinchilla cancel ends them)"
            )
        if self.adopted:
            lines.append(f"  found in the queue, not recorded before: {' '.join(self.adopted)}")
        if self.n_over_cap:
            lines.append(
                f"  {self.n_over_cap} more would exceed cluster.max_queued_jobs; launch again later"
            )
        if ids := [*self.earlier_job_ids, *self.job_ids]:
            sweep = sweep_argument(self.sweep_dir)
            lines += [
                f"  status:  chinchilla status {sweep}   (jobs: squeue -j {','.join(ids)})",
                f"  logs:    chinchilla logs {sweep}",
                f"  stop:    chinchilla cancel {sweep}   (the same sweep command continues)",
            ]
        return "\n".join(lines)


def _n_workers(n: int) -> str:
    return f"{n or 'no'} worker{'' if n == 1 else 's'}"


def _as_jobs(ids: list[str]) -> str:
    return f" as job{'' if len(ids) == 1 else 's'} {', '.join(ids)}" if ids else ""


def submit(
    cluster: ClusterConfig,
    sweep_dir: Path,
    data_dir: Path,
    missing: Sequence[RunSpec],
    still_mine: Callable[[], bool] = lambda: True,
) -> Submission:
    """Submit as many jobs as are missing from Slurm's queue, and return at once.

    Only one launcher of a sweep may call this at a time.

    Args:
        cluster: resources of one job, by model size. Each class gets `n_workers` jobs, or fewer if
            its runs need fewer; jobs of earlier launches that are in the queue count.
        sweep_dir: holds plan.jsonl and runtime.json, on a file system that the nodes share.
        data_dir: token folder, on a file system that the nodes share.
        missing: runs without a result. The class of the longest run is submitted first.
        still_mine: checked before each sbatch; false if another launcher has taken over.

    Raises:
        InputError: Slurm is not installed here, n_workers is not set, a run fits no job class, or
            Slurm does not answer (then nothing is submitted) or refuses the jobs.
    """
    groups = assign(missing, cluster)
    for job_class, specs in groups:
        if job_class.cluster.n_workers < 1:
            raise InputError(
                "cluster.n_workers=0: set the number of Slurm jobs that share the sweep, such as "
                f"cluster.n_workers={min(8, len(specs))}."
            )
    for name in PROGRAMS:
        if shutil.which(name) is None:
            raise InputError(
                f"cluster.kind=slurm, but {name} is not installed here. Launch on a login node, or "
                "choose cluster=local."
            )
    jobs, arrays, adopted = queue.settle_sweep(sweep_dir)
    earlier = [(j, a) for j in jobs if j.live for a in arrays if a.contains(j)]
    n_queued = sum(j.live and j.user == queue.user_name() for j in jobs)
    ids: list[str] = []
    counts: dict[str, int] = {}  # jobs submitted now, by class
    n_over_cap = 0
    for job_class, specs in groups:
        n_live = sum(a.trains(job_class) for _, a in earlier)
        n_needed = -(-n_at_once(specs) // job_class.workers_per_job)
        n_missing = n_new = max(0, min(job_class.cluster.n_workers, n_needed) - n_live)
        if cluster.max_queued_jobs:
            n_free = cluster.max_queued_jobs - n_queued - sum(counts.values())
            n_new = max(0, min(n_missing, n_free))
        n_over_cap += n_missing - n_new
        counts[job_class.name] = 0
        limit = queue.max_array_size() if n_new > 1 else 1
        while counts[job_class.name] < n_new:
            n = min(limit, n_new - counts[job_class.name])
            try:
                ids.append(_submit_array(job_class, sweep_dir, data_dir, n, still_mine))
            except InputError as error:
                n_done = sum(counts.values())
                done = f" {_n_workers(n_done)} had been submitted{_as_jobs(ids)}." if ids else ""
                raise InputError(f"{error}{done}") from None
            counts[job_class.name] += n
    classes = job_classes(cluster)
    states = (j.state if j.state != "PENDING" else f"PENDING ({j.reason})" for j, _ in earlier)
    return Submission(
        sweep_dir=str(sweep_dir),
        job_ids=ids,
        n_submitted=sum(counts.values()),
        job_classes=counts,
        earlier_job_ids=sorted({j.job_id for j, _ in earlier}),
        n_earlier=len(earlier),
        n_other_classes=sum(not any(a.trains(c) for c in classes) for _, a in earlier),
        adopted=[a.job_id or "" for a in adopted],
        states=dict(Counter(states)),
        n_over_cap=n_over_cap,
    )


def _submit_array(
    job_class: JobClass,
    sweep_dir: Path,
    data_dir: Path,
    n_jobs: int,
    still_mine: Callable[[], bool],
) -> str:
    """Record the intention, call sbatch, record and return the array's number."""
    import submitit

    cluster = job_class.cluster
    token = uuid.uuid4().hex[:8]
    # A folder per array, because job numbers start again when a cluster is reinstalled.
    folder = sweep_dir / "submitit" / token
    folder.mkdir(parents=True)
    name = re.sub(r"[^\w.-]", "-", sweep_dir.name)
    comment = f"chinchilla:{name}:{token}"
    n_workers = job_class.workers_per_job
    # If the launcher dies after sbatch, submitit's pickles are never written; the jobs' setup then
    # links this copy in their place.
    task = submitit.core.utils.DelayedSubmission(run_job, folder)
    task.set_timeout(cluster.timeout_min, 1000)
    task.dump(folder / "task.pkl")
    executor = submitit.AutoExecutor(
        folder=folder,
        cluster="slurm",
        slurm_max_num_timeout=1000,
        # A warning received before Python has installed its handlers would end the job.
        slurm_python="env --ignore-signal=USR2 " + shlex.quote(sys.executable),
    )
    suffix = "" if job_class.name == "all" else f"-{job_class.name}"
    optional = ("partition", "account", "qos", "constraint")
    executor.update_parameters(
        name=f"chinchilla-{name}{suffix}",
        timeout_min=cluster.timeout_min,
        nodes=cluster.nodes,
        tasks_per_node=cluster.ranks_per_node,
        cpus_per_task=cluster.cpus_per_task,
        mem_gb=cluster.host_memory_gb,
        slurm_comment=comment,
        slurm_array_parallelism=n_jobs,
        slurm_signal_delay_s=warning_seconds(60 * cluster.timeout_min),
        slurm_srun_args=["--kill-on-bad-exit=1", f"--cpus-per-task={cluster.cpus_per_task}"],
        slurm_additional_parameters={"requeue": True},
        slurm_setup=[_link_task(folder), *cluster.setup_lines],
        **({"gpus_per_node": cluster.gpus_per_node} if cluster.gpus_per_node else {}),
        **{f"slurm_{key}": value for key in optional if (value := getattr(cluster, key))},
    )
    intention = {
        "comment": comment,
        "user": queue.user_name(),
        "host": socket.gethostname(),
        "intended_utc": utc_now(),
        "code": dataclasses.asdict(code_here()),
        "n_jobs": n_jobs,
        "sweep_dir": str(sweep_dir),
        "data_dir": str(data_dir),
        "job_class": job_class.to_dict(),
        "n_workers": n_workers,  # per job
        "timeout_min": cluster.timeout_min,
        "threads": cluster.threads_per_worker or max(1, cluster.cpus_per_task // n_workers),
    }
    write_json(folder / "intention.json", intention)
    if not still_mine():
        raise InputError("another launcher of this sweep has taken over; nothing was submitted.")
    array = queue.read_array(folder)
    try:
        with (
            queue.cleaned_environment(),
            _time_limit(queue.TIMEOUT_SECONDS),
            contextlib.redirect_stderr(io.StringIO()),  # submitit prints sbatch's message
            executor.batch(),
        ):
            jobs = [executor.submit(run_job, folder) for _ in range(n_jobs)]
        queue.record_job(array, str(jobs[0].job_id).split("_")[0])
    except (
        submitit.core.utils.FailedJobError,
        submitit.core.utils.FailedSubmissionError,
        TimeoutError,
    ) as error:
        # submitit catches the TimeoutError while sbatch is running, and ends sbatch.
        cause = error.__cause__ if isinstance(error.__cause__, TimeoutError) else error
        message = " ".join(str(cause).split())
        queue.settle([array], queue.SETTLE_SECONDS if _DOUBTFUL.search(message) else 0.0)
        if array.job_id is None:
            write_json(folder / "refused.json", {"message": message, "refused_utc": utc_now()})
            raise InputError(
                f"sbatch refused the sweep's jobs: {message.rstrip('.')}. Change the setting that it "
                "names (cluster.*), and launch again."
            ) from None
    assert array.job_id is not None
    return array.job_id


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError after `seconds`; submitit has no limit for sbatch.

    Signals reach the main thread only: in other threads there is no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def expired(signum: int, frame: Any) -> NoReturn:
        raise TimeoutError(f"sbatch: no answer in {seconds:.0f} s")

    previous = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _link_task(folder: Path) -> str:
    """Shell line that links task.pkl as the pickle of a job whose launcher died before writing it."""
    job = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
    path = shlex.quote(str(folder))
    return f"ln {path}/task.pkl {path}/{job}_submitted.pkl 2>/dev/null || true"
