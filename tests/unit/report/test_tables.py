"""Tables: what the terminal prints, and numbers as a reader expects them."""

import subprocess
import sys
from dataclasses import replace

import pytest
from terminal import terminal

from chinchilla.commands.show import show_table2
from chinchilla.decide.predictions import predictions as predict
from chinchilla.fit import FailedFit, FitResult, FitResults, OptimalPoint, PowerLaw
from chinchilla.observations.table import Observations
from chinchilla.report.page import facts
from chinchilla.report.tables import (
    RUN_ENDS,
    count,
    flops,
    name_of,
    predictions,
    published_lines,
    ratio,
    runs,
    table2,
)


def frontier(approach: str, p10: float | None = 0.45, p90: float | None = 0.53) -> FitResult:
    """N_opt = 0.1 C^0.49 between 1e18 and 1e20, tokens by C = 6ND."""
    N_opt = PowerLaw(0.1, 0.49, p10, p90)
    D_opt = PowerLaw(1 / 0.6, 0.51, None if p10 is None else 0.47, None if p90 is None else 0.55)
    points = [OptimalPoint(C, float(N_opt(C)), float(D_opt(C)), 3.0) for C in (1e18, 1e19, 1e20)]
    return FitResult(approach, N_opt, D_opt, points, 27, {}, {"interval": "a bootstrap"})


def printed(fits: FitResults, capsys) -> list[str]:
    """Lines of Table 2 in a terminal, with single spaces and without frames."""
    show_table2(fits)
    out = capsys.readouterr().out.translate(str.maketrans("│┃", "  "))
    return [" ".join(line.split()) for line in out.splitlines()]


def test_terminal_table_shows_ours_above_the_papers_and_why_not(capsys):
    refused = {"parametric": FailedFit("N and D rise together.")}
    lines = printed(FitResults({"isoflop": frontier("isoflop")}, refused, {}), capsys)
    at = lines.index("2 isoflop ours 0.490 [0.450, 0.530] 0.510 [0.470, 0.550] 27")
    assert lines[at + 1] == "paper 0.49 [0.462, 0.534] 0.51 [0.483, 0.529] –"
    assert "1 envelope ours not fitted not fitted –" in lines
    assert "3 parametric ours refused refused –" in lines
    assert "3 parametric refused: N and D rise together." in lines
    assert "Kaplan et al. (2020) paper 0.73 0.27 –" in lines


def test_long_reasons_wrap_in_a_terminal(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    with terminal(80) as (stream, text):
        monkeypatch.setattr(sys, "stdout", stream)
        show_table2(FitResults({}, {"isoflop": FailedFit("no budget has a minimum. " * 12)}, {}))
    assert max(map(len, text[0].splitlines())) <= 80


def test_a_missing_interval_is_shown_as_such():
    rows = table2(FitResults({"isoflop": frontier("isoflop", None, None)}, {}, {})).rows
    assert "0.490 (no interval)" in {cell.text for row in rows for cell in row}


def test_predictions_cover_the_budgets_and_one_decade_beyond():
    fits = FitResults({"isoflop": frontier("isoflop")}, {}, {"C": [1e18, 1e20]})
    table = predictions(fits, [1e18, 1e20])
    assert [row[0].text for row in table.rows] == ["1e18", "1e20", "1e21"]
    assert [row[-1].text for row in table.rows] == ["covered", "covered", "extrapolated"]
    C, N, D = (table.rows[0][i].value for i in (0, 2, 3))
    assert 6 * N * D == pytest.approx(C)


def test_predictions_are_those_of_the_predict_command(world):
    """One computation: N, D and the loss of the report are the command's own."""
    table = predictions(world.fits, [1e14])
    predicted = predict([1e14, 1e15], world.fits, published=False)
    assert len(table.rows) == len(predicted) == 6
    for row, p in zip(table.rows, predicted, strict=True):
        assert [row[i].value for i in (0, 2, 3, 5)] == [p.C, p.N, p.D, p.L]


def test_published_lines_give_the_papers_own_projections():
    """67B by Table 3 and 63B by Table A3 at the Gopher budget; 40.4B by equation 4."""
    lines = {approach: float(law(5.76e23)) / 1e9 for approach, law in published_lines().items()}
    assert lines["envelope"] == pytest.approx(67, rel=0.02)
    assert lines["isoflop"] == pytest.approx(63.4, rel=0.01)
    assert lines["parametric"] == pytest.approx(40.36, rel=0.001)


def test_run_table_sorts_by_numbers_and_shows_the_reason(world):
    table = runs(world.results, world.finals)
    assert len(table.rows) == len(world.results)
    last = dict(zip(table.columns, table.rows[-1], strict=True))
    assert last["State"].text == "diverged: loss is NaN at step 133"
    assert last["Steps"].text == "133 of 400"
    assert last["Training loss"].value is None
    first = dict(zip(table.columns, table.rows[0], strict=True))
    assert first["D/N"].value == first["D, tokens"].value / first["N"].value


def test_a_run_without_steps_has_a_row(world):
    result = replace(world.results[-1], status="failed", steps_done=0, flops_spent=0.0)
    row = [cell.text for cell in runs([result], None).rows[0]]
    assert row[4:6] == ["0", "0"]
    assert "0 of 400" in row


def test_numbers_read_as_they_are_typed():
    assert [flops(x) for x in (1e18, 3e19, 2.134e18, 9.999e17)] == [
        "1e18",
        "3e19",
        "2.13e18",
        "1e18",
    ]
    assert [count(x) for x in (41_200, 2.86e9, 1.4e12, 512)] == ["41.2k", "2.86B", "1.40T", "512"]
    assert [ratio(x) for x in (0.5234, 18.42, 4812.0)] == ["0.523", "18.4", "4,812"]


def test_tables_import_neither_torch_nor_matplotlib():
    code = (
        "import sys, chinchilla.report.tables; "
        "print([m for m in ('torch', 'matplotlib', 'jinja2', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_facts_state_repeated_data(world):
    twice = [replace(r, unique_tokens=r.spec.D // 2) for r in world.results[:1]]
    finals = Observations.from_results(twice, "train")
    assert ("epochs", "up to 2 epochs, in 1 runs") in facts([], finals)
    assert "epochs" not in dict(facts([], world.finals))


def test_final_losses_are_not_called_training_curves(capsys):
    """Approach 1 without curves, in every table; the paper's own row keeps its name."""
    ends = replace(
        frontier("envelope"), settings={"endpoints_only": True, "interval": "a bootstrap"}
    )
    curves = replace(
        frontier("envelope"), settings={"endpoints_only": False, "interval": "a bootstrap"}
    )
    lines = printed(FitResults({"envelope": ends}, {}, {}), capsys)
    at = lines.index("1 final losses ours 0.490 [0.450, 0.530] 0.510 [0.470, 0.550] 27")
    assert lines[at + 1].startswith("1 envelope paper 0.50")
    assert "[1 final losses] a bootstrap" in lines
    lines = printed(FitResults({"envelope": curves}, {}, {}), capsys)
    assert any(line.startswith("1 envelope ours 0.490") for line in lines)
    for f, name in ((ends, RUN_ENDS), (curves, "1 envelope")):
        assert name_of("envelope", f) == name
