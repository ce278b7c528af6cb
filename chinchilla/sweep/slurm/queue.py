"""What Slurm says about our jobs: one squeue call for all of them, and its limit on arrays.

A question without an answer raises: that squeue fails must never be read as "nothing is queued".
"""

import contextlib
import getpass
import os
import pwd
import re
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from chinchilla.core.errors import InputError

ASK_SECONDS = 60.0  # for an answer from the controller
# What a shell inside a job, or a person's defaults, would impose on ours: partition, tasks, memory.
_FOREIGN = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SCONTROL_", "SUBMITIT_")
_KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")  # where the controller is, and who we are
# COMPLETING is here: its work has ended. Should Slurm requeue it, one worker more does no harm.
_OVER = frozenset(
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


@dataclass(frozen=True)
class QueuedJob:
    """One job, or one element of an array, as squeue shows it."""

    job_id: str  # the array's number where there is an array
    user: str
    state: str  # PENDING, RUNNING, ...
    reason: str  # why it is pending
    comment: str

    @property
    def live(self) -> bool:
        """Whether it works or will."""
        return self.state not in _OVER


def clean_environment() -> dict[str, str]:
    """Our environment without what belongs to another job or to somebody's defaults."""
    return {k: v for k, v in os.environ.items() if k in _KEPT or not k.startswith(_FOREIGN)}


@contextlib.contextmanager
def cleaned_environment() -> Iterator[None]:
    """The same for code that hands on os.environ by itself."""
    before = dict(os.environ)
    kept = clean_environment()
    for key in before.keys() - kept.keys():
        del os.environ[key]
    try:
        yield
    finally:
        os.environ.update({k: v for k, v in before.items() if k not in kept})


UNKNOWN = "so it is not known what is queued."
NOT_SUBMITTED = f"{UNKNOWN} Nothing was submitted; launch again when Slurm answers."


def queue(
    users: Collection[str], seconds: float = ASK_SECONDS, so: str = NOT_SUBMITTED
) -> list[QueuedJob]:
    """Every job of these users that Slurm still shows, array elements one by one.

    Args:
        users: whose jobs.
        seconds: to wait for an answer.
        so: what a failure means, for the error.

    Raises:
        InputError: squeue failed or did not answer.
    """
    # squeue refuses names that are gone, of somebody who has left.
    names = [user for user in sorted(users) if user == user_name() or _exists(user)]
    words = ("-h", "-r", "-u", ",".join(names), "-o", "%F|%u|%T|%r|%k")
    out = ask("squeue", *words, seconds=seconds, so=so)
    return [QueuedJob(*line.split("|", 4)) for line in out.split("\n") if line.count("|") >= 4]


def max_array_size() -> int:
    """How many elements an array may have here.

    Raises:
        InputError: scontrol failed or did not answer.
    """
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"), re.M)
    return max(1, int(found[1])) if found else 1001  # Slurm's default


def user_name() -> str:
    """Who we are, as squeue takes it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a password file
        return str(os.getuid())


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def ask(*command: str, seconds: float = ASK_SECONDS, so: str = NOT_SUBMITTED) -> str:
    """What one of Slurm's commands prints.

    Args:
        command: its words.
        seconds: to wait for an answer.
        so: what a failure means, for the error.

    Raises:
        InputError: it is not here, failed, or did not answer.
    """
    try:
        done = subprocess.run(
            command,
            env=clean_environment(),
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # anybody's job may have a comment in another encoding
            timeout=seconds,
        )
        trouble = " ".join(done.stderr.split()) if done.returncode else ""
    except subprocess.TimeoutExpired:
        trouble = f"no answer in {seconds:.0f} s"
    except OSError as error:
        trouble = error.strerror or str(error)
    else:
        if not done.returncode:
            return done.stdout
    raise InputError(f"{command[0]} failed ({trouble or 'without a word'}), {so}")
