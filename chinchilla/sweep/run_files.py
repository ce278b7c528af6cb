"""Paths and small files of a sweep: its plan, runtime.json, and each run's progress.json.

sweep_dir/
    plan.jsonl                  every run of the sweep
    runtime.json                how its workers execute runs (runtime.*), and the token folder
    .folder-id                  random number by which the folder is recognized (`core.files.folders`)
    launch/                     claim of a launcher at work
    slurm/<token>/              a job array: job.sh, job.json, answer.json, logs of its jobs
    workers/                    logs of local workers
    ended/<run_id>              empty; the run has a result (a hint, `run_queue`)
    stable_phases/<id>/step-*/  checkpoints shared by runs with the same stable phase
    runs/<run_id>/
        spec.json               this run
        claim-<n>.json          who trains it, or has trained it (`claims`)
        heartbeat               touched by its worker
        progress.json           step, loss, speed and micro-batch, for display and records of failures
        attempts/<n>.json       failed attempts (`failures`)
        error.txt               traceback of the last one
        metrics.jsonl           a line per log point
        checkpoints/step-*/     the newest two (`train.checkpoint`); runtime.keep_checkpoints when finished
        curve.npz, result.json  when it has ended
        tensorboard/, wandb/    copies of metrics.jsonl (`tracking.mirror`)
        synced.json             what these copies have received
        *-failed-<n>*, *-diverged-<n>*  files of earlier results (`retry`)
        damaged-*               files that could not be read or written, renamed (`damage.repair`)
    damaged-*                   the same of the sweep, such as plan.jsonl
    fits/, report/              of `chinchilla fit` and `chinchilla report`
"""

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from chinchilla.config import RuntimeConfig
from chinchilla.core.errors import InputError
from chinchilla.core.files.json_codec import decode
from chinchilla.core.files.reading import (
    RECORD_BYTES,
    parse_json,
    read_bytes,
    read_json,
)
from chinchilla.core.files.sealed import DamagedRecord, sealed, unsealed
from chinchilla.core.files.writing import (
    clean_leftovers,
    make_dirs,
    remove,
    touch,
    write_json,
    write_text,
)
from chinchilla.core.provenance import Code, check_same_code, code_here
from chinchilla.plan.checkpoint_names import checkpoint_step
from chinchilla.plan.plan_file import read_plan
from chinchilla.plan.records import RunSpec
from chinchilla.sweep.claims import utc_now

RUNTIME_SCHEMA = 3
WORKERS_AT_ONE_SECOND = 25  # up to so many write progress.json every second
RunFilter = Callable[[RunSpec], bool]  # selects runs of a plan


def run_dir_of(sweep_dir: Path, spec: RunSpec) -> Path:
    """Folder of one run."""
    return sweep_dir / "runs" / spec.run_id


def stable_phases_of(sweep_dir: Path) -> Path:
    """Folder of the checkpoints that runs with the same stable phase share."""
    return sweep_dir / "stable_phases"


def save_runtime(runtime: RuntimeConfig, sweep_dir: Path, data_dir: Path | None = None) -> None:
    """Write runtime.json, with the code of this process, and the token folder if it is given."""
    folder = {} if data_dir is None else {"data_dir": str(data_dir)}
    code = dataclasses.asdict(code_here())
    value = {"schema": RUNTIME_SCHEMA, "code": code, **folder, **dataclasses.asdict(runtime)}
    write_json(sweep_dir / "runtime.json", sealed(value))


def load_runtime(sweep_dir: Path) -> RuntimeConfig:
    """Read how runs are executed from runtime.json.

    Raises:
        InputError: missing, written by another version, or with an invalid value.
    """
    path = sweep_dir / "runtime.json"
    value = _read_runtime(path)
    for name in ("data_dir", "code"):
        value.pop(name, None)
    try:
        runtime: RuntimeConfig = decode(RuntimeConfig, value, str(path))
    except InputError as error:
        raise InputError(f"{error} Launch again with this version.") from None
    return runtime


def recorded_data_dir(sweep_dir: Path) -> Path:
    """The token folder of the latest launch, from runtime.json.

    Raises:
        InputError: it is not recorded, or runtime.json is missing or written by another version.
    """
    path = sweep_dir / "runtime.json"
    data_dir = _read_runtime(path).get("data_dir")
    if not isinstance(data_dir, str) or not data_dir:
        raise InputError(f"{path} does not record the token folder. Give data_dir=FOLDER.")
    return Path(data_dir)


