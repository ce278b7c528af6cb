"""The text of a CSV: decoding, which line is the header, what stands between values. Floor 0."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chinchilla.core.errors import InputError
from chinchilla.observations.column_names import known

NOT_TEXT = (  # first bytes of files that are no CSV
    (b"PK\x03\x04", "a spreadsheet or a zip: export the sheet as CSV"),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet (.xls): export the sheet as CSV"),
    (b"\x1f\x8b", "compressed: unpack it first"),
    (b"PAR1", "a Parquet file: write it as CSV, or give Observations.from_frame its frame"),
    (b"\x93NUMPY", "a NumPy file: write it as CSV, or give Observations.of its arrays"),
    (b"SQLite format 3", "a database: export the table as CSV"),
)
LOOKS_LIKE = (  # first character of text that is no CSV
    (
        "{[",
        "It looks like JSON: pandas.read_json(FILE).to_csv(FILE.csv, index=False) writes a CSV.",
    ),
    ("<", "It looks like HTML or XML: export the table as CSV."),
    ("|", "It looks like a Markdown table: export it as CSV."),
)

MAX_HEADER_LINES = 20  # of a header whose names hold line breaks


def read_text(path: Path, key: str) -> str:
    """What a text file holds, as UTF-8 or, with its mark, UTF-16; InputError for other files."""
    try:
        if path.is_char_device():  # /dev/zero never ends
            raise InputError(f"{key}={path} is a device, not a file.")
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{key}={path} cannot be read ({error.strerror}).") from None
    for start, what in NOT_TEXT:
        if raw.startswith(start):
            raise InputError(f"{key}={path} is {what}.")
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return raw.decode("utf-16")
        except UnicodeDecodeError:
            raise InputError(f"{key}={path} is damaged UTF-16 text: save it as UTF-8.") from None
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


def values_of(line: str, delimiter: str) -> list[str]:
    """The values of one line; none where its quotes are not closed."""
    line = " ".join(line.split()) if delimiter == " " else line
    try:
        return [value.strip() for value in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


@dataclass(frozen=True)
class Header:
    """The names of a table, what stands between its values, and where its rows begin."""

    names: list[str]
    delimiter: str
    body: int  # index into the lines of the first that is none of the header's


def find_header(lines: Sequence[tuple[int, str]], mapped: Sequence[str]) -> Header | None:
    """The header: the first line that is no comment, or, if it holds no name of ours, the last comment
    before it that does and has as many values; None where all lines are comments.

    Args:
        lines: numbered lines that are not blank.
        mapped: names that a person gave for our columns.
    """
    begin, delimiters = 0, ",\t; "
    if lines and (told := re.fullmatch(r"sep=(.)\s*", lines[0][1])):  # as Excel writes it
        begin, delimiters = 1, told[1]
    first = next((k for k in range(begin, len(lines)) if lines[k][1][0] != "#"), -1)
    if first < 0:
        return None

    def names(k: int, delimiter: str) -> list[str]:
        line = lines[k][1]
        return values_of(line if k == first else line.lstrip("# "), delimiter)

    def score(k: int, delimiter: str) -> int:
        if delimiter == " " and re.search(r"[,;\t|]", lines[k][1]):
            return 0  # spaces inside names
        return sum(known(name) or name in mapped for name in names(k, delimiter))

    for k in range(first, begin - 1, -1):
        delimiter = max(delimiters, key=lambda d: score(k, d))
        n_values = len(values_of(lines[first][1], delimiter))
        if score(k, delimiter) and (k == first or len(names(k, delimiter)) == n_values):
            break
    else:
        k, delimiter = first, max(delimiters[:3], key=lambda d: len(names(first, d)))
    text, body = lines[k][1], k + 1
    if text.count('"') % 2:  # a line break inside a name
        for end in range(body, min(body + MAX_HEADER_LINES, len(lines))):
            if lines[end][1].count('"') % 2:
                text = " ".join(line.strip("\r\n") for _, line in lines[k : end + 1])
                body = end + 1
                break
    found = values_of(text if k == first else text.lstrip("# "), delimiter)
    while found and not found[-1]:  # a comma behind the last name
        found.pop()
    return Header(found, delimiter, body)


def looks_like(text: str, header: Sequence[str]) -> str:
    """What a file seems to be instead of a table of runs, and how to export that; "" if nothing."""
    start = text.lstrip("\ufeff \t\r\n")[:1]
    for starts, what in LOOKS_LIKE:
        if start and start in starts:
            return f" {what}"
    if any(re.search(r"\S - \S+(__(MIN|MAX))?$", name) for name in header):
        return (
            " Columns such as 'run - metric' are the export of a chart in Weights & Biases, which holds "
            "no N, D or C: export the table of runs instead (runs table, download, CSV)."
        )
    return ""
