"""The frame of every program of the package: each error is one line and an exit code, never a traceback."""

import contextlib
import errno
import os
import sys
import tempfile
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from chinchilla.core.errors import (
    EXIT_FAILED,
    EXIT_OK,
    InputError,
    Refusal,
    error_summary,
    os_error_message,
)
from chinchilla.core.files.folders import opened
from chinchilla.core.terminal import OutputError, print_error

_FOLDER = "traceback_folder"  # attribute of an exception, set by `tracebacks_in`


def run_program(body: Callable[[], int], if_closed: int = EXIT_OK) -> int:
    """Run a program, and return its exit code.

    Errors of the user are printed as one line. Of any other exception, one line names the type and the
    file that holds the traceback. The same holds for exceptions in threads.

    Args:
        body: the program.
        if_closed: exit code if the reader of the output has ended, as in `chinchilla status | head -1`.
    """
    _open_missing_streams()
    before, threading.excepthook = threading.excepthook, _report_of_thread
    try:
        return _exit_code(body, if_closed)
    finally:
        threading.excepthook = before
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                _discard(stream)


def _exit_code(body: Callable[[], int], if_closed: int) -> int:
    try:
        return body()
    except InputError as error:
        return _fail(error.args, 2)
    except Refusal as error:
        return _fail([f"refused: {message}" for message in error.args], 3)
    except OutputError as error:
        if error.closed:
            return if_closed
        return _fail([f"the output cannot be written ({error.strerror}). Free space there."], 2)
    except OSError as error:
        return _fail([os_error_message(error)], 2)
    except MemoryError as error:
        reason = str(error).partition("\n")[0] or "no memory is left"
        return _fail([f"out of memory ({reason}). Use smaller settings, or a larger machine."], 2)
    except KeyboardInterrupt:
        return _fail(["interrupted; run the same command again to continue."], 130)
    except Exception as error:
        return _fail([_report(error)], EXIT_FAILED)


def _fail(messages: Sequence[str], code: int) -> int:
    """Print each message, on one line where the output is not a terminal, and return the exit code."""
    for message in messages:
        print_error(message)
    return code


@contextlib.contextmanager
def tracebacks_in(folder: Path) -> Iterator[None]:
    """Let `run_program` write the traceback of an exception in this block to a file of this folder."""
    try:
        yield
    except Exception as error:
        setattr(error, _FOLDER, getattr(error, _FOLDER, folder))
        raise


def _report(error: BaseException) -> str:
    """One line about an exception that no caller expects; its traceback is written to a new file."""
    text = "".join(traceback.format_exception(error))
    summary = f"{error_summary(error).rstrip('.')}: an error of this program or of a library"
    temporary = Path(tempfile.gettempdir())
    for folder in (getattr(error, _FOLDER, temporary), temporary):
        name = f"error-{uuid.uuid4().hex[:8]}.log"
        with contextlib.suppress(OSError):
            os.stat(folder.parent)  # is not created
            with opened(folder, create=True, wait=False) as place:
                number = place.create(name)
            with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
            return f"{summary}. The traceback is in {folder / name}."
    return f"{summary}. Its traceback could not be written."


def _report_of_thread(args: "threading.ExceptHookArgs") -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, OutputError):
        _fail([_report(args.exc_value)], EXIT_FAILED)


def _open_missing_streams() -> None:
    """Open /dev/null in place of standard streams that the caller has closed.

    Otherwise the next file that is opened gets their number, and whatever is printed is written into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError as error:
            if error.errno != errno.EBADF:
                continue
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            stream = os.fdopen(number, mode, encoding="utf-8", errors="backslashreplace")
            setattr(sys, name, stream)


def _discard(stream: TextIO) -> None:
    """Let what a stream still holds, and what is written later, go to /dev/null."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def state_folder() -> Path:
    """Folder of this user for what must be kept: $XDG_STATE_HOME/chinchilla."""
    return (
        Path(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"))
        / "chinchilla"
    )
