"""Sharded checkpoints, written and read by different numbers of ranks.

Ranks are threads here, which communicate through a list and a barrier.
"""

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_checkpoint import SPEC, empty, flip, made, names, truncate
from train_world import make_spec

from chinchilla.core.errors import InputError
from chinchilla.train.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    load_checkpoint,
    save,
    save_checkpoint,
)
from chinchilla.train.checkpoint import files as checkpoint_files
from chinchilla.train.distributed import RankGroup


class Threads(RankGroup):
    """One rank of several in this process."""

    def __init__(self, rank: int, world: int, shards: int, values: list, barrier: Any) -> None:
        super().__init__(rank, world, shards=shards)
        self.values, self.barrier = values, barrier

    def gather(self, value: Any) -> list[Any]:
        self.values[self.rank] = json.dumps(value)
        self.barrier.wait(20)
        result = [json.loads(text) for text in self.values]
        self.barrier.wait(20)
        return result

    def any_rank(self, *wishes: bool) -> tuple[bool, ...]:
        return tuple(map(any, zip(*self.gather(wishes), strict=True)))


def on_ranks(world: int, work: Callable[[RankGroup], Any], shards: int = 0) -> list[Any]:
    """The result or exception of `work` on each rank."""
    values, barrier, out = [""] * world, threading.Barrier(world), [None] * world

    def go(rank: int) -> None:
        try:
            out[rank] = work(Threads(rank, world, shards, values, barrier))
        except BaseException as error:
            out[rank] = error
            if isinstance(error, threading.BrokenBarrierError):
                raise

    threads = [threading.Thread(target=go, args=(i,)) for i in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return out


def cut(step: int, ranks: RankGroup) -> Checkpoint:
    """This rank's rows of `made(step)`."""
    whole = made(step)
    weights = {k: v[ranks.rows(len(v))].clone() for k, v in whole.weights.items()}
    optimizer = {
        k: v[ranks.rows(len(v))].clone() if v.dim() else v
        for k, v in whole.optimizer.items()
        if v.dim() or ranks.rank == 0
    }
    if ranks.rank == 0:
        optimizer["losses"] = torch.arange(float(step))
    return Checkpoint(step, weights, optimizer, whole.progress)


def saved(folder: Path, world: int, *steps: int, shards: int = 0) -> list[Path]:
    for step in steps:
        out = on_ranks(world, lambda r, s=step: save_checkpoint(folder, SPEC, cut(s, r), r), shards)
        assert all(path == folder / f"step-{step:08d}" for path in out), out
    return [folder / f"step-{step:08d}" for step in steps]


def loaded(folder: Path, world: int = 1, shards: int = 0) -> tuple[int, list[str]]:
    """Step and warnings, which are equal on all ranks; checks the rows that each rank has loaded."""

    def load(ranks: RankGroup) -> tuple[int, list[str]]:
        found, complaints = load_checkpoint(folder, SPEC, ranks)
        if found is None:
            return 0, complaints
        expected = cut(found.step, ranks)
        for got, wanted in (
            (found.weights, expected.weights),
            (found.optimizer, expected.optimizer),
        ):
            for name, value in wanted.items():
                assert torch.equal(got[name], value), name
        assert torch.equal(found.optimizer["losses"], torch.arange(float(found.step)))
        assert found.optimizer["step.b"] == found.step
        assert found.progress == expected.progress
        return found.step, complaints

    out = on_ranks(world, load, shards)
    for value in out:
        if isinstance(value, BaseException):
            raise value
    assert all(value == out[0] for value in out)
    return out[0]


@pytest.mark.parametrize("readers", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("writers", [1, 2, 3, 4, 7])
def test_any_number_of_ranks_reads_what_any_other_wrote(tmp_path: Path, writers: int, readers: int):
    """With tensors of five and two rows, shards are uneven and some are empty."""
    saved(tmp_path, writers, 10)
    assert loaded(tmp_path, readers) == (10, [])


def test_each_shard_has_its_files_and_copies_write_none(tmp_path: Path):
    [path] = saved(tmp_path, 4, 3, shards=2)
    assert names(path) == [
        "MANIFEST.json",
        "optimizer-00000-of-00002.safetensors", "optimizer-00001-of-00002.safetensors",
        "state.json",
        "weights-00000-of-00002.safetensors", "weights-00001-of-00002.safetensors",
    ]  # fmt: skip
    assert loaded(tmp_path, 4, shards=2) == loaded(tmp_path, 3) == (3, [])
    assert {p.stat().st_mode & 0o777 for p in path.iterdir()} == {0o644}


FILES = ["MANIFEST.json", "state.json", "weights-00000-of-00003.safetensors",
         "optimizer-00002-of-00003.safetensors"]  # fmt: skip


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", [flip, truncate, empty, Path.unlink])
def test_all_ranks_fall_back_from_a_damaged_shard(tmp_path: Path, file: str, damage):
    _, newest = saved(tmp_path, 3, 10, 20)
    damage(newest / file)
    step, [line] = loaded(tmp_path, 3)
    assert step == 10
    assert str(newest) in line
    assert file in line
    assert names(tmp_path) == ["damaged-step-00000020", "step-00000010"]


@pytest.mark.parametrize("rank", [0, 2])
def test_a_full_disk_on_one_rank_keeps_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
):
    saved(tmp_path, 3, 10)
    real = save.write_tensors

    def full(path: Path, *args: Any) -> str:
        if f"optimizer-{rank:05d}" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(save, "write_tensors", full)
        out = on_ranks(3, lambda r: save_checkpoint(tmp_path, SPEC, cut(20, r), r))
    for i, error in enumerate(out):
        assert "a checkpoint needs" in str(error)
        assert isinstance(error, OSError) == (i == rank)
    assert names(tmp_path) == ["step-00000010"]
    assert loaded(tmp_path, 3) == (10, [])
    saved(tmp_path, 3, 20)
    assert loaded(tmp_path, 2) == (20, [])


def test_a_claim_that_is_lost_on_one_rank_discards_the_shards_of_all(tmp_path: Path):
    saved(tmp_path, 3, 10)

    def write(ranks: RankGroup) -> bool:
        writer = CheckpointWriter(ranks)
        writer.start(tmp_path, SPEC, cut(20, ranks))
        return writer.finish(still_mine=lambda: ranks.rank != 1)

    assert on_ranks(3, write) == [False] * 3
    assert names(tmp_path) == ["step-00000010"]
    assert loaded(tmp_path, 3) == (10, [])


@pytest.mark.parametrize("call", ["mkdir", "write_text", "rename", "manifest_text"])
def test_a_failed_commit_keeps_the_older_checkpoint_and_no_partial_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
):
    saved(tmp_path, 3, 10)

    def broken(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os if call in ("mkdir", "rename") else save, call, broken)
        out = on_ranks(3, lambda r: save_checkpoint(tmp_path, SPEC, cut(20, r), r))
    assert all(isinstance(error, Exception) for error in out)
    assert names(tmp_path) == ["step-00000010"]
    assert loaded(tmp_path, 1) == (10, [])


def test_a_checkpoint_of_another_spec_is_refused_on_all_ranks(tmp_path: Path):
    saved(tmp_path, 2, 10)
    other = make_spec(steps=25)
    out = on_ranks(2, lambda r: load_checkpoint(tmp_path, other, r))
    assert all(isinstance(error, InputError) for error in out)
    assert all("steps 24 -> 25" in str(error) for error in out)


def test_a_manifest_without_one_shard_is_damage(tmp_path: Path):
    [path] = saved(tmp_path, 3, 10)
    body = json.loads((path / "MANIFEST.json").read_text())
    del body["sha256"]
    for name in ("weights", "optimizer"):
        del body["files"][f"{name}-00002-of-00003.safetensors"]
    (path / "MANIFEST.json").write_text(checkpoint_files.manifest_text(body))
    step, lines = loaded(tmp_path, 3)
    assert step == 0
    assert "does not list state.json" in lines[0]
