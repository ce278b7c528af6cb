"""Messages wrap at words in a terminal and are one line elsewhere."""

import pytest
from command_line import one_line
from terminal import in_terminal, terminal

from chinchilla.core.terminal import print_error, print_message, wrapped

TEXT = "note: 5 of 245 runs are outliers: /a/path/that/is/longer/than/a/line, run-b; check them."


def test_a_message_wraps_at_words_in_a_terminal(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    with terminal(30) as (stream, text):
        print_message(TEXT, stream)
    lines = text[0].splitlines()
    assert lines[0] == "note: 5 of 245 runs are"
    assert "  /a/path/that/is/longer/than/a/line," in lines, "a path stays whole"
    assert all(len(line) <= 30 for line in lines if "/path/" not in line)
    assert " ".join(text[0].split()) == TEXT
    print_message(TEXT)
    assert capsys.readouterr().out == TEXT + "\n"


def test_an_error_is_one_line_of_standard_error(capsys):
    print_error("disk full\nat /tmp")
    assert capsys.readouterr() == ("", "chinchilla: disk full at /tmp\n")


def test_each_line_is_wrapped_with_its_own_indentation():
    assert wrapped("one two\n\n  three four", 9) == "one two\n\n  three\n    four"


@pytest.mark.parametrize("columns", ["0", "-3", "wide", "", "9" * 10])
def test_an_invalid_width_is_ignored(monkeypatch, columns: str):
    monkeypatch.setenv("COLUMNS", columns)
    with terminal(20) as (stream, text):
        print_message("one two three four five", stream)
    assert text[0] == "one two three four\n  five\n"


def test_an_error_wraps_in_a_terminal_only(say):
    text = in_terminal("plan grid=nothing", 60)
    assert text.count("\n") > 1
    assert max(map(len, text.splitlines())) <= 60
    one_line(say("plan grid=nothing"), 2, " ".join(text.split())[:50])
