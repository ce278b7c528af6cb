"""The report's section on diagnostics: there when they are, whole, and never in the way."""

from dataclasses import replace

import numpy as np
import pytest

from chinchilla.diagnose.findings import Finding
from chinchilla.diagnose.verdicts import ITEMS, Diagnostics, diagnose
from chinchilla.report.diagnostics import (
    NAMES,
    counted,
    exponent_paths,
    figures,
    influence,
    influential,
    section,
    verdicts,
)
from chinchilla.report.page import write_report

FIGURES = ("exponent_paths", "influence")


@pytest.fixture(scope="module")
def diagnostics(world) -> Diagnostics:
    shapes = {r.spec.run_id: r.spec.model for r in world.results}
    return diagnose(world.finals, world.fits, n_bootstrap=60, shapes=shapes)


def test_every_item_has_a_label():
    assert list(NAMES) == list(ITEMS)


@pytest.mark.slow
def test_the_page_shows_verdicts_tables_and_figures(world, diagnostics, tmp_path):
    page = write_report(tmp_path, **world.report_inputs(), diagnostics=diagnostics)
    html = page.read_text(encoding="utf-8")
    for part in ("diagnostics", "verdict-table", "influential-table", "counted-table", *FIGURES):
        assert html.count(f'id="{part}"') == 1
    assert '<a href="#diagnostics">' in html
    assert diagnostics.summary in html
    for name in FIGURES:
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 10_000
    write_report(tmp_path, **world.report_inputs())
    assert not (tmp_path / "figures" / "influence.png").exists()
    assert 'id="diagnostics"' not in page.read_text(encoding="utf-8")


def test_tables_hold_the_verdicts_and_the_numbers(diagnostics):
    rows = {row[0].text: row for row in verdicts(diagnostics).rows}
    assert rows["Identifiability"][1].text == diagnostics.items["identifiability"].verdict.replace(
        "_", " "
    )
    assert (
        rows["Identifiability"][1].kind == f"verdict {diagnostics.items['identifiability'].verdict}"
    )
    top = diagnostics.items["leave_one_out"].values["runs"]["top"]
    assert [row[0].text for row in influential(diagnostics).rows] == [r["run_id"] for r in top]
    assert influential(diagnostics).rows[0][6].value == top[0]["N_opt_change"]
    conventions = diagnostics.items["conventions"].values["rows"]
    assert [row[2].value for row in counted(diagnostics).rows] == [
        r["parametric"] for r in conventions
    ]
    assert {row[0].text for row in counted(diagnostics).rows} == {"total", "non-embedding"}


def test_paths_are_drawn_from_the_rows(diagnostics):
    figure = exponent_paths(diagnostics, (0.45, 0.55))
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["Highest losses", "Windows of T = D/N, of N", "Largest C"]
    rows = diagnostics.items["windows"].values["drop_path"]["highest_loss"]
    drawn = figure.axes[0].containers[0].lines[0].get_ydata()
    assert drawn.tolist() == [r["a"] for r in rows if r["a"] is not None]
    for ax in figure.axes:
        low, high = ax.get_ylim()
        assert low < 0.45 < 0.55 < high
    dots = influence(diagnostics, None).axes[0].collections[0].get_offsets()
    moves = [r["log_N_opt_move"] for r in diagnostics.items["leave_one_out"].values["runs"]["runs"]]
    assert np.sort(np.asarray(dots)[:, 1]) == pytest.approx(np.sort(100 * np.expm1(moves)))


def test_without_numbers_there_are_no_figures_and_no_error(diagnostics):
    gone = {name: Finding("unavailable", "too few runs.", kind="few") for name in diagnostics.items}
    empty = replace(diagnostics, items=gone)
    assert [f.figure for f in figures(empty, None)] == [None, None]
    shown = section(empty)["tables"]
    assert shown["influential-table"].rows == shown["counted-table"].rows == []
    assert len(shown["verdict-table"].rows) == len(ITEMS)
    assert section(None) is None
    assert [f.figure for f in figures(None, None)] == [None, None]
