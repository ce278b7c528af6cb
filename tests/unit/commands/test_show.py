"""Tables in a terminal."""

import sys

import pytest
from terminal import not_shown, tables_in, terminal

from chinchilla.commands import show
from chinchilla.core.table import Cell, Table

COLUMNS = {
    "by": [Cell("envelope"), Cell("parametric")],
    "N_opt": [Cell("8.89B", 8.89e9), Cell("12.3B", 12.3e9)],
    "a": [Cell("0.487 [0.462, 0.534]", 0.487), Cell("0.460 [0.454, 0.466]", 0.46)],
    "C beyond the data, x": [Cell("9.999e+16", 9.999e16), Cell("2.30e-04", 2.3e-4)],
}


def shown(table: Table, width: int, monkeypatch) -> str:
    monkeypatch.delenv("COLUMNS", raising=False)
    with terminal(width) as (stream, text):
        monkeypatch.setattr(sys, "stdout", stream)
        show.print_table(table)
    return text[0]


@pytest.mark.parametrize(
    ("width", "heads"),
    [
        (20, ["by"]),
        (40, ["by", "N_opt", "C beyond the data, x"]),
        (45, ["by", "a", "C beyond the data, x"]),
        (80, list(COLUMNS)),
    ],
)
def test_a_narrow_terminal_leaves_whole_columns_out(monkeypatch, width: int, heads: list[str]):
    table = Table.of(COLUMNS, "a caption", dispensable=("N_opt", "a"))
    text = shown(table, width, monkeypatch)
    assert [tables_in(text)[0][head] for head in heads] == [
        [word for cell in COLUMNS[head] for word in cell.text.split()] for head in heads
    ]
    left_out = [head for head in COLUMNS if head not in heads]
    assert not_shown(text) == ([left_out] if left_out else [])


def test_a_name_longer_than_half_of_the_terminal_is_divided(monkeypatch):
    table = Table.of({"run": [Cell("x" * 50)], "loss": [Cell("2.1234", 2.1234)]})
    text = shown(table, 40, monkeypatch)
    assert tables_in(text) == [{"run": ["x" * 27, "x" * 23], "loss": ["2.1234"]}]
    assert max(map(len, text.split("\n"))) == 40


def test_a_file_has_every_column_and_columns_sets_another_width(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table.of(COLUMNS | {f"x{i}": COLUMNS["a"] for i in range(5)})
    show.print_table(table)
    assert list(tables_in(capsys.readouterr().out)[0]) == table.columns
    monkeypatch.setenv("COLUMNS", "60")
    show.print_table(table)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60
