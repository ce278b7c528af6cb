"""Encoding in a pool of processes; workers that die."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import data_corpora
import numpy as np
import pytest
from data_corpora import command, decoded, documents, write_jsonl

from chinchilla.core.errors import InputError
from chinchilla.data.prepare import stages
from chinchilla.data.prepare.encode import in_pool
from chinchilla.data.prepare.pipeline import prepare
from chinchilla.data.tokenizer import Tokenizer

SUPPORT = Path(data_corpora.__file__).parent

KILLED = """
import os, signal, sys
from data_corpora import command
from pathlib import Path
from chinchilla.data.prepare import encode, pipeline, stages

def progress(stage, done, total):
    if stage == "tokenize": os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
    stages.BYTES_PER_WORKER, encode.BATCH_BYTES = 1, 2_000
    pipeline.prepare(command(Path(sys.argv[1]), Path(sys.argv[2]), n_workers=2), progress)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_killed_preparation_leaves_no_workers_behind(tmp_path):
    corpus = write_jsonl(tmp_path / "a.jsonl", documents())
    script = tmp_path / f"killed-{os.getpid()}.py"
    script.write_text(KILLED)
    paths = os.pathsep.join([str(SUPPORT), str(SUPPORT.parents[1])])
    mark = f"CHINCHILLA_TEST_MARK={script}"
    killed = subprocess.run(
        [sys.executable, script, tmp_path / "d", corpus],
        env={**os.environ, "PYTHONPATH": paths, "CHINCHILLA_TEST_MARK": str(script)},
        stdout=subprocess.DEVNULL,  # a pipe would also wait for the workers
        stderr=subprocess.DEVNULL,
    )
    assert killed.returncode == -signal.SIGKILL

    def alive() -> list[str]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                environment = (process / "environ").read_bytes()
                state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if mark.encode() in environment and state != "Z":
                found.append(process.name)
        return found

    deadline = time.monotonic() + 15
    while alive() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert alive() == []


def test_worker_killed_for_memory_is_one_line(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", documents())
    monkeypatch.setattr(stages, "BYTES_PER_WORKER", 1)
    monkeypatch.setattr("chinchilla.data.prepare.encode.BATCH_BYTES", 500)

    def kill_workers(stage: str, done: float, total: float) -> None:
        for child in multiprocessing.active_children() if stage == "tokenize" else ():
            child.kill()

    with pytest.raises(InputError, match=r"worker processes died.*n_workers"):
        prepare(command(tmp_path / "d", path, n_workers=2), kill_workers)
    assert (tmp_path / "d" / ".chinchilla-work").exists(), "with fewer it goes on from there"
    assert not (tmp_path / "d" / "manifest.json").exists()


def test_more_than_65536_pieces_need_uint32(tmp_path, monkeypatch):
    """With a fake tokenizer, as training 65,537 pieces takes minutes."""
    path = write_jsonl(tmp_path / "a.jsonl", documents())
    monkeypatch.setattr(Tokenizer, "vocab_size", 65_537, raising=False)
    real = Tokenizer.__init__

    def wide(self: Tokenizer, model: bytes) -> None:
        real(self, model)
        self.vocab_size = 65_537

    monkeypatch.setattr(Tokenizer, "__init__", wide)
    m = prepare(command(tmp_path / "d", path))
    assert m.dtype == "uint32"
    [shard, *_] = m.splits["train"].shards
    assert (tmp_path / "d" / shard.file).stat().st_size == 64 + 4_000 + 8 * shard.documents
    assert len(decoded(tmp_path / "d", "train")) == m.splits["train"].documents


class _Interrupting:
    """An encoder with which Ctrl-C is pressed while a worker process starts, and while it works."""

    def __reduce__(self):
        return _interrupted, ()

    def __call__(self, texts):
        os.kill(os.getpid(), signal.SIGINT)
        return np.zeros(len(texts))


def _interrupted() -> _Interrupting:
    os.kill(os.getpid(), signal.SIGINT)
    return _Interrupting()


def test_ctrl_c_is_handled_by_the_parent_only(capfd):
    batches = [SimpleNamespace(texts=[b"a"])]
    [(_, tokens)] = in_pool(batches, _Interrupting(), 2)
    assert tokens.tolist() == [0]
    assert capfd.readouterr() == ("", "")
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
