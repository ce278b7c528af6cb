"""The two ways a command says no; `cli.py` turns each into one line and an exit code."""

import difflib
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
