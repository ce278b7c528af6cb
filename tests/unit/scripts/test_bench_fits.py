"""scripts/bench/bench_fits.py: missing programs are named, and the intended program is timed."""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts" / "bench"
sys.path.insert(0, str(SCRIPTS))
import bench_fits  # noqa: E402
import bench_programs  # noqa: E402

LAW = (1.8, 480.0, 2000.0, 0.35, 0.37)  # E, A, B, alpha, beta


@pytest.fixture
def points() -> dict:
    """A grid of runs on LAW, without noise."""
    N, D = (x.ravel() for x in np.meshgrid(np.geomspace(1e8, 1e10, 6), np.geomspace(2e9, 2e11, 6)))
    E, A, B, alpha, beta = LAW
    L = E + A / N**alpha + B / D**beta
    columns = {"N": N, "D": D, "C": 6 * N * D, "L": L, "budget_flops": np.full(len(N), np.nan)}
    return {key: x.tolist() for key, x in columns.items()}


def task(program: str, name: str, kind: str = "point", **options) -> bench_fits.Task:
    return bench_fits.Task(program, name, kind, "a call", **options)


def test_a_missing_program_is_named_with_what_to_do(tmp_path, capsys):
    assert bench_fits.main(["--peers", str(tmp_path), "--only", "vpnls,kyo"]) == 1
    output = capsys.readouterr().err
    assert (
        f"vpnls: left out, {tmp_path / 'vpnls/src/vpnls/grid.py'} is missing. git clone" in output
    )
    assert "https://github.com/kyo-takano/chinchilla" in output
    assert "nothing is left to time" in output
    assert bench_fits.main(["--only", "epoch"]) == 1
    assert "epoch: left out, no --peers folder given" in capsys.readouterr().err


def test_another_version_of_a_program_is_recorded(tmp_path):
    file = tmp_path / "formll" / "analysis.py"
    file.parent.mkdir()
    file.write_text("changed\n")
    assert bench_fits.missing(tmp_path, "formll") == ""
    # `printf 'changed\n' | git hash-object --stdin`
    assert bench_fits.version_of(tmp_path, "formll") == "unknown (blob 5ea2ed416fbd)"


def test_the_program_with_the_same_import_name_is_measured(tmp_path, points):
    """kyo-takano's package is called chinchilla as well: the process must import theirs."""
    package = tmp_path / "kyo" / "chinchilla"
    package.mkdir(parents=True)
    package.joinpath("_metrics.py").write_text("def log_huber(y, y_hat, delta): return 0 * y\n")
    package.joinpath("__init__.py").write_text(
        "import csv, pathlib\n"
        "from types import SimpleNamespace\n"
        "class Chinchilla:\n"
        "    def __init__(self, project, param_grid, log_level):\n"
        "        self.visualizer = SimpleNamespace()\n"
        "        with open(pathlib.Path(project, 'df.csv')) as f:\n"
        "            self.n = len(list(csv.DictReader(f)))\n"
        "    def fit(self, parallel):\n"
        "        keys = ('E', 'A', 'B', 'alpha', 'beta')\n"
        "        self.params = dict(zip(keys, (1.0, self.n, 3.0, 0.2, 0.3)))\n"
    )
    pytest.importorskip("scipy")
    given = tmp_path / "points.json"
    given.write_text(json.dumps(points))
    measured = bench_fits.run(task("kyo", "default"), tmp_path / "kyo", given)
    assert measured["found"] == {"E": 1.0, "A": 36.0, "B": 3.0, "alpha": 0.2, "beta": 0.3}
    assert len(measured["calls"]) == 5
    # A folder without it ends in one line, not in numbers of this package.
    assert "AssertionError" in bench_fits.run(task("kyo", "default"), tmp_path, given)["failed"]


def test_the_fit_of_this_package_is_measured_and_scored(tmp_path, points):
    given = tmp_path / "points.json"
    given.write_text(json.dumps(points))
    own = task("ours", "fit")
    entry = bench_fits.summary(own, [bench_fits.run(own, bench_fits.ROOT, given)], points)
    assert [entry[key] for key in ("alpha", "beta")] == pytest.approx(LAW[3:], rel=1e-6)
    assert entry["objective"] < 1e-15
    assert 0 < entry["cpu_seconds"] < 5
    assert entry["a"] == pytest.approx(0.37 / 0.72, rel=1e-6)


def test_the_objective_is_the_sum_of_huber_on_log_loss(points):
    raised = {**points, "L": [loss * np.exp(0.01) for loss in points["L"]]}
    weights = np.full((1, 36), 2.0)
    each = 1e-3 * (0.01 - 0.0005)  # beyond the width: linear
    assert bench_fits.huber_sum(points, LAW)[0] < 1e-28
    assert bench_fits.huber_sum(raised, LAW)[0] == pytest.approx(36 * each, rel=1e-9)
    assert bench_fits.huber_sum(raised, LAW, weights)[0] == pytest.approx(72 * each, rel=1e-9)
    near = {**points, "L": [loss * np.exp(5e-4) for loss in points["L"]]}
    assert bench_fits.huber_sum(near, [LAW, LAW]) == pytest.approx([36 * 5e-4**2 / 2] * 2, rel=1e-9)


