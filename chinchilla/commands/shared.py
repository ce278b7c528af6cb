"""Helpers of several commands: results of a sweep, JSON on standard output."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chinchilla.config.words import shell_word
from chinchilla.core.errors import InputError, Refusal, nearest_path
from chinchilla.core.terminal import print_lines
from chinchilla.plan.records import Curve, RunResult, load_plan
from chinchilla.sweep.run_files import has_result

PLAN = "plan.jsonl"


def sweep_results(sweep_dir: Path) -> list[RunResult]:
    """Results of a sweep's runs, in the plan's order.

    Raises:
        InputError: no plan, or files of another schema.
    """
    run_dirs = (sweep_dir / "runs" / s.run_id for s in load_plan(sweep_dir / PLAN))
    return [RunResult.load(path) for path in run_dirs if has_result(path)]


def sweep_curves(sweep_dir: Path, results: Sequence[RunResult]) -> dict[str, Curve]:
    """Training curves by run_id of the runs that did not fail."""
    run_ids = [r.spec.run_id for r in results if r.status != "failed"]
    return {run_id: Curve.load(sweep_dir / "runs" / run_id) for run_id in run_ids}


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
