"""What to do when an attempt at a run fails: classify it, record it, decide whether to try again.

An exception in a run is recorded as attempts/<n>.json with its kind. A worker that was killed records
nothing; the next worker detects this from the claims before its own (`count_stalls`). A run that
should not be tried again gets a result with status "failed" and a file error.txt.
"""

import dataclasses
import errno
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chinchilla.config import RuntimeConfig
from chinchilla.core.errors import DataError, InputError, MemoryRefused
from chinchilla.core.files.folders import opened
from chinchilla.core.files.json_codec import decode
from chinchilla.core.files.reading import read_json
from chinchilla.core.files.sealed import sealed, unsealed
from chinchilla.core.files.writing import write_json, write_text
from chinchilla.core.provenance import code_here
from chinchilla.core.shapes import n_params_non_embedding
from chinchilla.plan.records import RunResult, RunSpec
from chinchilla.sweep.claims import Claim, ClaimRecord, utc_now
from chinchilla.sweep.run_files import read_progress

MAX_ATTEMPTS = 3  # failures of one kind (error or data) after which a run has failed
MAX_STALLS = 5  # consecutive starts without a new checkpoint after which a run has failed
# Messages of CUDA, cuBLAS and PyTorch's CPU allocator; torch.OutOfMemoryError has the first.
_OUT_OF_MEMORY = ("out of memory", "cublas_status_alloc_failed", "can't allocate memory")
# Disk full, quota exceeded, or file system remounted read-only after an error.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# A file server that does not answer, or does not know an open file any more.
_NO_ANSWER = (errno.ETIMEDOUT, errno.ESTALE)
_ATTEMPT = re.compile(r"([1-9][0-9]{0,8})\.json")


@dataclass(frozen=True)
class Attempt:
    """A failed attempt at a run, as stored in attempts/<n>.json."""

    # oom is retried with half the micro-batch, data and error are retried, lost is not.
    failure: str = "error"
    reason: str = ""
    fence: int = 0  # fencing token of its claim
    step: int = 0  # optimizer steps done
    micro_batch_tokens: int = 0  # tokens per forward pass
    worker: str = ""
    host: str = ""
    utc: str = ""
    traceback: str = ""


def failure_kind(error: Exception) -> str:
    """Classify an exception in a run as oom, data, error, disk, files, memory or peer.

    oom, data and error are failures of the run. disk (no space left), files (the file
    server does not answer), memory (refused before the start) and peer (another rank died or does not
    answer) are not. An error that another rank reports has the same kind as there.
    Errors are recognized by name and message, so that this module does not import torch.
    """
    reported = getattr(error, "reported", None)  # by another rank: PeerError
    if reported == "":
        return "peer"
    message = (reported or str(error)).lower()
    name = reported.partition(":")[0] if reported else type(error).__name__
    match = re.match(r"\w+: \[errno (\d+)\]", message) if reported else None
    number = int(match[1]) if match else getattr(error, "errno", None)
    if isinstance(error, MemoryRefused) or name == "MemoryRefused":
        return "memory"
    if (
        isinstance(error, MemoryError)
        or name in ("MemoryError", "OutOfMemoryError")
        or number == errno.ENOMEM
        or any(text in message for text in _OUT_OF_MEMORY)
    ):
        return "oom"
    if number in _NO_ANSWER:
        return "files"
    if number in _NO_SPACE or any(os.strerror(n).lower() in message for n in _NO_SPACE):
        return "disk"
    return "data" if isinstance(error, DataError) or name == "DataError" else "error"


def is_of_one_run(error: OSError, sweep_dir: Path) -> bool:
    """Whether an error in the folder of a run concerns only this run: the sweep's folder can be used."""
    if failure_kind(error) in ("disk", "files"):
        return False
    runs = sweep_dir / "runs"
    try:
        os.listdir(runs)
    except OSError:
        return False
    return os.access(runs, os.R_OK | os.W_OK | os.X_OK)


def breaks_the_device(error: Exception) -> bool:
    """Whether the process can no longer use its GPU after `error`; false for out of memory."""
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)


def n_attempts(run_dir: Path) -> int:
    """Number of failed attempts at this run."""
    return len(_attempt_numbers(run_dir))


def _attempt_numbers(run_dir: Path) -> list[int]:
    try:
        names = os.listdir(run_dir / "attempts")
    except OSError:  # none, or a folder that `repair_run` renames
        return []
    return sorted(int(m[1]) for name in names if (m := _ATTEMPT.fullmatch(name)))


