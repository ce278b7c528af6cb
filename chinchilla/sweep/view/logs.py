"""Everything logged about a run or a sweep, for `chinchilla logs`.

Workers write workers/<name>.log; Slurm's jobs write slurm/<token>/<job>*_log.out. The logs of a run are
found from its claims, which name the worker, whose name contains the number of its Slurm job.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chinchilla.config.command_line.words import shell_word
from chinchilla.core.errors import InputError
from chinchilla.core.files.reading import read_json, read_tail
from chinchilla.plan.records import RunSpec
from chinchilla.sweep.run_files import run_dir_of
from chinchilla.sweep.slurm.queue import job_logs
from chinchilla.sweep.slurm.unstarted import unstarted_lines
from chinchilla.sweep.view.jobs import jobs_in_queue
from chinchilla.sweep.view.status import sweep_status

TAIL_BYTES = 1 << 20  # read from the end of a log
_JOB = re.compile(r"slurm(\d+(?:_\d+)?)-")  # beginning of the names of workers in Slurm jobs


def run_logs(sweep_dir: Path, spec: RunSpec, n_lines: int) -> dict[str, list[str]]:
    """State, attempts and claims of one run, and the last `n_lines` of each log about it.

    Returns:
        The lines by heading: the run id, or the path of a log.
    """
    run_dir = run_dir_of(sweep_dir, spec)
    [row] = sweep_status(sweep_dir, only=lambda s: s.run_id == spec.run_id).rows
    about = [f"{row.state}: {row.reason}" if row.reason else row.state]
    for folder in (*sorted(run_dir.glob("attempts-*-*")), run_dir / "attempts"):
        about += [_attempt_line(path, _record(path)) for path in _numbered(folder, "*.json")]
    claims = {_number(path): _record(path) for path in _numbered(run_dir, "claim-*.json")}
    about += [
        _claim_line(fence, claim, claims.get(fence - 1, {})) for fence, claim in claims.items()
    ]
    if row.state == "waiting" and claims and not list(claims.values())[-1].get("released", True):
        about.append("the last claim was not released: its worker was killed, or its node is down")
    names = dict.fromkeys(str(c["worker"]) for c in claims.values() if c.get("worker"))
    workers = [name for name in names if "/" not in name and "\0" not in name]
    sections = {
        str(path): _lines_about(_tail(path), spec.run_id)
        for path in (sweep_dir / "workers" / f"{worker}.log" for worker in workers)
    }
    jobs = "|".join(dict.fromkeys(m[1] for worker in workers if (m := _JOB.match(worker))))
    paths = _slurm_logs(sweep_dir) if jobs else []
    sections |= {str(p): _tail(p) for p in paths if re.fullmatch(rf"({jobs})_\d+_log\.out", p.name)}
    error = {"error.txt": _tail(run_dir / "error.txt")} if row.state == "failed" else {}
    return _last_lines({**error, **sections}, n_lines, first={spec.run_id: about})


def sweep_logs(sweep_dir: Path, n_lines: int) -> dict[str, list[str]]:
    """Runs with errors, and the last `n_lines` of the most recent logs of a sweep, by heading."""
    status = sweep_status(sweep_dir)
    problems = [
        f"{r.state} {r.run_id}: {r.reason}"
        for r in status.rows
        if r.state in ("failed", "diverged", "blocked")
        or (r.state in ("waiting", "running") and r.reason)
    ]
    details = f"chinchilla logs {shell_word(sweep_dir)} run=ID"
    sections = {f"runs with errors (details: {details})": problems}
    unstarted = (jobs_in_queue(sweep_dir) or {}).get("unstarted", [])
    sections["jobs without a worker"] = unstarted_lines(unstarted)
    sections |= {row["log"]: _tail(Path(row["log"])) for row in unstarted if row["log"]}
    for path in sorted(sweep_dir.glob("slurm/*/answer.json")):
        if message := _record(path).get("refused"):
            sections[str(path)] = [f"sbatch refused these jobs: {message}"]
    for paths in (list(sweep_dir.glob("workers/*.log")), _slurm_logs(sweep_dir)):
        newest = max(paths, key=lambda p: p.lstat().st_mtime, default=None)
        if newest:
            sections[str(newest)] = _tail(newest)
    return _last_lines(sections, n_lines, first={})


def _slurm_logs(sweep_dir: Path) -> list[Path]:
    return [path for folder in sorted(sweep_dir.glob("slurm/*")) for path in job_logs(folder)]


def _last_lines(
    sections: dict[str, list[str]], n_lines: int, first: dict[str, list[str]]
) -> dict[str, list[str]]:
    return first | {name: lines[-n_lines:] for name, lines in sections.items() if lines}


def _attempt_line(path: Path, attempt: dict[str, Any]) -> str:
    name = f"{path.parent.name}/{path.name}"
    if not attempt.get("reason"):
        return f"attempt {name}: its record is damaged"
    get = attempt.get
    return (
        f"attempt {name} {get('failure')}, {get('utc')}, step {get('step')}, {get('worker')} on "
        f"{get('host')}: {get('reason')}"
    )


def _claim_line(fence: int, claim: dict[str, Any], before: dict[str, Any]) -> str:
    ended = f"; ended: {claim['ended']}" if claim.get("ended") else ""
    # A claim that writes a result repeats the record of the start (`Claim.commit`).
    start = ("worker", "claimed_utc", "pid", "starts")
    if claim and all(claim.get(key) == before.get(key) for key in start):
        return f"claim {fence}, by the same worker, to write the result{ended}"
    return f"claim {fence}, {claim.get('claimed_utc', '?')}: {claim.get('worker', '?')}{ended}"


def _numbered(folder: Path, pattern: str) -> list[Path]:
    """Files named by a number, such as claim-3.json and 2.json, in the order of their numbers."""
    paths = [p for p in folder.glob(pattern) if p.stem.rpartition("-")[2].isdigit()]
    return sorted(paths, key=_number)


def _number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _record(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} if it cannot be read."""
    try:
        value = read_json(path, "record")
    except InputError:
        return {}
    return value if isinstance(value, dict) else {}


def _tail(path: Path) -> list[str]:
    """The last lines of a log, at most TAIL_BYTES; [] without one."""
    try:
        text, is_cut = read_tail(path, TAIL_BYTES)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"{path.name} cannot be read ({error.strerror})."]
    return text.splitlines()[is_cut:]  # the first line may be incomplete


def _lines_about(lines: Sequence[str], run_id: str) -> list[str]:
    """The part of a worker's log between its claim of the run and its claim of another."""
    selected, inside = [], False
    for line in lines:
        if claimed := re.search(r" claimed (\S+) ", f"{line} "):
            inside = claimed[1] == run_id
        if inside or run_id in line:
            selected.append(line)
    return selected
