"""Read a table of runs from a CSV file or from a frame in memory.

Columns are found by name (`columns.py`) and converted to numbers on demand (`numbers`). Every row
keeps its line number for error messages. `runs.py` makes runs of the result.
"""

import csv
import io
import itertools
import math
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chinchilla.config.checks import require_choice
from chinchilla.core.errors import InputError, clean, nearest_path, shortened
from chinchilla.core.files.reading import MB, is_lfs_pointer, read_bytes
from chinchilla.core.units import CONVENTIONS
from chinchilla.observations.columns import (
    ALL_COLUMNS,
    COLUMNS,
    OPTIONAL,
    SUFFIXES,
    FoundColumns,
    column_of,
    find_columns,
    normalized,
)

NUMERIC = (*COLUMNS[1:], *OPTIONAL)
MAY_BE_EMPTY = ("budget_flops", *OPTIONAL)  # columns with optional values
_WITH_SUFFIX = ("budget_flops", "C", "N", "D", "unique_tokens")  # columns of counts
_ROW_NUMBERS = re.compile(r"(index|level_0|unnamed_\d+(_\d+)*)?")  # of pandas and spreadsheets

_EMPTY = ("", "nan", "na", "n/a", "none", "null", "-")
_MAX_NUMBER = 100  # characters
_SUFFIXED = re.compile(r"([\d.]*\d\.?)\s*([a-zA-Z]+)")
# Thousands separators: 1,000,000 or 1,000.5 (1,000 may be a decimal comma); 1 000; 1'000
_COMMAS = re.compile(r"[+-]?\d{1,3}(,\d{3})+\.\d+|[+-]?\d{1,3}(,\d{3}){2,}")
_SPACES = re.compile(r"(?<=\d)[ '\u2019\u00a0\u202f](?=\d{3}(?!\d))")


@dataclass(frozen=True)
class Table:
    """Columns under our names, of equal length, with the names of its rows for error messages."""

    name: str
    columns: Mapping[str, Sequence[Any]]  # text, or the values of a frame
    header: Sequence[str]  # as written
    row: Callable[[int], str]  # "line 4"
    factors: Mapping[str, float] = field(default_factory=dict)  # of units in the header
    conventions: Mapping[str, str] = field(default_factory=dict)  # stated by names of columns
    other_columns: Sequence[Sequence[Any]] = ()  # unknown columns without row numbers
    notes: tuple[str, ...] = ()

    def at(self, i: int) -> str:
        """Name of row i: "runs.csv line 4"."""
        return f"{self.name} {self.row(i)}"

    def rows(self, indices: Sequence[int] | np.ndarray, max_shown: int = 5) -> str:
        """Names of several rows: "lines 4, 7 and 12 more"."""
        first = self.row(int(indices[0]))
        if len(indices) == 1:
            return first
        kind = first.partition(" ")[0]
        shown = [self.row(int(i)).partition(" ")[2] for i in indices[:max_shown]]
        hidden = len(indices) - max_shown
        last = f"{hidden} more" if hidden > 0 else shown.pop()
        return f"{kind}s {', '.join(shown)} and {last}"

    @property
    def is_saved(self) -> bool:
        """Whether `Observations.save` wrote the table, so that copies and budgets are settled."""
        return tuple(self.header) == ALL_COLUMNS

    def __len__(self) -> int:
        return max((len(column) for column in self.columns.values()), default=0)


