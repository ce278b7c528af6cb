"""Progress lines on standard error for commands that take more than two seconds."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

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
