"""Helpers of several commands: results of a sweep, JSON on standard output."""

import json
from pathlib import Path
from typing import Any

from chinchilla.core.errors import Refusal
from chinchilla.plan.records import Curve, RunResult, load_plan


def sweep_results(sweep_dir: Path) -> tuple[list[RunResult], dict[str, Curve]]:
    """Results and training curves of a sweep's runs, in the plan's order.

    Raises:
        InputError: no plan, or files of another schema.
    """
    results, curves = [], {}
    for spec in load_plan(sweep_dir / "plan.jsonl"):
        run_dir = sweep_dir / "runs" / spec.run_id
        if (run_dir / "result.json").exists():
            result = RunResult.load(run_dir)
            results.append(result)
            if result.status != "failed":
                curves[spec.run_id] = Curve.load(run_dir)
    return results, curves


def finished_results(sweep_dir: Path) -> list[RunResult]:
    """Results of a sweep's finished runs, in the plan's order, without their curves."""
    run_dirs = (sweep_dir / "runs" / s.run_id for s in load_plan(sweep_dir / "plan.jsonl"))
    results = [
        RunResult.load(run_dir) for run_dir in run_dirs if (run_dir / "result.json").exists()
    ]
    return [r for r in results if r.status == "finished"]


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
