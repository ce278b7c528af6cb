"""Numbers as tables hold them: 1.5e9, 1.5B, "1,500,000,000", 1.500.000.000, 3,51.

A column is read in one style: its decimal mark is a point or a comma, as its own cells show, or, where
they do not, as other columns or the semicolons of the file show. What stays ambiguous is refused.
Floor 0: NumPy only.
"""

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from chinchilla.core.errors import InputError

SUFFIXES = {  # power of ten
    "k": 3,
    "m": 6,
    "b": 9,
    "g": 9,
    "t": 12,
    "mn": 6,
    "bn": 9,
    "tn": 12,
    "thousand": 3,
    "million": 6,
    "billion": 9,
    "trillion": 12,
}
COUNTS = ("budget_flops", "C", "N", "D", "unique_tokens")  # columns whose numbers may have a suffix
MISSING = ("", "nan", "na", "n/a", "#n/a", "none", "null", "<na>", "-")
MAX_CELL = 100  # characters of a number

_EXPONENT = r"(?:[eE][+-]?\d+)?"
_SUFFIXED = re.compile(r"([\d.,]*\d[.,]?)\s*([a-zA-Z]+)")
_GAPS = re.compile(r"(?<=\d)[ '\u2019\u00a0\u202f](?=\d{3}(?!\d))")  # 1 000 000, 1'000'000
_PLAIN = {mark: re.compile(rf"[+-]?\d+{re.escape(mark)}\d*{_EXPONENT}") for mark in ".,"}
_GROUP = {mark: re.compile(rf"[+-]?\d{{1,3}}{re.escape(mark)}\d{{3}}") for mark in ".,"}
_GROUPS = {  # thousands separators beyond doubt: two of them, or one and a decimal mark
    mark: re.compile(
        rf"[+-]?\d{{1,3}}(?:{re.escape(mark)}\d{{3}})+{re.escape(other)}\d+"
        rf"|[+-]?\d{{1,3}}(?:{re.escape(mark)}\d{{3}}){{2,}}"
    )
    for mark, other in ((",", "."), (".", ","))
}
_OTHER = {".": ",", ",": "."}


def has_comma(values: Sequence[Any]) -> bool:
    """Whether some cell holds a comma, so that the style of the column must be looked for."""
    return any("," in value for value in values if isinstance(value, str))


def decimal_mark(values: Sequence[Any]) -> str:
    """The decimal mark of the first cell of a column that shows one: "." or ","; "" if none does.

    Args:
        values: cells, of which only text counts; those that show the other mark are refused later.
    """
    for value in values:
        if not isinstance(value, str) or len(value) > MAX_CELL:
            continue
        text = _core(value)[0]
        for mark in ".,":
            if _GROUPS[mark].fullmatch(text):
                return _OTHER[mark]
            if _PLAIN[mark].fullmatch(text) and not _GROUP[mark].fullmatch(text):
                return mark
    return ""


