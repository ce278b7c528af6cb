"""What a sweep has done and how long it still takes, from its files alone.

A run is finished, diverged or failed (its result.json), running (a live claim) or waiting. No
scheduler is asked: a status works from any machine that sees the folder, and never blocks. What
Slurm's queue holds (`submissions.in_queue`) is shown beside it and changes nothing.
"""

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chinchilla.core.errors import InputError
from chinchilla.core.files import read_json
from chinchilla.plan.cost import reused_steps
from chinchilla.plan.records import RESULT_SCHEMA, RunResult, RunSpec
from chinchilla.sweep.claims import file_system_now, look
from chinchilla.sweep.provenance import fewer_runs, launched_codes, n_launched, n_planned
from chinchilla.sweep.run_files import (
    MAX_ATTEMPTS,
    is_damaged,
    n_errors,
    planned_specs,
    read_progress,
)
from chinchilla.sweep.slurm.job_records import InQueue

if TYPE_CHECKING:
    from rich.console import Group

STATES = ("finished", "running", "waiting", "diverged", "failed")
DONE = ("finished", "diverged", "failed")
_REQUIRED = frozenset(
    f.name
    for f in dataclasses.fields(RunResult)
    if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
)
PACED = 1000  # runs whose progress.json is read for their pace once they are over, more or less


@dataclass(frozen=True)
class CellRow:
    """One run of the sweep as it stands."""

    run_id: str
    state: str  # one of STATES
    step: int
    steps: int
    loss: float | None  # final when finished, else the last one reported; nats per token
    tokens_per_second: float | None
    eta_seconds: float | None  # of a running run
    reason: str  # why it diverged or failed, or what its last attempt met
    worker: str
    flops: float  # C of the whole run
    flops_done: float
    flops_per_second: float | None  # achieved, over the run (finished; some of many) or lately
    failure: str = ""  # of a failed run, the kind: oom, data, error, lost


@dataclass(frozen=True)
class SweepStatus:
    """A sweep as it stands; `counts` has every state."""

    sweep: str
    counts: dict[str, int]
    rows: list[CellRow]
    flops_done: float  # all of a run's that has finished or diverged, none of one that has failed
    flops_total: float
    n_workers: int  # live claims
    seconds_left: float | None  # None when nobody works or no rate is known yet
    codes: list[str]  # labels of the codes it was launched with, the last one last
    n_launched: int = 0  # runs that the plan had at the newest launch; 0 if not recorded
    n_planned: int = 0  # runs that it has now

    @property
    def done(self) -> int:
        """Runs that are over, whatever became of them."""
        return sum(self.counts[state] for state in DONE)

    @property
    def fraction(self) -> float:
        """Share of the sweep's FLOPs that is behind us."""
        return self.flops_done / self.flops_total if self.flops_total else 1.0

    def to_dict(self) -> dict[str, Any]:
        # Not asdict: its deep copies of plain values take a third of a second for a large sweep.
        told = {**vars(self), "rows": [dict(vars(row)) for row in self.rows]}
        return {**told, "done": self.done, "fraction": self.fraction}


