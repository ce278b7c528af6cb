"""Read a table of runs from a CSV file or from a frame in memory.

Columns are found by name (`columns.py`) and converted to numbers on demand (`numbers.py`). Every
row keeps its line number for error messages. `runs.py` makes runs of the result.
"""

import csv
import functools
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chinchilla.config.checks import require_choice
from chinchilla.core.errors import InputError
from chinchilla.core.units import CONVENTIONS
from chinchilla.observations.columns import (
    ALL_COLUMNS,
    COLUMNS,
    OPTIONAL,
    FoundColumns,
    column_of,
    find_columns,
)
from chinchilla.observations.numbers import decimal_mark, parse_column

NUMERIC = (*COLUMNS[1:], *OPTIONAL)
MAY_BE_EMPTY = ("budget_flops", *OPTIONAL)  # columns with optional values

_NOT_TEXT = (  # first bytes of files that are not CSV
    (b"PK\x03\x04", "a spreadsheet or a zip: export the sheet as CSV"),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet (.xls): export the sheet as CSV"),
    (b"\x1f\x8b", "compressed: unpack it first"),
    (b"PAR1", "a Parquet file: write it as CSV, or pass its frame to Observations.from_frame"),
    (b"\x93NUMPY", "a NumPy file: write it as CSV, or pass its arrays to Observations.of"),
    (b"SQLite format 3", "a database: export the table as CSV"),
)
_OTHER_FORMATS = {  # first character of other text formats
    **dict.fromkeys("{[", "JSON: pandas.read_json(FILE).to_csv(FILE.csv, index=False) writes a CSV."),
    "<": "HTML or XML: export the table as CSV.",
    "|": "a Markdown table: export it as CSV.",
}  # fmt: skip


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
    delimiter: str = ","
    hint: str = ""  # what the file seems to be instead, if no column is found

    def at(self, i: int) -> str:
        """Name of row i: "runs.csv line 4"."""
        return f"{self.name} {self.row(i)}"

    def rows(self, indices: Sequence[int], max_shown: int = 5) -> str:
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

    @functools.cached_property
    def decimal_marks(self) -> dict[str, str]:
        """The decimal mark of each column of numbers; "" if it is unknown."""
        cells = {name: self.columns[name] for name in NUMERIC if name in self.columns}
        if not any("," in v for column in cells.values() for v in column if isinstance(v, str)):
            return dict.fromkeys(cells, ".")
        marks = {name: decimal_mark(column) for name, column in cells.items()}
        known = {mark for mark in marks.values() if mark}
        if len(known) == 1:
            default = known.pop()
        else:
            default = "," if not known and self.delimiter == ";" else ""
        return {name: mark or default for name, mark in marks.items()}

    def __len__(self) -> int:
        return max((len(column) for column in self.columns.values()), default=0)


def numbers(table: Table, column: str) -> np.ndarray:
    """A column as positive finite float64 values; NaN for an empty cell of MAY_BE_EMPTY.

    Raises:
        InputError: naming the row, the column, and how to write the number.
    """
    x = parse_column(
        table.columns[column],
        column,
        table.at,
        may_be_empty=column in MAY_BE_EMPTY,
        decimal=table.decimal_marks[column],
    )
    return x * table.factors.get(column, 1.0)


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
                if other not in choices:
                    require_choice(f"{table.at(i)}: {name}", other, choices)
                if other != value:
                    raise InputError(
                        f"{table.at(i)}: {name}={other}, but {value} in earlier rows. Losses under two "
                        "conventions are not comparable: fit them separately."
                    )
        conventions[name] = table.conventions.get(name, value) if value == "unknown" else value
    return conventions