def read_attempts(run_dir: Path) -> list[Attempt]:
    """The run's failed attempts, oldest first; a damaged record counts as an error."""
    return [_read_attempt(run_dir / "attempts" / f"{n}.json") for n in _attempt_numbers(run_dir)]


def _read_attempt(path: Path) -> Attempt:
    try:
        value = unsealed(read_json(path, "attempt"), str(path))
        attempt: Attempt = decode(Attempt, value, str(path))
    except InputError:
        return Attempt("error", "its record is damaged")
    return attempt


def micro_batch_after(attempts: Sequence[Attempt], seq_len: int) -> int:
    """Micro-batch in tokens after out-of-memory failures; 0 if there were none.

    It has half as many sequences as the smallest one tried. Losses change only by rounding.
    """
    used = [a.micro_batch_tokens for a in attempts if a.failure == "oom"]
    return max(1, min(used) // seq_len // 2) * seq_len if used else 0


def count_stalls(run_dir: Path, before: ClaimRecord | None, step: int) -> int:
    """Number of consecutive claims, up to `before`, that ended without a new checkpoint.

    Claims that ended with an error are not counted (errors have their own limit), nor are claims
    released because of this machine (disk, file server, memory).
    """
    if before is None or step > before.step:
        return 0
    attempts = read_attempts(run_dir)
    was_error = bool(attempts) and attempts[-1].fence == before.fence
    return before.stalls + (not was_error and not before.excused)


def lost_reason(claim: Claim) -> str:
    """Why the run counts as lost: its earlier claims made no progress; "" if it may be tried."""
    before, record = claim.previous, claim.record
    if before is None or record.stalls < MAX_STALLS:
        return ""
    how = "was stopped" if before.released else "died without a message"
    how = f"ended ({before.ended})" if before.ended else how
    return (
        f"interrupted {record.stalls} times in a row at step {record.step} before a new checkpoint "
        f"was saved; the last time worker {before.worker} on {before.host} {how} (killed, out of "
        "memory, preempted, or node failure). Lower runtime.checkpoint_minutes, or give more memory "
        "or time; launch again."
    )


def record_attempt(
    spec: RunSpec, claim: Claim, failure: str, reason: str, text: str, runtime: RuntimeConfig
) -> bool:
    """Record a failed attempt. If another attempt cannot help, publish a failed result.

    Args:
        spec: the run.
        claim: the claim under which it was attempted.
        failure: oom, data, error or lost.
        reason: one line.
        text: details, such as a traceback.
        runtime: settings of the attempt.

    Returns:
        Whether a failed result was published.
    """
    run_dir, progress = claim.run_dir, read_progress(claim.run_dir)
    limit = min(runtime.micro_batch_tokens or spec.batch_tokens, spec.batch_tokens)
    attempt = Attempt(
        failure,
        reason,
        fence=claim.record.fence,
        step=int(progress.get("step") or 0),
        micro_batch_tokens=min(int(progress.get("micro_batch_tokens") or limit), limit),
        worker=claim.record.worker,
        host=claim.record.host,
        utc=utc_now(),
        traceback=text,
    )
    attempts = [*read_attempts(run_dir), attempt]
    with opened(run_dir) as folder:  # which is not made again if it is gone
        folder.mkdir("attempts")
    number = max(_attempt_numbers(run_dir), default=0) + 1
    write_json(run_dir / "attempts" / f"{number}.json", sealed(dataclasses.asdict(attempt)))
    if not _is_final(attempts, spec.model.seq_len):
        return False
    result = _failed_result(spec, claim, failure, reason)
    if not claim.publish("result.json", result.to_record()):
        return False
    write_text(run_dir / "error.txt", text)
    return True


def _is_final(attempts: Sequence[Attempt], seq_len: int) -> bool:
    """Whether another attempt would be useless."""
    last = attempts[-1]
    if last.failure == "oom":
        return last.micro_batch_tokens <= seq_len
    n_alike = sum(a.failure == last.failure for a in attempts)
    return last.failure == "lost" or n_alike >= MAX_ATTEMPTS


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
        code=code_here(),
        started_utc=claim.record.claimed_utc,
        finished_utc=utc_now(),
        attempts=claim.record.starts,
        failure=failure,
    )
