"""Jobs that ended before they started a worker are reported by status, logs and the next launch."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from slurm_fakes import FakeSlurm, job_array, on_slurm
from sweep_fakes import make_specs, make_sweep

from chinchilla.cli import main
from chinchilla.sweep.launch import launch
from chinchilla.sweep.slurm import job
from chinchilla.sweep.slurm.unstarted import started_file, unstarted_jobs


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    main([*words])
    return " ".join(capsys.readouterr().out.split())


def test_jobs_that_died_before_python_started_are_reported(tmp_path: Path, fake: FakeSlurm, capsys):
    sweep = tmp_path / "sweep"
    launch(on_slurm(), make_specs(9), sweep, tmp_path)
    assert "without starting" not in said(capsys, "status", f"sweep_dir={sweep}")
    [folder] = sweep.glob("slurm/*")
    log = folder / "41_1_0_log.out"
    log.write_text("slurm_script: line 16: module: command not found\n\n")
    fake.set_jobs(fake.jobs()[:1])
    for word in ("status", "logs"):
        out = said(capsys, word, f"sweep_dir={sweep}")
        assert (
            f"2 jobs ended without starting a worker, or were cancelled: 41_1, 41_2. The last line of {log}: "
            in out
        )
        assert "line 16: module: command not found" in out
        assert "sacct -j 41 " in out
        assert "scontrol show job 41_1" in out
    queue = json.loads(said(capsys, "status", f"sweep_dir={sweep}", "format=json"))["queue"]
    assert [row["job_ids"] for row in queue["unstarted"]] == [["41_1", "41_2"]]
    launch(on_slurm(), make_specs(9), sweep, tmp_path)
    out = " ".join(capsys.readouterr().out.split())
    assert "warning: 2 jobs ended without starting a worker, or were cancelled: 41_1, 41_2." in out
    assert "The new jobs end likewise unless the cause has been removed. submitted 2 workers" in out
    fake.set_jobs([])
    assert main(["status", f"sweep_dir={sweep}", "watch=true", "interval_seconds=0.01"]) == 75
    assert "ended without starting a worker" in capsys.readouterr().out


def test_the_report_ends_when_later_jobs_start(
    tmp_path: Path, fake: FakeSlurm, capsys, monkeypatch
):
    """It covers the arrays since a job of the class started last; cancelled arrays are left out."""
    sweep = tmp_path / "sweep"
    launch(on_slurm(), make_specs(9), sweep, tmp_path)
    [first] = sweep.glob("slurm/*")
    fake.set_jobs([])
    record = json.loads((first / "job.json").read_text())
    (first / "job.json").write_text(json.dumps({**record, "utc": "2020-01-01T00:00:00+00:00"}))
    assert "They wrote no log." in said(capsys, "status", f"sweep_dir={sweep}")
    launch(on_slurm(), make_specs(9), sweep, tmp_path)
    [second] = {*sweep.glob("slurm/*")} - {first}
    started_file(second, "42_0").touch()
    assert "without starting" not in said(capsys, "status", f"sweep_dir={sweep}")
    fake.set_jobs([])
    out = said(capsys, "status", f"sweep_dir={sweep}")
    assert "2 jobs ended without starting a worker, or were cancelled: 42_1, 42_2." in out
    assert "41_" not in out
    launch(on_slurm(), make_specs(9), sweep, tmp_path)
    assert main(["cancel", f"sweep_dir={sweep}"]) == 0
    assert "43_0" not in said(capsys, "status", f"sweep_dir={sweep}")


def test_arrays_of_one_second_are_in_the_order_of_their_numbers(tmp_path: Path):
    arrays = {}
    for number in ("9", "10"):
        folder = tmp_path / "slurm" / number
        folder.mkdir(parents=True)
        (folder / "answer.json").write_text(json.dumps({"job_id": number}))
        arrays[folder] = job_array(tmp_path, utc="2026-01-01T00:00:00+00:00")
    names = (
        ["10"] if arrays[folder].n_jobs == 1 else [f"10_{i}" for i in range(arrays[folder].n_jobs)]
    )
    for name in names:
        started_file(folder, name).touch()
    assert unstarted_jobs(arrays, []) == []
    assert unstarted_jobs(dict(reversed(arrays.items())), []) == []


def test_a_job_shows_that_its_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_sweep(tmp_path, make_specs(0))
    job_array(tmp_path, n_workers=1).save(tmp_path)
    monkeypatch.setattr(job.local_pool, "Pool", lambda *a: pytest.fail("started"))
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "41")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_PROCID", "0")
    with pytest.raises(pytest.fail.Exception):
        job.run_job(tmp_path)
    assert started_file(tmp_path, "41_3").exists()


def test_a_job_in_a_container_asks_its_batch_script_to_requeue_it(
    tmp_path: Path, fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
):
    sweep = tmp_path / "sweep"
    launch(on_slurm(), make_specs(2), sweep, tmp_path)
    [folder] = sweep.glob("slurm/*")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "41")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("PATH", str(tmp_path))  # Slurm's commands do not exist
    assert job._is_running()
    assert job.requeue(folder, job.Stop()) == 75
    [asked] = folder.glob("requeue-*")
    assert asked.name == "requeue-41_1"
    # The part of the script behind srun, outside of the container.
    (fake.folder / "bin" / "squeue").write_text("#!/bin/sh\necho RUNNING\n")
    calls = tmp_path / "calls"
    (fake.folder / "bin" / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    tail = "(exit 75)\n" + fake.scripts()[0].partition("# teardown\n")[2]
    for _ in range(2):
        done = subprocess.run(
            ["/bin/bash", "-c", tail], env={**os.environ, "PATH": fake.path}, timeout=30
        )
        assert done.returncode == 75
    assert calls.read_text() == "requeue 41_1\n", "once"
