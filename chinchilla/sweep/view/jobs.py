"""Slurm's view of a sweep: its jobs in the queue, and those that ended without starting a worker."""

from collections import Counter
from pathlib import Path
from typing import Any

from chinchilla.core.errors import InputError
from chinchilla.sweep.slurm.queue import UNKNOWN, job_arrays, sweep_jobs
from chinchilla.sweep.slurm.unstarted import unstarted_jobs


def jobs_in_queue(sweep_dir: Path) -> dict[str, Any] | None:
    """Jobs of a sweep in Slurm's queue, for display; None if nothing was ever submitted. Never raises.

    Returns:
        `unknown`, why nothing is known ("" if Slurm answered); `jobs`, each with job_class, state,
        reason, job_id, and n, the number of such jobs; and `unstarted`, from `unstarted_jobs`.
    """
    try:
        if not (arrays := job_arrays(sweep_dir)):
            return None
        own, _ = sweep_jobs(arrays, settle=False, hint=UNKNOWN)
    except InputError as error:
        return {"unknown": str(error).removesuffix(f", {UNKNOWN}"), "jobs": [], "unstarted": []}
    except OSError as error:  # a folder that was removed or is not readable
        where = error.filename or sweep_dir
        return {"unknown": f"{error.strerror or error}: {where}", "jobs": [], "unstarted": []}
    counts = Counter((a.job_class, j.state, j.reason, j.job_id) for j, a in own)
    keys = ("job_class", "state", "reason", "job_id")
    rows = [{**dict(zip(keys, key, strict=True)), "n": n} for key, n in counts.items()]
    unstarted = unstarted_jobs(arrays, (job for job, _ in own))
    return {"unknown": "", "jobs": rows, "unstarted": unstarted}


def queue_line(queue: dict[str, Any]) -> str:
    """The jobs of `jobs_in_queue` in one line."""
    if queue["unknown"]:
        return f"queue unknown: {queue['unknown']}"
    parts = []
    for job in queue["jobs"]:
        name = "" if job["job_class"] == "all" else f"{job['job_class']} "
        reason = f" ({job['reason']})" if job["state"] == "PENDING" else ""
        parts.append(f"{job['n']} {name}{job['state']}{reason}")
    return f"jobs in the queue: {', '.join(parts) or 'none'}"
