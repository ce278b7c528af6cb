"""Submit a sweep to Slurm, one array of detached jobs per job class, and cancel its jobs.

The state of a sweep is in its folder, so nothing here depends on Slurm's accounting. `queue` records
and finds what has been submitted; `job` is what a job runs.
"""

import grp
import os
import pwd
import re
import shlex
import shutil
import stat
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chinchilla.config import ClusterConfig
from chinchilla.config.command_line.words import shell_word
from chinchilla.config.slurm_options import sbatch_options
from chinchilla.core.errors import InputError
from chinchilla.core.files.folders import register
from chinchilla.core.files.writing import make_dirs, remove, touch, write_json, write_text
from chinchilla.core.provenance import code_here
from chinchilla.plan.cost import n_at_once
from chinchilla.plan.records import RunSpec
from chinchilla.sweep.claims import utc_now
from chinchilla.sweep.job_classes import JobClass, assign
from chinchilla.sweep.launch import launch_lock
from chinchilla.sweep.signals import warning_seconds
from chinchilla.sweep.slurm import queue
from chinchilla.sweep.slurm.unstarted import cancelled_file, unstarted_jobs, unstarted_lines

# Messages of sbatch after which the job may be in the queue nevertheless.
_DOUBTFUL = re.compile(
    "timed out|no answer|make sense|contact|communicat|zero bytes|unknown reason", re.IGNORECASE
)

# A warning (USR2) received before Python has installed its handlers would end the job.
_IGNORE_WARNING = """sh -c 'trap "" USR2; exec "$0" "$@"'"""
# Options of cluster.sbatch that replace host_memory_gb in the batch script.
_MEMORY_OPTIONS = {"mem_per_cpu", "mem_per_gpu"}
OPTIONAL = ("partition", "account", "qos", "constraint")  # settings of a cluster that may be empty
JOB = "chinchilla.sweep.slurm.job"


@dataclass(frozen=True)
class Submission:
    """Jobs submitted by this launch and those found in the queue."""

    sweep_dir: str
    job_ids: list[str]  # arrays submitted now
    n_submitted: int  # jobs in them
    job_classes: dict[str, int]  # jobs submitted now, by class
    earlier_job_ids: list[str]  # arrays of this sweep that were in the queue before
    n_earlier: int  # live jobs in them
    n_over_cap: int  # jobs not submitted because of cluster.max_queued_jobs
    unstarted: list[dict[str, Any]]  # earlier jobs that ended without starting a worker

    def text(self) -> str:
        by_class = ", ".join(f"{n} {name}" for name, n in self.job_classes.items())
        lines = [f"warning: {line}" for line in unstarted_lines(self.unstarted)[:1]]
        lines += unstarted_lines(self.unstarted)[1:]
        if self.unstarted and self.n_submitted:
            lines.append("  The new jobs end likewise unless the cause has been removed.")
        lines += [
            f"submitted {_n_workers(self.n_submitted)}{_as_jobs(self.job_ids)}"
            + (f": {by_class}" if len(self.job_classes) > 1 else "")
        ]
        if self.n_earlier:
            jobs = _as_jobs(self.earlier_job_ids)
            lines.append(f"  {_n_workers(self.n_earlier)} had been submitted before{jobs}")
        if self.n_over_cap:
            lines.append(
                f"  {self.n_over_cap} more would exceed cluster.max_queued_jobs; launch again later"
            )
        if ids := [*self.earlier_job_ids, *self.job_ids]:
            sweep = shell_word(self.sweep_dir)
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


def check_submission(cluster: ClusterConfig, sweep_dir: Path, missing: Sequence[RunSpec]) -> None:
    """Check what a launch needs of the settings and of Slurm, before it writes anything.

    Raises:
        InputError: Slurm is not installed here or does not answer, n_workers is not set, or the path of
            the sweep cannot be written into a batch script.
    """
    for job_class, specs in assign(missing, cluster):
        if job_class.cluster.n_workers < 1:
            raise InputError(
                "cluster.n_workers=0: set the number of Slurm jobs that share the sweep, such as "
                f"cluster.n_workers={min(8, len(specs))}."
            )
    if re.search(r"[\\\n]", str(sweep_dir)):
        raise InputError(
            f"sweep_dir={str(sweep_dir)!r} contains a backslash or a line break, which the names of "
            "Slurm's logs cannot contain. Choose another folder."
        )
    if shutil.which("sbatch") is None:
        raise InputError(
            "cluster.kind=slurm, but sbatch is not installed here. Launch on a login node, or choose "
            "cluster=local."
        )
    queue.job_arrays(sweep_dir)
    hint = f"so it is not known which jobs of {sweep_dir} are queued. Nothing was submitted or "
    queue.queued_jobs(f"{hint}written there; launch again when Slurm answers.")


