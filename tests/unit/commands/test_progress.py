"""Progress lines of long commands."""

import io
import time
from types import SimpleNamespace

import pytest

from chinchilla.commands.progress import late_lines, speed, stage_progress


def test_a_long_command_prints_its_stage_and_a_short_one_prints_nothing():
    out = io.StringIO()
    with late_lines(out, first=0.05, following=0.05) as stage:
        stage("fit: approach 3 (parametric), 40 rows, 50 resamples")
        time.sleep(0.2)
        assert out.getvalue().startswith(
            "fit: approach 3 (parametric), 40 rows, 50 resamples, 0 s\n"
        )
        assert out.getvalue().count("\n") >= 2
    before = out.getvalue()
    time.sleep(0.1)
    assert out.getvalue() == before
    with late_lines(out) as stage:
        stage("fit: approach 1 (envelope), 40 rows, 50 resamples")
    assert out.getvalue() == before


def test_each_stage_prints_a_line_when_it_begins():
    out = io.StringIO()
    with stage_progress(out) as report:
        report("read", 5, 0)
        for done in range(11):
            report("tokenise", done, 10)
    assert out.getvalue() == "read\ntokenise 0%\n"


def test_a_long_stage_shows_speed_and_time_left(monkeypatch: pytest.MonkeyPatch):
    """From where it starts, which after a stop is not zero."""
    now = iter([0.0, 20.0, 40.0, 60.0])
    clock = SimpleNamespace(monotonic=lambda: next(now))
    monkeypatch.setattr("chinchilla.commands.progress.time", clock)
    starts: dict[str, tuple[float, float]] = {}
    assert speed(starts, "tokenise", 50e6, 300e6) == ""
    assert speed(starts, "tokenise", 150e6, 300e6) == ", 5 MB/s, 0:30 left"
    assert speed(starts, "tokenise", 150e6, 0) == ", 2.5 MB/s"
    assert speed({"tokenizer": (-9.0, 0.0)}, "tokenizer", 1, 1) == ""
