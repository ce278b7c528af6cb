"""Commands in a pseudo-terminal of a given width, and the tables that they print."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
from collections.abc import Iterator
from typing import TextIO

from chinchilla import cli


@contextlib.contextmanager
def terminal(width: int) -> Iterator[tuple[TextIO, list[str]]]:
    """A stream to a terminal of `width` columns, and its text, complete when the block has ended."""
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    read, text = bytearray(), list[str]()

    def collect() -> None:
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while data := os.read(reader, 1 << 16):
                read.extend(data)

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        with os.fdopen(writer, "w", encoding="utf-8") as stream:
            yield stream, text
    finally:
        thread.join()
        os.close(reader)
        styled = read.decode().replace("\r\n", "\n")
        text.append(re.sub(r"\x1b\[[0-9;]*m", "", styled))


def in_terminal(words: str, width: int) -> str:
    """What a command prints on both streams in a terminal."""
    with terminal(width) as (stream, text):
        before = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = stream
        try:
            cli.main(words.split())
        finally:
            sys.stdout, sys.stderr = before
    return text[0]


def tables_in(text: str) -> list[dict[str, list[str]]]:
    """The tables of an output: head -> words of the column, from top to bottom."""
    tables = []
    for block in re.findall(r"^┏.*?^└", text, re.M | re.S):
        head, body = block.split("┡")
        heads = [" ".join(" ".join(x).split()) for x in zip(*_cells(head, "┃"), strict=True)]
        columns = zip(*_cells(body, "│"), strict=True)
        tables.append(
            {h: " ".join(x).split() for h, x in zip(heads, columns, strict=True)},
        )
    return tables


def _cells(block: str, border: str) -> list[list[str]]:
    return [line.split(border)[1:-1] for line in block.split("\n") if line.startswith(border)]


def not_shown(text: str) -> list[list[str]]:
    """The heads that each note below a table names."""
    notes = re.findall(r"^not shown at \d+\s+columns:\s+(.*?)\.\s+Widen", text, re.M | re.S)
    return [" ".join(note.split()).split("; ") for note in notes]