def numbers(table: Table, column: str) -> np.ndarray:
    """A column as positive finite float64 values; NaN for an empty cell of MAY_BE_EMPTY.

    Raises:
        InputError: naming the row, the column, and how to write the number.
    """
    cells = table.columns[column]
    may_be_empty = column in MAY_BE_EMPTY
    factor = table.factors.get(column, 1.0)
    try:  # fast path: plain numbers only
        x = np.array([math.nan if may_be_empty and str(v) == "" else v for v in cells], float)
        if np.all(np.isfinite(x) & (x > 0) | (np.isnan(x) & may_be_empty)):
            return x * factor
    except (ValueError, TypeError, OverflowError):
        pass
    values: list[float] = []
    for i, cell in enumerate("" if value is None else str(value).strip() for value in cells):
        number = _parse(cell, column in _WITH_SUFFIX)
        if cell.lower() in _EMPTY and may_be_empty:
            number = math.nan
        elif number is None:
            advice = _advice(cell, column)
            raise InputError(
                f"{table.at(i)}: {column}={shortened(repr(cell))} is not a number.{advice}"
            )
        elif not (math.isfinite(number) and number > 0):
            advice = _advice(cell, column)
            raise InputError(
                f"{table.at(i)}: {column}={shortened(cell)} is not a positive finite number.{advice}"
            )
        values.append(number)
    return np.array(values) * factor


def _parse(cell: str, may_have_suffix: bool) -> float | None:
    """The number in a cell; None if it is not a number or is ambiguous."""
    if len(cell) > _MAX_NUMBER and not cell.isdigit():
        return None
    digits = _SPACES.sub("", cell)
    if _COMMAS.match(digits):
        digits = digits.replace(",", "")
    suffixed = _SUFFIXED.fullmatch(digits) if may_have_suffix else None
    if suffixed and (power := SUFFIXES.get(suffixed[2].lower())):
        digits = f"{suffixed[1]}e{power}"  # 2.4B is 2.4e9 to the last digit
    try:
        return float(digits)
    except ValueError:
        return None


def _advice(cell: str, column: str) -> str:
    """How to write a value that could not be used."""
    if column == "L" and cell.lower() in _EMPTY:
        return " Leave out runs without a final loss."
    if re.fullmatch(r"[\d.,\s'\u2019]+(e[+-]?\d+)?", cell, re.IGNORECASE):
        return " Write all numbers with a decimal point and without thousands separators."
    return " Correct it, or leave the run out."


def conventions_of(table: Table, stated: Mapping[str, str]) -> dict[str, str]:
    """How C, N and L are counted: as stated by the caller, else by columns, else by their names.

    Raises:
        InputError: an unknown convention, or two conventions in one table.
    """
    if unknown := [name for name in stated if name not in CONVENTIONS]:
        raise InputError(f"{', '.join(unknown)}: no such convention. Use {', '.join(CONVENTIONS)}.")
    conventions = {}
    for name, choices in CONVENTIONS.items():
        value = stated.get(name, "unknown")
        require_choice(name, value, choices)
        if value == "unknown" and name in table.columns:
            values = [str(cell).strip() or "unknown" for cell in table.columns[name]]
            value = values[0] if values else "unknown"
            for i, other in enumerate(values):
                if other == "heldout":
                    raise InputError(
                        f"{table.at(i)}: {name}=heldout is called validation. Replace it in the "
                        "whole column, or fit again."
                    )
                if other not in choices:
                    require_choice(f"{table.at(i)}: {name}", other, choices)
                if other != value:
                    raise InputError(
                        f"{table.at(i)}: {name}={shortened(other)}, but {value} in earlier rows. Values under two "
                        "conventions are not comparable: fit them separately."
                    )
        conventions[name] = table.conventions.get(name, value) if value == "unknown" else value
    return conventions


# What a spreadsheet computes or executes; the apostrophe, with which it shows a text as it is, is ours to undo.
_FORMULA = re.compile(r"'*[=+@\t\r-]")


def cell_text(text: str) -> str:
    """A text as a cell that no spreadsheet executes; `plain_text` is its inverse. Numbers are unchanged."""
    is_number = re.fullmatch(r"[+-]?[\d.]+(?:e[+-]?\d+)?", text, re.ASCII | re.IGNORECASE)
    return f"'{text}" if _FORMULA.match(text) and not is_number else text


