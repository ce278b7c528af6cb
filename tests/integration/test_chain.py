"""data -> plan -> sweep -> status -> fit -> report -> predict on the command line, on the embedded corpus.

The quick tests run all commands on one small sweep. The slow ones train it again in other ways.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from chinchilla.cli import main
from chinchilla.observations.table import Observations
from chinchilla.plan.plan_file import load_plan
from chinchilla.plan.records import Curve, RunResult, RunSpec

GRID = [
    "grid=demo", "grid.name=tiny", "grid.budgets=[1e9,2e9]",
    "grid.models=[8x1,12x1,16x1,24x1,32x1]", "grid.sizes_per_budget=0", "grid.kv_size=8",
    "grid.seq_len=32", "grid.min_steps=8", "grid.expected_coefficient=0.3",
    "grid.expected_exponent=0.5", "grid.horizon_models=[8x1]",
    "grid.horizon_tokens_per_param=[3,6]",
    "recipe=demo", "recipe.batch_tokens=384", "recipe.precision=fp32",
]  # fmt: skip
RUNTIME = ["runtime.device=cpu", "runtime.validation_tokens=2048", "runtime.validation_evals=3"]
DEBUG = ["cluster=debug", "cluster.threads_per_worker=1"]
LOCAL = ["cluster=local", "cluster.n_workers=2", "cluster.threads_per_worker=1"]
FIRST_BUDGET = ["grid.budgets=[1e9]", "grid.horizon_models=[]", "grid.horizon_tokens_per_param=[]"]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain") / "data"
    code = main([
        "data", "corpus=sotu", "corpus.max_documents=25", "tokenizer.vocab_size=384",
        "validation_fraction=0.1", "n_workers=1", f"data_dir={folder}",
    ])  # fmt: skip
    assert code == 0
    return folder


@pytest.fixture(scope="session")
def sweep_dir(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of the tiny grid, trained in this process."""
    folder = tmp_path_factory.mktemp("sweep") / "tiny"
    assert sweep(data_dir, folder, *DEBUG) == 0
    return folder


def words_of(data_dir: Path, folder: Path, *more: str) -> list[str]:
    told = [*GRID, *RUNTIME, f"data_dir={data_dir}", f"sweep_dir={folder}", *more]
    return ["sweep", *{word.partition("=")[0]: word for word in told}.values()]  # the last counts


def sweep(data_dir: Path, folder: Path, *more: str) -> int:
    return main(words_of(data_dir, folder, *more))


def results(folder: Path) -> list[RunResult]:
    return [RunResult.load(run_dir(folder, spec)) for spec in load_plan(folder / "plan.jsonl")]


def run_dir(folder: Path, spec: RunSpec) -> Path:
    return folder / "runs" / spec.run_id


def assert_same_losses(folder: Path, reference: Path) -> None:
    """All losses of `folder` equal those of `reference` bit for bit."""
    found = results(folder)
    assert found
    for result in found:
        other = RunResult.load(run_dir(reference, result.spec))
        assert result.final_loss == other.final_loss
        assert result.validation_loss == other.validation_loss
        one, two = (Curve.load(run_dir(f, result.spec)) for f in (folder, reference))
        np.testing.assert_array_equal(one.loss, two.loss)
        np.testing.assert_array_equal(one.validation_loss, two.validation_loss)


