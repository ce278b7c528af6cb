"""Everything logged about a run or a sweep, for `chinchilla logs`.

Workers write workers/<name>.log; Slurm writes logs to submitit/<token>/. The logs of a run are found
from its claims, which name the worker, whose name contains the number of its Slurm job.
"""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chinchilla.core.errors import InputError
from chinchilla.core.files import read_json
from chinchilla.plan.records import RunSpec
from chinchilla.sweep.run_files import run_dir_of
from chinchilla.sweep.view.status import sweep_status

TAIL_BYTES = 1 << 20  # read from the end of a log
_JOB = re.compile(r"slurm(\d+(?:_\d+)?)-")  # beginning of the names of workers in Slurm jobs
_CLAIM_KEYS = ("worker", "host", "pid", "claimed_utc", "step", "released", "ended")


@dataclass(frozen=True)
class Excerpt:
    """The end of one log file, or of its part about a run."""

    path: str
    lines: list[str]


@dataclass(frozen=True)
class Logs:
    """What `chinchilla logs` shows."""

    about: str  # a run id, or the sweep's name
    state: str  # of the run; "" for a sweep
    reason: str
    attempts: list[dict[str, Any]]  # failed attempts, oldest first
    claims: list[dict[str, Any]]  # oldest first
    error: list[str]  # end of error.txt
    excerpts: list[Excerpt]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def text(self) -> str:
        reason = f": {self.reason}" if self.reason else ""
        lines = [f"{self.about}  {self.state}{reason}" if self.state else self.about]
        for attempt in self.attempts:
            kind = f" {attempt['failure']}" if attempt.get("failure") else ""
            lines.append(
                f"  attempt {attempt['file']}{kind}, {attempt.get('utc', '?')}, "
                f"step {attempt.get('step', '?')}, {attempt.get('worker', '?')} on "
                f"{attempt.get('host', '?')}: {attempt.get('reason') or 'its record is damaged'}"
            )
        before: list[Any] = []
        for claim in self.claims:
            holder = [claim.get(key) for key in ("worker", "pid", "claimed_utc")]
            note = f"; ended: {claim['ended']}" if claim.get("ended") else ""
            if claim.get("claimed_utc") and holder == before:
                note += ", to publish the result"
            when, worker = claim.get("claimed_utc", "?"), claim.get("worker", "?")
            lines.append(f"  claim {claim['fence']}, {when}: {worker}{note}")
            before = holder
        if self.state == "waiting" and self.claims and self.claims[-1].get("released") is False:
            lines.append(
                "  the last claim was not released: its worker was killed, or its node is down"
            )
        if self.error:
            lines += ["", "error.txt", *(f"  {line}" for line in self.error)]
        for excerpt in self.excerpts:
            lines += ["", excerpt.path, *(f"  {line}" for line in excerpt.lines)]
        return "\n".join(lines)


def run_logs(sweep_dir: Path, spec: RunSpec, n_lines: int) -> Logs:
    """Attempts and claims of one run, and the last `n_lines` of each log about it."""
    run_dir = run_dir_of(sweep_dir, spec)
    [row] = sweep_status(sweep_dir, only=lambda s: s.run_id == spec.run_id).rows
    claims = []
    for path in _numbered(run_dir, "claim-*.json"):
        value = _record(path)
        known = {k: value[k] for k in _CLAIM_KEYS if k in value}
        claims.append({"fence": _number(path), **known})
    attempts = []
    for folder in (*sorted(run_dir.glob("attempts-*-*")), run_dir / "attempts"):
        for path in _numbered(folder, "*.json"):
            value = {k: v for k, v in _record(path).items() if k != "traceback"}
            attempts.append({"file": f"{folder.name}/{path.name}", **value})
    names = dict.fromkeys(str(c["worker"]) for c in claims if c.get("worker"))
    workers = [name for name in names if "/" not in name and "\0" not in name]
    excerpts = []
    for worker in workers:
        path = sweep_dir / "workers" / f"{worker}.log"
        excerpts.append(Excerpt(str(path), _lines_about(_tail(path), spec.run_id)[-n_lines:]))
    jobs = dict.fromkeys(m[1] for worker in workers if (m := _JOB.match(worker)))
    pattern = re.compile(rf"(?:{'|'.join(map(re.escape, jobs))})_\w+_log\.(?:out|err)")
    paths = sorted(sweep_dir.glob("submitit/*/*_log.*")) if jobs else []
    excerpts += [
        Excerpt(str(path), _tail(path)[-n_lines:]) for path in paths if pattern.fullmatch(path.name)
    ]
    error = _tail(run_dir / "error.txt")[-n_lines:] if row.state == "failed" else []
    excerpts = [e for e in excerpts if e.lines]
    return Logs(spec.run_id, row.state, row.reason, attempts, claims, error, excerpts)


def sweep_logs(sweep_dir: Path, n_lines: int) -> Logs:
    """Runs with errors, and the last `n_lines` of the most recent logs of a sweep."""
    status = sweep_status(sweep_dir)
    problems = [
        f"{r.state} {r.run_id}: {r.reason}"
        for r in status.rows
        if r.state in ("failed", "diverged") or (r.state in ("waiting", "running") and r.reason)
    ]
    title = "runs with errors (details: chinchilla logs run=ID)"
    excerpts = [Excerpt(title, problems[-n_lines:])] if problems else []
    for path in sorted(sweep_dir.glob("submitit/*/refused.json")):
        message = _record(path).get("message", "?")
        excerpts.append(Excerpt(str(path), [f"sbatch refused these jobs: {message}"]))
    for pattern in ("workers/*.log", "submitit/*/*_log.err"):
        newest = max(sweep_dir.glob(pattern), key=lambda p: p.stat().st_mtime, default=None)
        if newest and (tail := _tail(newest)[-n_lines:]):
            excerpts.append(Excerpt(str(newest), tail))
    return Logs(status.sweep, "", "", [], [], [], excerpts)


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
    """The last lines of a log, at most TAIL_BYTES; [] if it cannot be read."""
    try:
        with open(path, "rb") as f:
            size = f.seek(0, 2)
            f.seek(max(0, size - TAIL_BYTES))
            lines = f.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return lines[1:] if size > TAIL_BYTES else lines  # the first line may be incomplete


def _lines_about(lines: Sequence[str], run_id: str) -> list[str]:
    """The part of a worker's log between its claim of the run and its claim of another."""
    selected, inside = [], False
    for line in lines:
        if claimed := re.search(r" claimed (\S+) ", f"{line} "):
            inside = claimed[1] == run_id
        if inside or run_id in line:
            selected.append(line)
    return selected
