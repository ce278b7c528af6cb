"""Progress lines on standard error for commands that take more than two seconds."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from chinchilla.core.terminal import print_message
from chinchilla.core.units import clock

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
                print_message(f"{stage}, {time.monotonic() - began:.0f} s", out)
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
    """Print a line when a stage of a long command begins and every 10 seconds of it.

    Args:
        out: stream to print to; default: standard error.

    Yields:
        A function of (stage, done, total), to be called repeatedly; in bytes, unless the total is 1. A
        total of 0 means unknown.
    """
    out = sys.stderr if out is None else out
    starts: dict[str, tuple[float, float]] = {}  # stage -> time and amount done at its first call
    printed: dict[str, float] = {}  # stage -> time of its last line

    def report(stage: str, done: float, total: float) -> None:
        if time.monotonic() - printed.get(stage, -NEXT_SECONDS) >= NEXT_SECONDS:
            share = f" {done / total:.0%}" if total else ""
            print_message(f"{stage}{share}{speed(starts, stage, done, total)}", out)
            printed[stage] = time.monotonic()

    yield report


def speed(starts: dict[str, tuple[float, float]], stage: str, done: float, total: float) -> str:
    """`, MB/s, time left` of a stage; "" in its first second, or where bytes are not counted."""
    now = time.monotonic()
    start, before = starts.setdefault(stage, (now, done))
    if now - start < 1 or done <= before or total == 1:
        return ""
    rate = (done - before) / (now - start)
    left = f", {clock((total - done) / rate)} left" if total > done else ""
    return f", {rate / 1e6:.3g} MB/s{left}"
