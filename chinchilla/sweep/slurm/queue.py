"""The jobs of a sweep in Slurm's queue, and the records of its job arrays.

Each array that a launcher submits has a folder submitit/<token>/ with intention.json, written before
sbatch is called, and afterwards job.json with the array's number or refused.json with sbatch's message.
The token is part of the jobs' comment, so that an array is found in the queue even if its launcher died
before it learned the number. If Slurm does not answer, an error is raised: a failed squeue must never
be taken for an empty queue.
"""

import contextlib
import getpass
import os
import pwd
import re
import subprocess
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chinchilla.core.errors import InputError
from chinchilla.core.files import read_json, write_json
from chinchilla.sweep.claims import file_system_now, utc_now
from chinchilla.sweep.job_classes import JobClass

TIMEOUT_SECONDS = 60.0  # for an answer of Slurm's controller
STATUS_TIMEOUT_SECONDS = 20.0  # for an answer if only a status is shown
SETTLE_SECONDS = 15.0  # until the job of an sbatch that outlived its launcher appears in the queue
UNKNOWN = "so it is not known what is queued."
NOT_SUBMITTED = f"{UNKNOWN} Nothing was submitted; launch again when Slurm answers."
# Settings of a surrounding job or of the user's defaults, such as partition, tasks or memory.
_FOREIGN = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SCONTROL_", "SUBMITIT_")
_KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")  # address of the controller, credentials
# COMPLETING counts as ended. If Slurm requeues such a job, one additional worker does no harm.
_ENDED = frozenset(
    [
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "COMPLETING",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    ]
)
_USER = re.compile(r"[^\s,\x00-\x1f\x7f]+")  # valid in squeue's option -u


def clean_environment() -> dict[str, str]:
    """This process's environment without settings of a surrounding Slurm job."""
    return {k: v for k, v in os.environ.items() if k in _KEPT or not k.startswith(_FOREIGN)}


@contextlib.contextmanager
def cleaned_environment() -> Iterator[None]:
    """Apply `clean_environment` to os.environ, for libraries that pass it on."""
    removed = {k: v for k, v in os.environ.items() if k not in clean_environment()}
    for key in removed:
        del os.environ[key]
    try:
        yield
    finally:
        os.environ.update(removed)


def run_slurm(*command: str, timeout: float = TIMEOUT_SECONDS, hint: str = NOT_SUBMITTED) -> str:
    """Standard output of a Slurm command.

    Args:
        command: program and arguments.
        timeout: seconds.
        hint: consequence of a failure, for the error message.

    Raises:
        InputError: the command does not exist, failed, or did not answer.
    """
    try:
        done = subprocess.run(
            command,
            env=clean_environment(),
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # comments of other users' jobs may have any encoding
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        problem = f"no answer in {timeout:.0f} s"
    except OSError as error:
        problem = error.strerror or str(error)
    else:
        if not done.returncode:
            return done.stdout
        problem = " ".join(done.stderr.split()) or "no message"
    raise InputError(f"{command[0]} failed ({problem}), {hint}")


def user_name() -> str:
    """Name of the user, as in squeue."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a password file
        return str(os.getuid())


def max_array_size() -> int:
    """Largest array that Slurm accepts here."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", run_slurm("scontrol", "show", "config"), re.M)
    return max(1, int(found[1])) if found else 1001  # Slurm's default


@dataclass(frozen=True)
class QueuedJob:
    """One job, or one element of an array, as shown by squeue."""

    job_id: str  # the array's number for an element of an array
    user: str
    state: str  # PENDING, RUNNING, ...
    reason: str  # why it is pending
    comment: str

    @property
    def live(self) -> bool:
        """Whether it runs or will run."""
        return self.state not in _ENDED


def queued_jobs(
    users: Collection[str], timeout: float = TIMEOUT_SECONDS, hint: str = NOT_SUBMITTED
) -> list[QueuedJob]:
    """Every job of these users in the queue, array elements separately.

    Raises:
        InputError: squeue failed or did not answer.
    """

    def exists(user: str) -> bool:  # squeue refuses names of deleted accounts
        try:
            return bool(pwd.getpwnam(user))
        except KeyError:
            return user == user_name()

    names = ",".join(user for user in sorted(users) if exists(user))
    columns = "%F|%u|%T|%r|%k"
    out = run_slurm("squeue", "-h", "-r", "-u", names, "-o", columns, timeout=timeout, hint=hint)
    return [QueuedJob(*line.split("|", 4)) for line in out.split("\n") if line.count("|") >= 4]


@dataclass
class JobArray:
    """A job array that was submitted, or may have been, as recorded in its folder."""

    folder: Path
    user: str
    job_id: str | None  # None: not known
    refused: bool
    job_class: dict[str, Any]  # `JobClass.to_dict`

    @property
    def in_doubt(self) -> bool:
        return self.job_id is None and not self.refused

    def contains(self, job: QueuedJob) -> bool:
        """Whether `job` belongs to this array: by its token, or by number if comments are dropped."""
        if job.comment.startswith("chinchilla:"):
            return job.comment.endswith(f":{self.folder.name}")
        return job.job_id == self.job_id

    def trains(self, job_class: JobClass) -> bool:
        """Whether its jobs train the runs of `job_class`."""
        own, other = self.job_class, job_class.to_dict()
        return all((own.get(k) or 0) == (other[k] or 0) for k in ("min_params", "max_params"))


