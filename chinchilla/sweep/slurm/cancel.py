"""Cancel the Slurm jobs of a sweep: only its own arrays, identified by their comments."""

from pathlib import Path
from typing import Any

from chinchilla.sweep.launch import launch_lock
from chinchilla.sweep.slurm.queue import UNKNOWN, job_arrays, run_slurm, sweep_jobs, user_name


def cancel(sweep_dir: Path) -> dict[str, Any]:
    """Cancel every job that this user has submitted for this sweep.

    Launchers of the sweep are excluded meanwhile, and jobs whose launcher was killed are found too.

    Returns:
        job_ids: the cancelled arrays; n_jobs: live jobs in them; others: by user, the arrays of this
        sweep that other users submitted.

    Raises:
        InputError: Slurm does not answer; the message says whether jobs may have been cancelled.
    """
    if not (sweep_dir / "slurm").is_dir():
        return {"job_ids": [], "n_jobs": 0, "others": {}}
    with launch_lock(sweep_dir):
        hint = f"{UNKNOWN} Nothing was cancelled; cancel again when Slurm answers."
        jobs = [job for job, _ in sweep_jobs(job_arrays(sweep_dir), hint=hint)[0]]
        me = user_name()
        ids = {u: sorted({j.job_id for j in jobs if j.user == u}) for u in {j.user for j in jobs}}
        own = ids.pop(me, [])
        if own:
            run_slurm("scancel", *own, hint="some jobs may not be cancelled; cancel again.")
    return {"job_ids": own, "n_jobs": sum(j.user == me for j in jobs), "others": ids}
