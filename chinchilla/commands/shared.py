"""Helpers of several commands: results of a sweep, JSON on standard output."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chinchilla.core.errors import Refusal
from chinchilla.plan.records import Curve, RunResult, load_plan


def sweep_results(sweep_dir: Path) -> list[RunResult]:
    """Results of a sweep's runs, in the plan's order.

    Raises:
        InputError: no plan, or files of another schema.
    """
    run_dirs = (sweep_dir / "runs" / s.run_id for s in load_plan(sweep_dir / "plan.jsonl"))
    return [RunResult.load(path) for path in run_dirs if (path / "result.json").exists()]


def sweep_curves(sweep_dir: Path, results: Sequence[RunResult]) -> dict[str, Curve]:
    """Training curves by run_id of the runs that did not fail."""
    run_ids = [r.spec.run_id for r in results if r.status != "failed"]
    return {run_id: Curve.load(sweep_dir / "runs" / run_id) for run_id in run_ids}


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
