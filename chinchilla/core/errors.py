"""The two ways a command says no; `cli.py` turns each into one line and an exit code."""

import difflib
import errno
import re
from collections.abc import Iterable


class InputError(ValueError):
    """What a person gave cannot be used: says what was given, why not, what to do (exit 2)."""


class Refusal(ValueError):
    """Well-formed input that cannot identify what was asked: a plan, a fit (exit 3)."""


class FitError(Refusal):
    """One approach cannot answer from these observations; the others may.

    `kind` is one word for programs: unidentified, opens_downward, vertex_outside, ...
    """

    def __init__(self, message: str, kind: str = "unidentified") -> None:
        super().__init__(message)
        self.kind = kind


class DataError(InputError):
    """A corpus, tokenizer or token file that cannot be read as what it claims to be."""


class UnreachableError(DataError):
    """Text that a hub or a network did not give now, and may give later."""


def nearest(word: str, known: Iterable[str]) -> str:
    """ " Did you mean X?" for the known word closest to `word`, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]}?" if close else ""


def one_line(error: Exception) -> str:
    """What an error says, as one line without control characters, however much a file held."""
    said = re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]+", " ", str(error))
    return said if len(said) <= 3000 else f"{said[:3000]} ..."


_OS_ADVICE = {
    errno.ENOSPC: "Make room on that disk",
    errno.EDQUOT: "Make room within the quota",
    errno.EROFS: "Choose a folder that can be written to",
    errno.EACCES: "Ask for permission, or choose another path",
    errno.EPERM: "Ask for permission, or choose another path",
    errno.EISDIR: "A file belongs there: move the folder away or choose another path",
    errno.ENOTDIR: "A folder belongs there: move the file away or choose another path",
    errno.EEXIST: "Move what is there away or choose another path",
    errno.ENOTEMPTY: "Move what is there away or choose another path",
    errno.ENOENT: "Check the path",
    errno.ENAMETOOLONG: "Choose a shorter path",
    errno.EMFILE: "Raise the limit on open files (ulimit -n)",
}


def of_system(error: OSError) -> Exception:
    """What the system refused, for which file, and what to do about it."""
    said = f"{error.strerror or error}"
    if error.filename:
        said += f": {error.filename}"
    advice = _OS_ADVICE.get(error.errno or 0, "See to that")
    return Exception(f"{said}. {advice}, and run the same command again.")
