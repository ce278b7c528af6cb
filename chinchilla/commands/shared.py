"""Helpers of several commands: results of a sweep, JSON on standard output."""

import json
import sys
from pathlib import Path
from typing import Any

from chinchilla.config.words import shell_word
from chinchilla.core.errors import InputError, Refusal, nearest_path
from chinchilla.core.terminal import print_message
from chinchilla.plan.records import Curve, RunResult, read_plan
from chinchilla.sweep.run_files import run_dir_of, run_state

PLAN = "plan.jsonl"


def sweep_results(sweep_dir: Path) -> tuple[list[RunResult], dict[str, Curve]]:
    """Results of a sweep's runs, in the plan's order, and the curves by run_id of those that did not fail.

    A run whose result or curve cannot be read is left out, with a warning on standard error; so is a line of the
    plan that cannot be read.

    Raises:
        InputError: no plan, or a plan of another schema.
    """
    specs, problems = read_plan(sweep_dir / PLAN)
    results, curves = [], {}
    for spec in specs:
        found = run_state(run_dir_of(sweep_dir, spec), with_curve=True)
        if found.problem:
            problems.append(f"run {spec.run_id} is left out: {found.problem}")
        if found.result:
            results.append(found.result)
        if found.curve:
            curves[spec.run_id] = found.curve
    for problem in problems:
        print_message(f"warning: {problem}", file=sys.stderr)
    return results, curves


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
        print(json.dumps(value, indent=1, default=str, allow_nan=False))
    except ValueError:
        raise Refusal(
            "the result contains a number that is not finite, which JSON cannot represent. Give less "
            "extreme values."
        ) from None
    return 0
