"""Status of a sweep and the time it still needs, computed from its files.

A run is finished, diverged or failed (according to its result.json), running (a live claim), blocked (its files
cannot be used until a person corrects something) or waiting.
No scheduler is queried, so this works on any machine that sees the folder. The jobs in Slurm's queue
(`jobs.jobs_in_queue`) are shown next to it.
"""

import errno
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chinchilla.core.table import Cell, Table
from chinchilla.core.units import clock, count
from chinchilla.plan.cost import reused_steps
from chinchilla.plan.plan_file import read_plan
from chinchilla.plan.records import RunSpec
from chinchilla.sweep.claims import ClaimStatus, claim_status, file_system_now
from chinchilla.sweep.damage.access import BLOCKED, blocked_reason
from chinchilla.sweep.damage.run_state import RunState, run_state
from chinchilla.sweep.failures import MAX_ATTEMPTS, read_attempts
from chinchilla.sweep.run_files import RunFilter, read_progress, started_runs, unplanned_results

STATES = ("finished", "running", "waiting", "diverged", "failed", "blocked")
ENDED = ("finished", "diverged", "failed")
SETTINGS = {  # that may differ between runs, with their heads
    "peak_lr": "peak lr",
    "batch_tokens": "batch",
    **{
        name: name.replace("_", " ")
        for name in (
            "recipe", "schedule", "optimizer", "parametrization", "final_lr_ratio", "weight_decay", "beta1", "beta2",
            "adam_eps", "grad_clip", "precision", "positions", "seq_len", "vocab_size", "data_id",
        )
    },
    "cosine_cycle": "cosine cycle",
    "seed": "seed",
    "D": "D, tokens",
}  # fmt: skip
PRINCIPAL = ("recipe", "peak_lr", "batch_tokens", "seed", "schedule", "positions", "precision")


@dataclass(frozen=True)
class RunRow:
    """Status of one run."""

    run_id: str
    state: str  # one of STATES
    step: int
    steps: int
    loss: float | None  # final loss of a finished run, otherwise the latest; nats per token
    tokens_per_second: float | None
    eta_seconds: float | None  # of a running run
    reason: str  # why it diverged, failed or is blocked, or the error of its latest attempt
    worker: str
    flops: float  # C of the whole run
    flops_done: float
    flops_per_second: float | None  # over the run if it has ended, otherwise recently
    failure: str = ""  # kind of a failed run: oom, data, error, lost
    code: str = ""  # that trained it, if it has ended


@dataclass(frozen=True)
class SweepStatus:
    """Status of a sweep; `counts` has every state."""

    sweep: str
    counts: dict[str, int]
    rows: list[RunRow]
    flops_done: float  # of finished and diverged runs in full, of failed runs none
    flops_total: float
    seconds_left: float | None  # None if no run is running or no speed is known yet
    common: dict[str, Any]  # settings that all runs share
    differing: dict[str, list[Any]]  # the others, with the value of each row
    problems: list[
        str
    ]  # a message for each line of the plan that is wrong, and each result not in it

    @property
    def done(self) -> int:
        """Number of runs that have ended."""
        return sum(self.counts[state] for state in ENDED)

    @property
    def fraction(self) -> float:
        """Share of the sweep's FLOPs that has been spent."""
        return self.flops_done / self.flops_total if self.flops_total else 1.0

    def to_dict(self) -> dict[str, Any]:
        # Not asdict: its deep copies take a third of a second for a large sweep.
        rows = [
            {**vars(row), "settings": {name: x[i] for name, x in self.differing.items()}}
            for i, row in enumerate(self.rows)
        ]
        fields = {k: v for k, v in vars(self).items() if k != "differing"}
        return {**fields, "rows": rows, "done": self.done, "fraction": self.fraction}


