"""Checkpoints written while training continues, and what a finished run keeps."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from train_world import EVERY_UPDATE, SEQ_LEN, make_runtime, same_bits, stop_at

from chinchilla.core.files import folders
from chinchilla.core.files.writing import guard
from chinchilla.data.dataset import TokenData
from chinchilla.model import Transformer
from chinchilla.plan.plan_file import save_plan
from chinchilla.plan.records import RunResult, RunSpec
from chinchilla.sweep.run_files import run_dir_of
from chinchilla.sweep.worker import Worker
from chinchilla.train import train_run, trainer
from chinchilla.train.checkpoint import files, load_checkpoint, save
from chinchilla.train.distributed import RankGroup
from chinchilla.train.evaluate import validation_loss

EAGER = make_runtime(checkpoint_minutes=EVERY_UPDATE)


def names(run_dir: Path) -> list[str]:
    folder = run_dir / "checkpoints"
    return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Writes of tensor files wait until this is set, in the way of a slow file system."""
    opened, real = threading.Event(), save.write_tensors

    def slow(path: Path, tensors: dict, check: Callable[[], None]) -> str:
        while not opened.wait(0.01):
            check()
        return real(path, tensors, check)

    monkeypatch.setattr(save, "write_tensors", slow)
    yield opened
    opened.set()


def before_update(number: int, act: Callable[[], Any]) -> Callable[[], bool]:
    """A should_stop that calls `act` before this update, and never stops."""
    stop = stop_at(number)
    calls = []

    def should_stop() -> bool:
        if stop() and not calls:
            calls.append(act())
        return False

    return should_stop


def test_training_continues_while_a_checkpoint_is_written(
    whole, spec: RunSpec, data_dir: Path, tmp_path: Path, gate: threading.Event
):
    """The copy of step 1 is complete after update 9 has begun, and holds the state of step 1."""
    seen = []

    def look_and_open() -> None:
        seen.append(names(tmp_path))
        gate.set()

    runtime = make_runtime(checkpoint_minutes=EVERY_UPDATE, keep_checkpoints="all")
    act = before_update(9, look_and_open)
    result = train_run(spec, tmp_path, data_dir, runtime, should_stop=act)
    [[partial]] = seen
    assert partial.startswith(".step-00000001.")
    same_bits(*whole, result, tmp_path)
    assert names(tmp_path)[0] == "step-00000001"
    train_run(spec, tmp_path / "one", data_dir, EAGER, should_stop=stop_at(1))
    one, other = (load_checkpoint(d / "checkpoints", spec, max_step=1)[0] for d in
                  (tmp_path, tmp_path / "one"))  # fmt: skip
    for kind in ("weights", "optimizer"):
        for name, value in getattr(one, kind).items():
            assert torch.equal(value, getattr(other, kind)[name]), name


