"""A sweep on Slurm: arrays of detached workers, one for each shape of jobs, submitted by submitit.

submitit writes the sbatch script and starts our Python in the job; everything else is ours. Its
results and pickles are never read: what a sweep has done is in the sweep's folder, also when
Slurm's accounting is late, wrong or absent. `submissions` says what has been submitted.
"""

import contextlib
import dataclasses
import io
import re
import shlex
import shutil
import socket
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chinchilla.config import ClusterConfig
from chinchilla.core.errors import InputError
from chinchilla.core.files import write_json
from chinchilla.plan.cost import n_at_once
from chinchilla.plan.records import RunSpec
from chinchilla.sweep.claims import utc_now
from chinchilla.sweep.hints import given
from chinchilla.sweep.job_classes import Shape, assign, shapes_of
from chinchilla.sweep.provenance import code_here
from chinchilla.sweep.signals import warning_seconds
from chinchilla.sweep.slurm.job import SlurmTask
from chinchilla.sweep.slurm.job_records import SETTLE_SECONDS, find, reconcile, record
from chinchilla.sweep.slurm.queue import cleaned_environment, max_array_size, queue, user_name

# Answers of sbatch after which the job may be in the queue all the same.
_DOUBTFUL = re.compile("timed out|contact|communicat|zero bytes|unknown reason", re.IGNORECASE)
PROGRAMS = ("sbatch", "srun", "squeue", "scontrol")


