"""Ending a sweep's Slurm jobs: its own arrays, known by their token, and nobody else's."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chinchilla.core.errors import InputError
from chinchilla.core.files import write_json
from chinchilla.sweep.claims import utc_now
from chinchilla.sweep.launch import turn
from chinchilla.sweep.slurm.job_records import reconcile
from chinchilla.sweep.slurm.queue import UNKNOWN, ask, user_name
from chinchilla.sweep.view.status import sweep_status


@dataclass(frozen=True)
class Cancelled:
    """What `chinchilla cancel` found and did."""

    job_ids: list[str]  # arrays that were cancelled
    n_jobs: int  # jobs of them that worked or would have
    others: dict[str, list[str]]  # arrays of this sweep that only their owners can cancel, by user
    workers: list[str]  # names of workers outside of Slurm that hold runs

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
                f"outside of Slurm {len(self.workers)} runs are trained, by {', '.join(self.workers)}: "
                "Ctrl-C at their launcher stops them."
            )
        if self.job_ids:
            lines.append(
                "Runs that were trained are saved; the same sweep command goes on from there."
            )
        return "\n".join(lines)


def cancel(sweep_dir: Path) -> Cancelled:
    """Cancel every job that launches of this sweep have in Slurm's queue.

    No launcher of the sweep submits meanwhile, and arrays whose launcher died before it knew their
    number are found first. Each array keeps cancelled.json: when, and by whom.

    Raises:
        InputError: no sweep there, or Slurm does not answer: then nothing is cancelled.
    """
    outside = _outside(sweep_dir)
    if not (sweep_dir / "submitit").is_dir():
        return Cancelled([], 0, {}, outside)
    with turn(sweep_dir):
        jobs, arrays, _ = reconcile(
            sweep_dir, f"{UNKNOWN} Nothing was cancelled; cancel again when Slurm answers."
        )
        live = [(j, a) for j in jobs if j.live for a in arrays if a.holds(j)]
        me = user_name()
        own = {j.job_id: a for j, a in live if j.user == me}
        others: dict[str, set[str]] = {}
        for job, _ in live:
            if job.user != me:
                others.setdefault(job.user, set()).add(job.job_id)
        for array in own.values():
            write_json(array.folder / "cancelled.json", {"user": me, "cancelled_utc": utc_now()})
        if own:
            ask("scancel", *sorted(own), so="some jobs may not be cancelled; say it again.")
    n_jobs = sum(j.user == me for j, _ in live)
    return Cancelled(sorted(own), n_jobs, {u: sorted(ids) for u, ids in others.items()}, outside)


def _outside(sweep_dir: Path) -> list[str]:
    """Workers that no job belongs to; none are known where the sweep's own files are damaged."""
    try:
        rows = sweep_status(sweep_dir).rows
    except (InputError, OSError):  # jobs must be ended all the same
        return []
    return sorted(
        r.worker for r in rows if r.state == "running" and not r.worker.startswith("slurm")
    )
