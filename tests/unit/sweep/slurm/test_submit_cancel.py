"""`chinchilla cancel` cancels the jobs of one sweep only."""

import os
import shutil
from pathlib import Path

import pytest
from slurm_fakes import FakeSlurm, on_slurm
from sweep_fakes import make_specs, make_sweep

from chinchilla.cli import main
from chinchilla.sweep.launch import launch


def cancel(sweep: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(["cancel", f"sweep_dir={sweep}", *words]) == 0
    return capsys.readouterr().out


def test_only_this_sweeps_arrays_are_cancelled(tmp_path: Path, fake: FakeSlurm, capsys):
    for name in ("one", "two"):
        launch(on_slurm(), make_specs(9), tmp_path / name, tmp_path)
    before = fake.jobs()
    out = cancel(tmp_path / "one", capsys)
    assert fake.cancelled() == ["41"]
    assert fake.jobs() == [row for row in before if row.startswith("42_")]
    assert "cancelled 3 jobs: 41." in out
    assert "nothing to cancel" in cancel(tmp_path / "one", capsys)
    assert fake.cancelled() == ["41"]
    launch(on_slurm(), make_specs(9), tmp_path / "one", tmp_path)
    assert len(fake.jobs()) == 6, "a launch goes on from there"


def test_an_array_whose_launcher_died_is_found_and_cancelled(
    tmp_path: Path, fake: FakeSlurm, capsys
):
    sweep = tmp_path / "sweep"
    launch(on_slurm(), make_specs(9), sweep, tmp_path)
    [record] = sweep.glob("slurm/*/answer.json")
    record.unlink()
    assert "cancelled 3 jobs: 41." in cancel(sweep, capsys)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a file of another user")
def test_jobs_named_in_a_record_of_another_user_are_not_cancelled(
    tmp_path: Path, fake: FakeSlurm, capsys
):
    """A member of the group may write the comment of any job of this user into a record."""
    for name in ("one", "two"):
        launch(on_slurm(), make_specs(9), tmp_path / name, tmp_path)
    [record] = (tmp_path / "two").glob("slurm/*/job.json")
    copy = tmp_path / "one" / "slurm" / "planted"
    copy.mkdir()
    shutil.copy(record, copy)
    os.chown(copy / "job.json", os.getuid() + 1, -1)
    assert "cancelled 3 jobs: 41." in cancel(tmp_path / "one", capsys)
    assert fake.cancelled() == ["41"]


def test_a_job_number_reused_by_another_sweep_is_not_cancelled(
    tmp_path: Path, fake: FakeSlurm, capsys
):
    sweep = tmp_path / "sweep"
    launch(on_slurm(), make_specs(9), sweep, tmp_path)
    fake.set_jobs([row.replace("chinchilla:sweep:", "chinchilla:other:x") for row in fake.jobs()])
    assert "nothing to cancel" in cancel(sweep, capsys)
    assert fake.cancelled() == []


def test_jobs_that_scancel_did_not_cancel_are_not_marked_as_cancelled(
    tmp_path: Path, fake: FakeSlurm, capsys
):
    sweep = tmp_path / "sweep"
    launch(on_slurm(), make_specs(9), sweep, tmp_path)
    (fake.folder / "scancel_fails").write_text("Socket timed out")
    assert main(["cancel", f"sweep_dir={sweep}"]) == 2
    assert "some jobs may not be cancelled; cancel again" in capsys.readouterr().err
    fake.set_jobs([])  # they end later, for another reason
    assert main(["status", f"sweep_dir={sweep}"]) == 0
    assert "without starting a worker" in capsys.readouterr().out


def test_a_copied_sweep_does_not_control_the_jobs_of_the_original(
    tmp_path: Path, fake: FakeSlurm, capsys
):
    one, two = tmp_path / "one", tmp_path / "two"
    launch(on_slurm(), make_specs(9), one, tmp_path)
    shutil.copytree(one, two)
    assert "nothing to cancel" in cancel(two, capsys)
    launch(on_slurm(), make_specs(9), two, tmp_path)
    assert len(fake.jobs()) == 6, "the copy has jobs of its own"
    assert "cancelled 3 jobs: 42." in cancel(two, capsys)
    link = tmp_path / "link"
    link.symlink_to(one)
    moved = tmp_path / "moved"
    assert "cancelled 3 jobs: 41." in cancel(link, capsys)
    launch(on_slurm(), make_specs(9), one, tmp_path)
    one.rename(moved)
    assert "cancelled 3 jobs: 43." in cancel(moved, capsys)


def test_a_queue_that_does_not_answer_cancels_nothing(tmp_path: Path, fake: FakeSlurm, capsys):
    sweep = tmp_path / "sweep"
    launch(on_slurm(), make_specs(9), sweep, tmp_path)
    (fake.folder / "squeue_fails").write_text("no controller")
    assert main(["cancel", f"sweep_dir={sweep}"]) == 2
    printed = capsys.readouterr().err
    assert "no controller" in printed
    assert "Nothing was cancelled; cancel again" in printed
    assert "submitted" not in printed
    assert printed.count("\n") == 1
    assert fake.cancelled() == []


def test_a_local_sweep_has_nothing_to_cancel(tmp_path: Path, capsys):
    sweep = make_sweep(tmp_path / "sweep", make_specs(2))
    assert "nothing to cancel. Stop workers outside of Slurm with Ctrl-C" in cancel(sweep, capsys)


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path, capsys):
    assert main(["cancel", f"sweep_dir={tmp_path}"]) == 2
    assert "plan" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"user": "a\\u0000b"}', '{"user": ""}', '{"user": 3}', '{"user": "a"'],
)
@pytest.mark.slow
def test_a_damaged_record_of_an_array_is_reported_with_advice(
    tmp_path: Path, fake: FakeSlurm, capsys, text: str
):
    sweep = tmp_path / "sweep"
    launch(on_slurm(), make_specs(9), sweep, tmp_path)
    [path] = sweep.glob("slurm/*/job.json")
    path.write_text(text)
    capsys.readouterr()
    assert main(["status", f"sweep_dir={sweep}"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "queue unknown" in printed
    assert "out of the sweep's folder" in printed
    assert main(["cancel", f"sweep_dir={sweep}"]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert f"{path} is damaged" in printed
    assert f"move {path.parent} out" in printed


@pytest.mark.parametrize("name", ["plan.jsonl", "runs"])
def test_a_damaged_sweep_can_be_cancelled(tmp_path: Path, fake: FakeSlurm, capsys, name: str):
    sweep = tmp_path / "sweep"
    launch(on_slurm(), make_specs(9), sweep, tmp_path)
    (sweep / name).write_text("{")
    assert "cancelled 3 jobs: 41." in cancel(sweep, capsys)
    assert fake.jobs() == []
