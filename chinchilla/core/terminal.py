"""Width of a terminal, and messages that wrap at words to it."""

import os
import sys
import textwrap
from typing import TextIO

from chinchilla.core.errors import one_line


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
    print(wrapped(text, terminal_width(file)), file=file, flush=True)


def print_error(message: BaseException | str) -> None:
    """Print an error as one line "chinchilla: ..." on standard error, which wraps in a terminal."""
    print_message(f"chinchilla: {one_line(message)}", file=sys.stderr)
