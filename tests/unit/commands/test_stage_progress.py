"""The progress of a command with long stages."""

import io
from types import SimpleNamespace

import pytest

from chinchilla.commands.progress import speed, stage_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_stages_are_shown_as_lines_or_bars(monkeypatch: pytest.MonkeyPatch):
    out = io.StringIO()
    with stage_progress(out) as report:
        report("read", 5, 0)
        for done in range(11):
            report("tokenise", done, 10)
    assert out.getvalue() == "read\ntokenise 0%\n"
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    with stage_progress(terminal) as report:
        report("tokenise", 10, 10)
    assert "100%" in terminal.getvalue()


def test_a_long_stage_shows_speed_and_time_left(monkeypatch):
    """From where it starts, which after a stop is not zero."""
    now = iter([0.0, 20.0, 40.0, 60.0])
    clock = SimpleNamespace(monotonic=lambda: next(now))
    monkeypatch.setattr("chinchilla.commands.progress.time", clock)
    starts: dict[str, tuple[float, float]] = {}
    assert speed(starts, "tokenise", 50e6, 300e6) == ""
    assert speed(starts, "tokenise", 150e6, 300e6) == ", 5 MB/s, 0:30 left"
    assert speed(starts, "tokenise", 150e6, 0) == ", 2.5 MB/s"
    assert speed({"tokenizer": (-9.0, 0.0)}, "tokenizer", 1, 1) == ""