def sweep_status(
    sweep_dir: Path,
    known: dict[str, CellRow] | None = None,
    only: Collection[str] | None = None,
) -> SweepStatus:
    """Read a sweep's folder.

    Args:
        sweep_dir: folder that `chinchilla sweep` made.
        known: rows of runs that were over at an earlier call; used and added to, so that asking
            every second costs little. Leave it out where failed runs may have been retried since.
        only: run ids to keep to; default: the whole plan.

    Returns:
        The status.

    Raises:
        InputError: no plan there, or files of another schema.
    """
    specs = planned_specs(sweep_dir, only)
    known = {} if known is None else known
    run_dirs = sweep_dir / "runs"
    now = file_system_now(run_dirs) if run_dirs.is_dir() else 0.0
    rows = []
    stride = -(-len(specs) // PACED) or 1
    for i, spec in enumerate(specs):
        row = known.get(spec.run_id) or _row(spec, run_dirs / spec.run_id, now, i % stride == 0)
        if row.state in DONE:
            known[spec.run_id] = row
        rows.append(row)
    counted = Counter(row.state for row in rows)
    shared = any(spec.schedule == "cooldown" for spec in specs)
    return SweepStatus(
        sweep=specs[0].sweep if specs else sweep_dir.name,
        counts={state: counted[state] for state in STATES},
        rows=rows,
        flops_done=sum(map(_flops_behind, rows)),
        flops_total=sum(row.flops for row in rows),
        n_workers=counted["running"],
        seconds_left=_seconds_left(rows, reused_steps(specs) if shared else {}),
        codes=launched_codes(sweep_dir),
        n_launched=n_launched(sweep_dir),
        n_planned=n_planned(sweep_dir),
    )


def _flops_behind(row: CellRow) -> float:
    """FLOPs of a run that need not be spent any more; one that failed will be tried again."""
    if row.state in DONE:
        return 0.0 if row.state == "failed" else row.flops
    return row.flops_done


def _row(spec: RunSpec, run_dir: Path, now: float, measured: bool = True) -> CellRow:
    """A run as it stands; `measured`: whether a run that is over is one to learn the pace from."""
    damaged = False
    try:
        if (result := _ended(run_dir)) is not None:
            return _row_of_result(spec, result, read_progress(run_dir) if measured else None)
    except InputError:
        if not (damaged := is_damaged(run_dir)):
            raise
    progress = read_progress(run_dir)
    step = min(int(progress.get("step") or 0), spec.steps)
    standing = look(run_dir, now)
    running = standing.state in ("held", "silent")
    rate = progress.get("tokens_per_second") if running else None
    errors = n_errors(run_dir)
    return CellRow(
        run_id=spec.run_id,
        state="running" if running else "waiting",
        step=step,
        steps=spec.steps,
        loss=progress.get("loss"),
        tokens_per_second=rate,
        eta_seconds=(spec.steps - step) * spec.batch_tokens / rate if rate else None,
        reason="result.json is damaged: launch the sweep again"
        if damaged
        else _last_error(run_dir, errors)
        if errors
        else "",
        worker=standing.record.worker if running and standing.record else "",
        flops=spec.C,
        flops_done=spec.C * step / spec.steps,
        flops_per_second=rate * spec.C / spec.D if rate else None,
    )


def _ended(run_dir: Path) -> dict[str, Any] | None:
    """The values of result.json, if there is one, once those that a row shows are of their types.

    Reading the whole record, as `RunResult.load` does, would double the time of a large sweep's
    status; it is asked where something is odd, and says what.

    Raises:
        InputError: no JSON, another version's, or not of these types.
    """
    try:
        with open(f"{run_dir}/result.json", "rb", buffering=0) as f:  # it is read at once
            value = json.loads(f.read())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        value = None
    if (
        isinstance(value, dict)
        and value.keys() >= _REQUIRED
        and value.get("schema") == RESULT_SCHEMA
        and value.get("status") in DONE
        and all(_is_number(value.get(k)) for k in ("steps_done", "flops_spent"))
        and all(
            value.get(k, "") is None or _is_number(value.get(k))
            for k in ("final_loss", "tokens_per_second")
        )
        and isinstance(value.get("reason"), str)
        and isinstance(value.get("failure", ""), str)
        and isinstance(value.get("spec"), dict)
    ):
        return value
    RunResult.load(run_dir)  # says what is odd
    raise InputError(f"{run_dir}/result.json: holds values of other types than a run result has.")


def _is_number(x: Any) -> bool:
    return type(x) in (int, float) and abs(x) <= sys.float_info.max  # NaN is not


def _row_of_result(
    spec: RunSpec, result: dict[str, Any], progress: dict[str, Any] | None
) -> CellRow:
    # The progress file's rate counts evaluations and checkpoints too, as the time left must; of a
    # large sweep's runs some stand for all.
    rate = None
    if progress is not None:
        rate = progress.get("tokens_per_second") or result["tokens_per_second"]
    return CellRow(
        run_id=spec.run_id,
        state=result["status"],
        step=result["steps_done"],
        steps=spec.steps,
        loss=result["final_loss"],
        tokens_per_second=result["tokens_per_second"] or None,
        eta_seconds=None,
        reason=result["reason"],
        worker="",
        flops=spec.C,
        flops_done=result["flops_spent"],
        flops_per_second=rate * spec.C / spec.D if rate else None,
        failure=result.get("failure", ""),
    )


def _last_error(run_dir: Path, n: int) -> str:
    try:
        reason = read_json(run_dir / "attempts" / f"{n}.json", "attempt")["reason"]
    except (InputError, TypeError, KeyError, IndexError):
        reason = "its record is damaged"
    return f"attempt {n} of {MAX_ATTEMPTS}: {reason}"


def _seconds_left(rows: list[CellRow], over: dict[str, int]) -> float | None:
    """What is left at the mean measured FLOP/s of a worker; the longest running run is a floor.

    `over`: by run_id, the steps that a run takes over from its stable phase.
    """
    running = [row for row in rows if row.state == "running"]
    if all(row.state in DONE for row in rows):
        return 0.0
    measured = [row for row in rows if row.flops_per_second and row.flops_done]
    seconds = sum(row.flops_done / (row.flops_per_second or 1) for row in measured)
    if not running or not seconds:
        return None
    rate = sum(row.flops_done for row in measured) / seconds
    left = sum(
        row.flops - max(row.flops_done, row.flops * over.get(row.run_id, 0) / row.steps)
        for row in rows
        if row.state not in DONE
    )
    longest = max((row.flops - row.flops_done) / (row.flops_per_second or rate) for row in running)
    return max(longest, left / (rate * len(running)))


def clock(seconds: float | None) -> str:
    """1:32, 2:05:10, 3d 04:00, or ? when unknown."""
    if seconds is None:
        return "?"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24}d {hours % 24:02d}:{m:02d}"
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


