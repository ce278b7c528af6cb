"""The live view of a sweep while this process waits for it or trains it, and of long stages.

A thread reads the sweep's files once a second. On a terminal: one bar in FLOPs for the sweep, one
per running run, a line for each that ends. Elsewhere: that line, and a summary every 10 seconds,
without escape codes.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from chinchilla.sweep.view.status import (
    DONE,
    CellRow,
    SweepStatus,
    clock,
    summary_line,
    sweep_status,
)

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LOOK_SECONDS = 1.0
LINE_SECONDS = 10.0


def end_line(row: CellRow) -> str:
    """What became of a run, in a line."""
    if row.state == "finished":
        return f"finished {row.run_id}  loss {row.loss:.4f}  {row.tokens_per_second or 0:,.0f} tokens/s"
    return f"{row.state} {row.run_id}  {row.reason}"


def _bars(out: TextIO) -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(file=out),
    )


@contextlib.contextmanager
def stage_progress(out: TextIO | None = None) -> Iterator[Callable[[str, float, float], None]]:
    """Show the stages of one long command.

    Args:
        out: where to; default: standard error.

    Yields:
        A function of (stage, done, total), bytes but where the total is 1; a total of 0 is not
        known. A bar per stage on a terminal; elsewhere a line when a stage begins and every 10
        seconds. Both say how fast it goes and how long it will take.
    """
    out = sys.stderr if out is None else out
    began: dict[str, tuple[float, float]] = {}  # stage -> when, and how much was done then
    if not out.isatty():
        last: dict[str, float] = {}  # stage -> when it last had its line

        def line(stage: str, done: float, total: float) -> None:
            if time.monotonic() - last.get(stage, -LINE_SECONDS) >= LINE_SECONDS:
                share = f" {done / total:.0%}" if total else ""
                print(f"{stage}{share}{pace(began, stage, done, total)}", file=out, flush=True)
                last[stage] = time.monotonic()

        yield line
        return
    with _bars(out) as progress:
        tasks: dict[str, TaskID] = {}

        def bar(stage: str, done: float, total: float) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=None, note="")
            note = pace(began, stage, done, total).lstrip(", ")
            progress.update(tasks[stage], completed=done, total=total or None, note=note)

        yield bar


def pace(began: dict[str, tuple[float, float]], stage: str, done: float, total: float) -> str:
    """`, MB/s, time left` of a stage; nothing in its first second, or where bytes are not counted."""
    now = time.monotonic()
    since, before = began.setdefault(stage, (now, done))
    if now - since < 1 or done <= before or total == 1:
        return ""
    rate = (done - before) / (now - since)
    left = f", {clock((total - done) / rate)} left" if total > done else ""
    return f", {rate / 1e6:.3g} MB/s{left}"


class _Plain:
    """Lines for a file or a pipe."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.last = time.monotonic()

    def ended(self, row: CellRow) -> None:
        print(end_line(row), file=self.out, flush=True)

    def show(self, status: SweepStatus) -> None:
        if time.monotonic() - self.last >= LINE_SECONDS:
            print(summary_line(status), file=self.out, flush=True)
            self.last = time.monotonic()

    def close(self) -> None:
        pass


class _Bars:
    """Bars for a terminal."""

    def __init__(self, out: TextIO) -> None:
        self.progress = _bars(out)
        self.sweep = self.progress.add_task("sweep", total=None, note="")
        self.run_dirs: dict[str, TaskID] = {}
        self.progress.start()

    def ended(self, row: CellRow) -> None:
        self.progress.console.print(end_line(row), markup=False, highlight=False)

    def show(self, status: SweepStatus) -> None:
        total, done = status.flops_total, status.flops_done
        note = summary_line(status)
        self.progress.update(
            self.sweep, description=status.sweep, total=total, completed=done, note=note
        )
        running = {row.run_id: row for row in status.rows if row.state == "running"}
        for run_id in set(self.run_dirs) - set(running):
            self.progress.remove_task(self.run_dirs.pop(run_id))
        for run_id, row in running.items():
            if run_id not in self.run_dirs:
                self.run_dirs[run_id] = self.progress.add_task(f"  {run_id}", total=1, note="")
            loss = "" if row.loss is None else f"loss {row.loss:.3f}, "
            values: dict[str, Any] = {"total": row.steps, "completed": row.step}
            values["note"] = f"{loss}{clock(row.eta_seconds)} left"
            self.progress.update(self.run_dirs[run_id], **values)

    def close(self) -> None:
        for task in self.run_dirs.values():
            self.progress.remove_task(task)
        self.progress.stop()


class SweepProgress:
    """`with SweepProgress(sweep_dir): ...` shows the sweep while the block runs.

    Args:
        sweep_dir: folder of the sweep, with its plan.
        out: where to show it; default: standard output as it is now.
        only: run ids to keep to; default: the whole plan.
    """

    def __init__(
        self, sweep_dir: Path, out: TextIO | None = None, only: Collection[str] | None = None
    ) -> None:
        self.sweep_dir = sweep_dir
        self.only = only
        self.out = sys.stdout if out is None else out
        self.known: dict[str, CellRow] = {}
        self.over: set[str] = set()  # runs that were over before, or have had their line
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> "SweepProgress":
        before = sweep_status(self.sweep_dir, self.known, self.only)
        self.over = {row.run_id for row in before.rows if row.state in DONE}
        self.view: _Plain | _Bars = _Bars(self.out) if self.out.isatty() else _Plain(self.out)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()  # what ended since the last look
        self.view.close()

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # a look may fail; the training must not
            status = sweep_status(self.sweep_dir, self.known, self.only)
            for row in status.rows:
                if row.state in DONE and row.run_id not in self.over:
                    self.over.add(row.run_id)
                    self.view.ended(row)
            self.view.show(status)
