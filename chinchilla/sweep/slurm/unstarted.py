"""Jobs of a sweep that ended before they started a worker, such as for a missing module or interpreter.

A job that the user cancels with scancel before its start looks alike.

Every job creates slurm/<token>/started-<job> as soon as its Python program runs. A job without this file
that is not in Slurm's queue has ended before; nothing else in the sweep's folder records it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from chinchilla.core.errors import InputError
from chinchilla.core.files.reading import read_json, read_tail
from chinchilla.sweep.slurm.queue import JobArray, QueuedJob, job_logs

TAIL_BYTES = 1 << 14  # read from the end of a log
SHOWN = 5  # ids in a message


def started_file(folder: Path, job: str) -> Path:
    """The file by which a job of the array in `folder` shows that its program runs."""
    return folder / f"started-{job}"


def cancelled_file(folder: Path) -> Path:
    """The file by which `chinchilla cancel` marks an array, whose jobs need no report."""
    return folder / "cancelled"


def unstarted_jobs(
    arrays: dict[Path, JobArray], queued: Iterable[QueuedJob]
) -> list[dict[str, Any]]:
    """Jobs that ended without starting a worker, of each job class since a job of it started last.

    Args:
        arrays: from `queue.job_arrays`.
        queued: the sweep's jobs in the queue.

    Returns:
        A row per array, newest first: job_class, job_ids, log (path of the first one's log, "" if
        none was written) and last_line (of this log).
    """
    live = {job.name for job in queued}
    rows, over = [], set()  # over: classes whose earlier arrays no longer matter
    submitted = [(array.utc, _job_id(folder), folder) for folder, array in arrays.items()]
    # Arrays of one second are in the order of their numbers.
    submitted.sort(key=lambda each: (each[0], len(each[1]), each[1]), reverse=True)
    for _, number, folder in submitted:
        array = arrays[folder]
        of_class = (array.sizes, array.run_id)
        if of_class in over or not number or cancelled_file(folder).exists():
            continue
        names = [number] if array.n_jobs == 1 else [f"{number}_{i}" for i in range(array.n_jobs)]
        waiting = [name for name in names if not started_file(folder, name).exists()]
        if len(waiting) < len(names):
            over.add(of_class)
        if not (ended := [name for name in waiting if name not in live]):
            continue
        logs = {path.name: path for path in job_logs(folder)}
        log = next((p for name in ended if (p := logs.get(f"{name}_0_log.out"))), None)
        rows.append(
            {
                "job_class": array.job_class,
                "job_ids": ended,
                "log": str(log or ""),
                "last_line": _last_line(log) if log else "",
            }
        )
    return rows


def unstarted_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The rows of `unstarted_jobs` as text, two lines each."""
    lines = []
    for row in rows:
        ids, log = row["job_ids"], row["log"]
        shown = ", ".join(ids[:SHOWN]) + (", ..." if len(ids) > SHOWN else "")
        said = f"{log} is empty." if log else "They wrote no log."
        if row["last_line"]:
            said = f"The last line of {log}: {row['last_line']}"
        lines += [
            f"{len(ids)} job{'' if len(ids) == 1 else 's'} ended without starting a worker, or "
            f"{'was' if len(ids) == 1 else 'were'} cancelled: {shown}. {said}",
            f"  Ask Slurm: sacct -j {ids[0].partition('_')[0]} -o JobID,State,ExitCode,NodeList   or, for "
            f"some minutes after the end: scontrol show job {ids[0]}",
        ]
    return lines


def _job_id(folder: Path) -> str:
    """The array's number in answer.json; "" if sbatch refused it or its answer is not recorded."""
    try:
        answer = read_json(folder / "answer.json", "answer of sbatch")
    except InputError:
        return ""
    return str(answer.get("job_id") or "") if isinstance(answer, dict) else ""


def _last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    try:
        lines = read_tail(log, TAIL_BYTES)[0].split("\n")
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{log.name} cannot be read ({error.strerror})"
    return next((text for line in reversed(lines) if (text := " ".join(line.split()))), "")
