"""A sweep on Slurm: arrays of detached workers, submitted by submitit.

submitit writes the sbatch script and starts our Python in the job; everything else is ours. Its
results and pickles are never read: what a sweep has done is in the sweep's folder, also when
Slurm's accounting is late, wrong or absent.

Each array has a folder, submitit/<token>/, with one file per fact: intention.json before sbatch is
called, then job.json with Slurm's number for it or refused.json with what Slurm said. The token is
also the jobs' comment: an array whose launcher died before it knew the number is found by it.
"""

import dataclasses
import re
import shlex
import shutil
import socket
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chinchilla.config import ClusterConfig
from chinchilla.errors import InputError
from chinchilla.files import read_json, write_json
from chinchilla.sweep.claims import file_system_now, utc_now
from chinchilla.sweep.slurm_job import SlurmTask
from chinchilla.sweep.slurm_queue import (
    QueuedJob,
    cleaned_environment,
    max_array_size,
    queue,
    user_name,
)

WARNING_SECONDS = 180  # USR2 so long before the time limit: a step, an evaluation, a checkpoint
WARNING_SHARE = (
    0.25  # ... and at most this share of it, or short jobs would be warned at their start
)
SETTLE_SECONDS = 15.0  # for the job of an sbatch that outlived its launcher to show in the queue
# Answers of sbatch after which the job may be in the queue all the same.
_DOUBTFUL = re.compile("timed out|contact|communicat|zero bytes", re.IGNORECASE)
PROGRAMS = ("sbatch", "srun", "squeue", "scontrol")


@dataclass(frozen=True)
class Submission:
    """What was submitted now, what had been before, and where to look."""

    sweep_dir: str
    job_ids: list[str]  # arrays submitted now
    n_submitted: int  # workers' jobs in them
    earlier_job_ids: list[str]  # arrays of this sweep that were in the queue already
    n_earlier: int  # ... and their jobs that work or will
    adopted: list[str]  # those of them that no launcher had recorded
    states: dict[str, int]  # of the earlier jobs: RUNNING, PENDING (Resources), ...
    n_over_cap: int  # jobs that cluster.max_jobs left no room for

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def text(self) -> str:
        lines = [f"submitted {_n_workers(self.n_submitted)}{_as_jobs(self.job_ids)}"]
        if self.n_earlier:
            states = ", ".join(f"{n} {state}" for state, n in self.states.items())
            lines.append(
                f"  {_n_workers(self.n_earlier)} had been submitted before"
                f"{_as_jobs(self.earlier_job_ids)}: {states}"
            )
        if self.adopted:
            lines.append(f"  found in the queue, not recorded until now: {' '.join(self.adopted)}")
        if self.n_over_cap:
            lines.append(
                f"  cluster.max_jobs left no room for {self.n_over_cap} more; launch again later"
            )
        if ids := [*self.earlier_job_ids, *self.job_ids]:
            lines += [
                f"  look:  chinchilla status sweep_dir={self.sweep_dir}   "
                f"(jobs: squeue -j {','.join(ids)})",
                f"  logs:  {self.sweep_dir}/submitit and {self.sweep_dir}/workers",
                f"  stop:  scancel {' '.join(ids)}   (the same sweep command goes on from there)",
            ]
        return "\n".join(lines)


def _n_workers(n: int) -> str:
    return f"{n or 'no'} worker{'' if n == 1 else 's'}"


def _as_jobs(ids: list[str]) -> str:
    return f" as job{'' if len(ids) == 1 else 's'} {', '.join(ids)}" if ids else ""


@dataclass
class _Array:
    """One folder under submitit/, as its files say."""

    folder: Path
    user: str
    job_id: str | None
    refused: bool

    @property
    def in_doubt(self) -> bool:
        return self.job_id is None and not self.refused

    def holds(self, job: QueuedJob) -> bool:
        """Whether `job` is of this array: by its token, or its number where a site drops comments."""
        if job.comment.startswith("chinchilla:"):
            return job.comment.endswith(f":{self.folder.name}")
        return job.job_id == self.job_id


