"""Helpers of several commands: runs of a sweep, JSON on standard output."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chinchilla.config.command_line.words import shell_word
from chinchilla.core.errors import InputError, Refusal, nearest_path
from chinchilla.core.terminal import print_lines
from chinchilla.plan.plan_file import read_plan
from chinchilla.plan.records import Curve, RunResult
from chinchilla.sweep.damage.run_state import run_state
from chinchilla.sweep.run_files import run_dir_of, started_runs, unplanned_results

PLAN = "plan.jsonl"
MAX_NAMED = 5  # runs left out of which the reason is stated


@dataclass(frozen=True)
class SweepRuns:
    """The runs of a sweep that have a result, in the plan's order."""

    results: list[RunResult]
    curves: dict[str, Curve]  # by run_id, of the runs that did not fail, if they were asked for
    left_out: dict[
        str, str
    ]  # run_id, name in runs/, or line of the plan -> what is wrong, and what to do

    @property
    def notes(self) -> list[str]:
        """A line for each run that is left out; beyond MAX_NAMED, the ids only."""
        lines = [f"run {run_id} is left out: {why}" for run_id, why in self.left_out.items()]
        if more := [*self.left_out][MAX_NAMED:]:
            lines[MAX_NAMED:] = [f"{len(more)} further runs are left out: {', '.join(more)}."]
        return lines


def sweep_runs(sweep_dir: Path, with_curves: bool = True) -> SweepRuns:
    """Read the results of a sweep and their curves; runs that cannot be read are left out.

    Raises:
        InputError: no plan, a plan of another schema, or results of which none can be read.
    """
    runs = SweepRuns([], {}, {})
    specs, problems = read_plan(sweep_dir / PLAN)
    started = set[str]()
    with contextlib.suppress(PermissionError):  # then the reason is stated for each run
        started = started_runs(sweep_dir)
    runs.left_out.update({f"of the plan ({i})": why for i, why in enumerate(problems, 1)})
    for spec in specs:
        run_dir = run_dir_of(sweep_dir, spec)
        found = run_state(run_dir, with_curves)
        if found.problem:
            damaged = found.name == "damaged"  # then it begins with the name of a file
            runs.left_out[spec.run_id] = str(run_dir / found.problem) if damaged else found.problem
        elif found.result:
            runs.results.append(found.result)
        if found.curve:
            runs.curves[spec.run_id] = found.curve
    runs.left_out.update(unplanned_results(sweep_dir, specs, started))
    if runs.left_out and not runs.results:
        raise InputError(*runs.notes)
    return runs


def fits_of(fits: str, sweep_dir: str = "") -> tuple[Path, Path | None]:
    """The frontier.json that `fits=` names, and the folder of its sweep if it is in one.

    Args:
        fits: a frontier.json, the folder of one, or the folder of a sweep with a folder of fits.
        sweep_dir: folder of the sweep, if it is given.

    Raises:
        InputError: there are no fits, or a table of runs is given.
    """
    from chinchilla.fit.results import FILE

    given = Path(fits or sweep_dir)
    endings = [suffix.lower() for suffix in given.suffixes]
    if {".csv", ".tsv"} & {*endings} and endings[-1] != ".json" and given.is_file():
        raise InputError(
            f"{given} is a table of runs. Fit it first: chinchilla fit {shell_word(given)} out_dir=FOLDER"
        )
    file, is_sweep = given, (given / PLAN).is_file()
    if given.is_dir():
        file = given / FILE
        if not file.exists() and (given / "fits").is_dir():
            file = given / "fits" / FILE
    if not file.exists():
        problem = "does not exist" if not given.exists() else f"holds no {FILE}"
        make = f"chinchilla fit {shell_word(given)}" if is_sweep else "chinchilla fit"
        raise InputError(
            f"{'fits' if fits else 'sweep_dir'}={given} {problem}.{nearest_path(given)} Give a folder of fits, "
            f"or make it with `{make}`."
        )
    if sweep_dir:
        return file, Path(sweep_dir)
    folder = file.parent.parent if file.parent.name == "fits" else file.parent
    return file, folder if (folder / PLAN).is_file() else None


def print_json(value: Any) -> int:
    """Print a value as JSON.

    Raises:
        Refusal: the value contains NaN or infinity, which JSON cannot represent.
    """
    try:
        text = json.dumps(value, indent=1, default=str, allow_nan=False)
    except ValueError:
        raise Refusal(
            "the result contains a number that is not finite, which JSON cannot represent. Give less "
            "extreme values."
        ) from None
    print_lines(text)
    return 0
