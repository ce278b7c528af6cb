"""Follow a sweep: while `chinchilla sweep` waits for it, and `chinchilla status watch=true`.

A line is printed when a run has ended or the number of runs in a state has changed, and otherwise every
LINE_SECONDS.
"""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from chinchilla.core.errors import EXIT_AGAIN, EXIT_FAILED, EXIT_OK
from chinchilla.core.terminal import print_lines, print_message
from chinchilla.sweep.run_files import RunFilter
from chinchilla.sweep.slurm.unstarted import unstarted_lines
from chinchilla.sweep.view.jobs import jobs_in_queue, queue_line
from chinchilla.sweep.view.status import (
    ENDED,
    RunRow,
    SweepStatus,
    end_line,
    summary_line,
    sweep_status,
)

POLL_SECONDS = 1.0
LINE_SECONDS = 30.0


class StatusLines:
    """Prints what has changed between successive statuses of a sweep, as text or JSON objects."""

    def __init__(self, out: TextIO, as_json: bool = False) -> None:
        self.out, self.as_json = out, as_json
        self.ended: set[str] | None = None  # run ids; None before the first status
        self.counts: tuple[object, ...] = ()
        self.printed_at = 0.0

    def show(self, status: SweepStatus, queue: dict[str, Any] | None = None) -> None:
        ended = {row.run_id: row for row in status.rows if row.state in ENDED}
        new = [] if self.ended is None else [r for k, r in ended.items() if k not in self.ended]
        self.ended = set(ended)
        counts = (status.counts, queue_line(queue) if queue else "")
        if counts == self.counts and time.monotonic() - self.printed_at < LINE_SECONDS:
            return
        if self.as_json:
            value = {"counts": status.counts, "fraction": status.fraction, "queue": queue}
            print_lines(json.dumps(value), self.out)
        else:
            text = "\n".join([*map(end_line, new), summary_line(status)])
            print_message(text + (f"; {queue_line(queue)}" if queue else ""), self.out)
        self.counts, self.printed_at = counts, time.monotonic()


@contextlib.contextmanager
def show_progress(
    sweep_dir: Path, out: TextIO | None = None, only: RunFilter | None = None
) -> Iterator[None]:
    """Show a sweep while the block runs.

    Args:
        sweep_dir: folder of the sweep, with its plan.
        out: where to show it; default: standard output.
        only: selects the runs to show; default: the whole plan.
    """
    lines, known = StatusLines(out or sys.stdout), dict[str, RunRow]()
    ended = threading.Event()

    def show() -> None:
        with contextlib.suppress(OSError, ValueError):  # must not interrupt training
            lines.show(sweep_status(sweep_dir, known, only))

    def poll() -> None:
        while not ended.wait(POLL_SECONDS):
            show()

    show()
    thread = threading.Thread(target=poll, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        show()


def watch(
    sweep_dir: Path,
    interval_seconds: float,
    *,
    as_json: bool = False,
    out: TextIO | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Show a sweep every `interval_seconds` until its runs have ended or it has no jobs left.

    Args:
        sweep_dir: the sweep's folder.
        interval_seconds: between two reads of files and queue.
        as_json: print JSON objects.
        out: where to show it; default: standard output.
        sleep: waits.

    Returns:
        Exit code: 0 if all runs have ended, 1 if some of them failed or are blocked, 75 if others have not ended.

    Raises:
        InputError: no sweep there.
    """
    out = sys.stdout if out is None else out
    known: dict[str, RunRow] = {}
    n_idle = 0
    lines = StatusLines(out, as_json)
    while True:
        status, queue = sweep_status(sweep_dir, known), jobs_in_queue(sweep_dir)
        lines.show(status, queue)
        idle = queue is not None and not (
            queue["unknown"] or queue["jobs"] or status.counts["running"]
        )
        # A job that requeues itself is missing from the queue for a moment: check twice.
        n_idle = n_idle + 1 if idle else 0
        n_left = len(status.rows) - status.done - status.counts["blocked"]
        if not n_left or n_idle == 2:
            break
        sleep(interval_seconds)
    if not n_left:
        return EXIT_FAILED if status.counts["failed"] or status.counts["blocked"] else EXIT_OK
    if not as_json:
        for line in unstarted_lines(queue["unstarted"]) if queue else ():
            print_message(line, out)
        print_message(
            f"no job of this sweep is left, but {n_left} run{' has' if n_left == 1 else 's have'} "
            "not ended: run the same sweep command again to continue.",
            out,
        )
    return EXIT_AGAIN
