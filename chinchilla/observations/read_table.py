"""Tables of runs as people bring them: a CSV file or a frame in memory.

Columns are found by name (`table_names.py`), rows keep the name that an error gives them (a line of the
file), and numbers are checked one by one (`table_numbers.py`). `observations.py` makes Observations of
the result. Floor 0.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chinchilla.config.checks import require_choice
from chinchilla.config.fit import LOSSES, N_CONVENTIONS
from chinchilla.core.errors import InputError
from chinchilla.core.shapes import FLOP_CONVENTIONS
from chinchilla.observations.column_names import (
    ALIASES,
    COLUMNS,
    CONVENTIONS,
    OPTIONAL,
    accepted,
    our_columns,
    shortened,
)
from chinchilla.observations.csv_text import find_header, looks_like, read_text, values_of
from chinchilla.observations.numbers import decimal_mark, has_comma, read_numbers

__all__ = [
    "ALIASES", "COLUMNS", "CONVENTIONS", "OPTIONAL", "Table", "conventions_of", "numbers", "quantities",
    "read_csv", "read_frame",
]  # fmt: skip

MAY_BE_EMPTY = ("budget_flops", *OPTIONAL)  # cell by cell
SAVED = (*COLUMNS, *OPTIONAL, *CONVENTIONS)  # the header that Observations.save writes

KNOWN = {  # what each convention may be
    "flop_convention": ("unknown", *FLOP_CONVENTIONS),
    "n_convention": N_CONVENTIONS,
    "loss_kind": ("unknown", *LOSSES),
}


@dataclass(frozen=True)
class Table:
    """Columns under our names, of equal length, and how errors name the table and its rows."""

    name: str
    columns: Mapping[str, Sequence[Any]]  # text, or whatever a frame holds
    found: Sequence[str]  # the header as it was written
    row: Callable[[int], str]  # "line 4"
    factors: Mapping[str, float] = field(default_factory=dict)  # units that the header states
    decimals: Mapping[str, str] = field(default_factory=dict)  # decimal marks other than a point
    says: Mapping[str, str] = field(default_factory=dict)  # conventions that names of columns state
    others: Sequence[Sequence[Any]] = ()  # columns that are not ours and no row numbers
    notes: tuple[str, ...] = ()
    hint: str = ""  # what the file looks like instead, where no column is found

    def at(self, i: int) -> str:
        """Where row i stands: "runs.csv line 4"."""
        return f"{self.name} {self.row(i)}"

    def rows(self, indices: Sequence[int], most: int = 5) -> str:
        """Where several rows stand: "lines 4, 7 and 12 more"."""
        first = self.row(int(indices[0]))
        if len(indices) == 1:
            return first
        kind = first.partition(" ")[0]
        places = [self.row(int(i)).partition(" ")[2] for i in indices[:most]]
        last = str(len(indices) - most) + " more" if len(indices) > most else places.pop()
        return f"{kind}s {', '.join(places)} and {last}"

    @property
    def is_saved(self) -> bool:
        """Whether Observations.save wrote it, so that copies and budgets were seen to already."""
        return tuple(self.found) == SAVED

    def __len__(self) -> int:
        return max((len(column) for column in self.columns.values()), default=0)


def read_csv(path: Path, key: str, columns: Mapping[str, str] | None = None) -> Table:
    """A CSV file: comma, tab, semicolon or spaces between values.

    Lines that start with # are comments, but for one behind the header that holds a row: as many values
    as the header, and numbers where ours stand. The header itself may be such a line, as NumPy writes it.

    Args:
        path: the file.
        key: what the person gave it as, for errors.
        columns: ours -> theirs, for names that are not known.

    Raises:
        InputError: not a readable text file, not a CSV, a row of another length than the header.
    """
    text = read_text(path, key)
    lines = [(i, line) for i, line in enumerate(io.StringIO(text, newline=""), 1) if line.strip()]
    top = find_header(lines, [str(theirs) for theirs in (columns or {}).values()])
    if top is None:
        return Table(str(path), {}, (), str)
    header, delimiter = top.names, top.delimiter
    found = our_columns(header, str(path), columns)
    hashed: list[int] = []
    given: list[int] = []  # lines of the file that the reader was given

    def rows_of_text() -> Iterator[str]:
        for i, line in lines[top.body :]:
            if line[0] == "#":
                row = values_of(line, delimiter)
                if not _is_row(row, len(header), found.places):
                    continue
                hashed.append(i)
            given.append(i)
            yield " ".join(line.split()) if delimiter == " " else line

    reader = csv.reader(rows_of_text(), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    at: list[int] = []
    n_read = 0  # of `given`
    try:
        for values in reader:
            n_read = reader.line_num
            row = [value.strip() for value in values]
            if len(row) != len(header):
                if not any(row):
                    continue
                _check_length(row, len(header), f"{path} line {given[n_read - 1]}")
            elif not any(row):
                continue
            rows.append(row)
            at.append(given[n_read - 1])
    except csv.Error as error:
        line = given[min(n_read, len(given) - 1)]
        raise InputError(
            f"{path} is not a CSV from line {line} on ({error}). Is a quote left open?"
        ) from None
    notes = list(found.notes)
    if hashed:
        notes.append(
            f"{len(hashed)} lines start with # and hold a row each (line {hashed[0]} is the first): "
            "they were read as runs. Delete those that are no runs."
        )
    named = {name: [row[i] for row in rows] for name, i in found.places.items()}
    if found.weak >= 0:
        names = [row[found.weak] for row in rows]
        if all(names) and len(set(names)) == len(names):
            named["run_id"] = names
    aside = {*found.places.values(), *found.index}
    return Table(
        str(path),
        named,
        header,
        lambda i: f"line {at[i]}",
        factors=found.factors,
        decimals=_decimals(named, delimiter),
        says=found.says,
        others=[[row[i] for row in rows] for i in range(len(header)) if i not in aside],
        notes=tuple(notes),
        hint=looks_like(text, header),
    )


def read_frame(frame: Any, columns: Mapping[str, str] | None = None) -> Table:
    """Anything with named columns: a pandas or polars frame, a mapping of names to arrays.

    Args:
        frame: the columns; an index that has a name is one, too.
        columns: ours -> theirs, for names that are not known.

    Raises:
        InputError: no columns, or columns of different lengths.
    """
    name = "the frame"
    if any(level is not None for level in getattr(getattr(frame, "index", None), "names", ())):
        frame = frame.reset_index()
    names = getattr(frame, "columns", None)
    if names is None and isinstance(frame, Mapping):
        names = frame.keys()
    if names is None:
        raise InputError(
            f"a {type(frame).__name__} has no named columns. Give a pandas or polars frame, or a "
            "dict of arrays."
        )
    keys = list(names)
    header = [str(key) for key in keys]
    found = our_columns(header, name, columns)
    values = {ours: np.asarray(frame[keys[i]]) for ours, i in found.places.items()}
    shapes = {ours: column.shape for ours, column in values.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        told = ", ".join(f"{ours} {shape}" for ours, shape in shapes.items())
        raise InputError(f"{name}: columns must be lists of equal length; these are {told}.")
    n = max((len(column) for column in values.values()), default=0)
    if found.weak >= 0:
        labels = np.asarray(frame[keys[found.weak]])
        if labels.shape == (n,) and len(set(map(str, labels))) == n:
            values["run_id"] = labels
    aside = {*found.places.values(), *found.index}
    others = [np.asarray(frame[keys[i]]) for i in range(len(keys)) if i not in aside]
    return Table(
        name,
        values,  # type: ignore[arg-type]
        header,
        "row {}".format,
        factors=found.factors,
        decimals=_decimals(values, ","),
        says=found.says,
        others=[column for column in others if column.shape == (n,)],  # type: ignore[misc]
        notes=found.notes,
    )


def conventions_of(table: Table, said: dict[str, str]) -> dict[str, str]:
    """How the table's numbers are counted: as said, else as its columns or their names say."""
    if unknown := [name for name in said if name not in CONVENTIONS]:
        raise InputError(f"{', '.join(unknown)}: say one of {', '.join(CONVENTIONS)}.")
    conventions = {}
    for name in CONVENTIONS:
        stated = said.get(name, "unknown")
        require_choice(name, stated, KNOWN[name])
        if stated == "unknown" and name in table.columns:
            values = [str(value).strip() or "unknown" for value in table.columns[name]]
            stated = values[0] if values else stated
            for i, value in enumerate(values):
                if value not in KNOWN[name]:
                    require_choice(f"{table.at(i)}: {name}", value, KNOWN[name])
                if value != stated:
                    raise InputError(
                        f"{table.at(i)}: {name}={value}, but {stated} before: rows counted in two "
                        "ways do not compare. Fit them apart."
                    )
        conventions[name] = table.says.get(name, stated) if stated == "unknown" else stated
    return conventions


