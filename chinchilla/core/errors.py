"""Exceptions that end a command with one line and an exit code, and the formatting of errors."""

import difflib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

EXIT_OK, EXIT_FAILED = 0, 1  # 1: a run failed, or a worker cannot train here
EXIT_AGAIN = 75  # stopped or unfinished: run the same command again


class UserError(ValueError):
    """Problems of what the user gave; each argument is the message of one, on one line."""

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class InputError(UserError):
    """Invalid input: the message states what was given, why it is invalid, what to do (exit code 2)."""


class Refusal(UserError):
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


class MemoryRefused(InputError):
    """A run that needs more memory than this device has available at present."""


class UnreachableError(DataError):
    """Text that a hub or a network did not deliver; a later attempt may succeed."""


class Problems:
    """Collects problems, so that they are reported together.

    >>> problems = Problems()
    >>> for word in words:
    ...     with problems.collected():
    ...         check(word)
    >>> problems.raise_any()
    """

    def __init__(self) -> None:
        self.errors: list[UserError] = []

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Keep an InputError or Refusal that is raised in this context, and continue after it."""
        try:
            yield
        except (InputError, Refusal) as error:
            self.errors.append(error)

    def error(self) -> UserError | None:
        """All problems as one error, each message once: an InputError if one of them is, or a Refusal."""
        if len(self.errors) < 2:
            return self.errors[0] if self.errors else None
        messages = dict.fromkeys(message for error in self.errors for message in error.args)
        is_input = any(isinstance(error, InputError) for error in self.errors)
        return (InputError if is_input else Refusal)(*messages)

    def raise_any(self) -> None:
        """Raise `error()`, if there is a problem."""
        if error := self.error():
            raise error


def nearest(word: str, known: Iterable[str]) -> str:
    """ " Did you mean X?" for the known word closest to `word`, or "".

    For GROUP.KEY, words of the same group come first: those close to KEY, then those that end in _KEY.
    """
    known, (group, _, key) = list(known), word.partition(".")
    of_group = [each.partition(".")[2] for each in known if key and each.startswith(f"{group}.")]
    ends = [each for each in of_group if each.endswith(f"_{key}")]
    if close := difflib.get_close_matches(key, of_group, n=1, cutoff=0.6) or ends[:1]:
        return f" Did you mean {group}.{close[0]}?"
    matches = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" Did you mean {matches[0]}?" if matches else ""


def nearest_path(path: Path | str) -> str:
    """ " Did you mean X?" for the existing path closest to a missing one, or ""."""
    path = Path(path)
    if os.path.lexists(path):  # also a link to nothing
        return ""
    folder = next((each for each in path.parents if each.is_dir()), Path())
    parts = path.relative_to(folder).parts if folder != path else ()
    if not parts:
        return ""
    try:
        names = sorted(each.name for each in folder.iterdir())
    except OSError:
        return ""
    for name in difflib.get_close_matches(parts[0], names, n=1, cutoff=0.6):
        there = folder.joinpath(name, *parts[1:])
        return f" Did you mean {there if there.exists() else folder / name}?"
    return ""


# Sequences that move a terminal's cursor, or change its colours, title or clipboard.
_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]"
)
# Other control characters, those that change the direction of text, and bytes that are not UTF-8.
_CONTROLS = r"\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_IN_LINE = re.compile(rf"[\x00-\x1f{_CONTROLS}]+")
_IN_LINES = re.compile(rf"[\x00-\x08\x0b-\x1f{_CONTROLS}]")


def clean(text: str, lines: bool = False) -> str:
    """A text that only shows characters wherever it is printed, in reading order.

    Args:
        text: may contain text of files, which anyone may have written.
        lines: keep line breaks and tabs.
    """
    if text.isprintable():
        return text
    return (_IN_LINES if lines else _IN_LINE).sub(" ", _SEQUENCES.sub("", text))


def shortened(text: str, max_length: int = 100) -> str:
    """`text`, truncated for use in a message."""
    return text if len(text) <= max_length else f"{text[:max_length]} ..."


# Longer than a name of a file or, with /, than a path can be.
_LONG_WORD = re.compile(r"[^\s/]{256,}|\S{4097,}")


def one_line(error: BaseException | str, max_length: int = 3000) -> str:
    """The message of an error on one line, without control characters; long words are truncated."""
    message = _LONG_WORD.sub(lambda word: shortened(word[0]), clean(str(error)))
    return shortened(message, max_length)


def error_summary(error: BaseException) -> str:
    """Type and first line of an error of another library: "RuntimeError: out of memory".

    Later lines are left out: torch appends a C++ stack.
    """
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:600]}" if lines else type(error).__name__


_OS_ADVICE = {
    errno.ENOSPC: "Free space on that disk",
    errno.EDQUOT: "Free space within the quota",
    errno.ELOOP: "Replace the link by a folder or file of its own",
    errno.EMFILE: "Raise the limit on open files (ulimit -n)",
}


def os_error_message(error: OSError) -> str:
    """Reason and file of an error of the operating system, and what to do, on one line."""
    message = f"{error.strerror or error}"
    if error.filename:
        message += f": {error.filename}"
    advice = _OS_ADVICE.get(error.errno or 0, "Check the path and its permissions")
    return one_line(Exception(f"{message}. {advice}, and run the same command again."))
