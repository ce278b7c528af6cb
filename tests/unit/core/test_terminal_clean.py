"""Nothing that is printed controls a terminal or changes the direction of text, whatever a record contains."""

import ast
import io
import logging
from pathlib import Path

import pytest

import chinchilla
from chinchilla.commands.show import print_table
from chinchilla.core.errors import clean
from chinchilla.core.table import Table
from chinchilla.core.terminal import log_to_output, print_error, print_lines, print_message

HOSTILE = {
    "colour": ("a\x1b[31mb", "ab"),
    "colour, C1": ("a\x9b31mb", "ab"),
    "title": ("a\x1b]0;owned\x07b", "ab"),
    "title, unfinished": ("a\x1b]0;owned", "a0;owned"),
    "clipboard": ("a\x1b]52;c;cm0=\x1b\\b", "ab"),
    "device control": ("a\x1bP+q544e\x1b\\b", "ab"),
    "reset": ("a\x1bcb", "ab"),
    "lone escape": ("a\x1b", "a "),
    "C0": ("a\x00\x07\x08\x0cb", "a b"),
    "C1": ("a\x85b", "a b"),
    "carriage return": ("good\rbad", "good bad"),
    "override": ("a\u202eb\u202c", "a b "),
    "isolate": ("a\u2066b\u2069", "a b "),
    "marks": ("a\u200e\u200f\u061cb", "a b"),
    "separators": ("a\u2028\u2029b", "a b"),
    "surrogate": ("a\udcffb", "a b"),
}
PLAIN = ["é ± – 中文 עברית", "family: \U0001f468\u200d\U0001f469", "run-1 [1, 2]", ""]


@pytest.mark.parametrize(("text", "shown"), HOSTILE.values(), ids=HOSTILE)
def test_controls_are_removed(text: str, shown: str):
    assert clean(text) == shown
    assert clean(f"1\n2\t{text}", lines=True).startswith("1\n2\t")


@pytest.mark.parametrize("text", PLAIN)
def test_other_text_is_unchanged(text: str):
    assert clean(text) == clean(text, lines=True) == text


ALL = "".join(text for text, _ in HOSTILE.values())


def _table() -> None:
    table = Table([f"head{ALL}"], caption=f"caption{ALL}")
    table.add_row(f"cell{ALL}")
    print_table(table)


@pytest.mark.parametrize(
    "show",
    [
        lambda: print_message(ALL),
        lambda: print_lines(ALL),
        lambda: print_error(ALL),
        lambda: print_error(ValueError(ALL)),
        _table,
        lambda: print_lines("\n".join(Table([ALL], [], ALL).markdown())),
    ],
    ids=["message", "lines", "error", "exception", "table", "markdown"],
)
def test_whatever_prints_removes_controls(capsys, show):
    show()
    text = "".join(capsys.readouterr())
    assert "owned" in text  # the end of an unfinished sequence
    assert all(clean(line) == line for line in text.split("\n")), ascii(text)


def test_the_log_of_a_worker_has_no_controls(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    level = root.level
    try:
        log_to_output()
        logging.getLogger("chinchilla.sweep").warning("claimed %s", ALL)
    finally:
        root.setLevel(level)
    [line] = out.getvalue().splitlines()
    assert " claimed a" in line
    assert clean(line) == line


def test_only_the_terminal_module_prints():
    """Anything printed past it would not be cleaned, and a closed output would be an error."""
    package = Path(chinchilla.__file__).parent
    found = []
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                to = [ast.unparse(k.value) for k in node.keywords if k.arg == "file"]
                found += [] if to == ["out"] else [f"{path.name}:{node.lineno}"]
    assert not found
