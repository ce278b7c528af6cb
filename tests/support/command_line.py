"""Commands as typed: their exit code and output, and the check of an error of one line."""

import json
from typing import Any, NamedTuple


class Result(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def one_line(result: Result, code: int, *parts: str) -> None:
    """Check that the error is exactly one line, which contains every part."""
    assert (result.code, result.err.count("\n")) == (code, 1), result.err
    assert result.err.startswith("chinchilla: ")
    assert "Traceback" not in result.err + result.out
    for part in parts:
        assert part in result.err
