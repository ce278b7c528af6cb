"""Exceptions that end a command with one line and an exit code, and the formatting of errors."""

import difflib
import errno
import re
from collections.abc import Iterable

EXIT_OK, EXIT_FAILED = 0, 1  # 1: a run failed, or a worker cannot train here
EXIT_AGAIN = 75  # stopped or unfinished: run the same command again


class InputError(ValueError):
    """Invalid input: the message states what was given, why it is invalid, what to do (exit code 2)."""


class Refusal(ValueError):
    """Valid input from which the requested plan or fit cannot be made (exit code 3)."""


class FitError(Refusal):
    """One approach cannot be fitted to these observations; others may be.

    Attributes:
        kind: identifier for programs: unidentified, opens_downward, vertex_outside, ...
    """

    def __init__(self, message: str, kind: str = "unidentified") -> None:
        super().__init__(message)
        self.kind = kind


class DataError(InputError):
    """A corpus, tokenizer or token file that cannot be read in its format."""


class UnreachableError(DataError):
    """Text that a hub or a network did not deliver; a later attempt may succeed."""


def nearest(word: str, known: Iterable[str]) -> str:
    """ " Did you mean X?" for the known word closest to `word`, or ""."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {matches[0]}?" if matches else ""


def one_line(error: BaseException, max_length: int = 3000) -> str:
    """The message of an error on one line, without control characters."""
    message = re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]+", " ", str(error))
    return message if len(message) <= max_length else f"{message[:max_length]} ..."


def error_summary(error: BaseException) -> str:
    """Type and first line of an error of another library: "RuntimeError: out of memory".

    Later lines are left out: torch appends a C++ stack.
    """
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


_OS_ADVICE = {
    errno.ENOSPC: "Free space on that disk",
    errno.EDQUOT: "Free space within the quota",
    errno.EMFILE: "Raise the limit on open files (ulimit -n)",
}


def os_error_message(error: OSError) -> str:
    """Reason and file of an error of the operating system, and what to do, on one line."""
    message = f"{error.strerror or error}"
    if error.filename:
        message += f": {error.filename}"
    advice = _OS_ADVICE.get(error.errno or 0, "Check the path and its permissions")
    return one_line(Exception(f"{message}. {advice}, and run the same command again."))
