"""Damage that appears while workers are at work, and what other commands do about it."""

import errno
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from sweep_fakes import (
    command,
    fake_train,
    make_result,
    make_specs,
    make_sweep,
    n_starts,
    save_curve,
)

from chinchilla.cli import main
from chinchilla.config import RuntimeConfig
from chinchilla.core.files import reading
from chinchilla.sweep import claims
from chinchilla.sweep.claims import acquire, claim_status
from chinchilla.sweep.damage.access import move_aside, restore_own
from chinchilla.sweep.damage.run_state import run_state
from chinchilla.sweep.failures import is_of_one_run
from chinchilla.sweep.launch import launch
from chinchilla.sweep.retry import retry
from chinchilla.sweep.run_files import run_dir_of
from chinchilla.sweep.worker import Worker

SPECS = make_specs(3)


def break_attempts(run_dir: Path) -> None:
    (run_dir / "attempts").write_text("not a folder")


def break_folder(run_dir: Path) -> None:
    shutil.rmtree(run_dir)
    run_dir.write_text("not a folder")


@pytest.mark.parametrize("damage", [break_attempts, break_folder, shutil.rmtree])
def test_damage_during_training_ends_only_that_run(tmp_path: Path, damage, caplog):
    """The worker continues with the next run, and launching again trains the damaged one."""

    def train(spec, run_dir, *args, **settings):
        if spec == SPECS[-1]:  # the longest is trained first
            damage(run_dir)
            raise RuntimeError("its files are gone")
        return fake_train(spec, run_dir, *args, **settings)

    make_sweep(tmp_path, SPECS)
    summary = Worker(tmp_path, tmp_path, RuntimeConfig(device="cpu"), "one", train).run()
    assert set(summary.finished) == {spec.run_id for spec in SPECS[:-1]}
    assert summary.exit_code() == 1
    assert f"run {SPECS[-1].run_id} is left out: " in summary.cannot_train
    assert f"{SPECS[-1].run_id} is left out: " in caplog.text
    again = launch(command(), SPECS, tmp_path, tmp_path, train=fake_train)
    assert again == 0


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOMEM])
@pytest.mark.parametrize("name", ["result.json", "curve.npz"])
def test_a_read_error_does_not_count_as_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
):
    """The file may be intact: its run is not trained again, and the state says what to correct."""
    launch(command(), SPECS[:1], tmp_path, tmp_path, train=fake_train)
    run_dir, real = run_dir_of(tmp_path, SPECS[0]), reading.read_blocks

    def read_blocks(path, *limit):
        if str(path) == str(run_dir / name):
            raise OSError(number, os.strerror(number))
        return real(path, *limit)

    with monkeypatch.context() as patch:
        patch.setattr(reading, "read_blocks", read_blocks)
        state = run_state(run_dir, with_curve=True)
        assert state.name == "blocked"
        assert f"{run_dir / name}: {os.strerror(number)}" in state.problem
        launch(command(), SPECS[:1], tmp_path, tmp_path, train=fake_train)
        retry(tmp_path)
    assert launch(command(), SPECS[:1], tmp_path, tmp_path, train=fake_train) == 0
    assert n_starts(run_dir) == 1


def test_a_run_left_out_after_one_read_error_is_the_exit_code_of_its_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    run_dir, real = run_dir_of(make_sweep(tmp_path, SPECS), SPECS[0]), os.listdir
    acquire(run_dir, "earlier").release()
    errors = [OSError(errno.EIO, "Input/output error", str(run_dir))]

    def listdir(path="."):
        if str(path) == str(run_dir) and errors:
            raise errors.pop()
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    summary = Worker(tmp_path, tmp_path, RuntimeConfig(device="cpu"), "one", fake_train).run()
    assert len(summary.finished) == 2
    assert summary.exit_code() == 1
    err = capsys.readouterr().err
    assert f"run {SPECS[0].run_id} is left out: {run_dir}: Input/output error" in err
    assert err.count("\n") == 1


