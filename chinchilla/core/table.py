"""A table as records: rendered in the terminal (commands.show), in pages (report) and as Markdown."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from chinchilla.core.errors import clean

NONE = "–"  # shown where there is no value
BORDER = 3  # columns of a terminal between the texts of two cells


class Cell(NamedTuple):
    """The text that is shown, the number to sort by, and the CSS classes in a page."""

    text: str
    value: float | None = None
    kind: str = ""


def cell(x: float | None, show: Callable[[float], str], kind: str = "") -> Cell:
    """A number as `show` writes it; a dash for None."""
    return Cell(NONE) if x is None else Cell(show(x), x, kind)


def with_interval_apart(text: str) -> list[str]:
    """A number and its interval in brackets: ["0.487", "[0.462, 0.534]"]; other texts whole."""
    return text.replace(" [", "\n[").split("\n")


@dataclass
class Table:
    """Rows of cells under column heads; control characters are removed from all text (`clean`).

    Args:
        columns: heads; each row has as many cells.
        caption: sentence above the table.
        left: heads of the columns of text, which align left and wrap. Default: those without a value.
        grouped: whether the terminal draws a line between rows with different first cells.
        n_names: number of leading columns that identify a row; a terminal always shows them.
        dispensable: heads of the columns that a narrow terminal leaves out first, in this order; then it
            leaves out others from the right.
    """

    columns: Sequence[str]
    rows: list[list[Cell]] = field(default_factory=list)
    caption: str = ""
    left: Sequence[str] | None = None
    grouped: bool = False
    n_names: int = 1
    dispensable: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.columns, self.caption = [*map(clean, self.columns)], clean(self.caption, lines=True)
        rows, self.rows = self.rows, []
        for row in rows:
            self.add_row(*row)

    @classmethod
    def of(cls, columns: Mapping[str, Iterable[Cell]], caption: str = "", **more: Any) -> "Table":
        """A table from its columns by name, all of one length."""
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        return cls([*columns], rows, caption, **more)

    def add_row(self, *cells: str | Cell) -> None:
        """Add a row; a text is a cell without a value."""
        row = (Cell(c) if isinstance(c, str) else c for c in cells)
        self.rows.append(
            [c if c.text.isprintable() else c._replace(text=clean(c.text)) for c in row]
        )

    @property
    def numeric(self) -> list[bool]:
        """For each column whether it holds numbers, which align right."""
        if self.left is not None:
            return [name not in self.left for name in self.columns]
        return [
            any(row[i].value is not None for row in self.rows) for i in range(len(self.columns))
        ]

    def layout(self, width: int, complete: bool = False) -> dict[int, int]:
        """The columns that a terminal shows, by number, and the width of the text in each.

        Heads and text wrap at words, and the interval of a number may be on a line of its own. Where that
        does not suffice, columns are left out.

        Args:
            width: of the terminal.
            complete: leave out no column and divide no number, even if the table is wider.
        """
        numeric, full, least = self.numeric, list[int](), list[int]()  # widths by column
        for i, head in enumerate(self.columns):
            texts = [row[i].text for row in self.rows]
            divide = with_interval_apart if numeric[i] else str.split
            longest = max((len(part) for text in texts for part in divide(text)), default=0)
            if not numeric[i]:  # a longer word is divided
                longest = min(longest, width // 2)
            full.append(max(map(len, [head, *texts])))
            least.append(max([longest, *map(len, head.split())]))
            if complete and numeric[i]:
                least[i] = full[i]
        names = range(self.n_names)
        order = [i for i, head in enumerate(self.columns) if head not in self.dispensable]
        order += [self.columns.index(h) for h in reversed(self.dispensable) if h in self.columns]
        room, shown = width - 1, dict[int, int]()
        for i in (*names, *(i for i in order if i not in names)):
            if complete or i in names or least[i] + BORDER <= room:
                shown[i] = least[i]
                room -= least[i] + BORDER
        # The columns that lack least to be on one line get the room that is left.
        for i in sorted(shown, key=lambda i: full[i] - least[i]):
            more = full[i] - least[i]
            more = min(more, max(room, 0)) if not numeric[i] or more <= room else 0
            shown[i] += more
            room -= more
        return dict(sorted(shown.items()))

    def markdown(self) -> list[str]:
        """Lines of a Markdown table, padded so that it also reads well as plain text."""
        rows = [list(self.columns), *([c.text for c in row] for row in self.rows)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.columns))]
        lines = [
            "| " + " | ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) + " |"
            for row in rows
        ]
        return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]
