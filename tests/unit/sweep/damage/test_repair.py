"""Damaged files of a run or of a sweep: launching again finishes every run, and nothing is deleted."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from other_user import OTHER, as_nobody, folder_of_nobody, give, needs_root
from sweep_fakes import command, fake_train, make_specs, n_starts

from chinchilla.cli import main
from chinchilla.commands.shared import sweep_runs
from chinchilla.core.files import reading
from chinchilla.plan.plan_file import load_plan, save_plan
from chinchilla.plan.records import Curve, RunResult
from chinchilla.sweep.claims import acquire
from chinchilla.sweep.damage.repair import repair_run, replace_plan
from chinchilla.sweep.launch import launch
from chinchilla.sweep.run_files import mark_ended, run_dir_of
from chinchilla.sweep.view.status import RunRow, sweep_status

DONE, LEFT = SPECS = make_specs(2)


def relaunch(sweep: Path, train=fake_train) -> int:
    return launch(command(), SPECS, sweep, sweep, train=train)


def fill(sweep: Path) -> None:
    """A finished run, and one that was stopped before its end."""
    launch(command(), [DONE], sweep, sweep, train=fake_train)
    save_plan(SPECS, sweep / "plan.jsonl")
    (run_dir := run_dir_of(sweep, LEFT)).mkdir()
    acquire(run_dir, "earlier").release()
    for name in ("attempts", "checkpoints", "tensorboard"):
        (run_dir / name).mkdir()
    (run_dir / "spec.json").write_text(json.dumps(LEFT.to_record()))
    (run_dir / "metrics.jsonl").write_text('{"step": 1}\n')
    (run_dir / "progress.json").write_text('{"step": 1}')
    (run_dir / "attempts" / "1.json").write_text('{"reason": "OSError: away"}')


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    fill(tmp_path)
    return tmp_path


def row_of(sweep: Path, spec) -> RunRow:
    return {row.run_id: row for row in sweep_status(sweep).rows}[spec.run_id]


def finished(sweep: Path) -> None:
    """Both runs have a result and a curve."""
    for run_dir in (run_dir_of(sweep, spec) for spec in SPECS):
        assert RunResult.load(run_dir).status == "finished"
        Curve.load(run_dir)


def folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_text("kept")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a folder": folder,
    "a file": lambda path: path.write_text("kept"),
    "a broken link": lambda path: path.symlink_to("/none"),
    "a loop of links": lambda path: path.symlink_to(path),
}


def replaced(path: Path, by: str) -> None:
    """Put something else in the place of a file or folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    DAMAGES[by](path)


@pytest.mark.parametrize(
    ("name", "by"),
    [
        ("spec.json", "a file"), ("spec.json", "a folder"), ("heartbeat", "a loop of links"), ("progress.json", "a folder"),
        ("attempts", "a file"), ("checkpoints", "a broken link"), ("metrics.jsonl", "a folder"),
        ("claim-1.json", "a folder"), ("", "a file"), ("", "a broken link"),
    ],
)  # fmt: skip
def test_a_damaged_run_is_trained_at_the_next_launch(sweep: Path, name: str, by: str):
    path = run_dir_of(sweep, LEFT) / name
    replaced(path, by)
    if name.startswith("claim"):  # of a worker that died before
        os.utime(path, (0, 0))
        os.utime(path.parent / "heartbeat", (0, 0))
    assert row_of(sweep, LEFT).state in ("waiting", "blocked")
    assert relaunch(sweep) == 0
    finished(sweep)
    kept = [p for p in (*path.parent.iterdir(), *sweep.glob("runs/*")) if "damaged-" in p.name]
    assert kept or name == "heartbeat", "the damaged file is renamed"


@pytest.mark.parametrize("name", ["result.json", "curve.npz"])
@pytest.mark.parametrize("by", ["a file", "a folder", "a broken link"])
def test_a_damaged_result_is_renamed_and_its_run_is_trained(sweep: Path, name: str, by: str):
    replaced(run_dir_of(sweep, DONE) / name, by)
    assert relaunch(sweep) == 0
    finished(sweep)
    assert os.path.lexists(run_dir_of(sweep, DONE) / "result-failed-1.json")
    assert n_starts(run_dir_of(sweep, DONE)) == 2