def test_permissions_are_restored_without_handles_of_closed_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """macOS has no O_PATH, and its chmod can leave links alone."""
    path, real = tmp_path / "result.json", os.chmod
    path.write_text("{}")
    path.chmod(0)

    def chmod(name, mode, *, dir_fd=None, follow_symlinks=True):
        assert not follow_symlinks
        real(name, mode, dir_fd=dir_fd)

    def closed(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.delattr(os, "O_PATH", raising=False)
    monkeypatch.setattr(os, "chmod", chmod)
    monkeypatch.setattr(os, "open", closed)
    assert restore_own(path)
    monkeypatch.undo()
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_error_of_the_whole_sweep_is_not_one_runs(tmp_path: Path):
    error = FileNotFoundError(errno.ENOENT, "No such file or directory")
    assert not is_of_one_run(error, tmp_path)  # without runs/
    (tmp_path / "runs").mkdir()
    assert is_of_one_run(error, tmp_path)
    assert not is_of_one_run(OSError(errno.ESTALE, "Stale file handle"), tmp_path)


def test_a_blocked_run_does_not_delay_runs_that_share_its_stable_phase(tmp_path: Path):
    """They would wait for a run in training."""
    short, long = (
        replace(spec, schedule="cooldown", cooldown_steps=5, seed=0) for spec in SPECS[:2]
    )
    assert short.stable_phase_id == long.stable_phase_id
    make_sweep(tmp_path, [short, long])
    run_dir_of(tmp_path, short).parent.mkdir()
    run_dir_of(tmp_path, short).write_text("not a folder")
    summary = Worker(tmp_path, tmp_path, RuntimeConfig(device="cpu"), "one", fake_train).run()
    assert summary.finished == [long.run_id]


def test_fits_leave_a_damaged_run_out_and_name_it(tmp_path: Path, capsys):
    make_sweep(tmp_path, SPECS)
    for spec in SPECS:
        run_dir_of(tmp_path, spec).mkdir(parents=True)
        curve = save_curve(run_dir_of(tmp_path, spec), spec)
        make_result(spec, **curve).save(run_dir_of(tmp_path, spec))
    (run_dir_of(tmp_path, SPECS[0]) / "result.json").write_text("{")
    (run_dir_of(tmp_path, SPECS[1]) / "curve.npz").write_bytes(b"PK")
    assert main(["fit", str(tmp_path), "n_bootstrap=0"]) == 3  # one run is left
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{SPECS[0].run_id}/result.json is damaged: launch the sweep again" in printed
    assert f"{SPECS[1].run_id}/curve.npz is not the one that result.json names: launch" in printed


def test_sync_names_a_run_that_it_cannot_read_and_sends_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    from chinchilla.tracking import mirror

    def opened(run_dir: Path, *about):
        (run_dir / "tensorboard").mkdir()
        return (lambda line: None), (lambda summary: None)

    monkeypatch.setattr(mirror, "_open_tensorboard", opened)
    make_sweep(tmp_path, SPECS[:2])
    for spec in SPECS[:2]:
        run_dir_of(tmp_path, spec).mkdir(parents=True)
        (run_dir_of(tmp_path, spec) / "metrics.jsonl").write_text('{"step": 1}\n')
    shutil.rmtree(run_dir_of(tmp_path, SPECS[0]))
    run_dir_of(tmp_path, SPECS[0]).write_text("not a folder")
    assert main(["sync", str(tmp_path), "to=tensorboard"]) == 1
    printed = capsys.readouterr()
    assert f"run {SPECS[0].run_id} was not sent: " in printed.err
    assert "sent 1 lines of 1 runs" in printed.out


def test_a_heartbeat_of_the_future_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a worker elsewhere that died, after which the clock was set back or the time was damaged."""
    claim = acquire(tmp_path / "run", "far away")
    assert claim
    claim._stop.set()
    claim._thread.join()
    monkeypatch.setattr(claims, "process_table", lambda: "another machine")
    now = time.time()
    for name in ("heartbeat", "claim-1.json"):
        os.utime(tmp_path / "run" / name, (now + 1e6, now + 1e6))
    states = [claim_status(tmp_path / "run", now + 100 * i).state for i in range(3)]
    assert states == ["held", "held", "dead"]  # heartbeat and claim, one after the other


def test_nothing_is_replaced_when_a_file_is_renamed(tmp_path: Path):
    for i in range(3):
        (tmp_path / "spec.json").write_text(f"{i}")
        move_aside(tmp_path / "spec.json")
    kept = {p.name: p.read_text() for p in tmp_path.iterdir()}
    assert kept == {f"damaged-{i + 1}-spec.json": f"{i}" for i in range(3)}
