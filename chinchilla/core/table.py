"""A table as records: rendered in the terminal (commands.show), in pages (report) and as Markdown."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

NONE = "–"  # shown where there is no value


class Cell(NamedTuple):
    """The text that is shown, the number to sort by, and the CSS classes in a page."""

    text: str
    value: float | None = None
    kind: str = ""


def cell(x: float | None, show: Callable[[float], str], kind: str = "") -> Cell:
    """A number as `show` writes it; a dash for None."""
    return Cell(NONE) if x is None else Cell(show(x), x, kind)


@dataclass
class Table:
    """Rows of cells under column heads.

    Args:
        columns: heads; each row has as many cells.
        caption: sentence above the table.
        left: heads of the columns of text, which align left and wrap. Default: those without a value.
        grouped: whether the terminal draws a line between rows with different first cells.
    """

    columns: Sequence[str]
    rows: list[list[Cell]] = field(default_factory=list)
    caption: str = ""
    left: Sequence[str] | None = None
    grouped: bool = False

    @classmethod
    def of(cls, columns: Mapping[str, Iterable[Cell]], caption: str = "") -> "Table":
        """A table from its columns by name, all of one length."""
        return cls([*columns], [list(row) for row in zip(*columns.values(), strict=True)], caption)

    def add_row(self, *cells: str | Cell) -> None:
        """Add a row; a text is a cell without a value."""
        self.rows.append([Cell(c) if isinstance(c, str) else c for c in cells])

    @property
    def numeric(self) -> list[bool]:
        """For each column whether it holds numbers, which align right."""
        if self.left is not None:
            return [name not in self.left for name in self.columns]
        return [
            any(row[i].value is not None for row in self.rows) for i in range(len(self.columns))
        ]

    def markdown(self) -> list[str]:
        """Lines of a Markdown table, padded so that it also reads well as plain text."""
        rows = [list(self.columns), *([c.text for c in row] for row in self.rows)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.columns))]
        lines = [
            "| " + " | ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) + " |"
            for row in rows
        ]
        return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]
