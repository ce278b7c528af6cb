"""Tables of runs as people bring them: a CSV file or a frame in memory.

Columns are found by name or alias, rows keep the name an error gives them (a line of the file), and
numbers are checked one by one. `observations.py` makes Observations of the result. Floor 0.
"""

import csv
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chinchilla.config.checks import choice
from chinchilla.config.fitting import LOSSES, N_CONVENTIONS
from chinchilla.errors import InputError
from chinchilla.shapes import FLOP_CONVENTIONS

COLUMNS = ("run_id", "budget_flops", "C", "N", "D", "L")
OPTIONAL = ("unique_tokens", "max_epochs")  # columns that few tables have
MAY_BE_EMPTY = ("budget_flops", *OPTIONAL)  # cell by cell
CONVENTIONS = ("flop_convention", "n_convention", "loss_kind")

# Other names of our columns, in any case; the single letters themselves stand for themselves only.
ALIASES = {
    **{name: name for name in (*COLUMNS, *OPTIONAL, *CONVENTIONS) if len(name) > 1},
    "run": "run_id",
    "id": "run_id",
    "budget": "budget_flops",
    "flops": "C",
    "compute": "C",
    "params": "N",
    "parameters": "N",
    "tokens": "D",
    "loss": "L",
    "unique": "unique_tokens",
}

KNOWN = {  # what each convention may be
    "flop_convention": ("unknown", *FLOP_CONVENTIONS),
    "n_convention": N_CONVENTIONS,
    "loss_kind": ("unknown", *LOSSES),
}

NOT_TEXT = (  # first bytes of files that are no CSV
    (b"\xff\xfe", "UTF-16 text: save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text: save it as UTF-8"),
    (b"PK\x03\x04", "a spreadsheet or a zip: export the sheet as CSV"),
    (b"\x1f\x8b", "compressed: unpack it first"),
    (b"PAR1", "a Parquet file: write it as CSV, or give Observations.from_frame its frame"),
)


@dataclass(frozen=True)
class Table:
    """Columns under our names, of equal length, and how errors name the table and its rows."""

    name: str
    columns: Mapping[str, Sequence[Any]]  # text, or whatever a frame holds
    found: Sequence[str]  # the header as it was written
    row: Callable[[int], str]  # "line 4"

    def at(self, i: int) -> str:
        """Where row i stands: "runs.csv line 4"."""
        return f"{self.name} {self.row(i)}"

    def __len__(self) -> int:
        return max((len(column) for column in self.columns.values()), default=0)


def shortened(text: str, most: int = 300) -> str:
    """`text` for an error, which is one line however much a file holds."""
    return text if len(text) <= most else f"{text[:most]} ..."


def our_columns(header: Sequence[str], name: str) -> dict[str, int]:
    """Our column -> its place in the header, by name or alias; columns of other names are ignored.

    Raises:
        InputError: two columns give one of ours.
    """
    found: dict[str, int] = {}
    for i, theirs in enumerate(header):
        ours = theirs if theirs in COLUMNS else ALIASES.get(theirs.lower())
        if ours is None:
            continue
        if ours in found:
            first = header[found[ours]]
            clash = (
                f"the column {first} occurs twice"
                if first == theirs
                else f"the columns {first} and {theirs} both give {ours}"
            )
            raise InputError(f"{name}: {clash}. Rename one.")
        found[ours] = i
    return found


def read_csv(path: Path, key: str) -> Table:
    """A CSV file: comma, tab or semicolon between values; lines starting with # are comments.

    Args:
        path: the file.
        key: what the person gave it as, for errors.

    Raises:
        InputError: not a readable text file, not a CSV, a row of another length than the header.
    """
    lines = [
        (i, line)
        for i, line in enumerate(io.StringIO(_text(path, key), newline=""), 1)
        if line.strip() and not line.startswith("#")
    ]
    if not lines:
        return Table(str(path), {}, (), str)

    def names(delimiter: str) -> list[str]:
        return [name.strip(' \t\r\n"') for name in lines[0][1].split(delimiter)]

    delimiter = max(
        ",\t;", key=lambda d: sum(n in COLUMNS or n.lower() in ALIASES for n in names(d))
    )
    reader = csv.reader((line for _, line in lines), delimiter=delimiter, strict=True)
    header: list[str] = []
    rows: dict[int, list[str]] = {}  # line of the file -> values
    n_read = 0  # of `lines`
    try:
        for values in reader:
            line, n_read = lines[reader.line_num - 1][0], reader.line_num
            row = [value.strip() for value in values]
            if not header:
                header = row
                while header and not header[-1]:  # a comma behind the last name
                    header.pop()
            elif any(row):
                _check_length(row, len(header), f"{path} line {line}")
                rows[line] = row
    except csv.Error as error:
        raise InputError(
            f"{path} is not a CSV from line {lines[n_read][0]} on ({error}). Is a quote left open?"
        ) from None
    places, at = our_columns(header, str(path)), list(rows)
    columns = {name: [row[i] for row in rows.values()] for name, i in places.items()}
    return Table(str(path), columns, header, lambda i: f"line {at[i]}")