def job_arrays(sweep_dir: Path) -> list[JobArray]:
    """Recorded arrays of a sweep, oldest first.

    Raises:
        InputError: a record cannot be read.
    """
    paths = sorted(sweep_dir.glob("submitit/*/intention.json"), key=lambda p: p.stat().st_mtime)
    return [read_array(path.parent) for path in paths]


def read_array(folder: Path) -> JobArray:
    """The array recorded in `folder`."""
    path = folder / "intention.json"
    try:
        intention = read_json(path, "submission")
        user, job_class = intention["user"], dict(intention.get("job_class") or {})
        if not _USER.fullmatch(user):
            raise ValueError("invalid user name")
        path = folder / "job.json"
        job_id = str(read_json(path, "submission")["job_id"]) if path.exists() else None
    except (TypeError, KeyError, ValueError, AttributeError):  # InputError is a ValueError
        raise InputError(
            f"{path} is damaged, so it is not known what was submitted there. Look in squeue for "
            f"jobs with {folder.name} in their comment, scancel them, and move {folder} out of the "
            "sweep's folder."
        ) from None
    return JobArray(folder, user, job_id, (folder / "refused.json").exists(), job_class)


def settle(
    arrays: list[JobArray], wait_seconds: float, hint: str = NOT_SUBMITTED
) -> tuple[list[QueuedJob], list[JobArray]]:
    """Find the numbers of arrays in doubt in Slurm's queue and record them.

    Args:
        arrays: arrays of one sweep.
        wait_seconds: how long to wait for arrays in doubt to appear in the queue.
        hint: consequence of a failure, for the error message.

    Returns:
        All queued jobs of these arrays' users, and the arrays whose number this call recorded.

    Raises:
        InputError: Slurm does not answer.
    """
    deadline = time.monotonic() + wait_seconds
    adopted = []
    while True:
        jobs = queued_jobs({user_name(), *(a.user for a in arrays)}, hint=hint)
        for array in arrays:
            token = f":{array.folder.name}"
            job_id = next((j.job_id for j in jobs if j.comment.endswith(token)), None)
            if array.in_doubt and job_id:
                record_job(array, job_id)
                adopted.append(array)
        if time.monotonic() >= deadline or not any(a.in_doubt for a in arrays):
            return jobs, adopted
        time.sleep(0.5)


def record_job(array: JobArray, job_id: str) -> None:
    """Write job.json: the array's number."""
    write_json(array.folder / "job.json", {"job_id": job_id, "recorded_utc": utc_now()})
    array.job_id = job_id


def settle_sweep(
    sweep_dir: Path, hint: str = NOT_SUBMITTED
) -> tuple[list[QueuedJob], list[JobArray], list[JobArray]]:
    """`settle` all arrays of a sweep, waiting for those submitted in the last SETTLE_SECONDS.

    Returns:
        Jobs in the queue, all arrays, and the arrays whose number this call recorded.
    """
    arrays = job_arrays(sweep_dir)
    intentions = [a.folder / "intention.json" for a in arrays if a.in_doubt]
    ages = [file_system_now(p.parent) - p.stat().st_mtime for p in intentions]
    wait = SETTLE_SECONDS - min(ages, default=SETTLE_SECONDS)
    jobs, adopted = settle(arrays, wait, hint)
    return jobs, arrays, adopted


@dataclass(frozen=True)
class JobsInQueue:
    """Jobs of a sweep in Slurm's queue, for display."""

    unknown: str  # why nothing is known; "" if Slurm answered
    jobs: list[dict[str, Any]]  # job_class, state, reason, job_id, and n: the number of such jobs

    @property
    def line(self) -> str:
        """One line of text."""
        if self.unknown:
            return f"queue unknown: {self.unknown}"
        parts = []
        for job in self.jobs:
            name = "" if job["job_class"] in ("", "all") else f"{job['job_class']} "
            reason = f" ({job['reason']})" if job["state"] == "PENDING" else ""
            parts.append(f"{job['n']} {name}{job['state']}{reason}")
        return f"jobs in the queue: {', '.join(parts) or 'none'}"


def jobs_in_queue(sweep_dir: Path) -> JobsInQueue | None:
    """Jobs of a sweep in Slurm's queue; None if nothing was ever submitted. Never raises."""
    try:
        arrays = job_arrays(sweep_dir)
        if not arrays:
            return None
        users = {user_name(), *(a.user for a in arrays)}
        jobs = queued_jobs(users, STATUS_TIMEOUT_SECONDS, UNKNOWN)
    except InputError as error:
        return JobsInQueue(str(error).removesuffix(f", {UNKNOWN}"), [])
    except OSError as error:  # a folder that was removed or is not readable
        return JobsInQueue(f"{error.strerror or error}: {error.filename or sweep_dir}", [])
    counts = Counter(
        (str(a.job_class.get("name", "")), j.state, j.reason, j.job_id)
        for j in jobs
        for a in arrays
        if j.live and a.contains(j)
    )
    keys = ("job_class", "state", "reason", "job_id")
    rows = [{**dict(zip(keys, key, strict=True)), "n": n} for key, n in counts.items()]
    return JobsInQueue("", rows)
