"""The small files of a sweep and its cells that workers write and status reads.

runtime.json says how this sweep's workers execute runs; a cell, cells/<run_id>/, holds
progress.json while a run trains, attempts/<n>.json for each error, and error.txt with the last
one's traceback once the run has failed.
"""

import contextlib
import dataclasses
import json
import math
import os
import time
import traceback
from collections.abc import Collection
from pathlib import Path
from typing import Any

from chinchilla.config import RuntimeConfig
from chinchilla.errors import InputError
from chinchilla.files import (
    clean_leftovers,
    read_json,
    temporary_path,
    write_json,
    write_text,
)
from chinchilla.records import RunResult, RunSpec, load_plan
from chinchilla.shapes import n_params_non_embedding
from chinchilla.sweep.claims import Claim, utc_now

MAX_ATTEMPTS = 3  # errors after which a run counts as failed
RUNTIME_SCHEMA = 1


def save_runtime(runtime: RuntimeConfig, sweep_dir: Path) -> None:
    """Write runtime.json: how this sweep's workers execute runs."""
    write_json(
        sweep_dir / "runtime.json", {"schema": RUNTIME_SCHEMA, **dataclasses.asdict(runtime)}
    )


def load_runtime(sweep_dir: Path) -> RuntimeConfig:
    """Read runtime.json.

    Raises:
        InputError: missing, or written by another version.
    """
    path = sweep_dir / "runtime.json"
    value = read_json(path, "runtime settings")
    if not isinstance(value, dict) or value.pop("schema", None) != RUNTIME_SCHEMA:
        raise InputError(f"{path}: not runtime settings of schema {RUNTIME_SCHEMA}. Launch again.")
    try:
        return RuntimeConfig(**value)
    except TypeError as error:
        raise InputError(f"{path}: {error}. Launch again with this version.") from None


def cell_of(sweep_dir: Path, spec: RunSpec) -> Path:
    """The folder of one run."""
    return sweep_dir / "cells" / spec.run_id


def clean_sweep(sweep_dir: Path) -> None:
    """Remove what killed processes left anywhere in a sweep; takers of a cell clean only that one."""
    cells = sweep_dir / "cells"
    for folder in (sweep_dir, cells, *(cells.iterdir() if cells.is_dir() else ())):
        clean_leftovers(folder)


def is_damaged(cell: Path) -> bool:
    """Whether result.json is there and is no JSON: a file system's accident, not another version."""
    try:
        json.loads((cell / "result.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, RecursionError):
        return True
    return False


def planned_specs(sweep_dir: Path, only: Collection[str] | None = None) -> list[RunSpec]:
    """The plan's runs; with `only`, those of these run ids."""
    specs = load_plan(sweep_dir / "plan.jsonl")
    return [s for s in specs if only is None or s.run_id in only]


def missing_specs(sweep_dir: Path, only: Collection[str] | None = None) -> list[RunSpec]:
    """Planned runs without a result, longest first so that the sweep's tail is short."""
    specs = planned_specs(sweep_dir, only)
    missing = [s for s in specs if not (cell_of(sweep_dir, s) / "result.json").exists()]
    return sorted(missing, key=lambda s: (-s.C, s.run_id))


def read_progress(cell: Path) -> dict[str, Any]:
    """The cell's progress.json, {} if there is none that can be read."""
    try:
        value = json.loads((cell / "progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    numbers = ("step", "steps", "loss", "tokens_per_second")
    whole = isinstance(value, dict) and all(
        isinstance(value.get(k) or 0, int | float) for k in numbers
    )
    return value if whole else {}


class ProgressFile:
    """Keeps cells/<run_id>/progress.json at most a second old. Decoration: its errors are dropped."""

    def __init__(self, cell: Path, spec: RunSpec) -> None:
        self.path = cell / "progress.json"
        self.spec = spec
        self.first: tuple[int, float] | None = None  # step and time of the first call
        self.written = -math.inf

    def __call__(self, step: int, loss: float) -> None:
        now = time.monotonic()
        first_step, first_time = self.first = self.first or (step, now)
        if now - self.written < 1 and step < self.spec.steps:
            return
        rate = (step - first_step) * self.spec.batch_tokens / max(now - first_time, 1e-3)
        value = {
            "step": step,
            "steps": self.spec.steps,
            "loss": loss if math.isfinite(loss) else None,
            "utc": utc_now(),
            "tokens_per_second": rate if step > first_step else None,
        }
        temporary = temporary_path(self.path)
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(value), encoding="utf-8")
            os.replace(temporary, self.path)
        self.written = now


def n_errors(cell: Path) -> int:
    """How many attempts at this cell ended in an error."""
    try:
        return sum(name.endswith(".json") for name in os.listdir(cell / "attempts"))
    except FileNotFoundError:
        return 0


def first_line(error: Exception) -> str:
    """Kind and first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def record_error(spec: RunSpec, claim: Claim, error: Exception) -> RunResult | None:
    """Keep an attempt's error; the last one allowed becomes the run's result, which is given."""
    cell, n = claim.cell, n_errors(claim.cell) + 1
    text = "".join(traceback.format_exception(error))
    (cell / "attempts").mkdir(exist_ok=True)
    value = {
        "worker": claim.record.worker,
        "host": claim.record.host,
        "utc": utc_now(),
        "step": read_progress(cell).get("step", 0),
        "reason": first_line(error),
        "traceback": text,
    }
    write_json(cell / "attempts" / f"{n}.json", value)
    if n < MAX_ATTEMPTS:
        return None
    result = _failed_result(spec, claim, first_line(error))
    if not claim.publish("result.json", dataclasses.asdict(result)):
        return None
    write_text(cell / "error.txt", text)
    return result


def _failed_result(spec: RunSpec, claim: Claim, reason: str) -> RunResult:
    step = min(int(read_progress(claim.cell).get("step", 0)), spec.steps)
    return RunResult(
        spec=spec,
        status="failed",
        reason=reason,
        final_loss=None,
        final_loss_se=None,
        final_loss_steps=0,
        held_out_loss={},
        held_out_tokens={},
        bits_per_byte={},
        n_params=spec.N,
        n_params_non_embedding=n_params_non_embedding(spec.model),
        steps_done=step,
        flops_spent=spec.C * step / spec.steps,
        wall_seconds=0.0,
        tokens_per_second=0.0,
        mfu=None,
        peak_memory_bytes=0,
        device="",
        versions={},
        git="",
        started_utc=claim.record.claimed_utc,
        finished_utc=utc_now(),
        attempts=claim.record.starts,
    )
