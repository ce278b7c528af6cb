"""Live view of a sweep: while `chinchilla sweep` waits for it, and `chinchilla status watch=true`.

On a terminal, the status table is redrawn in place. Elsewhere a line is printed when a run has ended or
the number of runs in a state has changed, and otherwise every 10 seconds.
"""

import contextlib
import dataclasses
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from chinchilla.core.units import clock
from chinchilla.sweep.run_files import RunFilter
from chinchilla.sweep.slurm.queue import JobsInQueue, jobs_in_queue
from chinchilla.sweep.view.status import (
    ENDED,
    RunRow,
    SweepStatus,
    render_status,
    sweep_status,
)

POLL_SECONDS = 1.0
LINE_SECONDS = 10.0


def end_line(row: RunRow) -> str:
    """How a run ended, in one line."""
    if row.state == "finished":
        return f"finished {row.run_id}  loss {row.loss:.4f}  {row.tokens_per_second or 0:,.0f} tokens/s"
    return f"{row.state} {row.run_id}  {row.reason}"


class LiveView:
    """Shows successive statuses of a sweep.

    Args:
        out: a terminal, or a stream for lines.
        limit: rows of the table on a terminal; 0 = as many as fit.
        as_json: print JSON objects without the rows of runs instead of text.
    """

    def __init__(self, out: TextIO, limit: int = 0, as_json: bool = False) -> None:
        self.out, self.limit, self.as_json = out, limit, as_json
        self.ended: set[str] | None = None  # run ids; None before the first status
        self.last_counts: Any = None
        self.last_text, self.last_time = "", 0.0
        self.live: Any = None
        if out.isatty() and not as_json:
            from rich.console import Console
            from rich.live import Live

            self.live = Live(console=Console(file=out), auto_refresh=False)
            self.live.start()

    def show(self, status: SweepStatus, queue: JobsInQueue | None = None) -> None:
        ended = {row.run_id: row for row in status.rows if row.state in ENDED}
        new = [] if self.ended is None else [r for k, r in ended.items() if k not in self.ended]
        self.ended = set(ended)
        if self.live is not None:
            for row in new:
                self.live.console.print(end_line(row), markup=False, highlight=False)
            fits = max(3, self.live.console.size.height - 8)
            limit = min(self.limit or fits, fits)
            self.live.update(render_status(status, queue, limit), refresh=True)
            return
        counts = (status.counts, queue.line if queue else "")
        if self.as_json:
            value = {"counts": status.counts, "fraction": status.fraction}
            text = json.dumps({**value, "queue": dataclasses.asdict(queue) if queue else None})
        else:
            for row in new:
                print(end_line(row), file=self.out, flush=True)
            text = f"{status.done}/{len(status.rows)} runs, {status.fraction:.0%} of FLOPs: "
            text += ", ".join(f"{n} {state}" for state, n in status.counts.items() if n)
            text += f", {clock(status.seconds_left)} left" if status.seconds_left else ""
            text += f"; {queue.line}" if queue else ""
        due = time.monotonic() - self.last_time >= LINE_SECONDS and text != self.last_text
        if counts != self.last_counts or due:
            print(text, file=self.out, flush=True)
            self.last_counts, self.last_text = counts, text
            self.last_time = time.monotonic()

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()


class SweepProgress:
    """`with SweepProgress(sweep_dir): ...` shows the sweep while the block runs.

    Args:
        sweep_dir: folder of the sweep, with its plan.
        out: where to show it; default: standard output.
        only: selects the runs to show; default: the whole plan.
    """

    def __init__(
        self, sweep_dir: Path, out: TextIO | None = None, only: RunFilter | None = None
    ) -> None:
        self.sweep_dir, self.only = sweep_dir, only
        self.out = sys.stdout if out is None else out
        self.known: dict[str, RunRow] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="progress", daemon=True)

    def __enter__(self) -> "SweepProgress":
        self.view = LiveView(self.out)
        self._show()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._show()
        self.view.close()

    def _poll(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self._show()

    def _show(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # must not interrupt training
            self.view.show(sweep_status(self.sweep_dir, self.known, self.only))


def watch(
    sweep_dir: Path,
    interval_seconds: float,
    *,
    limit: int = 0,
    as_json: bool = False,
    out: TextIO | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Show a sweep every `interval_seconds` until its runs have ended or it has no jobs left.

    Args:
        sweep_dir: the sweep's folder.
        interval_seconds: between two reads of files and queue.
        limit: rows of the table on a terminal; 0 = as many as fit.
        as_json: print JSON objects.
        out: where to show it; default: standard output.
        sleep: waits.

    Returns:
        Exit code: 0 if all runs have ended, 1 if some of them failed, 75 if some have not ended.

    Raises:
        InputError: no sweep there.
    """
    out = sys.stdout if out is None else out
    known: dict[str, RunRow] = {}
    n_idle = 0
    view = LiveView(out, limit, as_json)
    try:
        while True:
            status, queue = sweep_status(sweep_dir, known), jobs_in_queue(sweep_dir)
            view.show(status, queue)
            idle = queue is not None and not (queue.unknown or queue.jobs or status.n_workers)
            # A job that requeues itself is missing from the queue for a moment: check twice.
            n_idle = n_idle + 1 if idle else 0
            n_left = len(status.rows) - status.done
            if not n_left or n_idle == 2:
                break
            sleep(interval_seconds)
    finally:
        view.close()
    if not n_left:
        return 1 if status.counts["failed"] else 0
    if not as_json:
        print(
            f"no job of this sweep is left, but {n_left} run{' has' if n_left == 1 else 's have'} "
            "not ended: run the same sweep command again to continue.",
            file=out,
            flush=True,
        )
    return 75
