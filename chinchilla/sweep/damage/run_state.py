"""State of a run: what its result, its curve and their errors say."""

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from chinchilla.core.errors import InputError
from chinchilla.core.files.json_codec import OtherVersion
from chinchilla.core.files.reading import UnreadableFile
from chinchilla.core.files.sealed import DamagedRecord
from chinchilla.plan.records import Curve, RunResult, RunSpec
from chinchilla.plan.run_folder import check_curve_file, load_curve
from chinchilla.sweep.damage.access import blocked_reason
from chinchilla.sweep.run_files import has_result, run_dir_of

TRAINED = ("finished", "diverged")  # states of runs that a launch does not train


@dataclass(frozen=True)
class RunState:
    """What the files in a run's folder say about it; the claims say whether it is being trained.

    `name` is "" (no result yet), finished, diverged, failed, damaged (launching again renames the damaged file
    and trains the run) or blocked (a person has to act). `problem` is the cause and what to do, for the latter two.
    """

    name: str
    result: RunResult | None = None  # also of a run of which only curve.npz is damaged
    problem: str = ""
    curve: Curve | None = None  # of a run that did not fail, if it was asked for


def run_state(run_dir: Path, with_curve: bool = False) -> RunState:
    """State of a run. No damage to its folder and files raises an error.

    A run whose curve.npz is missing or has another size than result.json states is damaged.

    Args:
        run_dir: folder of the run; it need not exist.
        with_curve: read the training curve too, which shows any damage to it.
    """
    path, result, remedy = run_dir / "result.json", None, "launch the sweep again"
    try:
        os.lstat(path)
        found = RunResult.load(run_dir)
        if found.status == "failed":
            return RunState(found.status, found)
        path, result = run_dir / "curve.npz", found
        check_curve_file(run_dir, result)
        if not with_curve:
            return RunState(result.status, result)
        remedy = "`chinchilla retry` the run, then launch the sweep again"
        return RunState(result.status, result, curve=load_curve(run_dir, result))
    except FileNotFoundError:
        return RunState("")
    except OSError as error:
        if not run_dir.is_dir() and error.errno in (errno.ENOTDIR, errno.ELOOP):
            return RunState("damaged", problem=f"{run_dir} is not a folder: launch the sweep again")
        return RunState("blocked", problem=blocked_reason(error, path))
    except UnreadableFile as error:
        return RunState("blocked", problem=blocked_reason(error.cause, path))
    except OtherVersion as error:
        return RunState("blocked", problem=str(error))
    except InputError as error:
        if not has_result(run_dir):  # another process has just renamed it
            return RunState("")
        problem = error.problem if isinstance(error, DamagedRecord) else "is damaged"
        return RunState("damaged", result, f"{path.name} {problem}: {remedy}")


def runs_to_train(sweep_dir: Path, specs: Iterable[RunSpec]) -> list[RunSpec]:
    """The distinct runs that a launch trains: all but those that are finished or diverged."""
    runs = {s.run_id: s for s in specs}.values()
    return [s for s in runs if run_state(run_dir_of(sweep_dir, s)).name not in TRAINED]
