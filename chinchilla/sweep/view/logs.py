"""What is known about a run, or a sweep, from its logs: for `chinchilla logs`.

Workers write workers/<name>.log, Slurm's own logs lie in submitit/<token>/. Which belong to a run
is read from its claims: each names the worker that made it, and that the job it worked in.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chinchilla.core.errors import InputError
from chinchilla.core.files import read_json
from chinchilla.plan.records import RunSpec
from chinchilla.sweep.run_files import run_dir_of
from chinchilla.sweep.view.status import CellRow, sweep_status

TAIL_BYTES = 1 << 20  # that are read at the end of a log
_JOB = re.compile(r"slurm(\d+(?:_\d+)?)-")  # how a worker in a Slurm job is called


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
    attempts: list[dict[str, Any]]  # failed ones, oldest first; those put aside by a retry first
    claims: list[dict[str, Any]]  # who held the run when, oldest first
    error: list[str]  # end of error.txt
    excerpts: list[Excerpt]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def text(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        out = [f"{self.about}  {self.state}{why}" if self.state else self.about]
        for attempt in self.attempts:
            said = attempt.get("reason") or "its record is damaged"
            kind = f" {attempt['failure']}" if attempt.get("failure") else ""
            where = f"{attempt.get('worker', '?')} on {attempt.get('host', '?')}"
            out.append(
                f"  attempt {attempt['file']}{kind}, {attempt.get('utc', '?')}, step "
                f"{attempt.get('step', '?')}, {where}: {said}"
            )
        before: dict[str, Any] = {}
        for claim in self.claims:
            said = f"; ended: {claim['ended']}" if claim.get("ended") else ""
            if claim.get("claimed_utc") and _holder(claim) == _holder(before):
                said += ", to publish what became of it"
            when, who = claim.get("claimed_utc", "?"), claim.get("worker", "?")
            out.append(f"  claim {claim['fence']}, {when}: {who}{said}")
            before = claim
        if self.state == "waiting" and self.claims and self.claims[-1].get("released") is False:
            out.append(
                "  the last claim was not released: its worker was killed, or its node is gone"
            )
        if self.error:
            out += ["", "error.txt", *(f"  {line}" for line in self.error)]
        for excerpt in self.excerpts:
            out += ["", excerpt.path, *(f"  {line}" for line in excerpt.lines)]
        return "\n".join(out)


def _holder(claim: dict[str, Any]) -> list[Any]:
    """Who made a claim, and when; the number that a holder takes to publish says the same."""
    return [claim.get(key) for key in ("worker", "pid", "claimed_utc")]


def run_logs(sweep_dir: Path, spec: RunSpec, n_lines: int) -> Logs:
    """What became of one run, and the ends of the logs of those who worked on it.

    Args:
        sweep_dir: the sweep's folder.
        spec: the run.
        n_lines: lines of each log.
    """
    run_dir = run_dir_of(sweep_dir, spec)
    [row] = sweep_status(sweep_dir, only={spec.run_id}).rows
    claims = list(_claims(run_dir))
    excerpts = []
    named = dict.fromkeys(str(c["worker"]) for c in claims if c.get("worker"))
    workers = [name for name in named if "/" not in name and "\0" not in name]  # files in workers/
    for worker in workers:
        path = sweep_dir / "workers" / f"{worker}.log"
        if lines := _about(_tail(path), spec.run_id)[-n_lines:]:
            excerpts.append(Excerpt(str(path), lines))
    jobs = dict.fromkeys(m[1] for worker in workers if (m := _JOB.match(worker)))
    ends = [(str(p), _tail(p)[-n_lines:]) for p in _slurm_logs(sweep_dir, list(jobs))]
    excerpts += [Excerpt(path, lines) for path, lines in ends if lines]
    error = _tail(run_dir / "error.txt")[-n_lines:] if row.state == "failed" else []
    return Logs(spec.run_id, row.state, row.reason, _attempts(run_dir), claims, error, excerpts)


def sweep_logs(sweep_dir: Path, n_lines: int) -> Logs:
    """What went wrong in a sweep, and the ends of the logs that were written last.

    Args:
        sweep_dir: the sweep's folder.
        n_lines: lines of each log.
    """
    status = sweep_status(sweep_dir)
    wrong = [r for r in status.rows if r.state in ("failed", "diverged") or _has_met_errors(r)]
    lines = [f"{r.state} {r.run_id}: {r.reason}" for r in wrong[-n_lines:]]
    excerpts = [Excerpt("runs with errors (chinchilla logs run=ID says more)", lines)] if lines else []  # fmt: skip
    for path in sorted(sweep_dir.glob("submitit/*/refused.json")):
        said = _record(path).get("said", "?")
        excerpts.append(Excerpt(str(path), [f"sbatch refused these jobs: {said}"]))
    for pattern in ("workers/*.log", "submitit/*/*_log.err"):
        newest = max(sweep_dir.glob(pattern), key=lambda p: p.stat().st_mtime, default=None)
        if newest and (tail := _tail(newest)[-n_lines:]):
            excerpts.append(Excerpt(str(newest), tail))
    return Logs(status.sweep, "", "", [], [], [], excerpts)


def _has_met_errors(row: CellRow) -> bool:
    return row.state in ("waiting", "running") and bool(row.reason)


def _claims(run_dir: Path) -> Iterator[dict[str, Any]]:
    """The run's claims that say who made them; one cannot be read is left out."""
    found = {int(p.stem.partition("-")[2]): p for p in run_dir.glob("claim-*.json") if p.stem[6:].isdigit()}  # fmt: skip
    for fence, path in sorted(found.items()):
        value = _record(path)
        keys = ("worker", "host", "pid", "claimed_utc", "step", "released", "ended")
        yield {"fence": fence, **{k: value[k] for k in keys if k in value}}


def _attempts(run_dir: Path) -> list[dict[str, Any]]:
    folders = [*sorted(run_dir.glob("attempts-*-*")), run_dir / "attempts"]
    found = []
    for folder in folders:
        paths = [p for p in folder.glob("*.json") if p.stem.isdigit()]
        for path in sorted(paths, key=lambda p: int(p.stem)):
            value = {k: v for k, v in _record(path).items() if k != "traceback"}
            found.append({"file": f"{folder.name}/{path.name}", **value})
    return found


def _record(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} where there is none that can be read."""
    try:
        value = read_json(path, "record")
    except InputError:
        return {}
    return value if isinstance(value, dict) else {}


def _tail(path: Path) -> list[str]:
    """The last lines of a log, as far as TAIL_BYTES go; none if it is not there."""
    try:
        with open(path, "rb") as f:
            size = f.seek(0, 2)
            f.seek(max(0, size - TAIL_BYTES))
            lines = f.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return lines[1:] if size > TAIL_BYTES else lines  # the first is not whole


def _about(lines: Sequence[str], run_id: str) -> list[str]:
    """The part of a worker's log between its claim of the run and its claim of another."""
    kept, inside = [], False
    for line in lines:
        if claimed := re.search(r" claimed (\S+) ", f"{line} "):
            inside = claimed[1] == run_id
        if inside or run_id in line:
            kept.append(line)
    return kept


def _slurm_logs(sweep_dir: Path, jobs: Sequence[str]) -> list[Path]:
    """Slurm's logs of these jobs: <job>_<task>_log.out and .err."""
    paths = sweep_dir.glob("submitit/*/*_log.*")
    wanted = re.compile(rf"(?:{'|'.join(map(re.escape, jobs))})_\w+_log\.(?:out|err)")
    return sorted(p for p in paths if jobs and wanted.fullmatch(p.name))
