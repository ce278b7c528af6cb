"""What ended the attempts at a run: claims that were cut off, and errors that break a process.

A worker that dies says nothing; the next one reads it off the claims before its own. Errors are
told apart in `run_dirs.failure_kind`.
"""

from pathlib import Path

from chinchilla.sweep.claims import Claim, ClaimRecord
from chinchilla.sweep.run_files import MAX_STALLS, read_attempts


def stalls_before(run_dir: Path, before: ClaimRecord | None, step: int) -> int:
    """How many claims in a row, `before` the last, were cut off without a new checkpoint.

    One that ended in an error is not counted: errors have a budget of their own. Nor is one that
    ended for want of room on the disk.
    """
    if before is None or step > before.step:
        return 0
    attempts = read_attempts(run_dir)
    was_error = bool(attempts) and attempts[-1].fence == before.fence
    return before.stalls + (not was_error and not before.excused)


def death_before(claim: Claim) -> tuple[str, str] | None:
    """Kind and reason where the claims before this one say that it should not just be tried again."""
    before, record = claim.previous, claim.record
    if before is None:
        return None
    where = f"worker {before.worker} on {before.host}"
    same_machine = before.processes == record.processes
    if not before.released and same_machine and record.oom_kills > before.oom_kills >= 0:
        return "oom", f"{where} was killed for want of memory (the kernel's out-of-memory killer)."
    if record.stalls < MAX_STALLS:
        return None
    how = "was stopped" if before.released else "died without a word"
    how = f"ended ({before.ended})" if before.ended else how
    return "lost", (
        f"cut off {record.stalls} times in a row at step {record.step} before anything new was "
        f"saved; the last time {where} {how} (killed, out of memory, preempted, or its node went "
        "down). Lower runtime.checkpoint_minutes, or give more memory or time; launch again."
    )


def breaks_the_device(error: Exception) -> bool:
    """Whether a process that met `error` cannot use its GPU any more (not so after an OOM)."""
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)
