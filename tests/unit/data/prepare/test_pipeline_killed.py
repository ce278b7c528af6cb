"""A preparation killed at any point is never read half-written, and resuming gives the same bytes.

Every step that touches the disk or hands over work is a point; the process dies there by SIGKILL. It
is forked from this one, so that each death costs milliseconds.
"""

import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from data_corpora import documents, write_jsonl

from chinchilla.config import CorpusConfig, DataCommand, SourceConfig, TokenizerConfig
from chinchilla.data.dataset import TokenData
from chinchilla.data.prepare.pipeline import prepare


def mixture(folder: Path, data_dir: Path) -> DataCommand:
    sources = []
    for seed, name in enumerate(("a", "b")):
        path = write_jsonl(folder / f"{name}.jsonl", documents(30, seed))
        sources.append(SourceConfig(name=name, format="jsonl", paths=[str(path)]))
    return DataCommand(
        corpus=CorpusConfig(sources=sources),
        tokenizer=TokenizerConfig(vocab_size=300),
        data_dir=str(data_dir),
        validation_fraction=0.3,
        shard_tokens=3_000,
        n_workers=1,
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


POINTS = 64


def test_the_kill_points_cover_every_kind_of_step(whole):
    calls, _ = whole
    assert {"mkdir", "read", "tokenizer", "tokenize", "replace", "fsync"} <= set(calls)
    assert len(kill_points(calls)) == POINTS


def kill_points(calls: list[str]) -> list[int]:
    """The last 40 steps, where files are installed, every rename, and others evenly spread."""
    n = len(calls)
    chosen = {*range(n - 40, n), *(i for i, name in enumerate(calls) if name == "replace")}
    others = [i for i in range(n) if i not in chosen]
    n_others = POINTS - len(chosen)
    chosen |= {others[k * (len(others) - 1) // (n_others - 1)] for k in range(n_others)}
    return [i + 1 for i in sorted(chosen)]


@pytest.mark.parametrize("point", range(POINTS))
@pytest.mark.slow
def test_killed_at_any_point_and_resumed_gives_the_same_bytes(whole, tmp_path, point):
    calls, expected = whole
    config = mixture(tmp_path, tmp_path / "d")
    child = os.fork()
    if child == 0:
        try:
            run(config, kill_points(calls)[point])
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