def test_resamples_that_end_above_their_minimum_are_counted(points):
    """Three of four sets of constants are at the minimum."""
    noise = np.exp(np.random.default_rng(0).normal(0, 0.01, 36))
    noisy = {**points, "L": (np.array(points["L"]) * noise).tolist()}
    drawn = np.random.default_rng(1).integers(0, 36, (4, 36))
    from chinchilla.fit.parametric.solver import fit_loss_law, refit_loss_law

    N, D, L = (np.array(noisy[key]) for key in "NDL")
    counts = np.array([np.bincount(row, minlength=36) for row in drawn], float)
    laws = refit_loss_law(N, D, L, counts, fit_loss_law(N, D, L)[0]).theta.copy()
    laws[2, 0] *= 1.001
    scores = bench_fits.score_resamples(noisy, drawn.tolist(), laws.tolist())
    assert scores["share_within_1e-6_of_minimum"] == 0.75
    assert scores["refit_loss_law_within_1e-6_on_the_same"] == 1.0


def test_a_share_of_the_work_is_scaled_up_and_medians_are_over_all_calls():
    runs = [
        {"calls": calls, "import_seconds": 1.0, "found": {"a_se": 0.1}, "versions": {}}
        for calls in ([4.0, 1.0, 2.0], [3.0, 1.0])
    ]
    entry = bench_fits.summary(task("vpnls", "resamples", "resamples", share=0.25), runs, {})
    assert entry["cpu_seconds"] == 8.0
    assert entry["cpu_seconds_range"] == [4.0, 16.0]
    assert entry["cpu_seconds_first_call"] == 14.0
    assert entry["n_calls"] == 5


def test_the_table_shows_failures_and_results():
    ran = {"program": "ours", "kind": "point", "what": "fit", "cpu_seconds": 0.0123}
    ran |= {"above_minimum": 2e-5, "n_starts": 5, "n_success": 4, "a": 0.5}
    failed = bench_fits.summary(task("kyo", "default"), [{"failed": "ImportError: no x"}], {})
    lines = bench_fits.table([ran, failed]).splitlines()
    assert "| ours | fit | 0.0123 | 2.0e-05 |  |  | 0.5000 |  | 4 of 5 report success |" in lines
    assert any("failed: ImportError: no x" in line for line in lines)


def test_a_notebook_cell_is_found_by_its_content():
    cells = [("markdown", "x = 1"), ("code", "y = 2"), ("code", "x = 1\nz")]
    notebook = {"cells": [{"cell_type": kind, "source": [text]} for kind, text in cells]}
    assert bench_programs.cell_with(notebook, "x = 1") == "x = 1\nz"
    with pytest.raises(ValueError, match="another version"):
        bench_programs.cell_with(notebook, "w = 3")


def test_minimisations_are_recorded_and_scipy_is_restored():
    optimize = pytest.importorskip("scipy.optimize")
    original = optimize.minimize
    with bench_programs.recorded_minimize() as ends:
        optimize.minimize(lambda x: float((x[0] - 3) ** 2), [0.0])
        optimize.minimize(lambda x: float((x[0] - 3) ** 2), [0.0], options={"maxiter": 0})
    assert optimize.minimize is original
    assert [success for success, _, _ in ends] == [True, False]
    assert ends[0][1] > 0
    assert [value for _, _, value in ends] == pytest.approx([0, 9], abs=1e-9)
    output = bench_programs._search_summary(
        [(False, 0, float("nan")), *ends]
    )  # overflow ends in NaN
    assert output == {
        "n_starts": 3,
        "n_success": 1,
        "median_iterations": 0.0,
        "share_of_starts_at_best": 1 / 3,
    }


def test_work_is_timed_without_its_preparation(monkeypatch):
    """Five calls, or fewer if they take a second; preparation is measured separately."""

    def spin(seconds: float) -> dict:
        ends = time.process_time() + seconds
        while time.process_time() < ends:
            pass
        return {"done": True}

    def slow_to_prepare(folder, points, name):
        spin(0.3)
        return lambda: spin(0.6)

    monkeypatch.setitem(bench_programs.PROGRAMS, "ours", slow_to_prepare)
    measured = bench_programs.measure("ours", "", Path(), {})
    assert measured["calls"] == pytest.approx([0.6, 0.6], abs=0.1)
    assert measured["import_seconds"] == pytest.approx(0.3, abs=0.1)
    assert measured["found"] == {"done": True}


def test_epochs_logarithms_become_constants(tmp_path, points, monkeypatch):
    """Their notebook fits ln A, ln B and ln E; a fake notebook gives known values."""
    monkeypatch.setitem(sys.modules, "autograd", SimpleNamespace(grad=None))
    frame = SimpleNamespace(DataFrame=lambda columns: columns)
    monkeypatch.setitem(sys.modules, "pandas", frame)
    pytest.importorskip("scipy")
    sources = [
        "random_indices = [np.arange(2)]",
        "def huber_loss_objective(): pass",
        "init_params = list(true_params) + [0]\n",
    ]
    sources[1] += "\ntrue_params = [np.log(480.0), np.log(2000.0), np.log(1.8), 0.35, 0.37]"
    sources[1] += "\nfrom scipy.optimize import minimize"
    sources[2] += "result = minimize(lambda x: 0.0, init_params)"
    notebook = {"cells": [{"cell_type": "code", "source": [s]} for s in sources]}
    tmp_path.joinpath("data_analysis.ipynb").write_text(json.dumps(notebook))
    found = bench_programs.epoch(tmp_path, points, "headline")()
    assert [found[key] for key in ("E", "A", "B", "alpha", "beta")] == pytest.approx(LAW)
    assert (found["n_starts"], found["n_success"]) == (1, 1)
