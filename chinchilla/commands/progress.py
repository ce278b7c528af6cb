"""Lines on standard error that say what a command is doing, once it has taken two seconds."""

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
    """Show what a block of work is at, if it takes long.

    Nothing is printed in the first seconds. Then the current stage is, with the seconds passed, and
    again every `following` seconds until the block ends.

    Args:
        out: where to; default: standard error.
        first: seconds before the first line.
        following: seconds between lines.

    Yields:
        A function to be told the name of each stage as it begins.
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
