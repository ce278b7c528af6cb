"""plan.jsonl: the runs of a sweep, one RunSpec with its hash per line."""

import errno
import json
import os
from pathlib import Path

from chinchilla.core.errors import InputError, nearest_path
from chinchilla.core.files.json_codec import OtherVersion
from chinchilla.core.files.reading import MB, RefusedFile, parse_json, read_lines
from chinchilla.core.files.sealed import DamagedRecord
from chinchilla.core.files.writing import atomic_write
from chinchilla.plan.records import RunSpec

PLAN_BYTES = 100 * MB  # some 80,000 runs
MAX_PROBLEMS = 1_000  # with more lines that cannot be read, none of the plan is used


def save_plan(specs: list[RunSpec], path: Path) -> None:
    """Write plan.jsonl, one spec with its hash per line."""
    with atomic_write(path) as f:
        f.writelines(json.dumps(s.to_record(), allow_nan=False) + "\n" for s in specs)


def _no_sweep(folder: Path) -> str:
    """Why a folder is not that of a sweep, with the one that may be meant."""
    if not folder.exists():
        problem, hint = "does not exist", nearest_path(folder)
    else:
        problem, near = "is not the folder of a sweep: it has no plan.jsonl", [folder.parent]
        if folder.is_dir():
            near = [*folder.parents, *sorted(folder.iterdir())]
        sweeps = [each for each in near if (each / "plan.jsonl").is_file()]
        hint = f" Did you mean {sweeps[0]}?" if sweeps else ""
    return f"{folder} {problem}.{hint} Give a folder that `chinchilla sweep` made."


class DamagedPlan(InputError):
    """A plan.jsonl that cannot be read, completely or in part. Launching again writes it anew."""


# Errors of one file that launching again repairs; others are of the disk or the file server.
_REPAIRABLE = (errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM)
_PLAN_ADVICE = (
    "Give the same sweep command again: the plan is written again, and trained runs are kept."
)


def load_plan(path: Path) -> list[RunSpec]:
    """Read plan.jsonl completely.

    Raises:
        InputError: the file is missing, not JSON lines, empty, repeats a run, or is of another schema.
    """
    specs, problems = read_plan(path)
    if problems:
        raise DamagedPlan(problems[0])
    return specs


def read_plan(path: Path) -> tuple[list[RunSpec], list[str]]:
    """The runs of plan.jsonl, and a message for each line that cannot be read or that repeats another.

    A repeated line counts once. No launch writes one, so it may have replaced another run's.

    Raises:
        DamagedPlan: no line can be read, or over MAX_PROBLEMS cannot.
        InputError: the file is missing, of another schema, or its file system does not answer.
    """
    specs: dict[str, RunSpec] = {}
    problems: list[str] = []
    other_versions: list[OtherVersion] = []
    try:
        for i, line in enumerate(read_lines(path, PLAN_BYTES), 1):
            where = f"{path} line {i}"
            try:
                spec = RunSpec.from_record(parse_json(line), where)
                if spec.run_id in specs:
                    problems.append(
                        f"{where} repeats run {spec.run_id}, and may have replaced another run. {_PLAN_ADVICE}"
                    )
                specs[spec.run_id] = spec
            except OtherVersion as error:
                other_versions.append(error)
                problems.append(f"{error} {_PLAN_ADVICE}")
            except InputError as error:
                problem = error.problem if isinstance(error, DamagedRecord) else ""
                problems.append(f"{f'{where} {problem}.' if problem else error} {_PLAN_ADVICE}")
            except ValueError as error:
                problems.append(f"{where} is not JSON ({error}). {_PLAN_ADVICE}")
            if len(problems) > MAX_PROBLEMS:
                raise DamagedPlan(
                    f"plan {path} has over {MAX_PROBLEMS:,} lines that cannot be read. {_PLAN_ADVICE}"
                )
    except (FileNotFoundError, NotADirectoryError):
        if not os.path.islink(path):
            raise InputError(_no_sweep(path.parent)) from None
        raise DamagedPlan(f"plan {path} is a link to nothing. {_PLAN_ADVICE}") from None
    except OSError as error:
        why = f"plan {path} cannot be read ({error.strerror or error})."
        if isinstance(error, RefusedFile) or error.errno in _REPAIRABLE:
            raise DamagedPlan(f"{why} {_PLAN_ADVICE}") from None
        raise InputError(f"{why} Look at the disk or the file server.") from None
    if not specs:
        if other_versions and len(other_versions) == len(problems):
            raise other_versions[0]
        raise DamagedPlan(
            problems[0] if problems else f"plan {path} has no runs in it. {_PLAN_ADVICE}"
        )
    return list(specs.values()), problems