def sweep_status(
    sweep_dir: Path,
    known: dict[str, RunRow] | None = None,
    only: RunFilter | None = None,
) -> SweepStatus:
    """Read the status of a sweep.

    Args:
        sweep_dir: the sweep's folder.
        known: rows of runs that had ended at an earlier call; used and extended, so that repeated
            calls are cheap. Omit it if failed runs may have been retried since.
        only: selects the runs to read; default: the whole plan.

    Raises:
        InputError: no plan there, or files of another schema.
    """
    specs, problems = read_plan(sweep_dir / "plan.jsonl")
    started = started_runs(sweep_dir)
    problems += unplanned_results(sweep_dir, specs, started).values()
    specs = [spec for spec in specs if only is None or only(spec)]
    known = {} if known is None else known
    runs = sweep_dir / "runs"
    now = file_system_now(runs) if started else 0.0
    can_write = os.access(runs, os.W_OK)  # another user may only look
    rows = []
    for spec in specs:
        row = known.get(spec.run_id) or _row(
            spec, runs / spec.run_id, now, spec.run_id in started, can_write
        )
        if row.state in ENDED:
            known[spec.run_id] = row
        rows.append(row)
    counts = Counter(row.state for row in rows)
    settings = [settings_of(spec) for spec in specs]
    values = {name: [one[name] for one in settings] for name in (settings[0] if settings else ())}
    common = {name: x[0] for name, x in values.items() if all(y == x[0] for y in x)}
    return SweepStatus(
        sweep=specs[0].sweep if specs else sweep_dir.name,
        counts={state: counts[state] for state in STATES},
        rows=rows,
        flops_done=sum(map(_flops_spent, rows)),
        flops_total=sum(row.flops for row in rows),
        seconds_left=_seconds_left(rows, reused_steps(specs)),
        common=common,
        differing={name: x for name, x in values.items() if name not in common},
        problems=problems,
    )


def settings_of(spec: RunSpec) -> dict[str, Any]:
    """Settings that may differ between the runs of a sweep, besides budget and shape.

    Tokens D and the length of the cosine relative to the run follow from the numbers of steps.
    """
    fields = {**vars(spec.model), **vars(spec)}
    cycle = round(spec.cosine_steps / spec.steps, 1)
    chosen = {name: fields[name] for name in SETTINGS if name not in ("D", "cosine_cycle")}
    return chosen | {"cosine_cycle": cycle, "D": spec.D}


def _flops_spent(row: RunRow) -> float:
    """FLOPs of a run that need not be spent again; a failed run will be retried."""
    if row.state in ENDED:
        return 0.0 if row.state == "failed" else row.flops
    return row.flops_done


def _row(spec: RunSpec, run_dir: Path, now: float, started: bool, can_write: bool) -> RunRow:
    progress = read_progress(run_dir) if started else {}
    speed = progress.get("tokens_per_second")
    step = min(int(progress.get("step") or 0), spec.steps)
    state, worker, eta = "waiting", "", None
    found, claim = RunState(""), ClaimStatus("free")
    if started:
        found = run_state(run_dir)
        if found.name in ("", "damaged"):
            try:
                claim = claim_status(run_dir, now)
                ended = claim.record.ended if claim.record else ""
                if claim.available and ended.startswith(BLOCKED):
                    found = RunState("blocked", problem=ended.removeprefix(BLOCKED))
                elif can_write and not os.access(run_dir, os.W_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(run_dir))
            except OSError as error:
                found = RunState("blocked", problem=blocked_reason(error, run_dir))
    result, reason = None if found.problem else found.result, found.problem
    if result is not None:
        state, reason = result.status, result.reason
        # The speed in progress.json includes evaluations and checkpoints, as the time left does.
        speed = speed or result.tokens_per_second
    elif found.name == "blocked":
        state, speed = "blocked", None
    elif started:
        if not claim.available:
            state, worker = "running", claim.record.worker if claim.record else ""
            eta = (spec.steps - step) * spec.batch_tokens / speed if speed else None
            if claim.record and claim.record.damaged:
                worker, eta = "", None
                reason = reason or (
                    f"claim-{claim.record.fence}.json is damaged: another worker takes the run over within a "
                    "minute, unless its own one is alive"
                )
        else:
            speed = None
        if not reason and (attempts := read_attempts(run_dir)):
            reason = f"attempt {len(attempts)} of {MAX_ATTEMPTS}: {attempts[-1].reason}"
    return RunRow(
        run_id=spec.run_id,
        state=state,
        step=result.steps_done if result else step,
        steps=spec.steps,
        loss=result.final_loss if result else progress.get("loss"),
        tokens_per_second=(result.tokens_per_second or None) if result else speed,
        eta_seconds=eta,
        reason=reason,
        worker=worker,
        flops=spec.C,
        flops_done=result.flops_spent if result else spec.C * step / spec.steps,
        flops_per_second=speed * spec.C / spec.D if speed else None,
        failure=result.failure if result else "",
        code=result.code.label if result else "",
    )


