"""Jobs in Slurm's queue, as `chinchilla status` shows them."""

import json
from pathlib import Path

import pytest
from slurm_fakes import FakeSlurm, on_slurm
from sweep_fakes import make_specs, make_sweep

from chinchilla.cli import main
from chinchilla.sweep.launch import launch
from chinchilla.sweep.view.jobs import jobs_in_queue


def status(capsys: pytest.CaptureFixture[str], sweep: Path, *words: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(["status", f"sweep_dir={sweep}", *words]) == code
    return capsys.readouterr().out


def test_jobs_in_the_queue_are_shown_with_their_reasons(tmp_path: Path, fake: FakeSlurm, capsys):
    sweep = tmp_path / "sweep"
    launch(on_slurm(), make_specs(9), sweep, tmp_path)
    rows = fake.jobs()
    fake.set_jobs([rows[0].replace("PENDING", "RUNNING"), *rows[1:], "77|RUNNING|None|else"])
    assert "jobs in the queue: 1 RUNNING, 2 PENDING (Resources)" in status(capsys, sweep)
    output = json.loads(status(capsys, sweep, "format=json"))["queue"]
    assert output["unknown"] == ""
    assert {
        "job_class": "all",
        "state": "PENDING",
        "reason": "Resources",
        "job_id": "41",
        "n": 2,
    } in (output["jobs"])
    fake.set_jobs([])
    assert "jobs in the queue: none" in status(capsys, sweep)


def test_a_queue_that_does_not_answer_is_unknown_and_no_error(
    tmp_path: Path, fake: FakeSlurm, capsys, monkeypatch: pytest.MonkeyPatch
):
    sweep = tmp_path / "sweep"
    launch(on_slurm(), make_specs(9), sweep, tmp_path)
    (fake.folder / "squeue_fails").write_text("Socket timed out")
    assert "queue unknown: squeue failed (Socket timed out)" in status(capsys, sweep)
    monkeypatch.setenv("PATH", str(tmp_path))
    out = status(capsys, sweep)
    assert "0/9 runs" in out
    assert "queue unknown: squeue failed (No such file" in out
    output = json.loads(status(capsys, sweep, "format=json"))
    assert output["queue"]["jobs"] == []
    assert output["counts"]["waiting"] == 9
    next(sweep.glob("slurm/*/job.json")).write_text("{")
    assert "queue unknown" in status(capsys, sweep)


def test_a_local_sweep_has_no_queue(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    sweep = make_sweep(tmp_path, make_specs(1))
    assert jobs_in_queue(sweep) is None
    assert "queue" not in status(capsys, sweep)
    assert json.loads(status(capsys, sweep, "format=json"))["queue"] is None


def test_a_comment_that_is_not_utf_8_hides_no_job(tmp_path: Path, fake: FakeSlurm, capsys):
    """Another job whose reason and comment are in Latin-1."""
    sweep = tmp_path / "sweep"
    launch(on_slurm(), make_specs(9), sweep, tmp_path)
    with open(fake.folder / "queue", "ab") as f:
        f.write(b"77|PENDING|Gr\xf6\xdfe|f\xfcr \x0b Ada|x\n")
    assert main(["status", f"sweep_dir={sweep}"]) == 0
    assert "3 PENDING (Resources)" in capsys.readouterr().out
