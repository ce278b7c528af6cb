"""The script and the submission, with a stand-in for sbatch; a real Slurm is tests/slurm."""

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from sweep_fakes import PROGRAM, SLOW, command, make_result, make_specs, make_sweep, wait_until

from chinchilla.errors import InputError
from chinchilla.sweep import slurm
from chinchilla.sweep.cells import cell_of, read_progress
from chinchilla.sweep.claims import latest
from chinchilla.sweep.launch import launch
from chinchilla.sweep.stopping import Stop

pytest.importorskip("submitit")


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that receives each script given to a fake sbatch; jobs get number 41."""
    folder, programs = tmp_path / "scripts", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    (programs / "sbatch").write_text(
        f'#!/bin/sh\ncp "$1" {folder}/$$.sh\necho "Submitted batch job 41"\n'
    )
    (programs / "srun").write_text("#!/bin/sh\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return folder


def on_slurm(**more):
    return command(
        kind="slurm", n_workers=3, partition="p1", qos="long", timeout_min=90, mem_gb=32, **more
    )


def test_the_script_says_what_was_asked(tmp_path: Path, scripts: Path, capsys):
    sweep = tmp_path / "sweep"
    asked = on_slurm(gpus_per_node=2, setup=["module load cuda"])
    assert launch(asked, make_specs(9), sweep, tmp_path) == 0
    [script] = scripts.iterdir()
    text = script.read_text()
    for part in (
        "--array=0-2%3",
        "--signal=USR2@180",
        "--comment=chinchilla:toy:",
        "--requeue",
        "--open-mode=append",
        "--partition=p1",
        "--qos=long",
        "--time=90",
        "--mem=32GB",
        "--gpus-per-node=2",
        "--cpus-per-task=8",
        "--kill-on-bad-exit=1",
        "env --ignore-signal=USR2",
        "module load cuda",
    ):
        assert part in text, part
    assert "--account" not in text
    out = capsys.readouterr().out
    assert "submitted 3 workers: 41_0, 41_1, 41_2" in out
    assert f"chinchilla status sweep_dir={sweep}" in out
    [record] = sweep.glob("submitit/*/submission.json")
    assert json.loads(record.read_text())["job_ids"] == ["41_0", "41_1", "41_2"]


def test_never_more_jobs_than_runs_and_none_for_nothing(tmp_path: Path, scripts: Path, capsys):
    sweep = tmp_path / "sweep"
    [spec] = make_specs(1)
    assert launch(on_slurm(gpus_per_node=0), [spec], sweep, tmp_path) == 0
    [script] = scripts.iterdir()
    assert "--array" not in script.read_text()
    assert "--gpus" not in script.read_text()
    cell_of(sweep, spec).mkdir(parents=True)
    make_result(spec).save(cell_of(sweep, spec))
    assert launch(on_slurm(), [spec], sweep, tmp_path) == 0
    assert len(list(scripts.iterdir())) == 1
    assert "1/1 cells" in capsys.readouterr().out


def test_no_slurm_here_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="login node"):
        launch(on_slurm(), make_specs(1), tmp_path / "sweep", tmp_path)


def test_a_refusal_by_sbatch_is_said(tmp_path: Path, scripts: Path):
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho invalid partition >&2; exit 1\n")
    with pytest.raises(InputError, match="invalid partition"):
        launch(on_slurm(), make_specs(2), tmp_path / "sweep", tmp_path)


def test_the_number_of_jobs_must_be_given(tmp_path: Path, scripts: Path):
    asked = on_slurm()
    asked.cluster.n_workers = 0
    with pytest.raises(InputError, match=r"cluster\.n_workers=2"):
        launch(asked, make_specs(2), tmp_path / "sweep", tmp_path)


@pytest.mark.parametrize("code", [0, -signal.SIGTERM, 1])
def test_a_job_requeues_its_own_element_only(monkeypatch: pytest.MonkeyPatch, code: int):
    calls, naps, stop = [], [], Stop()

    def run(command, **kwargs):
        calls.append(command)
        return subprocess.CompletedProcess(command, code)

    def nap_until_told(seconds: float) -> None:
        naps.append(seconds)
        stop.seen.add(signal.SIGTERM)

    monkeypatch.setattr(slurm.subprocess, "run", run)
    monkeypatch.setattr(slurm.time, "sleep", nap_until_told)
    monkeypatch.setenv("SLURM_JOB_ID", "41")  # the last element's own number is the array's
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "41")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    with pytest.raises(SystemExit) as left:
        slurm.requeue(stop)
    assert left.value.code == 75
    assert calls == [["scontrol", "requeue", "41_2"]]
    assert len(naps) == (code != 1)


def test_a_warned_job_stops_its_workers_and_requeues(tmp_path, monkeypatch: pytest.MonkeyPatch):
    specs = make_specs(2, SLOW)
    make_sweep(tmp_path, specs)
    cells = [cell_of(tmp_path, s) for s in specs]
    requeued = []
    monkeypatch.setattr(slurm, "requeue", lambda stop: requeued.append(1))
    real = slurm.pool.start
    monkeypatch.setattr(slurm.pool, "start", lambda *a: real(*a, program=PROGRAM))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def warn() -> None:
        wait_until(lambda: all(read_progress(cell) for cell in cells))
        os.kill(os.getpid(), signal.SIGUSR2)

    threading.Thread(target=warn).start()
    assert slurm.SlurmTask(tmp_path, tmp_path, 2, 1)() == [75, 75]
    assert requeued == [1]
    assert all(latest(cell).released for cell in cells)
