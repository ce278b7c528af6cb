"""The report's section on diagnostics: there when they are, whole, and never in the way."""

from dataclasses import replace

import numpy as np
import pytest

from chinchilla.diagnose.findings import Finding
from chinchilla.diagnose.verdicts import ITEMS, Diagnostics, diagnose
from chinchilla.report.diagnostics import (
    counted,
    exponent_paths,
    figure,
    influential,
    section,
    verdicts,
)
from chinchilla.report.page import write_report


@pytest.fixture(scope="module")
def diagnostics(world) -> Diagnostics:
    shapes = {r.spec.run_id: r.spec.model for r in world.results}
    return diagnose(world.finals, world.fits, n_bootstrap=60, shapes=shapes)


@pytest.mark.slow
def test_the_page_shows_verdicts_tables_and_the_figure(world, diagnostics, tmp_path):
    page = write_report(tmp_path, **world.report_inputs(), diagnostics=diagnostics)
    html = page.read_text(encoding="utf-8")
    tables = ("verdict-table", "influential-table", "counted-table")
    for part in ("diagnostics", *tables, "exponent_paths"):
        assert html.count(f'id="{part}"') == 1
    assert '<a href="#diagnostics">' in html
    assert diagnostics.summary in html
    assert (tmp_path / "figures" / "exponent_paths.png").stat().st_size > 10_000
    write_report(tmp_path, **world.report_inputs())
    assert not (tmp_path / "figures" / "exponent_paths.png").exists()
    assert 'id="diagnostics"' not in page.read_text(encoding="utf-8")


def test_tables_hold_the_verdicts_and_the_numbers(diagnostics):
    rows = {row[0].text: row for row in verdicts(diagnostics).rows}
    item = diagnostics.items["identifiability"]
    assert rows["Identifiability"][1].text == item.verdict
    assert rows["Identifiability"][1].kind == f"verdict {item.verdict}"
    runs = diagnostics.items["leave_one_out"].parts["runs"].values["rows"]
    top = sorted(runs, key=lambda row: -abs(row["log_N_move"]))[:5]
    assert [f"run {row[0].text}" for row in influential(diagnostics).rows] == [
        row["name"] for row in top
    ]
    assert influential(diagnostics).rows[0][6].value == np.expm1(top[0]["log_N_move"])
    conventions = diagnostics.items["conventions"].values["rows"]
    assert [row[2].value for row in counted(diagnostics).rows] == [r["a"] for r in conventions]
    assert {row[0].text for row in counted(diagnostics).rows} == {"total", "non-embedding"}


def test_paths_are_drawn_from_the_rows(world, diagnostics):
    paths = exponent_paths(diagnostics, world.fitted["parametric"])
    titles = [ax.get_title(loc="left") for ax in paths.axes]
    assert titles == ["Highest losses out", "Windows of D/N, N", "Runs up to C", "One budget out"]
    rows = diagnostics.items["windows"].parts["drop_path"].values["rows"]
    drawn = paths.axes[0].containers[0].lines[0].get_ydata()
    assert drawn.tolist() == [row["a"] for row in rows if row["a"] is not None]
    law = world.fitted["parametric"].N_opt
    for ax in paths.axes:
        low, high = ax.get_ylim()
        assert low < law.p10 < law.p90 < high


def test_without_numbers_there_is_no_figure_and_no_error(world, diagnostics):
    gone = {name: Finding("unavailable", "too few runs.") for name in diagnostics.items}
    empty = replace(diagnostics, items=gone)
    for found, fit in ((empty, world.fitted["parametric"]), (empty, None), (None, None)):
        assert figure(found, fit).figure is None
    shown = section(empty)["tables"]
    assert shown["influential-table"].rows == shown["counted-table"].rows == []
    assert len(shown["verdict-table"].rows) == len(ITEMS)
    assert section(None) is None
