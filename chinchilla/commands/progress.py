"""Progress lines on standard error for commands that take more than two seconds."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO

from chinchilla.core.units import clock

if TYPE_CHECKING:
    from rich.progress import TaskID

FIRST_SECONDS = 2.0
NEXT_SECONDS = 10.0


@contextlib.contextmanager
def late_lines(
    out: TextIO | None = None, first: float = FIRST_SECONDS, following: float = NEXT_SECONDS
) -> Iterator[Callable[[str], None]]:
    """Print the current stage of a block of work and the elapsed seconds, if it takes long.

    Args:
        out: stream to print to; default: standard error.
        first: seconds before the first line.
        following: seconds between lines.

    Yields:
        A function to call with the name of each stage as it begins.
    """
    out = sys.stderr if out is None else out
    began, stage, over = time.monotonic(), "", threading.Event()

    def begin(name: str) -> None:
        nonlocal stage
        stage = name

    def watch() -> None:
        wait = first
        while not over.wait(wait):
            if stage:
                print(f"{stage}, {time.monotonic() - began:.0f} s", file=out, flush=True)
            wait = following

    watcher = threading.Thread(target=watch, name="late lines", daemon=True)
    watcher.start()
    try:
        yield begin
    finally:
        over.set()
        watcher.join()


@contextlib.contextmanager
def stage_progress(out: TextIO | None = None) -> Iterator[Callable[[str, float, float], None]]:
    """Show the stages of one long command.

    On a terminal each stage has a bar; elsewhere a line when it begins and every 10 seconds. Both
    show speed and time left.

    Args:
        out: where to show it; default: standard error.

    Yields:
        A function of (stage, done, total), to be called repeatedly; in bytes, unless the total is 1. A
        total of 0 means unknown.
    """
    out = sys.stderr if out is None else out
    starts: dict[str, tuple[float, float]] = {}  # stage -> time and amount done at its first call
    if not out.isatty():
        last: dict[str, float] = {}  # stage -> time of its last line

        def line(stage: str, done: float, total: float) -> None:
            if time.monotonic() - last.get(stage, -NEXT_SECONDS) >= NEXT_SECONDS:
                share = f" {done / total:.0%}" if total else ""
                print(f"{stage}{share}{speed(starts, stage, done, total)}", file=out, flush=True)
                last[stage] = time.monotonic()

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(file=out)) as progress:
        tasks: dict[str, TaskID] = {}

        def bar(stage: str, done: float, total: float) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=None, note="")
            note = speed(starts, stage, done, total).lstrip(", ")
            progress.update(tasks[stage], completed=done, total=total or None, note=note)

        yield bar


def speed(starts: dict[str, tuple[float, float]], stage: str, done: float, total: float) -> str:
    """`, MB/s, time left` of a stage; "" in its first second, or where bytes are not counted."""
    now = time.monotonic()
    start, before = starts.setdefault(stage, (now, done))
    if now - start < 1 or done <= before or total == 1:
        return ""
    rate = (done - before) / (now - start)
    left = f", {clock((total - done) / rate)} left" if total > done else ""
    return f", {rate / 1e6:.3g} MB/s{left}"
