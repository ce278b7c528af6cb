"""Special files in the place of files, and a limit of time for code that may wait for them."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KINDS = ["FIFO", "device", "terminal", "socket", "directory", "link to nothing", "link to itself"]


class Waited(BaseException):
    """The code did not end within the limit; no handler of errors catches this."""


def put_special(kind: str, path: Path) -> None:
    """Put a special file in the place of `path`, whose folder must exist."""
    path.unlink(missing_ok=True)
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        here = Path.cwd()
        os.chdir(path.parent)  # the path of a socket has at most 107 bytes
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path.name)
        finally:
            os.chdir(here)
    elif kind == "directory":
        path.mkdir()
    else:
        targets = {"device": "/dev/zero", "terminal": "/dev/ptmx", "link to nothing": "nothing"}
        path.symlink_to(targets.get(kind, path.name))


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise Waited in the main thread after this time."""

    def stop(*_: object) -> None:
        raise Waited(f"not finished after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
