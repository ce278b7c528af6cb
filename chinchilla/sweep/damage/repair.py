"""Repair a sweep's folder before a launch, and a run's folder before its training. Nothing is deleted.

What is not a file or folder as expected, or cannot be read, is renamed to damaged-<n>-<name>
(`access.move_aside`), and the program writes it anew: spec.json from the plan, the plan from the command and from
the spec.json of every run, progress and heartbeat when training continues. Permissions of own files are restored.
Files of other users that cannot be read are renamed too, except for checkpoints: they contain work that their
owner can make accessible. Only a checkpoint of the same step replaces them (`train.checkpoint.save`).
"""

import errno
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

from chinchilla.core.errors import InputError
from chinchilla.core.files.folders import opened
from chinchilla.core.files.reading import UnreadableFile, read_json
from chinchilla.core.files.writing import NO_HARD_LINKS
from chinchilla.core.terminal import print_message
from chinchilla.plan.plan_file import DamagedPlan, read_plan, save_plan
from chinchilla.plan.records import RunSpec
from chinchilla.sweep.damage.access import move_aside, restore_access, restore_own

# Of a run. `result.json` is left to `retry.set_aside`, which decides whether its run is trained again.
FILES = (
    "spec.json", "heartbeat", "progress.json", "error.txt", "metrics.jsonl", "curve.npz", "synced.json",
)  # fmt: skip
FOLDERS = ("attempts", "checkpoints", "tensorboard", "wandb")
MIRRORS = ("tensorboard", "wandb")  # may contain many files, none of which training reads
# Of a sweep
SWEEP_FILES = ("plan.jsonl", "runtime.json")
SWEEP_FOLDERS = ("runs", "ended", "launch", "stable_phases", "workers", "slurm")
ALL = os.R_OK | os.W_OK | os.X_OK
Report = Callable[[str], None]  # receives a message about each thing that was renamed


def warn(message: str) -> None:
    """Print a warning on standard error."""
    print_message(f"warning: {message}", file=sys.stderr)


def repair_run(run_dir: Path, spec: RunSpec, report: Report = warn) -> None:
    """Make the folder of a run usable for training. The caller holds the run's claim.

    Raises:
        OSError: something that only its owner can change.
    """
    restore_access(run_dir, skip=MIRRORS)
    for name in os.listdir(run_dir):
        path = run_dir / name
        if name in FILES:
            usable = _is_file(path) and os.access(path, os.R_OK | (name == "heartbeat" and os.W_OK))
        elif name == "checkpoints" and _is_folder(path) and not os.access(path, ALL):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        elif name in FOLDERS:
            usable = _is_folder(path) and os.access(path, ALL)
        else:
            continue
        if name == "spec.json" and usable:
            found = _spec_of(path)
            usable = found is not None and found.run_id == spec.run_id
        if not usable:
            _rename(path, report)


def repair_mirror(run_dir: Path, tracker: str) -> None:
    """Make the folder of a run usable for a copy of its metrics.

    Raises:
        OSError: something that only its owner can change.
    """
    for path in (run_dir / tracker, run_dir / "synced.json"):
        usable = _is_file(path) if path.name == "synced.json" else _is_folder(path)
        if os.path.lexists(path) and not usable:
            _rename(path, warn)


def _is_file(path: Path) -> bool:
    return os.path.lexists(path) and stat.S_ISREG(os.lstat(path).st_mode)


def _is_folder(path: Path) -> bool:
    """Whether it is a folder itself: nothing is written through a link."""
    return path.is_dir() and not path.is_symlink()


def _spec_of(path: Path) -> RunSpec | None:
    """The run of a spec.json; None if the file is damaged or only other users may read it.

    Raises:
        OSError: another error of the system, which does not show that the file is damaged.
    """
    try:
        return RunSpec.from_record(read_json(path, "run spec"), str(path))
    except UnreadableFile as error:
        if error.cause.errno not in (errno.EACCES, errno.EPERM):
            raise error.cause from None
    except InputError:
        pass
    return None


def _rename(path: Path, report: Report) -> None:
    target = move_aside(path)
    report(f"{path} was damaged, not accessible or a link, and is renamed to {target.name}")


def repair_sweep(sweep_dir: Path, report: Report = warn) -> None:
    """Make the folders of a sweep usable for a launch.

    The folders of runs may be damaged in turn: `repair_run` looks into each when it is claimed.

    Raises:
        OSError: something that only its owner can change.
    """
    for name in (*SWEEP_FOLDERS, *SWEEP_FILES):
        path, needed = sweep_dir / name, ALL if name in SWEEP_FOLDERS else os.R_OK | os.W_OK
        if not os.path.lexists(path):
            continue
        if name in SWEEP_FOLDERS and not path.is_dir():
            _rename(path, report)
        elif not os.access(path, needed) and not restore_own(path):
            if name in ("ended", "workers"):  # marks and logs, which are written anew
                _rename(path, report)
            elif name in ("runs", "stable_phases"):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    restore_access(sweep_dir / "stable_phases")
    if (sweep_dir / "runtime.json").is_dir():
        _rename(sweep_dir / "runtime.json", report)
    for folder in ("runs", "stable_phases"):
        for path in (sweep_dir / folder).iterdir() if (sweep_dir / folder).is_dir() else ():
            if not path.name.startswith("damaged-") and not path.is_dir():
                _rename(path, report)


def known_specs(sweep_dir: Path) -> tuple[list[RunSpec], str]:
    """The runs of a sweep as far as its files tell, and what is wrong with its plan ("" = nothing).

    Of a damaged plan, they are those of its readable lines and of the readable spec.json of runs.

    Raises:
        InputError: the plan is of another schema, or its file system does not answer.
        OSError: the same of a spec.json.
    """
    plan = sweep_dir / "plan.jsonl"
    if not os.path.lexists(plan):
        return [], ""
    try:
        specs, problems = read_plan(plan)
        if not problems:
            return specs, ""
        problem = problems[0]
    except DamagedPlan as error:
        specs, problem = [], str(error)
    known = {s.run_id: s for s in specs}
    for path in sorted(sweep_dir.glob("runs/*/spec.json")):
        spec = None if path.parent.name in known else _spec_of(path)
        if spec and spec.run_id == path.parent.name:
            known[spec.run_id] = spec
    return list(known.values()), problem


def replace_plan(sweep_dir: Path, specs: list[RunSpec], report: Report = warn) -> None:
    """Write the plan anew and keep the damaged one as damaged-<n>-plan.jsonl.

    Raises:
        OSError: the second name of the damaged plan, or the new plan, cannot be written.
    """
    plan, n = sweep_dir / "plan.jsonl", 1
    with opened(sweep_dir) as folder:
        while True:
            name = f"damaged-{n}-{plan.name}"
            try:  # a second name, so that there is a plan at every moment
                os.link(
                    plan.name,
                    name,
                    src_dir_fd=folder.fd,
                    dst_dir_fd=folder.fd,
                    follow_symlinks=False,
                )
                break
            except FileExistsError:
                old, copy = (os.lstat(x, dir_fd=folder.fd) for x in (plan.name, name))
                if os.path.samestat(old, copy):  # by a launcher that was killed after this
                    break
                n += 1
            except OSError as error:
                if error.errno not in (*NO_HARD_LINKS, errno.EISDIR):  # EPERM also for a folder
                    raise
                name = move_aside(plan).name
                break
    save_plan(specs, plan)
    report(f"{plan} was damaged: {len(specs)} runs are written again, and the old file is {name}")
