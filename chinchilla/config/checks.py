"""Checks of single values. Each raises InputError with the key, the value and what is accepted."""

import math
import re
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any

from chinchilla.core.errors import InputError, clean, shortened

FORMATS = ("text", "json")  # of the output of a command
MAX_NAME = 100  # bytes of a name; folders and files that contain it add to it
MAX_DIGITS = 100  # characters of a number


def require_name(key: str, value: str) -> None:
    """Refuse a name that is not one component of a path: with / or \\, hidden, unprintable or too long."""
    problem = ""
    if not value or value != value.strip():
        problem = "is empty, or begins or ends with a space"
    elif re.search(r"[/\\]", value) or value.startswith((".", "-")):
        problem = "contains / or \\, or begins with . or -"
    elif value != clean(value):
        problem = "contains control characters"
    elif len(value.encode()) > MAX_NAME:
        problem = f"is longer than {MAX_NAME} bytes"
    if problem:
        raise InputError(f"{key}={shortened(repr(value))} {problem}. Use letters, digits, _ and -.")


def require_number(
    key: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    hint: str = "",
) -> None:
    """Refuse a value that is not a number within the bounds; `above` and `below` are exclusive."""
    is_number = isinstance(value, Real) and not math.isnan(value)
    if (
        is_number
        and (above is None or value > above)
        and (at_least is None or value >= at_least)
        and (below is None or value < below)
        and (at_most is None or value <= at_most)
    ):
        return
    bounds = {"above": above, "at least": at_least, "below": below, "at most": at_most}
    allowed = [f"{words} {_plain(bound)}" for words, bound in bounds.items() if bound is not None]
    text = f"be {' and '.join(allowed)}"
    if allowed == ["at least 0"]:
        text = "not be negative" if is_number else "be a number"
    raise InputError(f"{key}={shortened(str(value))} must {text}. {hint}".rstrip())


def _plain(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


def require_whole(key: str, value: Any) -> None:
    if not isinstance(value, Integral):
        raise InputError(f"{key}={shortened(repr(value))} must be a whole number.")


def require_choice(key: str, value: Any, choices: Collection[str]) -> None:
    if value not in choices:
        raise InputError(f"{key}={shortened(repr(value))}: choose one of {', '.join(choices)}.")