def read_frame(frame: Any) -> Table:
    """Anything with named columns: a pandas or polars frame, a mapping of names to arrays.

    Raises:
        InputError: no columns, or columns of different lengths.
    """
    name = "the frame"
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
    found = our_columns(header, name)
    columns = {ours: np.asarray(frame[keys[i]]) for ours, i in found.items()}
    shapes = {ours: column.shape for ours, column in columns.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        told = ", ".join(f"{ours} {shape}" for ours, shape in shapes.items())
        raise InputError(f"{name}: columns must be lists of equal length; these are {told}.")
    return Table(name, columns, header, "row {}".format)  # type: ignore[arg-type]


def conventions_of(table: Table, said: dict[str, str]) -> dict[str, str]:
    """How the table's numbers are counted: as said, else as its own columns say."""
    if unknown := [name for name in said if name not in CONVENTIONS]:
        raise InputError(f"{', '.join(unknown)}: say one of {', '.join(CONVENTIONS)}.")
    conventions = {}
    for name in CONVENTIONS:
        stated = said.get(name, "unknown")
        choice(name, stated, KNOWN[name])
        if stated == "unknown" and name in table.columns:
            values = [str(value).strip() or "unknown" for value in table.columns[name]]
            stated = values[0] if values else stated
            for i, value in enumerate(values):
                if value not in KNOWN[name]:
                    choice(f"{table.at(i)}: {name}", value, KNOWN[name])
                if value != stated:
                    raise InputError(
                        f"{table.at(i)}: {name}={value}, but {stated} before: rows counted in two "
                        "ways do not compare. Fit them apart."
                    )
        conventions[name] = stated
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
            f"missing.{cure}"
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
    values = table.columns[column]
    may_be_empty = column in MAY_BE_EMPTY
    try:  # all at once; the slow way below says what is wrong, and where
        x = np.array([float("nan" if may_be_empty and str(v) == "" else v) for v in values])
        good = np.isfinite(x) & (x > 0) | (np.isnan(x) & may_be_empty)
        if good.all():
            return x
    except (ValueError, TypeError, OverflowError):
        pass
    return np.array([_number(v, column, table, i) for i, v in enumerate(values)], float)


def _number(value: Any, column: str, table: Table, i: int) -> float:
    text = "" if value is None else str(value).strip()
    if column in MAY_BE_EMPTY and text.lower() in ("", "nan", "na", "none", "null", "<na>"):
        return float("nan")
    try:
        number = float(text)
    except ValueError:
        raise InputError(
            f"{table.at(i)}: {column}={text!r} is not a number.{_hint(text)}"
        ) from None
    if not math.isfinite(number) or number <= 0:
        raise InputError(f"{table.at(i)}: {column}={text} is not a positive finite number.")
    return number


def _hint(text: str) -> str:
    """How to write what was probably meant."""
    if suffixed := re.fullmatch(r"([\d.]+)\s*([kmbgt])", text, re.IGNORECASE):
        power = {"k": 3, "m": 6, "b": 9, "g": 9, "t": 12}[suffixed[2].lower()]
        return f" Write {suffixed[1]}e{power}."
    if re.fullmatch(r"[\d.,\s']+(e[+-]?\d+)?", text, re.IGNORECASE) and text:
        return " Write it with a decimal point and without thousands separators."
    return ""


def _check_length(row: list[str], n_columns: int, where: str) -> None:
    if len(row) < n_columns:
        raise InputError(f"{where}: {len(row)} values for the {n_columns} columns of the header.")
    if any(row[n_columns:]):
        raise InputError(
            f"{where}: more values than the {n_columns} columns of the header. Write numbers "
            "without thousands separators."
        )


def _text(path: Path, key: str) -> str:
    try:
        if path.is_char_device():  # /dev/zero never ends
            raise InputError(f"{key}={path} is a device, not a file.")
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{key}={path} cannot be read ({error.strerror}).") from None
    for start, what in NOT_TEXT:
        if raw.startswith(start):
            raise InputError(f"{key}={path} is {what}.")
    if b"\0" in raw:
        raise InputError(
            f"{key}={path} holds NUL bytes: it is no text file. Save it as CSV, UTF-8."
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{key}={path} cannot be read: byte {error.start} is not UTF-8. Save it as UTF-8."
        ) from None
