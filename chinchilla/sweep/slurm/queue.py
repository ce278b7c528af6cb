"""The jobs of a sweep in Slurm's queue, and the records of its job arrays.

Each array has a folder slurm/<token>/ with job.json, written before sbatch is called, and answer.json,
what sbatch answered. The token is the end of the jobs' comment, by which they are found in the queue
even if the launcher was killed before sbatch answered. If Slurm does not answer, an error is raised: a
failed squeue must never be taken for an empty queue.
"""

import dataclasses
import getpass
import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from chinchilla.core.errors import InputError
from chinchilla.core.files.json_codec import decode
from chinchilla.core.files.reading import read_json
from chinchilla.core.files.writing import write_json
from chinchilla.core.program import state_folder
from chinchilla.sweep.claims import file_system_now
from chinchilla.sweep.job_classes import Selection, SizeRange

TIMEOUT_SECONDS = 30.0  # for an answer of Slurm's controller
SETTLE_SECONDS = 15.0  # until the job of an sbatch that outlived its launcher appears in the queue
UNKNOWN = "so it is not known what is queued."
NOT_SUBMITTED = f"{UNKNOWN} Nothing was submitted; launch again when Slurm answers."
# Settings of a surrounding job or of the user's defaults, such as partition, tasks or memory.
_FOREIGN = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SCONTROL_")
_KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")  # address of the controller, credentials
# COMPLETING counts as ended. If Slurm requeues such a job, one additional worker does no harm.
_ENDED = re.compile(
    "BOOT_FAIL|CANCELLED|COMPLETED|COMPLETING|DEADLINE|FAILED|NODE_FAIL|OUT_OF_MEMORY|PREEMPTED|"
    "REVOKED|TIMEOUT"
)


class SlurmError(InputError):
    """A Slurm command does not exist, failed, or did not answer; `problem` is its message."""

    def __init__(self, message: str, problem: str) -> None:
        super().__init__(message)
        self.problem = problem


def clean_environment() -> dict[str, str]:
    """This process's environment without settings of a surrounding Slurm job."""
    return {k: v for k, v in os.environ.items() if k in _KEPT or not k.startswith(_FOREIGN)}


def run_slurm(*command: str, hint: str = NOT_SUBMITTED, script: str | None = None) -> str:
    """Standard output of a Slurm command.

    Args:
        command: program and arguments.
        hint: consequence of a failure, for the error message.
        script: its standard input; default: nothing to read.

    Raises:
        SlurmError: the command does not exist, failed, or did not answer.
    """
    try:
        done = subprocess.run(
            command,
            input=script or "",
            env=clean_environment(),
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # comments of other users' jobs may have any encoding
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        problem = f"no answer in {TIMEOUT_SECONDS:.0f} s"
    except OSError as error:
        problem = error.strerror or str(error)
    else:
        if not done.returncode:
            return done.stdout
        problem = " ".join(done.stderr.split()) or "no message"
    raise SlurmError(f"{command[0]} failed ({problem}), {hint}", problem)


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

    name: str  # 41, or 41_0 for an element of an array
    state: str  # PENDING, RUNNING, ...
    reason: str  # why it is pending
    comment: str

    @property
    def job_id(self) -> str:
        """Its number, or that of its array."""
        return self.name.partition("_")[0]

    @property
    def live(self) -> bool:
        """Whether it runs or will run."""
        return not _ENDED.fullmatch(self.state)


@dataclass(frozen=True)
class JobArray:
    """What a launcher was about to submit, as recorded in job.json, and what its jobs read."""

    comment: str
    user: str
    utc: str
    code: str  # label
    sweep_dir: str
    data_dir: str
    job_class: str
    sizes: SizeRange  # of the models that the jobs train
    n_jobs: int
    n_ranks: int  # above 1: a job is one worker of as many ranks
    n_workers: int  # of a job with one rank
    threads: int  # of each worker or rank
    run_id: str = ""  # the only run that the jobs train; "" = all of these sizes

    @property
    def selection(self) -> Selection:
        """The runs that the jobs train."""
        return Selection(self.sizes, self.run_id)

    def save(self, folder: Path) -> None:
        write_json(folder / "job.json", dataclasses.asdict(self))

    @classmethod
    def load(cls, folder: Path) -> "JobArray":
        """Read job.json.

        Raises:
            InputError: it cannot be read.
        """
        path = folder / "job.json"
        try:
            array: JobArray = decode(cls, read_json(path, "job array"), str(path))
        except InputError:
            raise InputError(
                f"{path} is damaged, so it is not known what was submitted there. Look in squeue for "
                f"jobs with {folder.name} in their comment, scancel them, and move {folder} out of "
                "the sweep's folder."
            ) from None
        return array


def private_logs(folder: Path) -> Path:
    """Where the logs of an array are if others may write to its sweep: Slurm follows links to them."""
    return state_folder() / "slurm" / folder.name


def job_logs(folder: Path) -> list[Path]:
    """The logs of an array's jobs."""
    return sorted(p for place in (folder, private_logs(folder)) for p in place.glob("*_log.out"))


def job_arrays(sweep_dir: Path) -> dict[Path, JobArray]:
    """Recorded arrays of a sweep by folder, without those of another sweep of which this is a copy.

    Raises:
        InputError: a record cannot be read.
    """
    arrays = {
        path.parent: JobArray.load(path.parent) for path in sweep_dir.glob("slurm/*/job.json")
    }
    return {k: a for k, a in arrays.items() if not _is_other(Path(a.sweep_dir), sweep_dir)}


def _is_other(recorded: Path, sweep_dir: Path) -> bool:
    """Whether the folder for which jobs were submitted still exists and is not this one."""
    try:
        return not os.path.samefile(recorded, sweep_dir)
    except (OSError, ValueError):  # moved, or not a path
        return False


def queued_jobs(hint: str = NOT_SUBMITTED) -> list[QueuedJob]:
    """Every job of this user in the queue, array elements separately.

    Raises:
        SlurmError: squeue failed or did not answer.
    """
    command = ("squeue", "-h", "-r", "-u", user_name(), "-o", "%i|%T|%r|%k")
    out = run_slurm(*command, hint=hint)
    return [QueuedJob(*line.split("|", 3)) for line in out.split("\n") if line.count("|") >= 3]


def sweep_jobs(
    arrays: dict[Path, JobArray],
    *,
    settle: bool = True,
    hint: str = NOT_SUBMITTED,
) -> tuple[list[tuple[QueuedJob, JobArray]], list[QueuedJob]]:
    """Find a sweep's jobs in Slurm's queue.

    Args:
        arrays: from `job_arrays`.
        settle: wait, up to SETTLE_SECONDS after each sbatch, for jobs of arrays without an answer.
        hint: consequence of a failure, for the error message.

    Returns:
        This user's jobs of the sweep that run or will run, with their arrays; and all jobs of this user.

    Raises:
        SlurmError: Slurm does not answer.
    """
    while True:
        jobs = queued_jobs(hint)
        by_comment = {a.comment: a for a in arrays.values()}
        own = [(job, by_comment[job.comment]) for job in jobs if job.comment in by_comment]
        found = {array.comment for _, array in own}
        missing = [folder for folder, a in arrays.items() if a.comment not in found]
        if not (settle and any(map(_in_doubt, missing))):
            return [(job, array) for job, array in own if job.live], jobs
        time.sleep(0.5)


def _in_doubt(folder: Path) -> bool:
    """Whether an sbatch without a recorded answer may still put jobs into the queue."""
    if (folder / "answer.json").exists():
        return False
    return file_system_now(folder) - (folder / "job.json").stat().st_mtime < SETTLE_SECONDS
