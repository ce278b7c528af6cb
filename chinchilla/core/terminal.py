"""Width of a terminal, and everything that is printed: messages that wrap at words to it, lines, logs.

Only this module prints. Text of files (records, tables, names, logs of workers) may contain anything, so
control characters are removed here (`clean`).
"""

import errno
import logging
import os
import sys
import textwrap
from typing import TextIO

from chinchilla.core.errors import clean, one_line


class OutputError(OSError):
    """Standard output or standard error cannot be written."""

    @property
    def closed(self) -> bool:
        """Whether the reader of the output is gone: the other end of a pipe, or the terminal."""
        return self.errno in (errno.EPIPE, errno.EIO, errno.EBADF)


def terminal_width(stream: TextIO) -> int | None:
    """Columns of the terminal that `stream` writes to (COLUMNS, if set, overrides); None without one."""
    if not stream.isatty():
        return None
    if stated := stated_width():
        return stated
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return None


def stated_width() -> int | None:
    """The width in the environment variable COLUMNS; None without a positive number."""
    text = os.environ.get("COLUMNS", "")
    return (int(text) or None) if text.isdecimal() and len(text) < 6 else None


def wrapped(text: str, width: int | None) -> str:
    """The lines of a text, wrapped at words; unchanged if `width` is None.

    A word that is longer than a line is not divided, so that numbers and paths remain whole.
    Continuation lines are indented by two columns more than the line itself.
    """
    if width is None:
        return text
    lines = []
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip(" ")) + 2)
        lines += textwrap.wrap(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        ) or [""]
    return "\n".join(lines)


def print_message(text: str, file: TextIO | None = None) -> None:
    """Print a message; in a terminal it wraps at words, elsewhere its lines remain as they are.

    Args:
        text: the message, of one or more lines.
        file: stream to print to; default: standard output.
    """
    file = sys.stdout if file is None else file
    print_rendered(wrapped(clean(text, lines=True), terminal_width(file)) + "\n", file)


def print_lines(text: str, file: TextIO | None = None) -> None:
    """Print lines that never wrap: JSON, commands to be copied, quoted logs."""
    print_rendered(clean(text, lines=True) + "\n", sys.stdout if file is None else file)


def print_rendered(text: str, file: TextIO) -> None:
    """Print a text whose parts have been cleaned, such as a table with the styles of a terminal.

    A message that cannot be written to standard error is lost, and what it is about continues.

    Raises:
        OutputError: another stream is closed, or its disk is full.
    """
    try:
        try:
            file.write(text)
        except UnicodeEncodeError:
            encoding = file.encoding or "ascii"
            file.write(text.encode(encoding, "replace").decode(encoding))
        file.flush()
    except (OSError, ValueError) as error:  # ValueError: closed by this process
        if file is not sys.stderr:
            number = getattr(error, "errno", None) or errno.EBADF
            raise OutputError(number, os.strerror(number)) from None


def log_to_output() -> None:
    """Write the log of a worker to standard output; training continues if that is closed."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_CleanFormatter("%(asctime)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.raiseExceptions = False


class _CleanFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return clean(super().format(record), lines=True)


def print_error(message: BaseException | str) -> None:
    """Print an error as one line "chinchilla: ..." on standard error, which wraps in a terminal."""
    print_message(f"chinchilla: {one_line(message)}", file=sys.stderr)
