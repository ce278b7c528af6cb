"""Progress lines of long commands."""

import io
import time

from chinchilla.commands.progress import late_lines


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
