"""A folder that disappears while a worker trains, and results that cannot be written there."""

import errno
import json
import os
import shutil
import tempfile
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from sweep_fakes import (
    command,
    curve_of,
    edit_record,
    fake_train,
    make_result,
    make_specs,
    make_sweep,
)

from chinchilla.config import RuntimeConfig
from chinchilla.core.files import folders
from chinchilla.core.provenance import code_here
from chinchilla.plan.records import Curve, RunResult, RunSpec
from chinchilla.plan.unwritten import save_curve_or_keep
from chinchilla.sweep import claims, rescue
from chinchilla.sweep.claims import Claim, acquire, latest_claim
from chinchilla.sweep.damage.run_state import run_state
from chinchilla.sweep.launch import launch
from chinchilla.sweep.run_files import has_result, run_dir_of
from chinchilla.sweep.signals import Stop
from chinchilla.sweep.worker import Worker, WorkerSummary

RUNTIME = RuntimeConfig(device="cpu")


@pytest.fixture(autouse=True)
def briefly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits, and rescue folders in tmp_path/state."""
    monkeypatch.setattr(folders, "WAIT_SECONDS", 0.3)
    monkeypatch.setattr(folders, "POLL_SECONDS", 0.01)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture
def spec() -> RunSpec:
    return make_specs(1)[0]


@pytest.fixture
def sweep(tmp_path: Path, spec: RunSpec) -> Path:
    return make_sweep(tmp_path / "sweep", [spec])


def train_and(event, with_curve: bool = True):
    """Substitute for train_run: `event` happens before its curve and result are written."""

    def train(spec, run_dir, *args, **settings):
        event()
        if with_curve:
            return make_result(spec, **save_curve_or_keep(run_dir, curve_of(spec)))
        return make_result(spec)

    return train


def work(sweep: Path, train=fake_train, **settings) -> WorkerSummary:
    return Worker(sweep, sweep, RUNTIME, "w", train, **settings).run()


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "state" / "chinchilla" / "rescue").glob("*"))


def move_away(sweep: Path) -> Path:
    return sweep.rename(sweep.with_name("away"))


def die(run_dir: Path) -> None:
    """As if the process of the latest claim, which this one is, had ended."""
    record = latest_claim(run_dir)
    path = run_dir / f"claim-{record.fence}.json"
    path.write_text(json.dumps({**asdict(record), "pid_start": "0"}))


def test_a_result_is_written_when_the_folder_comes_back(sweep: Path, spec, tmp_path: Path):
    away = sweep.with_name("away")

    def leave_for_a_while() -> None:
        move_away(sweep)
        threading.Timer(0.1, lambda: away.rename(sweep)).start()

    assert work(sweep, train_and(leave_for_a_while)).finished == [spec.run_id]
    assert Curve.load(run_dir_of(sweep, spec)).loss[0] == 3.0
    assert kept(tmp_path) == []


@pytest.mark.parametrize("back", ["renamed", "moved back"])
def test_a_result_without_a_folder_is_rescued_and_published_by_the_next_worker(
    sweep: Path, spec, tmp_path: Path, back: str
):
    summary = work(sweep, train_and(lambda: move_away(sweep)))
    [folder] = kept(tmp_path)
    assert str(folder) in summary.cannot_train
    assert f"{sweep} is not there any more" in summary.cannot_train
    assert summary.cannot_train.count("\n") == 0
    assert summary.exit_code() == 1
    assert not sweep.exists()
    assert folder.stat().st_mode & 0o077 == 0

    die(sweep.with_name("away") / "runs" / spec.run_id)
    if back == "renamed":
        sweep = sweep.with_name("away")
    else:
        sweep.with_name("away").rename(sweep)
    assert work(sweep, None).errors == 0  # no run is left to train
    assert RunResult.load(run_dir_of(sweep, spec)).status == "finished"
    assert run_state(run_dir_of(sweep, spec), with_curve=True).name == "finished"
    assert kept(tmp_path) == []


def full(path: Path, *args, **settings):
    """Substitute for a function that writes a file."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_on_a_full_disk_the_message_about_the_rescued_result_is_printed(
    sweep: Path, spec, tmp_path: Path, monkeypatch
):
    """Then the claim cannot be released either."""

    def fill() -> None:
        monkeypatch.setattr(claims, "create_once", full)
        monkeypatch.setattr(claims, "write_text", full)

    summary = work(sweep, train_and(fill))
    [folder] = kept(tmp_path)
    assert str(folder) in summary.cannot_train
    assert "No space left on device" in summary.cannot_train
    assert len(Curve.load(folder / spec.run_id).loss) == spec.steps
    assert json.loads((folder / spec.run_id / "result.json").read_text())["final_loss"] == 3.0