def _seconds_left(rows: list[RunRow], reused_steps: dict[str, int]) -> float | None:
    """Time left at the mean measured FLOP/s per worker, at least that of the longest running run.

    `reused_steps`: by run id, the steps that a run reuses from its stable phase.
    """
    running = [row for row in rows if row.state == "running"]
    unfinished = [row for row in rows if row.state not in (*ENDED, "blocked")]
    if not unfinished:
        return 0.0
    measured = [row for row in rows if row.flops_per_second and row.flops_done]
    seconds = sum(row.flops_done / (row.flops_per_second or 1) for row in measured)
    if not running or not seconds:
        return None
    rate = sum(row.flops_done for row in measured) / seconds
    left = sum(
        row.flops - max(row.flops_done, row.flops * reused_steps.get(row.run_id, 0) / row.steps)
        for row in unfinished
    )
    longest = max((row.flops - row.flops_done) / (row.flops_per_second or rate) for row in running)
    return max(longest, left / (rate * len(running)))


def summary_line(status: SweepStatus) -> str:
    """One line: 12/28 runs, 43% of FLOPs, 1:32 left, 3 running, 1 failed."""
    line = f"{status.done}/{len(status.rows)} runs, {status.fraction:.0%} of FLOPs"
    if status.done < len(status.rows):
        left = status.seconds_left
        line += f", {clock(left)} left" if left is not None else ", time left unknown"
        line += f", {status.counts['running']} running"
    problems = [f"{n} {s}" for s in ("diverged", "failed", "blocked") if (n := status.counts[s])]
    return ", ".join([line, *problems])


def end_line(row: RunRow) -> str:
    """How a run ended, in one line."""
    if row.state == "finished":
        return f"finished {row.run_id}  loss {row.loss:.4f}  {row.tokens_per_second or 0:,.0f} tokens/s"
    return f"{row.state} {row.run_id}  {row.reason}"


_PRIORITY = ("running", "blocked", "failed", "diverged", "waiting", "finished")


def rows_to_show(rows: Sequence[RunRow], limit: int) -> list[RunRow]:
    """At most `limit` rows (0 = all) in the plan's order, running and failed runs preferred."""
    if not limit or len(rows) <= limit:
        return list(rows)
    order = sorted(range(len(rows)), key=lambda i: (_PRIORITY.index(rows[i].state), i))
    return [rows[i] for i in sorted(order[:limit])]


def status_table(status: SweepStatus, limit: int = 0) -> Table:
    """A row per run, at most `limit` (0 = all), with the settings that differ between the runs.

    The principal settings that all runs share are in the caption. Columns without a value are left out.
    """
    shown = rows_to_show(status.rows, limit)
    caption = f"sweep {status.sweep}"
    if len(shown) < len(status.rows):
        caption += f": {len(shown)} of {len(status.rows)} runs; rows=0 shows all"
    shared = [name for name in PRINCIPAL if status.common.get(name) not in (None, "")]
    if shared:
        texts = (f"{SETTINGS[name]} {_setting(name, status.common[name])}" for name in shared)
        caption += f"\nall runs: {', '.join(texts)}"
    at = {row.run_id: i for i, row in enumerate(status.rows)}
    columns = {
        "run": [row.run_id for row in shown],
        "state": [row.state for row in shown],
        **{
            SETTINGS[name]: [_setting(name, x[at[row.run_id]]) for row in shown]
            for name, x in status.differing.items()
        },
        "step": [f"{row.step}/{row.steps}" for row in shown],
        "loss": ["" if row.loss is None else f"{row.loss:.4f}" for row in shown],
        "tokens/s": [
            "" if row.tokens_per_second is None else f"{row.tokens_per_second:,.0f}"
            for row in shown
        ],
        "left": [clock(row.eta_seconds) if row.state == "running" else "" for row in shown],
        "note": [row.reason or row.worker for row in shown],
    }
    others = [SETTINGS[name] for name in status.differing if name not in ("peak_lr", "D")]
    return Table.of(
        {head: map(Cell, texts) for head, texts in columns.items() if any(texts)},
        caption,
        left=("run", "state", "note"),
        dispensable=("D, tokens", "tokens/s", "note", *reversed(others), "left", "peak lr"),
    )


def _setting(name: str, x: Any) -> str:
    """The value of a setting as the table shows it."""
    if name in ("batch_tokens", "D"):
        return count(x)
    if name == "peak_lr":
        return f"{x:.2e}"
    return f"{x:g}" if isinstance(x, float) else str(x)
