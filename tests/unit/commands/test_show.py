"""Tables in a terminal."""

import pytest
from rich.console import Console

from chinchilla.commands import show
from chinchilla.core.table import Cell, Table


@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_narrow_terminal_cuts_no_digit_unit_or_name(monkeypatch, capsys, width):
    monkeypatch.setattr(show, "console", lambda: Console(width=width))
    columns = {
        "by": [Cell("envelope"), Cell("parametric")],
        "N_opt": [Cell("8.89B", 8.89e9), Cell("12.3B", 12.3e9)],
        "10-90%": [Cell("8.07B-10.5B", 8.07e9), Cell("9.52B-15.1B", 9.52e9)],
        "C beyond the data, x": [Cell("9.999e+16", 9.999e16), Cell("2.30e-04", 2.3e-4)],
    }
    show.print_table(Table.of(columns, "a caption"))
    out = capsys.readouterr().out
    for cells in columns.values():
        assert all(cell.text in out for cell in cells)
    assert all(name in out for name in columns)