def launched_code(sweep_dir: Path) -> Code:
    """The code of the sweep's latest launch, from runtime.json.

    Raises:
        InputError: runtime.json cannot be read.
    """
    path = sweep_dir / "runtime.json"
    code: Code = decode(Code, _read_runtime(path).get("code"), f"{path}: code")
    return code


def check_code(sweep_dir: Path) -> None:
    """Check that this process runs the code of the sweep's latest launch.

    Raises:
        OtherCode: it does not.
        InputError: runtime.json cannot be read.
    """
    check_same_code(launched_code(sweep_dir), str(sweep_dir))


def _read_runtime(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise InputError(
            f"{path} does not exist: no sweep has been prepared there. `chinchilla sweep cluster=manual` "
            "prepares one, and starts nothing."
        )
    try:
        value = unsealed(read_json(path, "runtime settings"), str(path), RUNTIME_SCHEMA)
    except DamagedRecord as error:
        raise DamagedRecord(error.where, error.problem, "Launch again.") from None
    if value.pop("schema", None) != RUNTIME_SCHEMA:
        raise InputError(f"{path}: not runtime settings of schema {RUNTIME_SCHEMA}. Launch again.")
    return value


def clean_sweep(sweep_dir: Path) -> None:
    """Remove temporary files of killed processes from the sweep's and all runs' folders."""
    runs = sweep_dir / "runs"
    for folder in (sweep_dir, runs, *(runs / name for name in started_runs(sweep_dir))):
        with contextlib.suppress(OSError):  # of a run; workers report it
            clean_leftovers(folder)


def planned_specs(sweep_dir: Path, only: RunFilter | None = None) -> list[RunSpec]:
    """Runs of the plan that `only` selects; default: all. Lines that cannot be read are left out.

    Raises:
        DamagedPlan: no line can be read.
        InputError: there is no plan, or it is of another schema.
    """
    specs, _ = read_plan(sweep_dir / "plan.jsonl")
    return [s for s in specs if only is None or only(s)]


def missing_specs(sweep_dir: Path, only: RunFilter | None = None) -> list[RunSpec]:
    """Planned runs without a result, the longest first."""
    specs, started = planned_specs(sweep_dir, only), started_runs(sweep_dir)
    ended = ended_runs(sweep_dir) & started
    missing = [
        s
        for s in specs
        if s.run_id not in ended
        and not (s.run_id in started and has_result(run_dir_of(sweep_dir, s)))
    ]
    return sorted(missing, key=lambda s: (-s.C, s.run_id))


def started_runs(sweep_dir: Path) -> set[str]:
    """Ids of runs that have a folder: all that were ever claimed."""
    return _names_in(sweep_dir / "runs")


def unplanned_results(
    sweep_dir: Path, specs: Iterable[RunSpec], started: set[str]
) -> dict[str, str]:
    """A message for each folder in runs/ that has a result and is not that of a planned run, by its name."""
    names = started - {spec.run_id for spec in specs}
    return {
        name: f"{sweep_dir / 'runs' / name} has a result, and the plan has no such run. Launch the sweep again "
        "with the same words, which adds it to the plan; or move the folder out of runs/."
        for name in sorted(names)
        if not name.startswith("damaged-") and has_result(sweep_dir / "runs" / name)
    }


def ended_runs(sweep_dir: Path) -> set[str]:
    """Ids of runs that are marked as ended."""
    return _names_in(sweep_dir / "ended")


def _names_in(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):  # launching again repairs it
        return set()


def _mark_of(run_dir: Path) -> Path:
    return run_dir.parent.parent / "ended" / run_dir.name


def mark_ended(run_dir: Path) -> None:
    """Mark a run as ended if it has a result. Best effort: write errors are ignored.

    The result is looked for again after marking: `unmark_ended` may have run in between.
    """
    mark = _mark_of(run_dir)
    if not has_result(run_dir):
        return
    with contextlib.suppress(OSError):
        if mark.exists():
            return
        try:
            touch(mark, wait=False)
        except FileNotFoundError:
            make_dirs(mark.parent)
            touch(mark, wait=False)
    if not has_result(run_dir):
        unmark_ended(run_dir)


def unmark_ended(run_dir: Path) -> None:
    """Remove the mark. Call it before and after the result is renamed."""
    mark = _mark_of(run_dir)
    try:
        remove(mark, missing_ok=True)
    except NotADirectoryError:  # ended/ is damaged, and nothing is marked
        return


def correct_marks(sweep_dir: Path, specs: Iterable[RunSpec]) -> int:
    """Mark the runs that have a result, and no others; returns how many marks were removed."""
    n_removed = 0
    ended, started = ended_runs(sweep_dir), started_runs(sweep_dir)
    for run_id in (s.run_id for s in specs if s.run_id in started or s.run_id in ended):
        run_dir = sweep_dir / "runs" / run_id
        if has_result(run_dir) and run_id not in ended:
            mark_ended(run_dir)
        elif run_id in ended and not has_result(run_dir):
            unmark_ended(run_dir)
            n_removed += 1
    return n_removed


def has_result(run_dir: Path) -> bool:
    """Whether result.json exists, even if damaged or a broken link.

    No worker can publish a result while it exists. Launching again renames a damaged one.
    """
    return os.path.lexists(run_dir / "result.json")


def saved_step(run_dir: Path) -> int:
    """Step of the run's newest checkpoint, from its name; 0 without one."""
    return max(_checkpoint_steps(run_dir / "checkpoints"), default=0)


def stable_phase_step(sweep_dir: Path, spec: RunSpec) -> int:
    """Step of the newest shared checkpoint that a run can start from; 0 without one."""
    if not spec.stable_phase_id:
        return 0
    steps = _checkpoint_steps(stable_phases_of(sweep_dir) / spec.stable_phase_id)
    return max((step for step in steps if step <= spec.stable_steps), default=0)


def _checkpoint_steps(folder: Path) -> list[int]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return [step for name in names if (step := checkpoint_step(name)) is not None]


def read_progress(run_dir: Path) -> dict[str, Any]:
    """Contents of progress.json; {} if it is missing or damaged."""
    try:
        value = parse_json(read_bytes(run_dir / "progress.json", RECORD_BYTES))
    except (OSError, ValueError):
        return {}
    numbers = ("step", "steps", "loss", "tokens_per_second", "micro_batch_tokens")
    whole = isinstance(value, dict) and all(_is_number(value.get(k) or 0) for k in numbers)
    return value if whole else {}


def _is_number(x: Any) -> bool:
    return type(x) in (int, float) and abs(x) < 1e18  # false for NaN and infinity


class ProgressFile:
    """Writes progress.json at most once per second. Best effort: write errors are ignored.

    `n_workers` returns how many runs are in training; beyond WORKERS_AT_ONE_SECOND each of them writes
    less often.
    """

    def __init__(
        self, run_dir: Path, spec: RunSpec, n_workers: Callable[[], int] = lambda: 1
    ) -> None:
        self.path = run_dir / "progress.json"
        self.spec = spec
        self.n_workers = n_workers
        self.first: tuple[int, float] | None = None  # step and time of the first call
        self.micro_batch_tokens = 0
        self.written = -math.inf

    def start(self, micro_batch_tokens: int) -> None:
        """Record the micro-batch before the first forward pass, which may run out of memory."""
        self.micro_batch_tokens = micro_batch_tokens
        self._write({**read_progress(self.path.parent), "micro_batch_tokens": micro_batch_tokens})

    def __call__(self, step: int, loss: float) -> None:
        now = time.monotonic()
        first_step, first_time = self.first = self.first or (step, now)
        if (
            now - self.written < max(1, self.n_workers() / WORKERS_AT_ONE_SECOND)
            and step < self.spec.steps
        ):
            return
        rate = (step - first_step) * self.spec.batch_tokens / max(now - first_time, 1e-3)
        value = {
            "step": step,
            "steps": self.spec.steps,
            "loss": loss if math.isfinite(loss) else None,
            "utc": utc_now(),
            "tokens_per_second": rate if step > first_step else None,
            "micro_batch_tokens": self.micro_batch_tokens,
        }
        self._write(value)
        self.written = now

    def _write(self, value: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            write_text(self.path, json.dumps(value), sync=False, wait=False)