def plain_text(cell: str) -> str:
    """The text of a cell that `cell_text` wrote."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def comment_text(text: str) -> str:
    """A text as a comment, on one line, of which a spreadsheet executes no part as a cell."""
    return re.sub(r'([,;])(?="*[=+@-])', r"\1 ", clean(text))


def read_csv(path: Path, key: str, mapping: Mapping[str, str] | None = None) -> Table:
    """Read a CSV file with commas, tabs or semicolons between values.

    Lines that start with # are comments, except a commented header as written by `numpy.savetxt`. Those
    that may be runs whose run_id starts with # are refused.

    Args:
        path: the file.
        key: the setting that named the file, for error messages.
        mapping: our column -> name in the table, for names that are not known.

    Raises:
        InputError: not a text file, not a CSV, a row longer or shorter than the header, or a comment
            that may be a row.
    """
    numbered = enumerate(_lines(path, key), 1)
    lines: Iterator[tuple[int, str]] = ((i, line) for i, line in numbered if line.strip())
    comment = ""  # the last one before the first other line
    for first in lines:
        if first[1][0] != "#":
            break
        comment = first[1]
    else:
        return Table(str(path), {}, (), str)
    header, delimiter = _header(first[1], path)
    if comment and not any(column_of(cell)[0] for cell in header) and not mapping:
        commented, other = _header(comment.lstrip("# "), path)
        if len(commented) == len(header) and any(column_of(cell)[0] for cell in commented):
            header, delimiter, lines = commented, other, itertools.chain([first], lines)
    found = find_columns(header, str(path), mapping)
    maybe: list[int] = []  # line numbers of comments that may be rows
    row_lines: list[int] = []  # of the row that is being read

    def body() -> Iterator[str]:
        for i, line in lines:
            if line[0] != "#":
                row_lines.append(i)
                yield line
            elif _may_be_row(line, delimiter, len(header), found):
                maybe.append(i)

    cells: list[list[str]] = [[] for _ in header]
    at = array("q")  # line number of each row
    try:
        for values in csv.reader(body(), delimiter=delimiter, strict=True):
            row = [value.strip() for value in values]
            if any(row):
                at.append(row_lines[-1])
                for column, value in zip(cells, row, strict=False):
                    column.append(value)
                if len(row) < len(header) or any(row[len(header) :]):
                    problem = "fewer" if len(row) < len(header) else "more"
                    raise InputError(
                        f"{path} line {at[-1]}: {problem} values than the {len(header)} columns of the header. "
                        "Correct the line, and write numbers without thousands separators."
                    )
            row_lines.clear()
    except csv.Error as error:
        raise InputError(
            f"{path} is not a valid CSV from line {row_lines[0]} on ({error}). Check for an unclosed "
            "quote."
        ) from None
    if maybe:
        of_lines = Table("", {}, (), lambda k: f"line {maybe[k]}")
        raise InputError(
            f"{path} {of_lines.rows(range(len(maybe)))}: # begins a comment, but there are as many values as "
            "in the header. Put the run_id of a run in quotes, or delete the comments."
        )
    return _make_table(str(path), header, cells, found, lambda i: f"line {at[i]}", found.notes)


def read_frame(frame: Any, mapping: Mapping[str, str] | None = None) -> Table:
    """Read anything with named columns: a pandas or polars frame, or a mapping of names to arrays.

    Args:
        frame: the columns; named levels of an index are columns too.
        mapping: our column -> name in the frame, for names that are not known.

    Raises:
        InputError: no columns, or columns of different lengths.
    """
    name = "the frame"
    if any(level is not None for level in getattr(getattr(frame, "index", None), "names", ())):
        frame = frame.reset_index()
    names = getattr(frame, "columns", frame.keys() if isinstance(frame, Mapping) else None)
    if names is None:
        raise InputError(
            f"a {type(frame).__name__} has no named columns. Pass a pandas or polars frame, or a dict "
            "of arrays."
        )
    keys = list(names)
    header = [str(key) for key in keys]
    found = find_columns(header, name, mapping)
    cells = [np.asarray(frame[key]) for key in keys]
    shapes = {column: cells[i].shape for column, i in found.positions.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        shown = ", ".join(f"{column} {shape}" for column, shape in shapes.items())
        raise InputError(
            f"{name}: columns must be 1-D and of equal length; the shapes are {shown}."
        )
    return _make_table(name, header, cells, found, "row {}".format, found.notes)


def _make_table(
    name: str,
    header: Sequence[str],
    cells: Sequence[Any],
    found: FoundColumns,
    row: Callable[[int], str],
    notes: tuple[str, ...],
) -> Table:
    """A table of all columns `cells`, under our names as far as they are known."""
    columns = {column: cells[i] for column, i in found.positions.items()}
    n = max((len(values) for values in columns.values()), default=0)
    others = []
    for i, (title, values) in enumerate(zip(map(normalized, header), cells, strict=True)):
        if i in found.positions.values() or np.shape(values)[:1] != (n,):
            continue
        if title == "name" and len({*map(str, values)} - {""}) == n:
            columns.setdefault("run_id", values)
        if not _ROW_NUMBERS.fullmatch(title):
            others.append(values)
    return Table(name, columns, header, row, found.factors, found.conventions, others, notes)


TABLE_BYTES = 2000 * MB  # some 40 million rows
MAX_COLUMNS = 10_000
_COMPRESSED = {  # by the first bytes of a file
    b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd",
}  # fmt: skip


def _lines(path: Path, key: str) -> Iterator[str]:
    """The lines of a UTF-8 file, or of a UTF-16 file with a byte order mark.

    They are decoded one after the other: the lines of a table take several times the memory of its file.
    """
    try:
        raw = read_bytes(path, TABLE_BYTES)
    except OSError as error:
        raise InputError(
            f"{key}={path} cannot be read ({error.strerror}).{nearest_path(path)} Give the path of a CSV file."
        ) from None
    if is_lfs_pointer(raw):
        raise InputError(
            f"{key}={path} is a Git LFS pointer. Fetch the contents in that repository with: git lfs pull."
        )
    encoding = "utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        is_text = "\0" not in raw.decode(encoding)
    except UnicodeDecodeError:
        is_text = False
    if not is_text:
        for start, name in _COMPRESSED.items():
            if raw.startswith(start):
                raise InputError(
                    f"{key}={path} is compressed ({name}). Decompress it, and give the CSV file."
                )
        raise InputError(
            f"{key}={path} is not a text file in UTF-8. Export the table as CSV with that encoding."
        )
    return io.TextIOWrapper(io.BytesIO(raw), encoding, newline="")


def _header(line: str, path: Path) -> tuple[list[str], str]:
    """The cells of a header line without empty ones at the end, and the delimiter that gives most.

    Raises:
        InputError: more than MAX_COLUMNS columns.
    """
    delimiter = max(",\t;", key=lambda d: len(_split(line, d)))
    if line.count(delimiter) >= MAX_COLUMNS:
        raise InputError(
            f"{path}: the header has over {MAX_COLUMNS:,} columns. Keep the columns of runs, and give a line to "
            "each run."
        )
    cells = [" ".join(clean(cell).split()) for cell in _split(line, delimiter)]
    while cells and not cells[-1]:
        cells.pop()
    return cells, delimiter


def _split(line: str, delimiter: str) -> list[str]:
    """The values of a single line; [] if a quote is not closed."""
    try:
        return [value.strip() for value in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


def _may_be_row(line: str, delimiter: str, n_columns: int, found: FoundColumns) -> bool:
    """Whether a comment may be a row whose first value, which is a name, starts with #."""
    row, needed = _split(line, delimiter), ("C", "N", "D", "L")
    if len(row) < n_columns or any(row[n_columns:]):
        return False
    cells = [row[i] for name, i in found.positions.items() if name in needed and i > 0]
    first_is_name = all(i > 0 for name, i in found.positions.items() if name in NUMERIC)
    number = re.compile(r"[+-]?[.,]?\d|nan|inf", re.IGNORECASE)
    return first_is_name and any(number.match(cell) for cell in cells)
