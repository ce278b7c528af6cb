"""A preparation killed at any point is never read half-written, and resuming gives the same bytes.

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
    """Prepare with every step counted, and be killed at step `die_at` (0 = never)."""
    calls: list[str] = []
    step = counted(die_at, calls)
    real = {name: getattr(os, name) for name in ("replace", "fsync", "unlink", "mkdir")}

    def before(name: str) -> Callable[..., object]:
        def wrapped(*args: object, **kwargs: object) -> object:
            step(name)
            return real[name](*args, **kwargs)

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
    """The steps and files of an uninterrupted preparation."""
    folder = tmp_path_factory.mktemp("whole")
    calls = run(mixture(folder, folder / "d"), 0)
    files = contents(folder / "d")
    del files["manifest.json"]
    return calls, files


@pytest.fixture(scope="module")
def saved_whole(tmp_path_factory):
    """The same with a saved state after every step, and dedup=near."""
    folder = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chinchilla.data.prepare.stages.CHECKPOINT_SECONDS", 0.0)
        calls = run(mixture(folder, folder / "d", DEDUP), 0)
    files = contents(folder / "d")
    del files["manifest.json"]
    return calls, files


def test_the_kill_points_cover_every_kind_of_step(whole):
    calls, _ = whole
    assert len(calls) > POINTS
    assert {"read", "tokenizer", "tokenize", "replace", "fsync"} <= set(calls)


@pytest.mark.parametrize("seconds", [30.0, 0.0])
@pytest.mark.parametrize("point", range(POINTS))
@pytest.mark.slow
def test_killed_at_any_point_and_resumed_gives_the_same_bytes(
    whole, saved_whole, tmp_path, monkeypatch, point, seconds
):
    """Without a saved state, and with one after every step (and dedup=near)."""
    monkeypatch.setattr("chinchilla.data.prepare.stages.CHECKPOINT_SECONDS", seconds)
    calls, expected = saved_whole if seconds == 0 else whole
    die_at = 1 + point * (len(calls) - 1) // (POINTS - 1)
    if point >= POINTS // 2:  # half of them near the end, where files are installed
        die_at = len(calls) - (POINTS - 1 - point)
    config = mixture(tmp_path, tmp_path / "d", "exact" if seconds else DEDUP)
    child = os.fork()
    if child == 0:
        try:
            run(config, die_at)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    if (tmp_path / "d" / "manifest.json").exists():  # then all its files are complete
        TokenData.open(tmp_path / "d", verify=True)
    manifest = prepare(config)
    files = contents(tmp_path / "d")
    del files["manifest.json"]  # contains paths and times of the text
    assert files == expected
    assert manifest.data_id in (tmp_path / "d" / "data_card.md").read_text()
    assert not (tmp_path / "d" / ".chinchilla-work").exists()
    assert not list((tmp_path / "d").glob(".*.tmp"))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A folder with an overlap report and a missing shard, the complete files, the steps of the repair."""
    folder = tmp_path_factory.mktemp("damaged")
    config = mixture(folder, folder / "d")
    prepare(config)
    against = write_jsonl(folder / "e.jsonl", documents(3))
    assert main(["data", "overlap", f"data_dir={folder / 'd'}", f"against={against}"]) == 0
    expected = contents(folder / "d")
    next((folder / "d").glob("train-b-*.bin")).unlink()
    shutil.copytree(folder / "d", folder / "trial")
    calls = run(replace(config, data_dir=str(folder / "trial")), 0)
    return config, expected, len(calls) - calls[::-1].index("tokenize")


@pytest.mark.slow
@pytest.mark.parametrize("step", [-30, -10, *range(0, 75, 3)])
def test_killed_while_damaged_data_is_replaced(damaged, tmp_path, step):
    """The files stay until all tokens are encoded again, and the overlap report is kept."""
    config, expected, last_tokens = damaged
    shutil.copytree(config.data_dir, tmp_path / "d")
    before = contents(tmp_path / "d")
    config = replace(config, data_dir=str(tmp_path / "d"))
    child = os.fork()
    if child == 0:
        try:
            run(config, last_tokens + step)
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    if step <= 0:
        assert contents(tmp_path / "d") == before
    prepare(config)
    assert contents(tmp_path / "d") == expected
    assert not (tmp_path / "d" / ".chinchilla-work").exists()
