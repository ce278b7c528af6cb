"""Checks of options that are passed on to sbatch and srun: cluster.sbatch and cluster.srun."""

import re
import shlex
from typing import Any

from chinchilla.core.errors import InputError

# Options of sbatch with a setting of their own.
_SETTINGS = {
    "time": "timeout_min", "nodes": "nodes", "ntasks": "ranks_per_node",
    "ntasks-per-node": "ranks_per_node", "cpus-per-task": "cpus_per_task", "mem": "host_memory_gb",
    "gpus-per-node": "gpus_per_node", "gpus": "gpus_per_node", "gpus-per-task": "gpus_per_node",
    "gpus-per-socket": "gpus_per_node", "tres-per-task": "gpus_per_node", "partition": "partition", "account": "account",
    "qos": "qos", "constraint": "constraint",
}  # fmt: skip
_LOGS = "logs are found by their names"
_ANSWER = "a launch reads the answer of sbatch"
_RESERVED = {
    "array": "its elements are the jobs that cluster.n_workers counts",
    "output": _LOGS,
    "error": _LOGS,
    "open-mode": "the log of a job that is requeued is continued",
    "signal": "the time of the warning follows from cluster.timeout_min",
    "comment": "the jobs of a sweep are found in the queue by their comment",
    "requeue": "jobs requeue themselves before their time limit",
    "no-requeue": "jobs requeue themselves before their time limit",
    "clusters": "squeue does not list jobs on other clusters",
    "wrap": "a job runs the script that a launch writes",
    "parsable": _ANSWER,
    "quiet": _ANSWER,
    "test-only": _ANSWER,
    "wait": "a launch returns at once",
}
_RESERVED_OF_SRUN = ("--output", "-o", "--error", "-e", "--input", "-i")


def check_sbatch(key: str, options: dict[str, Any] | None) -> None:
    """Check the names and values of options of sbatch.

    Raises:
        InputError: an option that another setting gives, or on which sweeps rely; a name or value that
            cannot be written into a batch script.
    """
    for given, value in (options or {}).items():
        name = str(given).replace("_", "-")
        if not re.fullmatch(r"[a-z][a-z-]+", name):
            raise InputError(
                f"{key}: {given!r} is not the name of an option of sbatch. Give its long name without "
                "the dashes, such as gres."
            )
        if name in _SETTINGS:
            raise InputError(f"{key}.{given}={value}: use cluster.{_SETTINGS[name]} instead.")
        if name in _RESERVED:
            raise InputError(f"{key}.{given}={value} cannot be set: {_RESERVED[name]}. Remove it.")
        if isinstance(value, dict | list) or "\n" in str(value):
            raise InputError(
                f"{key}.{given}={value!r} must be one line of text, a number, or true for an option "
                "without a value."
            )


def check_srun(key: str, argument: str | None) -> None:
    """Check one argument of srun.

    Raises:
        InputError: it redirects the output, or is not one line.
    """
    if argument is None:
        return
    if argument.partition("=")[0] in _RESERVED_OF_SRUN:
        raise InputError(f"{key}: {argument} cannot be set: {_LOGS}. Remove it.")
    if "\n" in argument:
        raise InputError(f"{key}: {argument!r} must be one line.")


def check_python(key: str, command: str | None) -> None:
    """Check the command that starts Python, which is part of a line of a batch script.

    Raises:
        InputError: it is not one line, or a quote is not closed.
    """
    try:
        shlex.split(command or "")
    except ValueError as error:
        raise InputError(f"{key}={command}: {error}. Close the quote.") from None
    if "\n" in (command or ""):
        raise InputError(f"{key}={command!r} must be one line.")


def sbatch_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options by their names in submitit, with underscores."""
    return {str(name).replace("-", "_"): value for name, value in options.items()}


def gres_gpus(options: dict[str, Any]) -> int | None:
    """GPUs on each node that the option gres asks for, such as 4 of gpu:h100:4; None if it has none."""
    for item in str(options.get("gres") or "").split(","):
        if found := re.fullmatch(
            r"(?:gres[:/])?gpu(?::[^:,]*[^\d:,][^:,]*)?(?::(\d+))?", item.strip()
        ):
            return int(found[1] or 1)
    return None