def quantities(table: Table, flop_convention: str) -> tuple[dict[str, Any], list[str]]:
    """The columns of numbers, one of C, N and D computed if need be, and a note of that."""
    missing = [name for name in ("C", "N", "D", "L") if name not in table.columns]
    derived = missing[0] if len(missing) == 1 and missing != ["L"] else ""
    if missing and not (derived and flop_convention == "six_nd"):
        cure = f" With flop_convention=six_nd, {derived} is computed." if derived else ""
        raise InputError(
            f"{table.name}: no column {', '.join(missing)} (found {shortened(', '.join(table.found)) or 'none'}). "
            f"A CSV of runs has the columns {','.join(COLUMNS)}; run_id and budget_flops may be "
            f"missing.{cure} Accepted names: {accepted(missing)}. For another name "
            f'give columns.{missing[0]}="NAME".{table.hint}'
        )
    if not len(table):
        raise InputError(f"{table.name}: no runs, only a header.")
    found: dict[str, Any] = {
        name: numbers(table, name) for name in (*COLUMNS[1:], *OPTIONAL) if name in table.columns
    }
    found.setdefault("budget_flops", np.full(len(table), np.nan))
    if not derived:
        return found, []
    if derived == "C":
        found["C"], how = 6 * found["N"] * found["D"], "C = 6*N*D"
    else:
        other = "D" if derived == "N" else "N"
        found[derived], how = found["C"] / (6 * found[other]), f"{derived} = C/(6*{other})"
    return found, [f"{how} on every row: the table gives no {derived}."]