@pytest.mark.parametrize("name", ["checkpoints", "attempts", "tensorboard"])
def test_a_link_in_place_of_a_folder_is_renamed_before_training(sweep: Path, name: str):
    """Writing refuses links, which would be found when the first checkpoint is saved."""
    path, scratch = run_dir_of(sweep, LEFT) / name, sweep / "scratch"
    shutil.rmtree(path)
    scratch.mkdir()
    path.symlink_to(scratch)
    assert relaunch(sweep) == 0
    finished(sweep)
    assert (path.parent / f"damaged-1-{name}").readlink() == scratch


def test_a_result_without_its_curve_is_trained_again(sweep: Path):
    (run_dir_of(sweep, DONE) / "curve.npz").unlink()
    assert relaunch(sweep) == 0
    finished(sweep)


@pytest.mark.parametrize(
    ("name", "by"),
    [
        ("ended", "a file"), ("launch", "a broken link"), ("workers", "a file"), ("stable_phases", "a file"),
        ("runtime.json", "a folder"), ("runtime.json", "a file"), ("runs", "a file"),
    ],
)  # fmt: skip
def test_a_damaged_file_of_the_sweep_is_renamed(sweep: Path, name: str, by: str):
    replaced(sweep / name, by)
    assert relaunch(sweep) == 0
    finished(sweep)


def test_a_mark_that_is_a_folder_does_not_hide_a_run(sweep: Path):
    mark_ended(run_dir_of(sweep, DONE))
    replaced(sweep / "ended" / DONE.run_id, "a folder")
    (run_dir_of(sweep, DONE) / "result.json").write_text("{")
    assert relaunch(sweep) == 0
    finished(sweep)


