"""The small files of a sweep and its runs that workers write and status reads.

runtime.json says how this sweep's workers execute runs; a run, runs/<run_id>/, holds
progress.json while a run trains, attempts/<n>.json for each that failed, and error.txt with the
last one's traceback once the run has.
"""

import contextlib
import dataclasses
import errno
import json
import math
import os
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chinchilla.config import RuntimeConfig
from chinchilla.core.errors import DataError, InputError
from chinchilla.core.files import clean_leftovers, read_json, temporary_path, write_json, write_text
from chinchilla.core.shapes import n_params_non_embedding
from chinchilla.plan.records import RESULT_SCHEMA, SPEC_SCHEMA, RunResult, RunSpec, built, load_plan
from chinchilla.sweep.claims import Claim, utc_now

MAX_ATTEMPTS = (
    3  # errors, or workers that could not read the data, after which a run counts as failed
)
MAX_STALLS = 5  # starts in a row that were cut off before they saved anything: it is lost
RUNTIME_SCHEMA = 2
# What CUDA, cuBLAS and the allocator of the CPU say; torch.OutOfMemoryError says the first.
_OUT_OF_MEMORY = ("out of memory", "cublas_status_alloc_failed", "can't allocate memory")
# A disk or a quota that is full, or a disk that the kernel has stopped writing to.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_CHECKPOINT = re.compile(r"step-(\d{8,18})")


@dataclass(frozen=True)
class Attempt:
    """An attempt at a run that failed, attempts/<n>.json. Earlier versions wrote fewer fields."""

    failure: str = (
        "error"  # oom: retried with half the micro-batch; data, error: retried; lost: not
    )
    reason: str = ""
    fence: int = 0  # the claim that it was made by
    step: int = 0  # updates done
    micro_batch_tokens: int = 0  # tokens of its forward passes
    worker: str = ""
    host: str = ""
    utc: str = ""
    traceback: str = ""


def save_runtime(runtime: RuntimeConfig, sweep_dir: Path) -> None:
    """Write runtime.json: how this sweep's workers execute runs."""
    write_json(
        sweep_dir / "runtime.json", {"schema": RUNTIME_SCHEMA, **dataclasses.asdict(runtime)}
    )


def load_runtime(sweep_dir: Path) -> RuntimeConfig:
    """Read runtime.json.

    Raises:
        InputError: missing, written by another version, or with a value that no setting has.
    """
    path = sweep_dir / "runtime.json"
    value = read_json(path, "runtime settings")
    if not isinstance(value, dict) or value.pop("schema", None) != RUNTIME_SCHEMA:
        raise InputError(f"{path}: not runtime settings of schema {RUNTIME_SCHEMA}. Launch again.")
    try:
        runtime: RuntimeConfig = built(RuntimeConfig, value, str(path))
    except InputError as error:
        raise InputError(f"{error} Launch again with this version.") from None
    return runtime


def run_dir_of(sweep_dir: Path, spec: RunSpec) -> Path:
    """The folder of one run."""
    return sweep_dir / "runs" / spec.run_id


def clean_sweep(sweep_dir: Path) -> None:
    """Remove what killed processes left anywhere in a sweep; takers of a run clean only that one."""
    run_dirs = sweep_dir / "runs"
    for folder in (sweep_dir, run_dirs, *(run_dirs.iterdir() if run_dirs.is_dir() else ())):
        clean_leftovers(folder)


