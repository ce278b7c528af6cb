"""Preparing killed at any moment: nothing half-written is ever read, run again gives the same bytes.

Every step that touches the disk or hands over work is a point; the process dies there by SIGKILL. It
is forked from this one, so that each death costs milliseconds.
"""

import hashlib
import importlib.util
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from data_corpora import documents, write_jsonl

from chinchilla.cli import main
from chinchilla.config import CorpusConfig, DataCommand, SourceConfig, TokenizerConfig
from chinchilla.data.dataset import TokenData
from chinchilla.data.prepare.pipeline import prepare

POINTS = 48


DEDUP = "near" if importlib.util.find_spec("datasketch") else "exact"


def mixture(folder: Path, data_dir: Path, dedup: str = "exact") -> DataCommand:
    sources = []
    for seed, name in enumerate(("a", "b")):
        path = write_jsonl(folder / f"{name}.jsonl", documents(30, seed))
        sources.append(
            SourceConfig(name=name, format="jsonl", paths=[str(path)], dedup_paragraphs=500)
        )
    return DataCommand(
        corpus=CorpusConfig(sources=sources),
        tokenizer=TokenizerConfig(vocab_size=300),
        data_dir=str(data_dir),
        validation_fraction=0.3,
        shard_tokens=3_000,
        n_workers=1,
        dedup=dedup,
    )


def contents(data_dir: Path) -> dict[str, str]:
    files = sorted(p for p in data_dir.iterdir() if p.is_file() and p.name != ".lock")
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def counted(die_at: int, calls: list[str]) -> Callable[[str], None]:
    def step(name: str) -> None:
        calls.append(name)
        if len(calls) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    return step


def run(command: DataCommand, die_at: int) -> list[str]:
    """Prepare with every step counted, to die at step `die_at` (0 = never)."""
    calls: list[str] = []
    step = counted(die_at, calls)
    real = {name: getattr(os, name) for name in ("replace", "fsync", "unlink", "mkdir")}

    def before(name: str) -> Callable[..., object]:
        def wrapped(*args: object, **more: object) -> object:
            step(name)
            return real[name](*args, **more)

        return wrapped

    try:
        for name in real:
            setattr(os, name, before(name))
        prepare(command, lambda stage, done, total: step(stage))
    finally:
        for name, function in real.items():
            setattr(os, name, function)
    return calls


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Every step of a preparation that nobody disturbs, and what comes of it."""
    folder = tmp_path_factory.mktemp("whole")
    calls = run(mixture(folder, folder / "d"), 0)
    found = contents(folder / "d")
    del found["manifest.json"]
    return calls, found


@pytest.fixture(scope="module")
def saved_whole(tmp_path_factory):
    """The same with a state after every step, and near duplicates looked for."""
    folder = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chinchilla.data.prepare.stages.CHECKPOINT_SECONDS", 0.0)
        calls = run(mixture(folder, folder / "d", DEDUP), 0)
    found = contents(folder / "d")
    del found["manifest.json"]
    return calls, found


def test_there_are_enough_points_of_every_kind(whole):
    calls, _ = whole
    assert len(calls) > POINTS
    assert {"read", "tokenizer", "tokenize", "replace", "fsync"} <= set(calls)


@pytest.mark.parametrize("seconds", [30.0, 0.0])
@pytest.mark.parametrize("point", range(POINTS))
@pytest.mark.slow
def test_killed_anywhere_and_run_again_gives_the_same_bytes(
    whole, saved_whole, tmp_path, monkeypatch, point, seconds
):
    """Without a state of what was done, and with one after every step (dedup=near too)."""
    monkeypatch.setattr("chinchilla.data.prepare.stages.CHECKPOINT_SECONDS", seconds)
    calls, expected = saved_whole if seconds == 0 else whole
    die_at = 1 + point * (len(calls) - 1) // (POINTS - 1)
    if point >= POINTS // 2:  # half of them where files come to their places
        die_at = len(calls) - (POINTS - 1 - point)
    told = mixture(tmp_path, tmp_path / "d", "exact" if seconds else DEDUP)
    child = os.fork()
    if child == 0:
        try:
            run(told, die_at)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    if (tmp_path / "d" / "manifest.json").exists():  # then everything it names is there and whole
        TokenData.open(tmp_path / "d", verify=True)
    manifest = prepare(told)
    found = contents(tmp_path / "d")
    del found["manifest.json"]  # has the paths and times of the text
    assert found == expected
    assert manifest.data_id in (tmp_path / "d" / "data_card.md").read_text()
    assert not (tmp_path / "d" / ".chinchilla-work").exists()
    assert not list((tmp_path / "d").glob(".*.tmp"))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A folder with an overlap report that has lost a shard, the whole one, and the steps of mending."""
    folder = tmp_path_factory.mktemp("damaged")
    told = mixture(folder, folder / "d")
    prepare(told)
    against = write_jsonl(folder / "e.jsonl", documents(3))
    assert main(["data", "overlap", f"data_dir={folder / 'd'}", f"against={against}"]) == 0
    expected = contents(folder / "d")
    next((folder / "d").glob("train-b-*.bin")).unlink()
    shutil.copytree(folder / "d", folder / "trial")
    calls = run(replace(told, data_dir=str(folder / "trial")), 0)
    return told, expected, len(calls) - calls[::-1].index("tokenize")


@pytest.mark.slow
@pytest.mark.parametrize("step", [-30, -10, *range(0, 75, 3)])
def test_killed_while_damaged_data_is_made_anew(damaged, tmp_path, step):
    """What was there stays until all is tokens again, and what was measured on them stays for good."""
    told, expected, last_tokens = damaged
    shutil.copytree(told.data_dir, tmp_path / "d")
    before = contents(tmp_path / "d")
    told = replace(told, data_dir=str(tmp_path / "d"))
    child = os.fork()
    if child == 0:
        try:
            run(told, last_tokens + step)
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    if step <= 0:
        assert contents(tmp_path / "d") == before
    prepare(told)
    assert contents(tmp_path / "d") == expected
    assert not (tmp_path / "d" / ".chinchilla-work").exists()
