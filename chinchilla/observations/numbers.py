"""Parse numbers as tables write them: 1.5e9, 1.5B, "1,500,000,000", 1.500.000.000, 3,51.

A column has one decimal mark, a point or a comma, that its own cells show; otherwise other columns
or semicolons between values decide (`Table.decimal_marks`). Ambiguous numbers are refused.
"""

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from chinchilla.core.errors import InputError

_SUFFIXES = {  # powers of ten
    "k": 3, "m": 6, "b": 9, "g": 9, "t": 12, "mn": 6, "bn": 9, "tn": 12,
    "thousand": 3, "million": 6, "billion": 9, "trillion": 12,
}  # fmt: skip
_WITH_SUFFIX = ("budget_flops", "C", "N", "D", "unique_tokens")  # columns of counts
_EMPTY = ("", "nan", "na", "n/a", "#n/a", "none", "null", "<na>", "-")
_MAX_CELL = 100  # characters of a number

_SUFFIXED = re.compile(r"([\d.,]*\d[.,]?)\s*([a-zA-Z]+)")
_SPACES = re.compile(r"(?<=\d)[ '\u2019\u00a0\u202f](?=\d{3}(?!\d))")  # 1 000 000, 1'000'000
_OTHER_MARK = {".": ",", ",": "."}
_DECIMAL = {m: re.compile(rf"[+-]?\d+{re.escape(m)}\d*(?:[eE][+-]?\d+)?") for m in ".,"}
_ONE_GROUP = {m: re.compile(rf"[+-]?\d{{1,3}}{re.escape(m)}\d{{3}}") for m in ".,"}  # ambiguous
_GROUPS = {  # certain thousands separators: two or more, or one beside a decimal mark
    m: re.compile(
        rf"[+-]?\d{{1,3}}(?:{re.escape(m)}\d{{3}})+{re.escape(other)}\d+"
        rf"|[+-]?\d{{1,3}}(?:{re.escape(m)}\d{{3}}){{2,}}"
    )
    for m, other in _OTHER_MARK.items()
}


def decimal_mark(values: Sequence[Any]) -> str:
    """The decimal mark of the first cell that shows one: "." or ","; "" if none does.

    Args:
        values: cells of a column; only text is examined.
    """
    for value in values:
        if not isinstance(value, str) or len(value) > _MAX_CELL:
            continue
        digits = _split_suffix(value)[0]
        for mark in ".,":
            if _GROUPS[mark].fullmatch(digits):
                return _OTHER_MARK[mark]
            if _DECIMAL[mark].fullmatch(digits) and not _ONE_GROUP[mark].fullmatch(digits):
                return mark
    return ""


def parse_column(
    values: Sequence[Any],
    column: str,
    where: Callable[[int], str],
    *,
    may_be_empty: bool = False,
    decimal: str = ".",
) -> np.ndarray:
    """Convert a column to positive finite float64 values, NaN for empty cells.

    Args:
        values: (n,) cells: text, or the values of a frame.
        column: name of the column; counts may have a suffix such as B.
        where: name of row i for error messages.
        may_be_empty: whether cells may be empty.
        decimal: the decimal mark; "" if unknown, so that a single comma or point is ambiguous.

    Raises:
        InputError: naming the row, the column, and how to write the number.
    """
    if decimal == ".":
        try:  # fast path: plain numbers only
            x = _plain_numbers(values, may_be_empty)
            if np.all(np.isfinite(x) & (x > 0) | (np.isnan(x) & may_be_empty)):
                return x
        except (ValueError, TypeError, OverflowError):
            pass
    cells = ["" if value is None else str(value).strip() for value in values]

    @functools.cache
    def has_groups(mark: str) -> bool:
        """Whether `mark` certainly separates thousands in some cell of the column."""
        return any(
            len(c) <= _MAX_CELL and _GROUPS[mark].fullmatch(_split_suffix(c)[0]) for c in cells
        )

    numbers: list[float] = []
    empty: list[int] = []
    for i, cell in enumerate(cells):
        number = _parse(cell, column in _WITH_SUFFIX, decimal, has_groups)
        if cell.lower() in _EMPTY:
            empty.append(i)
            number = math.nan
        elif number is None:
            raise InputError(
                f"{where(i)}: {column}={cell!r} is not a number.{_advice(cell, decimal)}"
            )
        elif not math.isfinite(number) or number <= 0:
            raise InputError(f"{where(i)}: {column}={cell} is not a positive finite number.")
        numbers.append(number)
    if empty and not may_be_empty:
        cell = cells[empty[0]]
        problem = (
            f"{column}={cell} is not a positive finite number"
            if cell.lower() == "nan"
            else f"{column}={cell!r} is not a number"
        )
        others = f", and it is empty in {len(empty) - 1} more rows" if len(empty) > 1 else ""
        advice = " Leave out runs without a final loss." if column == "L" else ""
        raise InputError(f"{where(empty[0])}: {problem}{others}.{advice}")
    return np.array(numbers)


def _plain_numbers(values: Sequence[Any], may_be_empty: bool) -> np.ndarray:
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
        return values.astype(np.float64)
    return np.array([float("nan" if may_be_empty and str(v) == "" else v) for v in values])


def _split_suffix(cell: str) -> tuple[str, int]:
    """The digits of a number without spaces, and the power of ten of its suffix."""
    cell = _SPACES.sub("", cell.strip())
    match = _SUFFIXED.fullmatch(cell)
    power = _SUFFIXES.get(match[2].lower(), 0) if match else 0
    return (match[1], power) if match and power else (cell, 0)


def _parse(
    cell: str, may_have_suffix: bool, decimal: str, has_groups: Callable[[str], bool]
) -> float | None:
    """The number in a cell; None if it is not a number or is ambiguous."""
    if len(cell) > _MAX_CELL and not cell.isdigit():
        return None
    digits, power = _split_suffix(cell)
    if power and not may_have_suffix:
        return None
    mark = decimal or "."
    separator = _OTHER_MARK[mark]
    for sep in (separator, mark):
        certain = _GROUPS[sep].fullmatch(digits) and (sep == separator or separator not in digits)
        if certain or (_ONE_GROUP[sep].fullmatch(digits) and has_groups(sep)):
            digits = digits.replace(sep, "")
            break
    if separator in digits or (not decimal and _ONE_GROUP[mark].fullmatch(digits)):
        return None
    digits = digits.replace(mark, ".")
    try:
        return float(f"{digits}e{power}" if power else digits)  # 2.4B is 2.4e9 to the last digit
    except ValueError:
        return None


def _advice(cell: str, decimal: str) -> str:
    """How to write a number that could not be read."""
    if cell.startswith("#"):
        return " It is an error value of a spreadsheet: correct the cell and export again."
    if re.fullmatch(r"[\d.,\s'\u2019]+(e[+-]?\d+)?", cell, re.IGNORECASE):
        if decimal == "," and "." in cell:
            return " Other numbers of the table have a decimal comma. Use one decimal mark."
        return " Write it with a decimal point and without thousands separators."
    return ""