@dataclass(frozen=True)
class Submission:
    """What was submitted now, what had been before, and where to look."""

    sweep_dir: str
    job_ids: list[str]  # arrays submitted now
    n_submitted: int  # jobs in them
    shapes: dict[str, int]  # ... by shape, those that got none included
    earlier_job_ids: list[str]  # arrays of this sweep that were in the queue already
    n_earlier: int  # ... and their jobs that work or will
    n_other_shapes: int  # ... of them, jobs of shapes that the cluster's settings have no more
    adopted: list[str]  # those of them that no launcher had recorded
    states: dict[str, int]  # of the earlier jobs: RUNNING, PENDING (Resources), ...
    n_over_cap: int  # jobs that cluster.max_queued_jobs left no room for

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def text(self) -> str:
        by_shape = ", ".join(f"{n} {name}" for name, n in self.shapes.items())
        lines = [
            f"submitted {_n_workers(self.n_submitted)}{_as_jobs(self.job_ids)}"
            + (f": {by_shape}" if len(self.shapes) > 1 else "")
        ]
        if self.n_earlier:
            states = ", ".join(f"{n} {state}" for state, n in self.states.items())
            lines.append(
                f"  {_n_workers(self.n_earlier)} had been submitted before"
                f"{_as_jobs(self.earlier_job_ids)}: {states}"
            )
        if self.n_other_shapes:
            lines.append(
                f"  {self.n_other_shapes} of them have shapes that cluster.resources has no more; "
                "they go on (chinchilla cancel ends them)"
            )
        if self.adopted:
            lines.append(f"  found in the queue, not recorded until now: {' '.join(self.adopted)}")
        if self.n_over_cap:
            lines.append(
                f"  cluster.max_queued_jobs left no room for {self.n_over_cap} more; launch again later"
            )
        if ids := [*self.earlier_job_ids, *self.job_ids]:
            here = given("sweep_dir", self.sweep_dir)
            lines += [
                f"  look:  chinchilla status {here}   (jobs: squeue -j {','.join(ids)})",
                f"  logs:  chinchilla logs {here}",
                f"  stop:  chinchilla cancel {here}   (the same sweep command goes on from there)",
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
    """Bring the sweep's jobs in Slurm's queue up to the number asked for, and return at once.

    To be called by one launcher of a sweep at a time.

    Args:
        cluster: resources of one job, by size of model; `n_workers` jobs of each shape, never more
            than its missing runs need, less those that earlier launches left in the queue.
        sweep_dir: holds plan.jsonl and runtime.json, on a file system the nodes share.
        data_dir: token folder, shared too.
        missing: runs without a result. The shape of the longest is submitted first.
        still_mine: asked before each sbatch; false when another launcher has taken over.

    Raises:
        InputError: no Slurm on this machine, n_workers not given, a run that no shape takes, a
            Slurm that does not answer (then nothing is submitted), or that refuses the jobs.
    """
    shapes = assign(missing, cluster)
    for shape, specs in shapes:
        if shape.cluster.n_workers < 1:
            raise InputError(
                "cluster.n_workers=0: say how many Slurm jobs share the sweep, such as "
                f"cluster.n_workers={min(8, len(specs))}."
            )
    for name in PROGRAMS:
        if shutil.which(name) is None:
            raise InputError(
                f"cluster.kind=slurm, but {name} is not on this machine. Launch on a login node, "
                "or choose cluster=local."
            )
    jobs, arrays, adopted = reconcile(sweep_dir)
    earlier = [(j, a) for j in jobs if j.live for a in arrays if a.holds(j)]
    mine = sum(j.live and j.user == user_name() for j in jobs)
    ids: list[str] = []
    counts: dict[str, int] = {}  # jobs submitted now, by shape
    n_over_cap = 0
    for shape, specs in shapes:
        have = sum(a.trains(shape.to_dict()) for _, a in earlier)
        needed = min(shape.cluster.n_workers, -(-n_at_once(specs) // shape.workers_per_job))
        wanted = room = max(0, needed - have)
        if cluster.max_queued_jobs:
            room = max(0, min(wanted, cluster.max_queued_jobs - mine - sum(counts.values())))
        n_over_cap += wanted - room
        counts[shape.name] = 0
        most = max_array_size() if room > 1 else 1
        while counts[shape.name] < room:
            n = min(most, room - counts[shape.name])
            try:
                ids.append(_submit_array(shape, sweep_dir, data_dir, n, still_mine))
            except InputError as error:
                done = sum(counts.values())
                before = f" {_n_workers(done)} had been submitted{_as_jobs(ids)}." if done else ""
                raise InputError(f"{error}{before}") from None
            counts[shape.name] += n
    known = [shape.to_dict() for shape in shapes_of(cluster)]
    states = Counter(
        j.state if j.state != "PENDING" else f"PENDING ({j.reason})" for j, _ in earlier
    )
    return Submission(
        sweep_dir=str(sweep_dir),
        job_ids=ids,
        n_submitted=sum(counts.values()),
        shapes=counts,
        earlier_job_ids=sorted({j.job_id for j, _ in earlier}),
        n_earlier=len(earlier),
        n_other_shapes=sum(not any(a.trains(s) for s in known) for _, a in earlier),
        adopted=adopted,
        states=dict(states),
        n_over_cap=n_over_cap,
    )


def _submit_array(
    shape: Shape,
    sweep_dir: Path,
    data_dir: Path,
    n_jobs: int,
    still_mine: Callable[[], bool],
) -> str:
    """Intention, sbatch, number."""
    import submitit

    cluster = shape.cluster
    token = uuid.uuid4().hex[:8]
    # Own folder: results of equal job numbers, of an earlier cluster say, would be taken for new.
    folder = sweep_dir / "submitit" / token
    folder.mkdir(parents=True)
    name = re.sub(r"[^\w.-]", "-", sweep_dir.name)
    comment = f"chinchilla:{name}:{token}"
    per_job = shape.workers_per_job
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
        name=f"chinchilla-{name}" if shape.name == "all" else f"chinchilla-{name}-{shape.name}",
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
        slurm_setup=[_take_task(folder), *cluster.setup_lines],
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
        "code": code_here().to_dict(),
        "n_jobs": n_jobs,
        "sweep_dir": str(sweep_dir),
        "data_dir": str(data_dir),
        "shape": shape.to_dict(),
        "n_workers": per_job,  # of one job
        "timeout_min": cluster.timeout_min,
        "threads": cluster.threads_per_worker or max(1, cluster.cpus_per_task // per_job),
    }
    write_json(folder / "intention.json", intention)
    if not still_mine():
        raise InputError("another launcher of this sweep has taken over; nothing was submitted.")
    try:
        # submitit prints what sbatch said; the error below says it once.
        with (
            cleaned_environment(),
            contextlib.redirect_stderr(io.StringIO()),
            executor.batch(),
        ):
            jobs = [executor.submit(SlurmTask(folder)) for _ in range(n_jobs)]
        job_id = str(jobs[0].job_id).split("_")[0]
    except (
        submitit.core.utils.FailedJobError,
        submitit.core.utils.FailedSubmissionError,
    ) as error:
        job_id = _after_failure(folder, str(error))
    record(folder, job_id)
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
    while (found := find(folder.name, queue({user_name()}))) is None:
        if time.monotonic() >= deadline:
            words = " ".join(said.split())
            write_json(folder / "refused.json", {"said": words, "refused_utc": utc_now()})
            raise InputError(
                f"sbatch refused the sweep's jobs: {words.rstrip('.')}. Change what it names "
                "(cluster.*), and launch again."
            )
        time.sleep(0.5)
    return found