def is_damaged(run_dir: Path) -> bool:
    """Whether result.json is there and no run result: an accident, not another version's file."""
    try:
        value = json.loads((run_dir / "result.json").read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            return True
        spec = value.get("spec")
        schemas = value.get("schema"), spec.get("schema") if isinstance(spec, dict) else None
        if schemas != (ours := (RESULT_SCHEMA, SPEC_SCHEMA)):
            pairs = zip(schemas, ours, strict=True)
            return not any(type(found) is int and found != own for found, own in pairs)
        built(RunResult, value, "result.json")
    except FileNotFoundError:
        return has_result(run_dir)  # a link that leads nowhere
    except (OSError, ValueError, RecursionError):  # InputError is a ValueError
        return True
    return False


def planned_specs(sweep_dir: Path, only: Collection[str] | None = None) -> list[RunSpec]:
    """The plan's runs; with `only`, those of these run ids."""
    specs = load_plan(sweep_dir / "plan.jsonl")
    return [s for s in specs if only is None or s.run_id in only]


def has_result(run_dir: Path) -> bool:
    """Whether something is called result.json there, be it damaged or a link that leads nowhere.

    A worker must not train what it could not publish; launching again puts such a thing aside.
    """
    return os.path.lexists(run_dir / "result.json")


def missing_specs(sweep_dir: Path, only: Collection[str] | None = None) -> list[RunSpec]:
    """Planned runs without a result, longest first so that the sweep's tail is short."""
    specs = planned_specs(sweep_dir, only)
    missing = [s for s in specs if not has_result(run_dir_of(sweep_dir, s))]
    return sorted(missing, key=lambda s: (-s.C, s.run_id))


def read_progress(run_dir: Path) -> dict[str, Any]:
    """The run's progress.json, {} if there is none that can be read."""
    try:
        value = json.loads((run_dir / "progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    numbers = ("step", "steps", "loss", "tokens_per_second", "micro_batch_tokens")
    whole = isinstance(value, dict) and all(_is_number(value.get(k) or 0) for k in numbers)
    return value if whole else {}


def _is_number(x: Any) -> bool:
    return type(x) in (int, float) and abs(x) < 1e18  # not NaN, not infinite


def saved_step(run_dir: Path) -> int:
    """What a start would go on from: the step of the newest checkpoint, by its name; 0 for none."""
    return max(_steps_in(run_dir / "checkpoints"), default=0)


def _steps_in(folder: Path) -> list[int]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return [int(m[1]) for name in names if (m := _CHECKPOINT.fullmatch(name))]


def stable_phase_step(sweep_dir: Path, spec: RunSpec) -> int:
    """Step of the newest checkpoint of its stable phase that a run could start from; 0 for none."""
    steps = (
        _steps_in(stable_phases_of(sweep_dir) / spec.stable_phase_id)
        if spec.stable_phase_id
        else []
    )
    return max((step for step in steps if step <= spec.stable_steps), default=0)


def stable_phases_of(sweep_dir: Path) -> Path:
    """Where the runs of a sweep leave what their horizons share (`train.schedule`)."""
    return sweep_dir / "stable_phases"


class ProgressFile:
    """Keeps runs/<run_id>/progress.json at most a second old. Decoration: its errors are dropped."""

    def __init__(self, run_dir: Path, spec: RunSpec) -> None:
        self.path = run_dir / "progress.json"
        self.spec = spec
        self.first: tuple[int, float] | None = None  # step and time of the first call
        self.micro_batch_tokens = 0
        self.written = -math.inf

    def start(self, micro_batch_tokens: int) -> None:
        """Say what the forward passes are as long as, before the first: it may end the process."""
        self.micro_batch_tokens = micro_batch_tokens
        self._write({**read_progress(self.path.parent), "micro_batch_tokens": micro_batch_tokens})

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
            "micro_batch_tokens": self.micro_batch_tokens,
        }
        self._write(value)
        self.written = now

    def _write(self, value: dict[str, Any]) -> None:
        temporary = temporary_path(self.path)
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(value), encoding="utf-8")
            os.replace(temporary, self.path)


def n_errors(run_dir: Path) -> int:
    """How many attempts at this run failed."""
    try:
        return sum(name.endswith(".json") for name in os.listdir(run_dir / "attempts"))
    except (FileNotFoundError, NotADirectoryError):
        return 0


def first_line(error: Exception) -> str:
    """Kind and first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def failure_kind(error: Exception) -> str:
    """What an error in a run means for its next attempt: oom, data, error; or, not of its doing:

    disk: there is no room to write; peer: another rank died or does not answer. One that another
    rank reported is of the kind it has there. Told by name and words, so that this module needs no
    torch.
    """
    reported = getattr(error, "reported", None)  # by another rank: PeerError
    if reported == "":
        return "peer"
    words = (reported or str(error)).lower()
    name = reported.partition(":")[0] if reported else type(error).__name__
    told = re.match(r"\w+: \[errno (\d+)\]", words) if reported else None
    number = int(told[1]) if told else getattr(error, "errno", None)
    if (
        isinstance(error, MemoryError)
        or name in ("MemoryError", "OutOfMemoryError")
        or number == errno.ENOMEM
        or any(said in words for said in _OUT_OF_MEMORY)
    ):
        return "oom"
    if number in _NO_ROOM or any(os.strerror(n).lower() in words for n in _NO_ROOM):
        return "disk"
    return "data" if isinstance(error, DataError) or name == "DataError" else "error"


def read_attempts(run_dir: Path) -> list[Attempt]:
    """The run's attempts, first to last; one that cannot be read counts as an error."""
    return [
        _read_attempt(run_dir / "attempts" / f"{n}.json") for n in range(1, n_errors(run_dir) + 1)
    ]


def _read_attempt(path: Path) -> Attempt:
    try:
        attempt: Attempt = built(Attempt, read_json(path, "attempt"), str(path))
    except InputError:
        return Attempt("error", "its record is damaged")
    return attempt


def micro_batch_after(attempts: Sequence[Attempt], seq_len: int) -> int:
    """Tokens of a forward pass after the attempts that ran out of memory; 0 if none did.

    Half the rows of the last one's: no loss changes by more than rounding, and no run_id at all.
    """
    used = [a.micro_batch_tokens for a in attempts if a.failure == "oom"]
    return max(1, min(used) // seq_len // 2) * seq_len if used else 0


def _is_hopeless(attempts: Sequence[Attempt], seq_len: int) -> bool:
    """Whether another attempt after these would be wasted."""
    last = attempts[-1]
    if last.failure == "oom":
        return last.micro_batch_tokens <= seq_len
    n_alike = sum(a.failure == last.failure for a in attempts)
    return last.failure == "lost" or n_alike >= MAX_ATTEMPTS


def record_attempt(
    spec: RunSpec, claim: Claim, failure: str, reason: str, text: str, runtime: RuntimeConfig
) -> RunResult | None:
    """Keep how an attempt failed; where no other can help, that is the run's result, and given.

    Args:
        spec: the run.
        claim: by which it is held.
        failure: oom, data, error or lost.
        reason: one line.
        text: all there is to say, such as a traceback.
        runtime: what the attempt was told.
    """
    run_dir, progress = claim.run_dir, read_progress(claim.run_dir)
    told = min(runtime.micro_batch_tokens or spec.batch_tokens, spec.batch_tokens)
    attempt = Attempt(
        failure,
        reason,
        fence=claim.record.fence,
        step=int(progress.get("step") or 0),
        micro_batch_tokens=min(int(progress.get("micro_batch_tokens") or told), told),
        worker=claim.record.worker,
        host=claim.record.host,
        utc=utc_now(),
        traceback=text,
    )
    attempts = [*read_attempts(run_dir), attempt]
    (run_dir / "attempts").mkdir(exist_ok=True)
    write_json(run_dir / "attempts" / f"{len(attempts)}.json", dataclasses.asdict(attempt))
    if not _is_hopeless(attempts, spec.model.seq_len):
        return None
    result = _failed_result(spec, claim, failure, reason)
    if not claim.publish("result.json", dataclasses.asdict(result)):
        return None
    write_text(run_dir / "error.txt", text)
    return result


def _failed_result(spec: RunSpec, claim: Claim, failure: str, reason: str) -> RunResult:
    step = min(int(read_progress(claim.run_dir).get("step") or 0), spec.steps)
    return RunResult(
        spec=spec,
        status="failed",
        reason=reason,
        final_loss=None,
        final_loss_se=None,
        final_loss_steps=0,
        validation_loss={},
        validation_tokens={},
        bits_per_byte={},
        n_params=spec.N,
        n_params_non_embedding=n_params_non_embedding(spec.model),
        steps_done=step,
        flops_spent=spec.C * step / spec.steps,
        train_seconds=0.0,
        tokens_per_second=0.0,
        mfu=None,
        peak_memory_bytes=0,
        device="",
        versions={},
        git="",
        started_utc=claim.record.claimed_utc,
        finished_utc=utc_now(),
        attempts=claim.record.starts,
        failure=failure,
    )
