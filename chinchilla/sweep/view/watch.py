"""`chinchilla status watch=true`: the status again and again, until the sweep is over.

On a terminal a table that stays in place; elsewhere a line when something has changed, as text or
as JSON. Watching reads files and asks squeue; it changes nothing and can be left at any time.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from chinchilla.sweep.slurm.job_records import InQueue, in_queue
from chinchilla.sweep.view.status import (
    DONE,
    CellRow,
    SweepStatus,
    render_status,
    summary_line,
    sweep_status,
)

if TYPE_CHECKING:
    from rich.console import Console


def is_over(status: SweepStatus) -> bool:
    """Whether every run has a result."""
    return all(row.state in DONE for row in status.rows)


def watch(
    sweep_dir: Path,
    interval_seconds: float,
    *,
    rows: int = 0,
    as_json: bool = False,
    console: "Console | None" = None,
    out: TextIO | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> SweepStatus:
    """Show a sweep every `interval_seconds` until its runs are over, or none of its jobs is left.

    Args:
        sweep_dir: the sweep's folder.
        interval_seconds: between two looks, at files and queue.
        rows: most rows of the table; 0 = all.
        as_json: a JSON object a line, without the rows of runs.
        console: a terminal to draw on; default: none, lines.
        out: where lines go; default: standard output.
        sleep: waits.

    Returns:
        The last status.

    Raises:
        InputError: no sweep there.
    """
    if console is not None and not as_json:
        from rich.live import Live

        with Live(console=console, auto_refresh=False) as live:
            status = _look_until_over(
                sweep_dir,
                interval_seconds,
                sleep,
                lambda status, queue: live.update(render_status(status, queue, rows), refresh=True),
            )
        if words := _last_words(status):
            console.print(words)
        return status
    out = sys.stdout if out is None else out
    said = [""]

    def line(status: SweepStatus, queue: InQueue | None) -> None:
        if as_json:
            value = {"counts": status.counts, "fraction": status.fraction}
            text = json.dumps({**value, "queue": dataclasses.asdict(queue) if queue else None})
        else:
            # Without the time left, which changes at every look.
            states = ", ".join(f"{n} {state}" for state, n in status.counts.items() if n)
            text = f"{status.fraction:.0%} of FLOPs: {states}" + (
                f"; {queue.line}" if queue else ""
            )
        if text != said[0]:
            said[0] = text
            print(text, file=out, flush=True)

    status = _look_until_over(sweep_dir, interval_seconds, sleep, line)
    if not as_json:
        print(summary_line(status), file=out, flush=True)
        if words := _last_words(status):
            print(words, file=out, flush=True)
    return status


def _look_until_over(
    sweep_dir: Path,
    interval_seconds: float,
    sleep: Callable[[float], None],
    show: Callable[[SweepStatus, InQueue | None], None],
) -> SweepStatus:
    known: dict[str, CellRow] = {}
    n_deserted = 0
    while True:
        status, queue = sweep_status(sweep_dir, known), in_queue(sweep_dir)
        show(status, queue)
        nobody = queue is not None and not queue.unknown and not queue.jobs and not status.n_workers
        # Twice: a job that puts itself back into the queue is out of it for a moment.
        n_deserted = n_deserted + 1 if nobody else 0
        if is_over(status) or n_deserted == 2:
            return status
        sleep(interval_seconds)


def exit_code(status: SweepStatus) -> int:
    """What a watch ends with, as the sweep command would: 0 over, 1 a run failed, 75 not over."""
    if not is_over(status):
        return 75
    return 1 if status.counts["failed"] else 0


def _last_words(status: SweepStatus) -> str:
    """What to say of a sweep that was left before it was over; "" of one that is."""
    if is_over(status):
        return ""
    n = len(status.rows) - status.done
    return (
        f"no job of this sweep is left, and {n} run{' is' if n == 1 else 's are'} not over: "
        "the same sweep command goes on from there."
    )
