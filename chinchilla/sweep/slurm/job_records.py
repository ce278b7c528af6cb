"""What launchers of a sweep have submitted to Slurm, settled against its queue.

Each array has a folder, submitit/<token>/, with one file per fact: intention.json before sbatch is
called, then job.json with Slurm's number for it or refused.json with what Slurm said. The token is
also the jobs' comment: an array whose launcher died before it knew the number is found by it.
"""

import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chinchilla.core.errors import InputError
from chinchilla.core.files import read_json, write_json
from chinchilla.sweep.claims import file_system_now, utc_now
from chinchilla.sweep.slurm.queue import (
    ASK_SECONDS,
    NOT_SUBMITTED,
    UNKNOWN,
    QueuedJob,
    queue,
    user_name,
)

_NAME = re.compile(r"[^\s,\x00-\x1f\x7f]+")  # of a user, as squeue's -u takes it
LOOK_SECONDS = 20.0  # that a status waits for squeue
SETTLE_SECONDS = 15.0  # for the job of an sbatch that outlived its launcher to show in the queue


@dataclass
class Submitted:
    """One folder under submitit/, as its files say."""

    folder: Path
    user: str
    job_id: str | None
    refused: bool
    shape: dict[str, Any]  # as `Shape.to_dict`; {} of a version that had none

    @property
    def in_doubt(self) -> bool:
        return self.job_id is None and not self.refused

    def holds(self, job: QueuedJob) -> bool:
        """Whether `job` is of this array: by its token, or its number where a site drops comments."""
        if job.comment.startswith("chinchilla:"):
            return job.comment.endswith(f":{self.folder.name}")
        return job.job_id == self.job_id

    def trains(self, shape: dict[str, Any]) -> bool:
        """Whether its jobs train the runs of `shape`, as `Shape.to_dict` says it."""
        limits = ("min_params", "max_params")
        return [self.shape.get(k) or 0 for k in limits] == [shape[k] or 0 for k in limits]


def submitted(sweep_dir: Path) -> list[Submitted]:
    """The sweep's arrays by their files, oldest first.

    Raises:
        InputError: a file that cannot be read.
    """
    paths = sorted(sweep_dir.glob("submitit/*/intention.json"), key=lambda p: p.stat().st_mtime)
    return [_read(path.parent) for path in paths]


def jobs_of(
    arrays: list[Submitted], seconds: float = ASK_SECONDS, so: str = NOT_SUBMITTED
) -> list[QueuedJob]:
    """Every job in the queue of the people who submitted these; `so`: what no answer means.

    Raises:
        InputError: Slurm does not answer.
    """
    return queue({user_name(), *(a.user for a in arrays)}, seconds, so)


@dataclass(frozen=True)
class InQueue:
    """A sweep's jobs in Slurm's queue, as one squeue call showed them."""

    unknown: str  # why nothing is known; "" when Slurm answered
    jobs: list[dict[str, Any]]  # shape, state, reason, job_id and n, how many jobs are so

    @property
    def line(self) -> str:
        """One line for people."""
        if self.unknown:
            return f"queue unknown: {self.unknown}"
        told = []
        for job in self.jobs:
            shape = "" if job["shape"] in ("", "all") else f"{job['shape']} "
            why = f" ({job['reason']})" if job["state"] == "PENDING" else ""
            told.append(f"{job['n']} {shape}{job['state']}{why}")
        return f"jobs in the queue: {', '.join(told) or 'none'}"


def in_queue(sweep_dir: Path) -> InQueue | None:
    """What Slurm's queue holds of a sweep; None when nothing was ever submitted. Decides nothing."""
    try:
        arrays = submitted(sweep_dir)
        if not arrays:
            return None
        jobs = jobs_of(arrays, LOOK_SECONDS, UNKNOWN)
    except InputError as error:
        return InQueue(str(error).removesuffix(f", {UNKNOWN}"), [])
    except OSError as error:  # a folder that goes, or that we may not read
        return InQueue(f"{error.strerror or error}: {error.filename or sweep_dir}", [])
    counts = Counter(
        (str(a.shape.get("name", "")), j.state, j.reason, j.job_id)
        for j in jobs
        for a in arrays
        if j.live and a.holds(j)
    )
    keys = ("shape", "state", "reason", "job_id")
    rows = [{**dict(zip(keys, key, strict=True)), "n": n} for key, n in counts.items()]
    return InQueue("", rows)


def reconcile(
    sweep_dir: Path, so: str = NOT_SUBMITTED
) -> tuple[list[QueuedJob], list[Submitted], list[str]]:
    """Settle what launchers of this sweep left behind against what Slurm's queue holds.

    An intention without a number gets the number of the jobs that carry its token. A launcher may
    have been killed while its sbatch lived on, so an intention that is seconds old is waited for.

    Args:
        sweep_dir: the sweep's folder.
        so: what it means that Slurm does not answer, for the error.

    Returns:
        Jobs in the queue of everybody who launched this sweep, its arrays, and the numbers that
        were recorded only now.

    Raises:
        InputError: Slurm does not answer: nothing may be concluded.
    """
    arrays = submitted(sweep_dir)
    adopted = []
    while True:
        jobs = jobs_of(arrays, so=so)
        for array in arrays:
            if array.in_doubt and (found := find(array.folder.name, jobs)):
                record(array.folder, found)
                array.job_id = found
                adopted.append(found)
        doubtful = [a.folder for a in arrays if a.in_doubt]
        if not any(_age(folder) < SETTLE_SECONDS for folder in doubtful):
            return jobs, arrays, adopted
        time.sleep(0.5)


def _read(folder: Path) -> Submitted:
    file = folder / "intention.json"
    try:
        intention = read_json(file, "submission")
        user, shape = intention["user"], dict(intention.get("shape") or {})
        if not _NAME.fullmatch(user):
            raise ValueError("no user's name")
        file = folder / "job.json"
        job_id = str(read_json(file, "submission")["job_id"]) if file.exists() else None
    except (TypeError, KeyError, ValueError, AttributeError):  # InputError is a ValueError
        raise InputError(
            f"{file} is damaged, so it is not known what was submitted there. Look in squeue for "
            f"jobs with {folder.name} in their comment, scancel them, and move {folder} out of the "
            "sweep's folder."
        ) from None
    return Submitted(folder, user, job_id, (folder / "refused.json").exists(), shape)


def _age(folder: Path) -> float:
    return file_system_now(folder) - (folder / "intention.json").stat().st_mtime


def find(token: str, jobs: list[QueuedJob]) -> str | None:
    """Number of the array that carries `token`."""
    return next((j.job_id for j in jobs if j.comment.endswith(f":{token}")), None)


def record(folder: Path, job_id: str) -> None:
    """Write job.json: the array's number."""
    write_json(folder / "job.json", {"job_id": job_id, "recorded_utc": utc_now()})
