"""Cancel the Slurm jobs of a sweep: only its own arrays, identified by their comments."""

from pathlib import Path
from typing import Any

from chinchilla.sweep.launch import launch_lock
from chinchilla.sweep.slurm.queue import UNKNOWN, job_arrays, run_slurm, sweep_jobs


def cancel(sweep_dir: Path) -> dict[str, Any]:
    """Cancel every job that this user has submitted for this sweep.

    Launchers of the sweep are excluded meanwhile, and jobs whose launcher was killed are found too.

    Returns:
        job_ids: the cancelled arrays; n_jobs: live jobs in them.

    Raises:
        InputError: Slurm does not answer; the message says whether jobs may have been cancelled.
    """
    if not (sweep_dir / "slurm").is_dir():
        return {"job_ids": [], "n_jobs": 0}
    with launch_lock(sweep_dir):
        hint = f"{UNKNOWN} Nothing was cancelled; cancel again when Slurm answers."
        jobs, _ = sweep_jobs(job_arrays(sweep_dir), hint=hint)
        if ids := sorted({job.job_id for job, _ in jobs}):
            run_slurm("scancel", *ids, hint="some jobs may not be cancelled; cancel again.")
    return {"job_ids": ids, "n_jobs": len(jobs)}