def test_a_loop_of_links_in_place_of_all_runs_is_one_line(sweep: Path, capsys):
    (sweep / "runs").rename(sweep / "old")
    replaced(sweep / "runs", "a loop of links")
    capsys.readouterr()
    assert main(["fit", str(sweep)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"{sweep / 'runs'}. Replace the link" in line


# The plan


def test_a_line_of_the_plan_that_cannot_be_read_hides_only_its_run(sweep: Path, capsys):
    lines = (sweep / "plan.jsonl").read_text().splitlines()
    (sweep / "plan.jsonl").write_text(f"{lines[0]}\n{lines[1][:50]}\n")
    capsys.readouterr()
    assert main(["status", str(sweep)]) == 0
    printed = capsys.readouterr()
    assert DONE.run_id in printed.out
    assert "plan.jsonl line 2 is not JSON" in printed.err
    assert "Give the same sweep command again" in printed.err


@pytest.mark.parametrize("by", ["a file", "a folder", "a loop of links"])
def test_a_damaged_plan_is_written_again(sweep: Path, by: str, capsys):
    """From the command's own runs and the spec.json of runs that an earlier command has planned."""
    replaced(sweep / "plan.jsonl", by)
    assert launch(command(), [DONE], sweep, sweep, train=fake_train) == 0
    assert load_plan(sweep / "plan.jsonl") == [LEFT, DONE]
    finished(sweep)
    assert os.path.lexists(sweep / "damaged-1-plan.jsonl")
    assert "plan.jsonl was damaged" in capsys.readouterr().err


def test_a_plan_that_cannot_get_a_second_name_stays(sweep: Path, monkeypatch: pytest.MonkeyPatch):
    (sweep / "plan.jsonl").write_text("{")

    def link(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(OSError, match="No space left"):
        replace_plan(sweep, SPECS)
    assert (sweep / "plan.jsonl").read_text() == "{"


def test_a_read_error_of_a_spec_does_not_remove_its_run_from_the_plan(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
):
    (sweep / "plan.jsonl").write_text("{")

    def read_bytes(path, *limit):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(reading, "read_bytes", read_bytes)
        with pytest.raises(OSError, match="Input/output error"):
            launch(command(), [DONE], sweep, sweep, train=fake_train)
    assert (sweep / "plan.jsonl").read_text() == "{"


@pytest.mark.parametrize("repeated", [False, True], ids=["removed", "replaced by another"])
def test_a_result_that_is_not_in_the_plan_is_named_until_the_next_launch(
    sweep: Path, capsys, repeated: bool
):
    relaunch(sweep)
    [_, line] = (sweep / "plan.jsonl").read_text().splitlines(keepends=True)
    (sweep / "plan.jsonl").write_text(line * (2 if repeated else 1))
    shutil.copytree(run_dir_of(sweep, DONE), sweep / "runs" / f"damaged-1-{DONE.run_id}")
    capsys.readouterr()
    assert main(["status", str(sweep)]) == 0
    [*first, last] = capsys.readouterr().err.splitlines()
    assert len(first) == repeated
    assert f"{run_dir_of(sweep, DONE)} has a result, and the plan has no such run" in last
    runs = sweep_runs(sweep)
    assert [result.spec.run_id for result in runs.results] == [LEFT.run_id]
    assert (
        f"run {DONE.run_id} is left out: {run_dir_of(sweep, DONE)} has a result" in runs.notes[-1]
    )
    relaunch(sweep)
    assert {spec.run_id for spec in load_plan(sweep / "plan.jsonl")} == {s.run_id for s in SPECS}
    assert sweep_runs(sweep).notes == []
    assert not sweep_status(sweep).problems


def test_a_spec_copied_from_another_run_adds_no_run_to_the_plan(sweep: Path):
    (run_dir_of(sweep, LEFT) / "spec.json").write_text(json.dumps(make_specs(3)[2].to_record()))
    (sweep / "plan.jsonl").write_text("{")
    launch(command(), [DONE], sweep, sweep, train=fake_train)
    assert load_plan(sweep / "plan.jsonl") == [DONE]


# Permissions


@pytest.fixture
def shared() -> Iterator[Path]:
    with folder_of_nobody() as place:
        fill(place)
        give(place)
        yield place


@pytest.mark.parametrize("name", ["", "spec.json", "attempts", "checkpoints", "heartbeat"])
def test_permissions_of_own_files_are_restored(shared: Path, name: str):
    (run_dir_of(shared, LEFT) / name).chmod(0)
    assert as_nobody(lambda: relaunch(shared)) == 0
    finished(shared)


def test_permissions_of_own_shared_checkpoints_are_restored(shared: Path):
    step = shared / "stable_phases" / "a" / "step-00000008"
    step.mkdir(parents=True)
    give(shared)
    step.chmod(0)
    assert as_nobody(lambda: relaunch(shared)) == 0
    assert step.stat().st_mode & 0o700 == 0o700


def test_a_finished_run_that_was_closed_is_opened_and_not_trained(shared: Path):
    run_dir_of(shared, DONE).chmod(0)
    assert as_nobody(lambda: relaunch(shared)) == 0
    finished(shared)
    assert n_starts(run_dir_of(shared, DONE)) == 1


@needs_root
@pytest.mark.parametrize(("name", "mode"), [("", 0o700), ("", 0o755), ("checkpoints", 0o700)])
def test_a_run_of_another_user_is_a_row_and_the_others_finish(
    shared: Path, name: str, mode: int, capfd
):
    path = run_dir_of(shared, LEFT) / name
    give(path, OTHER)
    path.chmod(mode)
    new = make_specs(3)[2]

    def launched() -> int:
        return launch(command(), [*SPECS, new], shared, shared, train=fake_train)

    assert as_nobody(launched) == 1
    assert RunResult.load(run_dir_of(shared, new)).status == "finished"
    printed = capfd.readouterr().out
    assert f"blocked {LEFT.run_id}: {path}" in printed
    assert f"Permission denied. {path} belongs to user id {OTHER}" in printed
    assert "Ask its owner" in printed


@needs_root
def test_small_files_of_another_user_are_renamed(shared: Path):
    path = run_dir_of(shared, LEFT) / "spec.json"
    give(path, OTHER)
    path.chmod(0o600)
    assert as_nobody(lambda: relaunch(shared)) == 0
    finished(shared)
    assert os.path.lexists(path.with_name("damaged-1-spec.json"))


def test_an_intact_run_is_left_as_it_is(sweep: Path):
    run_dir = run_dir_of(sweep, LEFT)
    before = sorted(run_dir.rglob("*"))
    repair_run(run_dir, LEFT)
    assert sorted(run_dir.rglob("*")) == before
