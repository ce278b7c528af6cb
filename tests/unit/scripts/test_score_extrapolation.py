"""scripts/studies/score_extrapolation.py: held-out budgets of a known law are scored, errors are one line."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts" / "studies"
BUDGETS = [1e18, 2e18, 4e18, 8e18, 1.6e19, 3.2e19, 6.4e19]


def write(path: Path, obs, sweep: str) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("run_id", "budget_flops", "C", "N", "D", "L", "sweep"))
        columns = (obs.run_id, obs.budget_flops, obs.C, obs.N, obs.D, obs.L)
        writer.writerows((*row, sweep) for row in zip(*(x.tolist() for x in columns), strict=True))


def call(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPTS / "score_extrapolation.py", *words], capture_output=True, text=True,
        timeout=120, cwd=cwd,
    )  # fmt: skip


def test_a_sweep_of_a_known_law_is_predicted_beyond_its_budgets(isoflop_runs, tmp_path):
    write(tmp_path / "sweeps.csv", isoflop_runs(BUDGETS, noise=5e-4), "one")
    done = call("--table", "sweeps.csv:sweep", "--out", "out.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out.json").read_text())
    near, far = (
        record["sweeps"]["sweeps.csv"]["one"][split] for split in record["summary"]["sweeps.csv"]
    )
    assert near["beyond"] == pytest.approx(2)
    assert far["beyond"] == pytest.approx(8)
    for found in (near, far):
        assert found["parabola"]["inside"]
        assert abs(found["parabola"]["error"]) < 0.05
        assert abs(found["L"]["error"]) < 2e-3
    assert record["summary"]["all"]["both"]["n"] == 2
    assert "| sweeps.csv | without the largest budget | 1 |" in done.stdout


def test_the_minimum_of_a_parabola_is_that_of_the_law(isoflop_runs, law):
    sys.path.insert(0, str(SCRIPTS))
    import score_extrapolation as se

    runs = isoflop_runs([1e20], n_sizes=9)
    a = law.beta / (law.alpha + law.beta)
    G = (law.alpha * law.A / (law.beta * law.B)) ** (1 / (law.alpha + law.beta))
    found = se.measured(runs)
    assert found["parabola"] == pytest.approx(G * (1e20 / 6) ** a, rel=0.02)
    assert found["akima"] == pytest.approx(G * (1e20 / 6) ** a, rel=0.1)
    assert found["L"] == pytest.approx(float(np.min(runs.L)), rel=1e-3)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("nowhere",), 2, "there is no folder 'nowhere'"),
        (("--table", "sweeps.csv:sweep"), 2, "'sweeps.csv:sweep' is not FILE.csv:COLUMN"),
        ((), 1, "no table to score"),
        ((".",), 1, "porian_refinedweb_isoflop.csv: left out"),
    ],
)
def test_bad_input_is_one_line_and_missing_tables_are_named(words, code, message, tmp_path):
    done = call(*words, "--out", "out.json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.json").exists()