def read_csv(path: Path, key: str, mapping: Mapping[str, str] | None = None) -> Table:
    """Read a CSV file with commas, tabs, semicolons or spaces between values.

    Lines that start with # are comments, except rows whose run_id starts with # (as many values as
    the header, numbers in numeric columns) and a commented header as written by `numpy.savetxt`.

    Args:
        path: the file.
        key: the setting that named the file, for error messages.
        mapping: our column -> name in the table, for names that are not known.

    Raises:
        InputError: not a text file, not a CSV, or a row longer or shorter than the header.
    """
    text = _read_text(path, key)
    lines = [(i, line) for i, line in enumerate(io.StringIO(text, newline=""), 1) if line.strip()]
    start, delimiter = _find_header(lines, {str(name) for name in (mapping or {}).values()})
    if start is None:
        return Table(str(path), {}, (), str)
    header: list[str] = []
    found = FoundColumns({}, {}, {}, (), None, ())
    given: list[int] = []  # line numbers of the lines passed to the CSV reader
    hashed: list[int] = []  # ... of those that start with #

    def table_lines() -> Iterator[str]:
        for i, line in lines[start:]:
            if line[0] == "#":
                if not given:
                    line = line.lstrip("# ")
                elif _is_row(_split(line, delimiter), len(header), found):
                    hashed.append(i)
                else:
                    continue
            given.append(i)
            yield " ".join(line.split()) if delimiter == " " else line

    reader = csv.reader(table_lines(), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    at: list[int] = []
    n_read = 0  # lines of complete rows
    try:
        header = [" ".join(cell.split()) for cell in next(reader)]
        while header and not header[-1]:
            header.pop()
        found = find_columns(header, str(path), mapping)
        n_read = len(given)
        for values in reader:
            n_read = len(given)
            row = [value.strip() for value in values]
            if any(row):
                _check_length(row, len(header), f"{path} line {given[-1]}")
                rows.append(row)
                at.append(given[-1])
    except csv.Error as error:
        raise InputError(
            f"{path} is not a valid CSV from line {given[min(n_read, len(given) - 1)]} on ({error}). Check "
            "for an unclosed quote."
        ) from None
    notes = [*found.notes]
    if hashed:
        notes.append(
            f"{len(hashed)} lines that start with # hold as many values as the header (first: line "
            f"{hashed[0]}) and were read as runs. Delete them if they are comments."
        )
    cells = [[row[i] for row in rows] for i in range(len(header))]
    return _make_table(
        str(path),
        header,
        cells,
        found,
        lambda i: f"line {at[i]}",
        notes=tuple(notes),
        delimiter=delimiter,
        hint=_format_hint(text, header),
    )


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
    return _make_table(name, header, cells, found, "row {}".format)


def _make_table(
    name: str,
    header: Sequence[str],
    cells: Sequence[Any],
    found: FoundColumns,
    row: Callable[[int], str],
    notes: tuple[str, ...] | None = None,
    **fields: Any,
) -> Table:
    """A table of all columns `cells`, under our names as far as they are known."""
    columns = {column: cells[i] for column, i in found.positions.items()}
    n = max((len(values) for values in columns.values()), default=0)
    if found.name_position is not None:
        names = [str(label) for label in cells[found.name_position]]
        if len(set(names)) == len(names) == n and "" not in names:
            columns["run_id"] = names
    known = {*found.positions.values(), *found.row_numbers}
    return Table(
        name,
        columns,
        header,
        row,
        factors=found.factors,
        conventions=found.conventions,
        other_columns=[
            x for i, x in enumerate(cells) if i not in known and np.shape(x)[:1] == (n,)
        ],
        notes=found.notes if notes is None else notes,
        **fields,
    )


def _read_text(path: Path, key: str) -> str:
    """The text of a UTF-8 file, or of a UTF-16 file with a byte order mark."""
    try:
        if path.is_char_device():  # /dev/zero never ends
            raise InputError(f"{key}={path} is a device, not a file.")
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{key}={path} cannot be read ({error.strerror}).") from None
    for start, description in _NOT_TEXT:
        if raw.startswith(start):
            raise InputError(f"{key}={path} is {description}.")
    is_utf16 = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    if b"\0" in raw and not is_utf16:
        raise InputError(
            f"{key}={path} contains NUL bytes, so it is not text. Save it as CSV, UTF-8."
        )
    try:
        return raw.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        encoding = "UTF-16" if is_utf16 else "UTF-8"
        raise InputError(
            f"{key}={path} cannot be read: byte {error.start} is not valid {encoding}. Save it as UTF-8."
        ) from None


def _split(line: str, delimiter: str) -> list[str]:
    """The values of a single line; [] if a quote is not closed."""
    line = " ".join(line.split()) if delimiter == " " else line
    try:
        return [value.strip() for value in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


def _find_header(lines: Sequence[tuple[int, str]], mapped: set[str]) -> tuple[int | None, str]:
    """Index of the header line, and the delimiter.

    The header is the first line that is not a comment. If that line names no known column, it is
    the last comment before it that does and has as many values.
    """
    start, delimiters = 0, ",\t; "
    if lines and (match := re.fullmatch(r"sep=(.)\s*", lines[0][1])):  # written by Excel
        start, delimiters = 1, match[1]
    first = next((k for k in range(start, len(lines)) if lines[k][1][0] != "#"), None)
    if first is None:
        return None, ","

    def cells(k: int, delimiter: str) -> list[str]:
        return _split(lines[k][1] if k == first else lines[k][1].lstrip("# "), delimiter)

    def n_known(k: int, delimiter: str) -> int:
        if delimiter == " " and re.search(r"[,;\t|]", lines[k][1]):
            return 0  # the spaces are inside names
        return sum(bool(column_of(cell)[0]) or cell in mapped for cell in cells(k, delimiter))

    for k in range(first, start - 1, -1):
        delimiter = max(delimiters, key=lambda d: n_known(k, d))
        same_length = len(cells(k, delimiter)) == len(cells(first, delimiter))
        if n_known(k, delimiter) and same_length:
            return k, delimiter
    return first, max(delimiters[:3], key=lambda d: len(cells(first, d)))


def _is_row(row: Sequence[str], n_columns: int, found: FoundColumns) -> bool:
    """Whether a line that starts with # is a row: as many values as the header, numbers in C, N, D, L."""
    while len(row) > n_columns and not row[-1]:
        row = row[:-1]
    if len(row) != n_columns:
        return False
    cells = [row[i] for name, i in found.positions.items() if name in ("C", "N", "D", "L")]
    number = re.compile(r"[+-]?[.,]?\d|nan|inf", re.IGNORECASE)
    return bool(cells) and all(number.match(cell) for cell in cells)


def _check_length(row: list[str], n_columns: int, where: str) -> None:
    if len(row) < n_columns:
        raise InputError(f"{where}: {len(row)} values for the {n_columns} columns of the header.")
    if any(row[n_columns:]):
        raise InputError(
            f"{where}: more values than the {n_columns} columns of the header. Write numbers without "
            "thousands separators."
        )


def _format_hint(text: str, header: Sequence[str]) -> str:
    """What a file without known columns seems to be, and how to export it as CSV."""
    start = text.lstrip("\ufeff \t\r\n")[:1]
    if start in _OTHER_FORMATS:
        return f" The file looks like {_OTHER_FORMATS[start]}"
    if any(re.search(r"\S - \S+(__(MIN|MAX))?$", name) for name in header):
        return (
            " Columns such as 'run - metric' are a chart exported from Weights & Biases, without N, D or C. "
            "Export the table of runs instead (runs table, download, CSV)."
        )
    return ""