def submit(
    cluster: ClusterConfig,
    sweep_dir: Path,
    data_dir: Path,
    missing: Sequence[RunSpec],
    still_mine: Callable[[], bool] = lambda: True,
    run_id: str = "",
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
        run_id: the only run that the jobs train; default: every run of their sizes.

    Raises:
        InputError: a run fits no job class, or Slurm does not answer (then nothing is submitted) or
            refuses the jobs.
    """
    groups = assign(missing, cluster)
    arrays = queue.job_arrays(sweep_dir)
    earlier, jobs = queue.sweep_jobs(arrays)
    unstarted = unstarted_jobs(arrays, (job for job, _ in earlier))
    n_queued = sum(job.live for job in jobs)
    ids: list[str] = []
    counts: dict[str, int] = {}  # jobs submitted now, by class
    n_over_cap = 0
    for job_class, specs in groups:
        n_live = sum(
            array.sizes == job_class.sizes and array.run_id in ("", run_id) for _, array in earlier
        )
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
                ids.append(_submit_array(job_class, sweep_dir, data_dir, n, still_mine, run_id))
            except InputError as error:
                n_done = sum(counts.values())
                done = f" {_n_workers(n_done)} had been submitted{_as_jobs(ids)}." if ids else ""
                raise InputError(f"{error}{done}") from None
            counts[job_class.name] += n
    return Submission(
        sweep_dir=str(sweep_dir),
        job_ids=ids,
        n_submitted=sum(counts.values()),
        job_classes=counts,
        earlier_job_ids=sorted({j.job_id for j, _ in earlier}),
        n_earlier=len(earlier),
        n_over_cap=n_over_cap,
        unstarted=unstarted,
    )


def _submit_array(
    job_class: JobClass,
    sweep_dir: Path,
    data_dir: Path,
    n_jobs: int,
    still_mine: Callable[[], bool],
    run_id: str,
) -> str:
    """Record the array, call sbatch, record its answer and return the array's number."""
    cluster = job_class.cluster
    token = uuid.uuid4().hex[:8]
    # A folder per array, because job numbers start again when a cluster is reinstalled.
    folder = sweep_dir / "slurm" / token
    make_dirs(folder)
    array = queue.JobArray(
        comment=f"chinchilla:{_plain(sweep_dir.name)}:{token}",
        user=queue.user_name(),
        utc=utc_now(),
        code=code_here().label,
        sweep_dir=str(sweep_dir),
        data_dir=str(data_dir),
        job_class=job_class.name,
        sizes=job_class.sizes,
        n_jobs=n_jobs,
        n_ranks=job_class.n_ranks,
        n_workers=job_class.workers_per_job,
        threads=cluster.threads_per_worker
        or max(1, cluster.cpus_per_task // job_class.workers_per_job),
        run_id=run_id,
    )
    script = _script(array, cluster, folder)
    write_text(folder / "job.sh", script)  # to look at: another user may change it before sbatch
    array.save(folder)
    if not still_mine():
        raise InputError("another launcher of this sweep has taken over; nothing was submitted.")
    try:
        answer = queue.run_slurm("sbatch", script=script)
        job_id = answer.split("batch job ")[-1].split()[0]
    except queue.SlurmError as error:
        doubtful = _DOUBTFUL.search(error.problem)
        os.utime(folder / "job.json")  # from now on, the job may still appear
        jobs = queue.sweep_jobs({folder: array})[0] if doubtful else []
        if not jobs:
            write_json(folder / "answer.json", {"refused": error.problem, "utc": utc_now()})
            raise InputError(
                f"sbatch refused the sweep's jobs: {error.problem.rstrip('.')}. Change the setting "
                "that it names (cluster.*), and launch again."
            ) from None
        job_id = jobs[0][0].job_id
    write_json(folder / "answer.json", {"job_id": job_id, "utc": utc_now()})
    return job_id


def _script(array: queue.JobArray, cluster: ClusterConfig, folder: Path) -> str:
    """The batch script of an array, as submitit writes it for any command.

    Only the script is submitit's: its jobs call functions from files that are written after sbatch, and
    that a killed launcher would leave out. Our jobs read job.json, which is written before.
    """
    import submitit

    suffix = "" if array.job_class == "all" else f"-{array.job_class}"
    options = sbatch_options(cluster.sbatch)
    options = {k: v for k, v in options.items() if v is not None and v is not False}
    # sbatch and srun replace %A, %a, %j and %t in the names of log files
    job = "%A_%a" if array.n_jobs > 1 else "%j"
    logs = folder
    if _others_may_write(Path(array.sweep_dir)):
        logs = queue.private_logs(folder)
        logs.mkdir(mode=0o700, parents=True)
    log = f"{logs}".replace("%", "%%") + f"/{job}"
    gpus = None if "gres" in options else cluster.gpus_per_node or None
    executor = submitit.SlurmExecutor(folder="unused")
    executor.update_parameters(
        # The name of the sweep comes first, as squeue shows eight characters.
        job_name=f"{_plain(Path(array.sweep_dir).name)}{suffix}-chinchilla",
        comment=array.comment,
        time=cluster.timeout_min,
        nodes=cluster.nodes,
        ntasks_per_node=cluster.ranks_per_node,
        cpus_per_task=cluster.cpus_per_task,
        mem=None if _MEMORY_OPTIONS.intersection(options) else f"{cluster.host_memory_gb}GB",
        gpus_per_node=gpus,
        **{key: getattr(cluster, key) or None for key in OPTIONAL},
        signal_delay_s=warning_seconds(60 * cluster.timeout_min),
        setup=list(cluster.setup_lines),
        use_srun=False,  # its names of logs would be wrong for a folder such as 100%job
        teardown=[
            "code=$?",
            "# Requeues the job if its program cannot, as it runs in a container without Slurm's commands.",
            "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}",
            "job=${job:-$SLURM_JOB_ID}",
            f"if rm {shlex.quote(str(folder))}/requeue-$job 2>/dev/null &&",
            '    [ "$(squeue -h -j "$job" -o %T)" = RUNNING ]; then scontrol requeue "$job"; fi',
            "exit $code",
            "",
        ],
        stderr_to_stdout=True,
        wckey=None,
        additional_parameters={"output": f"{log}_0_log.out", "requeue": True, **options},
    )
    if array.n_jobs > 1:
        executor.parameters |= {"map_count": array.n_jobs, "array_parallelism": array.n_jobs}
    srun = ["srun", "--unbuffered", "--output", f"{log}_%t_log.out", "--kill-on-bad-exit=1"]
    srun += [f"--cpus-per-task={cluster.cpus_per_task}", *cluster.srun]
    python = cluster.python or shlex.quote(sys.executable)
    program = ["-P", "-u", "-m", JOB, str(folder)]
    command = f"{shlex.join(srun)} {_IGNORE_WARNING} {python} {shlex.join(program)}"
    # A private method: pyproject.toml therefore admits submitit 1.5 only.
    return executor._make_submission_file_text(command, array.comment)


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]", "-", name)


def cancel(sweep_dir: Path) -> dict[str, Any]:
    """Cancel every job that this user has submitted for this sweep.

    Launchers of the sweep are excluded meanwhile, and jobs whose launcher was killed are found too.

    Returns:
        job_ids: the cancelled arrays; n_jobs: live jobs in them.

    Raises:
        InputError: Slurm does not answer; the message says whether jobs may have been cancelled.
    """
    if not (sweep_dir / "slurm").is_dir():
        return {"job_ids": [], "n_jobs": 0}
    register(sweep_dir)
    with launch_lock(sweep_dir):
        hint = f"{queue.UNKNOWN} Nothing was cancelled; cancel again when Slurm answers."
        # A record of another user may contain the comment of any of this user's jobs.
        arrays = {
            folder: array
            for folder, array in queue.job_arrays(sweep_dir).items()
            if (folder / "job.json").lstat().st_uid == os.getuid()
        }
        jobs, _ = queue.sweep_jobs(arrays, hint=hint)
        if ids := sorted({job.job_id for job, _ in jobs}):
            live = {array.comment for _, array in jobs}
            marks = [cancelled_file(f) for f, a in arrays.items() if a.comment in live]
            new = [mark for mark in marks if not mark.exists()]
            # First: if this process dies, the jobs are still found, but cancelled ones are not.
            for mark in new:
                touch(mark)
            try:
                hint = "some jobs may not be cancelled; cancel again."
                queue.run_slurm("scancel", *ids, hint=hint)
            except InputError:
                for mark in new:
                    remove(mark, missing_ok=True)
                raise
    return {"job_ids": ids, "n_jobs": len(jobs)}


def _others_may_write(folder: Path) -> bool:
    """Whether a group, other than that of this user alone, or everybody may write to a folder."""
    about = folder.stat()
    if about.st_mode & stat.S_IWOTH:
        return True
    try:
        own = grp.getgrgid(about.st_gid).gr_name == pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        own = False
    return bool(about.st_mode & stat.S_IWGRP) and not own