def test_a_full_disk_in_the_thread_ends_training_and_keeps_the_older_checkpoint(
    whole, spec: RunSpec, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert train_run(spec, tmp_path, data_dir, EAGER, should_stop=stop_at(5)) is None
    before = names(tmp_path)
    assert before[-1] == "step-00000005"

    def full(*args: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(save, "write_tensors", full)
        with pytest.raises(
            OSError, match=r"No space left on device: a checkpoint needs [\d,]+ bytes"
        ):
            train_run(spec, tmp_path, data_dir, EAGER)
    assert names(tmp_path) == before
    same_bits(*whole, train_run(spec, tmp_path, data_dir, EAGER), tmp_path)


def test_a_run_that_is_taken_over_while_it_is_written_commits_nothing(
    spec: RunSpec, data_dir: Path, tmp_path: Path, gate: threading.Event
):
    mine = [True]

    def take_over() -> None:
        mine[0] = False
        gate.set()

    act = before_update(4, take_over)
    lost = train_run(spec, tmp_path, data_dir, EAGER, should_stop=act, still_mine=lambda: mine[0])
    assert lost is None
    assert names(tmp_path) == []


def test_a_stop_waits_for_the_checkpoint_that_is_being_written(
    whole, spec: RunSpec, data_dir: Path, tmp_path: Path, gate: threading.Event
):
    stop = stop_at(6)

    def should_stop() -> bool:
        if stop():
            threading.Timer(0.1, gate.set).start()
            return True
        return False

    assert train_run(spec, tmp_path, data_dir, EAGER, should_stop=should_stop) is None
    assert names(tmp_path) == ["step-00000001", "step-00000006"]
    same_bits(*whole, train_run(spec, tmp_path, data_dir, EAGER), tmp_path)


def test_an_error_in_training_discards_what_is_being_written(
    spec: RunSpec, data_dir: Path, tmp_path: Path, gate: threading.Event
):
    def fail() -> None:
        raise RuntimeError("device lost")

    with pytest.raises(RuntimeError, match="device lost"):
        train_run(spec, tmp_path, data_dir, EAGER, should_stop=before_update(3, fail))
    assert names(tmp_path) == []


def test_a_file_system_that_does_not_answer_ends_training(
    spec: RunSpec, data_dir: Path, tmp_path: Path, gate: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr(save, "WRITE_SECONDS", 0.1)
    with pytest.raises(OSError, match="timed out"):
        train_run(spec, tmp_path, data_dir, EAGER, should_stop=stop_at(3))


def test_without_memory_for_a_copy_training_waits_for_the_write(
    whole, spec: RunSpec, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(files, "available_memory", lambda device: 0.0)
    assert train_run(spec, tmp_path, data_dir, EAGER, should_stop=stop_at(5)) is None
    assert names(tmp_path) == ["step-00000004", "step-00000005"], "one after each update"
    same_bits(*whole, train_run(spec, tmp_path, data_dir, EAGER), tmp_path)


@pytest.mark.parametrize(
    ("hosts", "shards", "fits"),
    [
        ((), 1, True),  # one process
        (("a",) * 4, 4, False),
        (("a", "a", "b", "b"), 4, True),
        (("a", "a", "a", "a"), 2, True),  # two copies of the weights: one is written
    ],
)
def test_the_copies_of_all_ranks_on_a_host_must_fit(
    hosts: tuple[str, ...], shards: int, fits: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(files, "available_memory", lambda device: 1000.0)
    group = RankGroup(0, max(1, len(hosts)), shards=shards)
    group.hosts = hosts
    state = files.Checkpoint(1, {"w": torch.zeros(300, dtype=torch.uint8)}, {}, {})
    assert state.fits_host(group) == fits


# What a finished run keeps


@pytest.mark.parametrize(
    ("keep", "n_values"), [("last", 3), ("weights", 1), ("none", 0)]
)  # per parameter
def test_a_finished_run_keeps_what_is_configured(
    spec: RunSpec, data_dir: Path, tmp_path: Path, keep: str, n_values: int
):
    save_plan([spec], tmp_path / "plan.jsonl")
    runtime = make_runtime(checkpoint_minutes=EVERY_UPDATE, keep_checkpoints=keep)
    Worker(tmp_path, data_dir, runtime, "w").run()
    run_dir = run_dir_of(tmp_path, spec)
    assert RunResult.read(run_dir / "result.json").status == "finished"
    assert names(run_dir) == ([f"step-{spec.steps:08d}"] if n_values else [])
    size = sum(p.stat().st_size for p in run_dir.glob("checkpoints/*/*.safetensors"))
    assert size == pytest.approx(4 * spec.N * n_values, rel=0.15)


def test_kept_weights_give_the_validation_loss_of_the_result(whole, data_dir: Path):
    result, run_dir = whole
    model = Transformer(result.spec.model)
    [path] = (run_dir / "checkpoints").iterdir()
    model.load_state_dict(load_file(path / "weights.safetensors"), strict=False)
    rows = TokenData.open(data_dir).validation_rows(256, SEQ_LEN)
    assert validation_loss(model, rows, 4) == pytest.approx(
        result.validation_loss["validation"], rel=1e-12
    )


def test_a_lost_result_is_written_again_from_kept_weights(
    whole, spec: RunSpec, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """They are saved before the result: a run killed between the two does not train again."""
    train_run(spec, tmp_path, data_dir, make_runtime())
    (tmp_path / "curve.npz").unlink()
    monkeypatch.setattr(trainer.Trainer, "train_step", None)
    same_bits(*whole, train_run(spec, tmp_path, data_dir, make_runtime()), tmp_path)


def test_the_result_states_the_seconds_of_each_activity(whole):
    result = whole[0]
    assert result.seconds.keys() == {"train", "save", "evaluate", "compile"}
    assert result.seconds["train"] == result.train_seconds
    assert min(result.seconds["save"], result.seconds["evaluate"]) > 0


def test_seconds_add_up_over_attempts(spec: RunSpec, data_dir: Path, tmp_path: Path):
    train_run(spec, tmp_path, data_dir, EAGER, should_stop=stop_at(20))
    progress = load_checkpoint(tmp_path / "checkpoints", spec)[0].progress["other_seconds"]
    result = train_run(spec, tmp_path, data_dir, make_runtime())
    assert 0 < progress["evaluate"] < result.seconds["evaluate"]
    assert np.isfinite(list(result.seconds.values())).all()


@pytest.mark.parametrize(("n_failures", "kept"), [(2, 1), (10**6, 0)])
def test_a_full_disk_at_the_end_does_not_lose_the_result_of_a_sweeps_run(
    whole, spec, data_dir: Path, tmp_path: Path, monkeypatch, capsys, n_failures: int, kept: int
):
    """The last checkpoint is tried again for a while; then the run ends without it."""
    monkeypatch.setattr(folders, "WAIT_SECONDS", 60.0 if kept else 0.05)
    monkeypatch.setattr(folders, "POLL_SECONDS", 0.01)
    real, calls = save.write_tensors, []

    def full(path: Path, *args) -> str:
        calls.append(path)
        if len(calls) <= n_failures:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, *args)

    monkeypatch.setattr(save, "write_tensors", full)
    with pytest.raises(OSError, match="No space left"):  # alone: the caller decides what to do
        train_run(spec, tmp_path / "alone", data_dir, make_runtime())
    calls.clear()
    run_dir = guard(tmp_path) / "runs" / spec.run_id
    result = train_run(spec, run_dir, data_dir, make_runtime())
    assert result.final_loss == whole[0].final_loss
    assert len(names(run_dir)) == kept
    assert ("cannot be written" in capsys.readouterr().err) == (not kept)


def test_a_last_checkpoint_without_permission_is_not_waited_for(
    whole, spec, data_dir: Path, tmp_path: Path, monkeypatch, capsys
):
    def refused(path: Path, *args) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(save, "write_tensors", refused)
    monkeypatch.setattr(folders.time, "sleep", lambda seconds: pytest.fail("it waits"))
    run_dir = guard(tmp_path) / "runs" / spec.run_id
    result = train_run(spec, run_dir, data_dir, make_runtime())
    assert result.final_loss == whole[0].final_loss
    assert "Permission denied: a checkpoint cannot be written" in capsys.readouterr().err