def read_numbers(
    values: Sequence[Any],
    column: str,
    at: Callable[[int], str],
    *,
    may_be_empty: bool = False,
    decimal: str = ".",
) -> np.ndarray:
    """A column as float64: positive and finite; NaN for an empty cell where there may be one.

    Args:
        values: (n,) cells: text, or what a frame holds.
        column: our name of it; the counts (`COUNTS`) may have a suffix such as B.
        at: what errors call row i.
        may_be_empty: whether cells may hold nothing.
        decimal: the decimal mark; "" = unknown, so that a lone comma is ambiguous.

    Raises:
        InputError: naming row, column, and what would be a number.
    """
    if decimal == ".":
        try:  # all at once; the slow way below reads other spellings, or says what is wrong
            x = _plain(values, may_be_empty)
            good = np.isfinite(x) & (x > 0) | (np.isnan(x) & may_be_empty)
            if good.all():
                return x
        except (ValueError, TypeError, OverflowError):
            pass
    texts = ["" if value is None else str(value).strip() for value in values]

    @functools.cache
    def grouped(mark: str) -> bool:
        """Whether a cell of the column has this mark between thousands beyond doubt."""
        return any(len(t) <= MAX_CELL and _GROUPS[mark].fullmatch(_core(t)[0]) for t in texts)

    found = []
    empty = 0
    first: tuple[int, str] | None = None
    is_count = column in COUNTS
    for i, text in enumerate(texts):
        number = _quick(text, is_count, decimal)
        if number is None and text.lower() in MISSING:
            found.append(math.nan)
            if not may_be_empty:
                empty += 1
                first = first or (i, text)
            continue
        if number is None:
            number = _number(text, is_count, decimal, grouped)
        if number is None:
            raise InputError(f"{at(i)}: {column}={text!r} is not a number.{_hint(text, decimal)}")
        if not math.isfinite(number) or number <= 0:
            raise InputError(f"{at(i)}: {column}={text} is not a positive finite number.")
        found.append(number)
    if first:
        i, text = first
        what = (
            f"{column}={text} is not a positive finite number"
            if text.lower() == "nan"
            else f"{column}={text!r} is not a number"
        )
        more = f", and {empty - 1} more rows have none" if empty > 1 else ""
        cure = " Leave out runs without a final loss." if column == "L" else ""
        raise InputError(f"{at(i)}: {what}{more}.{cure}")
    return np.array(found)


def _plain(values: Sequence[Any], may_be_empty: bool) -> np.ndarray:
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
        return values.astype(np.float64)
    if may_be_empty:
        return np.array([float("nan" if str(v) == "" else v) for v in values])
    return np.array([float(v) for v in values])


def _core(text: str) -> tuple[str, int]:
    """A number without gaps between its thousands and without suffix, and the suffix's power of ten."""
    text = _GAPS.sub("", text.strip())
    found = _SUFFIXED.fullmatch(text)
    power = SUFFIXES.get(found[2].lower(), 0) if found else 0
    return (found[1], power) if found and power else (text, 0)


def _quick(text: str, is_count: bool, decimal: str) -> float | None:
    """What most cells say: a number in one style, perhaps with one letter behind it; None for others."""
    power = SUFFIXES.get(text[-1:].lower(), 0) if is_count else 0
    core = text[:-1] if power else text
    mark = decimal or "."
    if not core[-1:].isdigit() or _OTHER[mark] in core or core[-4:-3] == mark:
        return None
    try:
        core = core.replace(mark, ".")
        return float(f"{core}e{power}" if power else core)
    except ValueError:
        return None


def _number(
    text: str, is_count: bool, decimal: str, grouped: Callable[[str], bool]
) -> float | None:
    """What a cell says; None if it is no number, or may be two."""
    if len(text) > MAX_CELL and not text.isdigit():
        return None
    core, power = _core(text)
    if power and not is_count:
        return None
    mark = decimal or "."
    separator = _OTHER[mark]
    for sep in (separator, mark):
        whole = _GROUPS[sep].fullmatch(core) and (sep == separator or separator not in core)
        if whole or (_GROUP[sep].fullmatch(core) and grouped(sep)):
            core = core.replace(sep, "")
            break
    if separator in core or (not decimal and _GROUP[mark].fullmatch(core)):
        return None
    try:
        core = core.replace(mark, ".")
        return float(f"{core}e{power}" if power else core)  # 2.4B is 2.4e9 to the last digit
    except ValueError:
        return None


def _hint(text: str, decimal: str) -> str:
    """How to write what was probably meant."""
    if text.startswith("#"):
        return " It is an error of the spreadsheet: correct that cell and export again."
    if re.fullmatch(r"[\d.,\s'\u2019]+(e[+-]?\d+)?", text, re.IGNORECASE):
        if decimal == "," and "." in text:
            return " Other numbers here have a decimal comma. Write all in one way."
        return " Write it with a decimal point and without thousands separators."
    return ""