def submit(
    cluster: ClusterConfig,
    sweep_dir: Path,
    data_dir: Path,
    n_missing: int,
    still_mine: Callable[[], bool] = lambda: True,
) -> Submission:
    """Bring the sweep's workers in Slurm's queue up to the number asked for, and return at once.

    To be called by one launcher of a sweep at a time.

    Args:
        cluster: resources of one job; `n_workers` jobs, never more than `n_missing` runs need,
            less those that earlier launches left in the queue.
        sweep_dir: holds plan.jsonl and runtime.json, on a file system the nodes share.
        data_dir: token folder, shared too.
        n_missing: runs without a result.
        still_mine: asked before each sbatch; false when another launcher has taken over.

    Raises:
        InputError: no Slurm on this machine, n_workers not given, a Slurm that does not answer
            (then nothing is submitted), or that refuses the jobs.
    """
    if cluster.n_workers < 1:
        raise InputError(
            "cluster.n_workers=0: say how many Slurm jobs share the sweep, such as "
            f"cluster.n_workers={min(8, n_missing)}."
        )
    for name in PROGRAMS:
        if shutil.which(name) is None:
            raise InputError(
                f"cluster.kind=slurm, but {name} is not on this machine. Launch on a login node, "
                "or choose cluster=local."
            )
    jobs, arrays, adopted = reconcile(sweep_dir)
    earlier = [j for j in jobs if j.live and any(a.holds(j) for a in arrays)]
    per_job = max(1, cluster.gpus_per_node)
    wanted = max(0, min(cluster.n_workers, -(-n_missing // per_job)) - len(earlier))
    room = wanted
    if cluster.max_jobs:
        mine = sum(j.live and j.user == user_name() for j in jobs)
        room = max(0, min(wanted, cluster.max_jobs - mine))
    ids: list[str] = []
    done = 0
    most = max_array_size() if room > 1 else 1
    while done < room:
        n = min(most, room - done)
        try:
            ids.append(_submit_array(cluster, sweep_dir, data_dir, n, still_mine))
        except InputError as error:
            before = f" {_n_workers(done)} had been submitted{_as_jobs(ids)}." if done else ""
            raise InputError(f"{error}{before}") from None
        done += n
    return Submission(
        sweep_dir=str(sweep_dir),
        job_ids=ids,
        n_submitted=done,
        earlier_job_ids=sorted({j.job_id for j in earlier}),
        n_earlier=len(earlier),
        adopted=adopted,
        states=dict(Counter(j.state if j.state != "PENDING" else f"PENDING ({j.reason})" for j in earlier)),
        n_over_cap=wanted - room,
    )  # fmt: skip


def reconcile(sweep_dir: Path) -> tuple[list[QueuedJob], list[_Array], list[str]]:
    """Settle what launchers of this sweep left behind against what Slurm's queue holds.

    An intention without a number gets the number of the jobs that carry its token. A launcher may
    have been killed while its sbatch lived on, so an intention that is seconds old is waited for.

    Returns:
        Jobs in the queue of everybody who launched this sweep, its arrays, and the numbers that
        were recorded only now.

    Raises:
        InputError: Slurm does not answer: nothing may be concluded.
    """
    arrays = [_read_array(p.parent) for p in sorted(sweep_dir.glob("submitit/*/intention.json"))]
    users = {user_name(), *(a.user for a in arrays)}
    adopted = []
    while True:
        jobs = queue(users)
        for array in arrays:
            if array.in_doubt and (found := _find(array.folder.name, jobs)):
                _record(array.folder, found)
                array.job_id = found
                adopted.append(found)
        doubtful = [a.folder for a in arrays if a.in_doubt]
        if not any(_age(folder) < SETTLE_SECONDS for folder in doubtful):
            return jobs, arrays, adopted
        time.sleep(0.5)


def _read_array(folder: Path) -> _Array:
    intention = read_json(folder / "intention.json", "submission")
    job = folder / "job.json"
    job_id = str(read_json(job, "submission")["job_id"]) if job.exists() else None
    return _Array(folder, str(intention["user"]), job_id, (folder / "refused.json").exists())


def _age(folder: Path) -> float:
    return file_system_now(folder) - (folder / "intention.json").stat().st_mtime


def _find(token: str, jobs: list[QueuedJob]) -> str | None:
    return next((j.job_id for j in jobs if j.comment.endswith(f":{token}")), None)


def _record(folder: Path, job_id: str) -> None:
    write_json(folder / "job.json", {"job_id": job_id, "recorded_utc": utc_now()})


def _submit_array(
    cluster: ClusterConfig,
    sweep_dir: Path,
    data_dir: Path,
    n_jobs: int,
    still_mine: Callable[[], bool],
) -> str:
    """Intention, sbatch, number."""
    import submitit

    token = uuid.uuid4().hex[:8]
    # Own folder: results of equal job numbers, of an earlier cluster say, would be taken for new.
    folder = sweep_dir / "submitit" / token
    folder.mkdir(parents=True)
    name = re.sub(r"[^\w.-]", "-", sweep_dir.name)
    comment = f"chinchilla:{name}:{token}"
    per_job = max(1, cluster.gpus_per_node)
    # Should the launcher die after sbatch, submitit's own pickles are never put in place: jobs that
    # miss theirs take this one, which is the same.
    task = submitit.core.utils.DelayedSubmission(SlurmTask(folder))
    task.set_timeout(cluster.timeout_min, 1000)
    task.dump(folder / "task.pkl")
    executor = submitit.AutoExecutor(
        folder=folder,
        cluster="slurm",
        slurm_max_num_timeout=1000,
        # A warning that comes before Python has its handlers would end the job.
        slurm_python="env --ignore-signal=USR2 " + shlex.quote(sys.executable),
    )
    executor.update_parameters(
        name=f"chinchilla-{name}",
        timeout_min=cluster.timeout_min,
        nodes=1,
        tasks_per_node=1,
        cpus_per_task=cluster.cpus_per_task,
        mem_gb=cluster.mem_gb,
        slurm_comment=comment,
        slurm_array_parallelism=n_jobs,
        slurm_signal_delay_s=min(WARNING_SECONDS, int(WARNING_SHARE * 60 * cluster.timeout_min)),
        slurm_srun_args=["--kill-on-bad-exit=1", f"--cpus-per-task={cluster.cpus_per_task}"],
        slurm_additional_parameters={"requeue": True},
        slurm_setup=[_take_task(folder), *cluster.setup],
        **({"gpus_per_node": cluster.gpus_per_node} if cluster.gpus_per_node else {}),
        **{
            f"slurm_{key}": value
            for key in ("partition", "account", "qos", "constraint")
            if (value := getattr(cluster, key))
        },
    )
    intention = {
        "comment": comment,
        "user": user_name(),
        "host": socket.gethostname(),
        "intended_utc": utc_now(),
        "n_jobs": n_jobs,
        "sweep_dir": str(sweep_dir),
        "data_dir": str(data_dir),
        "n_workers": per_job,  # of one job
        "threads": cluster.threads_per_worker or max(1, cluster.cpus_per_task // per_job),
    }
    write_json(folder / "intention.json", intention)
    if not still_mine():
        raise InputError("another launcher of this sweep has taken over; nothing was submitted.")
    try:
        with cleaned_environment(), executor.batch():
            jobs = [executor.submit(SlurmTask(folder)) for _ in range(n_jobs)]
        job_id = str(jobs[0].job_id).split("_")[0]
    except (
        submitit.core.utils.FailedJobError,
        submitit.core.utils.FailedSubmissionError,
    ) as error:
        job_id = _after_failure(folder, str(error))
    _record(folder, job_id)
    return job_id


def _take_task(folder: Path) -> str:
    """Shell line that gives a job its pickle where its launcher did not live to do so."""
    job = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
    here = shlex.quote(str(folder))
    return f"ln {here}/task.pkl {here}/{job}_submitted.pkl 2>/dev/null || true"


def _after_failure(folder: Path, said: str) -> str:
    """The array's number if it is in the queue although sbatch failed.

    Raises:
        InputError: it is not; or Slurm does not answer, and the next launcher will look.
    """
    deadline = time.monotonic() + (SETTLE_SECONDS if _DOUBTFUL.search(said) else 0.0)
    while (found := _find(folder.name, queue({user_name()}))) is None:
        if time.monotonic() >= deadline:
            words = " ".join(said.split())
            write_json(folder / "refused.json", {"said": words, "refused_utc": utc_now()})
            raise InputError(f"sbatch refused the sweep's jobs: {words}")
        time.sleep(0.5)
    return found