def test_a_sweep_trains_its_plan_and_writes_its_files(
    data_dir: Path, sweep_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """C agrees with the budget to half a step; the smallest run has 14 steps."""
    out = tmp_path / "plan.jsonl"
    assert main(["plan", *GRID, f"data_dir={data_dir}", f"out={out}"]) == 0
    planned = load_plan(out)
    assert planned == load_plan(sweep_dir / "plan.jsonl")
    found = results(sweep_dir)
    assert [r.status for r in found] == ["finished"] * 12
    assert [r.spec.budget_flops for r in found] == [1e9] * 5 + [2e9] * 5 + [None] * 2
    for r in found:
        folder = run_dir(sweep_dir, r.spec)
        assert {p.name for p in folder.iterdir()} >= {"spec.json", "metrics.jsonl"}
        curve = Curve.load(folder)
        assert len(curve.loss) == r.spec.steps == r.steps_done
        assert r.final_loss < curve.loss[0]
        if r.spec.budget_flops is not None:
            half_step = 0.5 * r.spec.C / r.spec.steps
            assert r.flops_spent == pytest.approx(r.spec.budget_flops, abs=half_step * 1.001)
    capsys.readouterr()
    assert main(["status", f"sweep_dir={sweep_dir}", "format=json"]) == 0
    status = capsys.readouterr().out
    assert json.loads(status)["counts"]["finished"] == 12
    assert all(s.run_id in status for s in planned)


def test_a_second_launch_trains_nothing(
    data_dir: Path, sweep_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):  # fmt: skip
    before = {p: p.read_bytes() for p in sweep_dir.glob("runs/*/result.json")}
    monkeypatch.setattr("chinchilla.train.train_run", None)
    assert sweep(data_dir, sweep_dir, *DEBUG) == 0
    assert {p: p.read_bytes() for p in sweep_dir.glob("runs/*/result.json")} == before
    assert len(before) == 12
    assert "12/12 runs" in capsys.readouterr().out


def test_fit_report_and_predict_of_the_sweep(
    sweep_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    fits, page = tmp_path / "fits", tmp_path / "report"
    words = [f"sweep_dir={sweep_dir}", f"out_dir={fits}", "n_bootstrap=20"]
    assert main(["fit", *words]) == 0
    table = Observations.from_csv(fits / "observations.csv")
    found = results(sweep_dir)
    assert sorted(table.L) == sorted(r.final_loss for r in found)
    assert sorted(table.N) == sorted(r.n_params for r in found)
    assert sorted(table.C) == pytest.approx(sorted(r.flops_spent for r in found), rel=1e-12)
    assert (fits / "frontier.json").exists()

    assert main(["report", f"sweep_dir={sweep_dir}", f"fits={fits}", f"out_dir={page}"]) == 0
    html = (page / "report.html").read_text(encoding="utf-8")
    assert all(r.spec.run_id in html for r in found)

    capsys.readouterr()
    assert main(["predict", "budget_flops=[2e9,1e10]", f"fits={fits}", "format=json"]) == 0
    rows = json.loads(capsys.readouterr().out)["predictions"]
    ours = [row for row in rows if "parametric" in row["by"] and "this" in row["by"]]
    assert [row["C"] for row in ours] == [2e9, 1e10]
    assert all(row["N"] > 0 and row["D"] > 0 and row["L"] > 0 for row in ours)


@pytest.mark.slow
def test_two_processes_and_one_give_identical_losses(
    data_dir: Path, sweep_dir: Path, tmp_path: Path
):
    assert sweep(data_dir, tmp_path / "tiny", *LOCAL, *FIRST_BUDGET) == 0
    assert len(results(tmp_path / "tiny")) == 5
    assert_same_losses(tmp_path / "tiny", sweep_dir)


def claim_pids(folder: Path) -> set[int]:
    """PIDs of the workers of this sweep, from their claims."""
    claims = folder.glob("runs/*/claim-*.json")
    return {json.loads(p.read_text())["pid"] for p in claims}


@pytest.mark.slow
@pytest.mark.parametrize("also_workers", [False, True])
def test_a_killed_sweep_resumes(
    data_dir: Path, sweep_dir: Path, tmp_path: Path, also_workers: bool
):
    """SIGKILL of the launcher, or of launcher and workers, twice; then one complete launch."""
    folder = tmp_path / "tiny"
    command = [sys.executable, "-m", "chinchilla.cli"]
    command += words_of(data_dir, folder, *LOCAL, "runtime.checkpoint_minutes=0.002")
    for round_ in range(2):
        with open(tmp_path / "out.txt", "ab") as out:
            launcher = subprocess.Popen(command, stdout=out, stderr=out)
        deadline = time.monotonic() + 120
        enough = 1 + 3 * round_  # checkpoints of more runs each time, so each round gets further
        while len(list(folder.glob("runs/*/checkpoints/step-*/MANIFEST.json"))) < enough:
            assert launcher.poll() is None, (tmp_path / "out.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        pids = claim_pids(folder)
        launcher.kill()
        launcher.wait()
        for pid in pids if also_workers else ():
            if is_worker_of(pid, folder):
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.kill(pid, signal.SIGKILL)
        while any(is_worker_of(pid, folder) for pid in pids):  # orphans stop by themselves
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert sweep(data_dir, folder, *DEBUG) == 0
    assert_same_losses(folder, sweep_dir)
    assert len(results(folder)) == 12
    assert max(r.attempts for r in results(folder)) > 1, "no run was ever interrupted"


def is_worker_of(pid: int, folder: Path) -> bool:
    """Whether `pid` runs and is a worker of this sweep, not another process with the same PID."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return str(folder).encode() in command and state != "Z"
