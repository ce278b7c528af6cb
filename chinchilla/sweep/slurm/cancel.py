"""Cancel the Slurm jobs of a sweep: only its own arrays, identified by their tokens."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chinchilla.core.errors import InputError
from chinchilla.sweep.launch import launch_lock
from chinchilla.sweep.slurm.queue import UNKNOWN, QueuedJob, run_slurm, settle_sweep, user_name
from chinchilla.sweep.view.status import sweep_status


@dataclass(frozen=True)
class Cancelled:
    """What `chinchilla cancel` did."""

    job_ids: list[str]  # cancelled arrays
    n_jobs: int  # live jobs in these arrays
    others: dict[str, list[str]]  # by user: arrays of this sweep that other users submitted
    workers: list[str]  # workers outside of Slurm that hold runs

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def text(self) -> str:
        lines = []
        if self.job_ids:
            s = "" if self.n_jobs == 1 else "s"
            lines.append(f"cancelled {self.n_jobs} job{s}: {' '.join(self.job_ids)}.")
        for user, ids in self.others.items():
            lines.append(f"{' '.join(ids)} belong to {user}, who can cancel them.")
        if not lines:
            lines.append("no job of this sweep is in Slurm's queue: nothing to cancel.")
        if self.workers:
            lines.append(
                f"{len(self.workers)} runs are being trained outside of Slurm by "
                f"{', '.join(self.workers)}: stop them with Ctrl-C at their launcher."
            )
        if self.job_ids:
            lines.append("Runs in training are saved; the same sweep command continues them.")
        return "\n".join(lines)


def cancel(sweep_dir: Path) -> Cancelled:
    """Cancel every job that this user has submitted for this sweep.

    Launchers of the sweep are excluded meanwhile. Arrays whose launcher died before it recorded
    their number are found in the queue first.

    Raises:
        InputError: Slurm does not answer; the message says whether jobs may have been cancelled.
    """
    workers = _workers_outside(sweep_dir)
    if not (sweep_dir / "submitit").is_dir():
        return Cancelled([], 0, {}, workers)
    me = user_name()
    by_user: dict[str, list[QueuedJob]] = {me: []}
    with launch_lock(sweep_dir):
        hint = f"{UNKNOWN} Nothing was cancelled; cancel again when Slurm answers."
        jobs, arrays, _ = settle_sweep(sweep_dir, hint)
        for job in jobs:
            if job.live and any(array.contains(job) for array in arrays):
                by_user.setdefault(job.user, []).append(job)
        ids = {user: sorted({j.job_id for j in jobs}) for user, jobs in by_user.items()}
        own = ids.pop(me)
        if own:
            hint = "some jobs may not be cancelled; cancel again."
            run_slurm("scancel", *own, hint=hint)
    return Cancelled(own, len(by_user[me]), ids, workers)


def _workers_outside(sweep_dir: Path) -> list[str]:
    """Workers without a Slurm job that hold runs; none if the sweep's files are damaged."""
    try:
        rows = sweep_status(sweep_dir).rows
    except (InputError, OSError):  # jobs must be cancelled nevertheless
        return []
    return sorted(
        r.worker for r in rows if r.state == "running" and not r.worker.startswith("slurm")
    )