def numbers(table: Table, column: str) -> np.ndarray:
    """A column as float64: positive and finite; those in MAY_BE_EMPTY may have empty cells (NaN).

    Raises:
        InputError: naming row, column, and what would be a number.
    """
    x = read_numbers(
        table.columns[column],
        column,
        table.at,
        may_be_empty=column in MAY_BE_EMPTY,
        decimal=table.decimals.get(column, "."),
    )
    return x * table.factors.get(column, 1.0)


def _decimals(columns: Mapping[str, Any], delimiter: str) -> dict[str, str]:
    """The decimal mark of each of our columns that may not be a point; "" where it is unknown."""
    values = {name: columns[name] for name in (*COLUMNS[1:], *OPTIONAL) if name in columns}
    if not any(map(has_comma, values.values())):
        return {}
    marks = {name: decimal_mark(cells) for name, cells in values.items()}
    usual = {mark for mark in marks.values() if mark}
    other = usual.pop() if len(usual) == 1 else "," if not usual and delimiter == ";" else ""
    return {name: mark or other for name, mark in marks.items()}


def _is_row(row: Sequence[str], n_columns: int, places: Mapping[str, int]) -> bool:
    """Whether a line that starts with # holds a row: a value per column, and numbers where ours stand."""
    while len(row) > n_columns and not row[-1]:
        row = row[:-1]
    if len(row) != n_columns:
        return False
    ours = [row[i] for name, i in places.items() if name in ("C", "N", "D", "L")]
    return bool(ours) and all(
        re.match(r"[+-]?[.,]?\d|nan|inf", cell, re.IGNORECASE) for cell in ours
    )


def _check_length(row: list[str], n_columns: int, where: str) -> None:
    if len(row) < n_columns:
        raise InputError(f"{where}: {len(row)} values for the {n_columns} columns of the header.")
    if any(row[n_columns:]):
        raise InputError(
            f"{where}: more values than the {n_columns} columns of the header. Write numbers "
            "without thousands separators."
        )