def test_a_full_disk_is_tried_again(sweep: Path, spec, tmp_path: Path, monkeypatch):
    real, calls = rescue.create_once, []

    def full_at_first(path: Path, text: str, **settings) -> bool:
        calls.append(path)
        if len(calls) < 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, text, **settings)

    monkeypatch.setattr(rescue, "create_once", full_at_first)
    assert work(sweep, train_and(lambda: None)).finished == [spec.run_id]
    assert len(calls) == 3
    assert kept(tmp_path) == []


def test_a_stop_ends_the_wait_and_keeps_the_result(sweep: Path, spec, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(folders, "WAIT_SECONDS", 60.0)
    stop = Stop()

    def leave() -> None:
        move_away(sweep)
        threading.Timer(0.1, lambda: setattr(stop, "requested", True)).start()

    summary = work(sweep, train_and(leave), stop=stop)
    assert summary.exit_code() == 1
    assert len(kept(tmp_path)) == 1


def test_training_goes_on_while_the_folder_is_away(sweep: Path, spec):
    """Heartbeats, progress and claims need not be written."""
    away, steps = sweep.with_name("away"), []

    def train(spec, run_dir, data_dir, runtime, *, on_progress, should_stop, **settings):
        move_away(sweep)
        for step in range(1, 10):
            assert not should_stop()
            on_progress(step, 3.0)
            steps.append(step)
        assert not sweep.exists()
        away.rename(sweep)
        return make_result(spec)

    assert work(sweep, train).finished == [spec.run_id]
    assert steps == list(range(1, 10))


def test_an_error_while_the_folder_is_away_is_no_attempt(sweep: Path, spec):
    away = sweep.with_name("away")
    calls = []

    def train(spec, run_dir, *args, **settings):
        calls.append(run_dir)
        if len(calls) == 1:
            move_away(sweep)
            threading.Timer(0.1, lambda: away.rename(sweep)).start()
            (run_dir / "spec.json").read_text()
        return make_result(spec)

    summary = work(sweep, train)
    assert (summary.finished, summary.errors, len(calls)) == ([spec.run_id], 0, 2)
    assert not (run_dir_of(sweep, spec) / "attempts").exists()


@pytest.mark.parametrize("recreate", [False, True])
def test_a_worker_without_its_folder_stops_with_one_line(sweep: Path, spec, recreate: bool):
    def lose() -> None:
        shutil.rmtree(sweep)
        if recreate:
            make_sweep(sweep, [spec])
        raise RuntimeError("cannot be read")

    summary = work(sweep, train_and(lose))
    assert f"the folder {sweep} is not there any more, or is another one" in summary.cannot_train
    assert summary.exit_code() == 1
    assert not (sweep / "runs").exists()


def test_a_launcher_without_its_folder_ends_with_one_line(sweep: Path, spec, capsys):
    code = launch(command(), [spec], sweep, sweep, train=train_and(lambda: move_away(sweep)))
    assert code == 1
    printed = capsys.readouterr().err.splitlines()
    [line] = [line for line in printed if "is not there any more" in line]
    [(folder, _)] = rescue.rescued(sweep)
    assert str(folder) in line
    assert not sweep.exists()


@pytest.mark.parametrize("since", ["gone", "made again", "claimed by another worker"])
def test_a_run_whose_folder_was_deleted_is_published_under_a_new_claim(
    sweep: Path, spec, tmp_path: Path, monkeypatch, since: str
):
    """Unless another worker has claimed it; the result is then kept, and its claims are left alone."""
    monkeypatch.setattr(folders, "WAIT_SECONDS", 60.0)
    run_dir = run_dir_of(sweep, spec)
    for _ in range(3):  # the claim of this worker has a higher number than those after the deletion
        acquire(run_dir, "before").release()

    def delete() -> None:
        shutil.rmtree(run_dir)
        if since == "made again":  # for a checkpoint
            run_dir.mkdir()
        if since == "claimed by another worker":
            acquire(run_dir, "other")

    summary = work(sweep, train_and(delete))
    claimed = sorted(path.name for path in run_dir.glob("claim-*"))
    if since == "claimed by another worker":
        assert (len(kept(tmp_path)), claimed) == (1, ["claim-1.json"])
    else:
        assert (kept(tmp_path), claimed) == ([], ["claim-1.json", "claim-2.json"])
        assert summary.finished == [spec.run_id]
        assert latest_claim(run_dir).released
        assert run_state(run_dir, with_curve=True).name == "finished"


def overtake(run_dir: Path) -> Claim:
    """Another worker's claim, after the process of this one's seemed to have ended."""
    die(run_dir)
    claim = acquire(run_dir, "other")
    assert claim is not None
    return claim


def test_a_holder_that_was_overtaken_does_not_replace_the_curve_of_its_successor(
    sweep: Path, spec, tmp_path: Path
):
    """It has finished while the folder was away for it, and the successor has finished since."""
    run_dir, away = run_dir_of(sweep, spec), sweep.with_name("away")
    curve = curve_of(spec, 3.0 + 1e-9)

    def train(spec, run_dir, *args, **settings):
        move_away(sweep)
        late = make_result(spec, **save_curve_or_keep(run_dir, curve))
        away.rename(sweep)
        other = overtake(run_dir)
        result = make_result(spec, final_loss=3.0, **curve_of(spec).save(run_dir))
        assert other.publish("result.json", result.to_record())
        other.release()
        return late

    assert work(sweep, train).finished == []
    assert run_state(run_dir, with_curve=True).name == "finished"
    assert kept(tmp_path) == []


def test_the_folder_goes_away_between_curve_and_result(
    sweep: Path, spec, tmp_path: Path, monkeypatch
):
    """Nothing is published without a new claim when it is back: the successor may have written its curve."""
    run_dir, away, real = run_dir_of(sweep, spec), sweep.with_name("away"), rescue.create_once

    def back() -> None:
        away.rename(sweep)
        overtake(run_dir)
        curve_of(spec, 3.0 + 1e-9).save(run_dir)

    def leave(path: Path, text: str, **settings) -> bool:
        if not calls:
            move_away(sweep)
            threading.Timer(0.1, back).start()
        calls.append(path)
        return real(path, text, **settings)

    calls: list[Path] = []
    monkeypatch.setattr(rescue, "create_once", leave)
    work(sweep, train_and(lambda: None))
    assert len(calls) == 1
    assert not has_result(run_dir)
    assert len(kept(tmp_path)) == 1


def test_a_worker_that_dies_before_the_result_leaves_a_run_that_is_trained(
    sweep: Path, spec, monkeypatch
):
    """Its curve has been written."""
    with monkeypatch.context() as patch:
        patch.setattr(rescue, "create_once", interrupt)
        with pytest.raises(KeyboardInterrupt):
            work(sweep, train_and(lambda: None))
    run_dir = run_dir_of(sweep, spec)
    assert (run_dir / "curve.npz").exists()
    die(run_dir)
    assert work(sweep).finished == [spec.run_id]
    assert run_state(run_dir, with_curve=True).name == "finished"


def interrupt(*args, **settings):
    raise KeyboardInterrupt


def test_the_curve_of_a_failed_attempt_is_not_published(sweep: Path, spec, monkeypatch):
    losses = iter([3.0 + 1e-9, 3.0])

    def train(spec, run_dir, *args, **settings):
        loss = next(losses)
        with monkeypatch.context() as patch:
            if loss != 3.0:
                patch.setattr(Curve, "save", full)
            named = save_curve_or_keep(run_dir, curve_of(spec, loss))
        if loss != 3.0:
            raise RuntimeError("another rank has failed")
        return make_result(spec, **named)

    assert work(sweep, train).finished == [spec.run_id]
    assert run_state(run_dir_of(sweep, spec), with_curve=True).name == "finished"


def rescue_a_result(sweep: Path, spec: RunSpec) -> Path:
    """A rescue folder, with the sweep's folder back in its place."""
    work(sweep, train_and(lambda: move_away(sweep)))
    sweep.with_name("away").rename(sweep)
    die(run_dir_of(sweep, spec))
    [(folder, run_id)] = rescue.rescued(sweep)
    assert run_id == spec.run_id
    return folder


def test_a_rescued_result_never_replaces_another(sweep: Path, spec):
    """Another worker has trained the run meanwhile."""
    folder = rescue_a_result(sweep, spec)
    claim = acquire(run_dir_of(sweep, spec), "other")
    assert claim.publish("result.json", make_result(spec, final_loss=2.0).to_record())
    claim.release()
    work(sweep)
    assert RunResult.load(run_dir_of(sweep, spec)).final_loss == 2.0
    assert not folder.exists()


def test_a_rescued_result_waits_for_a_worker_that_trains_the_run(sweep: Path, spec):
    folder = rescue_a_result(sweep, spec)
    claim = acquire(run_dir_of(sweep, spec), "other")
    rescue.publish_rescued(sweep)
    assert folder.exists()
    assert not has_result(run_dir_of(sweep, spec))
    claim.release()
    fence = latest_claim(run_dir_of(sweep, spec)).fence
    rescue.publish_rescued(sweep)
    assert not folder.exists()
    assert has_result(run_dir_of(sweep, spec))
    assert latest_claim(run_dir_of(sweep, spec)).fence == fence + 2  # claimed, then committed


def test_a_sweep_made_anew_at_the_same_path_receives_no_result(sweep: Path, spec):
    folder = rescue_a_result(sweep, spec)
    shutil.rmtree(sweep)
    folders.unguard(sweep)  # as in another process
    make_sweep(sweep, [spec])
    assert work(sweep).finished == [spec.run_id]
    assert (run_dir_of(sweep, spec) / "starts.txt").exists()
    assert folder.exists()


def test_a_result_of_other_code_is_named_and_not_published(sweep: Path, spec, caplog):
    folder = rescue_a_result(sweep, spec)
    code = asdict(replace(code_here(), package_sha256="f" * 64))
    edit_record(folder / spec.run_id / "result.json", code=code)
    rescue.publish_rescued(sweep)
    [line] = caplog.messages[-1:]
    assert str(folder) in line
    assert "(package ffffffff), and the sweep was launched with" in line
    assert not has_result(run_dir_of(sweep, spec))
    assert folder.exists()


def test_workers_start_while_another_one_publishes(sweep: Path, spec, monkeypatch, caplog):
    """A rescue folder is removed after it was listed, or while its result is read."""
    folder = rescue_a_result(sweep, spec)
    caplog.clear()
    real = RunResult.load

    def late(run_dir: Path) -> RunResult:
        shutil.rmtree(folder)
        return real(run_dir)

    with monkeypatch.context() as patch:
        patch.setattr(RunResult, "load", late)
        rescue.publish_rescued(sweep)
        patch.setattr(Path, "glob", lambda self, pattern: iter([folder]))
        rescue.publish_rescued(sweep)
    assert caplog.messages == []


@pytest.mark.parametrize("harm", ["readable by others", "link", "another run", "not JSON"])
def test_what_another_user_may_have_written_is_not_published(sweep: Path, spec, harm: str):
    folder = rescue_a_result(sweep, spec)
    if harm == "readable by others":
        folder.chmod(0o777)
    elif harm == "link":
        folder.rename(sweep.parent / "elsewhere")
        folder.symlink_to(sweep.parent / "elsewhere")
    elif harm == "another run":
        other = asdict(make_result(replace(spec, seed=7)))
        (folder / spec.run_id / "result.json").write_text(json.dumps(other))
    else:
        (folder / spec.run_id / "result.json").write_text("{")
    rescue.publish_rescued(sweep)
    assert not has_result(run_dir_of(sweep, spec))
    assert folder.exists()


def test_without_a_home_the_temporary_folder_is_used(sweep: Path, spec, tmp_path: Path):
    (tmp_path / "state").write_text("no folder")
    summary = work(sweep, train_and(lambda: move_away(sweep)))
    [folder] = (tmp_path / "temporary").iterdir()
    assert str(folder) in summary.cannot_train
    sweep.with_name("away").rename(sweep)
    die(run_dir_of(sweep, spec))
    work(sweep, None)
    assert has_result(run_dir_of(sweep, spec))