def summary_line(status: SweepStatus) -> str:
    """One line: 12/28 runs, 43% of FLOPs, 1:32 left; then what went wrong, if anything."""
    line = f"{status.done}/{len(status.rows)} runs, {status.fraction:.0%} of FLOPs"
    if status.done < len(status.rows):
        left = status.seconds_left
        line += f", {clock(left)} left" if left is not None else ", time left unknown"
        line += f", {status.n_workers} running"
    wrong = [f"{status.counts[s]} {s}" for s in ("diverged", "failed") if status.counts[s]]
    return ", ".join([line, *wrong])


SHOWN_FIRST = ("running", "failed", "diverged", "waiting", "finished")  # where not all are shown


def rows_to_show(rows: Sequence[CellRow], most: int) -> list[CellRow]:
    """At most `most` rows (0 = all), in the plan's order: those that say most about the sweep."""
    if not most or len(rows) <= most:
        return list(rows)
    order = sorted(range(len(rows)), key=lambda i: (SHOWN_FIRST.index(rows[i].state), i))
    return [rows[i] for i in sorted(order[:most])]


def render_status(status: SweepStatus, queue: InQueue | None = None, most: int = 0) -> "Group":
    """The status for a terminal: a table of runs, and the summary under it.

    Args:
        status: of the sweep.
        queue: what Slurm's queue holds of it, if it is one on Slurm.
        most: rows of the table; 0 = all.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"sweep {status.sweep}", title_justify="left")
    table.add_column("run", no_wrap=True)
    table.add_column("state")
    for name in ("step", "loss", "tokens/s", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("note", overflow="fold")
    style = {"finished": "green", "running": "cyan", "diverged": "yellow", "failed": "red"}
    shown = rows_to_show(status.rows, most)
    for row in shown:
        table.add_row(
            row.run_id,
            Text(row.state, style=style.get(row.state, "")),
            f"{row.step}/{row.steps}",
            "" if row.loss is None else f"{row.loss:.4f}",
            "" if row.tokens_per_second is None else f"{row.tokens_per_second:,.0f}",
            clock(row.eta_seconds) if row.state == "running" else "",
            Text(row.reason or row.worker),
        )
    lines = [summary_line(status)]
    if len(shown) < len(status.rows):
        lines.insert(0, f"{len(shown)} of {len(status.rows)} runs shown; rows=0 shows all")
    if queue is not None:
        lines.append(queue.line)
    if status.n_planned < status.n_launched:
        lines.append(f"warning: {fewer_runs(status.n_planned, status.n_launched)}")
    if len(status.codes) > 1:
        lines.append(f"launched with different code: {', '.join(status.codes)} (the last)")
    return Group(table, *map(Text, lines))
