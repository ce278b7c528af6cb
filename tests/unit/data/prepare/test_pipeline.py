"""Preparing a token folder: reproducible bytes and clear errors."""

import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import data_corpora
import pytest
from data_corpora import command, decoded, documents, write_jsonl

from chinchilla import cli
from chinchilla.config import CorpusConfig, DataCommand, TokenizerConfig
from chinchilla.core.errors import DataError, InputError
from chinchilla.data.manifest import Manifest
from chinchilla.data.prepare import pipeline, stages
from chinchilla.data.prepare.pipeline import make_tokenizer, prepare
from chinchilla.data.tokenizer import train_tokenizer

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
    with pytest.raises(
        InputError, match=r"a.jsonl has other contents or another source now.*another data_dir"
    ):
        prepare(command(tmp_path / "d", path))
    with pytest.raises(InputError, match="1 source files, now 2"):
        prepare(command(tmp_path / "d", path, write_jsonl(tmp_path / "b.jsonl", documents())))
    assert files(tmp_path / "d") == before


DAMAGED = [
    (lambda p: p.unlink(), "is missing"),
    (lambda p: p.write_bytes(p.read_bytes()[:-1]), "has 2079 bytes, not 2080"),
]


@pytest.mark.parametrize(("damage", "problem"), DAMAGED)
def test_a_damaged_folder_is_refused_and_left_as_it_is(tmp_path, damage, problem):
    config = command(tmp_path / "d", write_jsonl(tmp_path / "a.jsonl", documents()))
    prepare(config)
    damage(tmp_path / "d" / "train-00001.bin")
    before = files(tmp_path / "d")
    with pytest.raises(DataError, match=rf"train-00001.bin {problem}.*Move the folder away"):
        prepare(config)
    assert files(tmp_path / "d") == before


@pytest.mark.parametrize("name", ["train-00000.bin", "mine.bin", "data_card.md", "tokenizer.model"])
def test_a_foreign_file_is_refused_before_anything_is_read(tmp_path, name):
    config = command(tmp_path / "d", tmp_path / "not read.jsonl")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / name).write_bytes(b"mine")
    (tmp_path / "not read.jsonl").write_text("no JSON")
    with pytest.raises(InputError, match=rf"{name}.*another data_dir"):
        prepare(config)
    assert (tmp_path / "d" / name).read_bytes() == b"mine"


def test_foreign_files_are_kept(tmp_path):
    """Also next to an unfinished preparation."""
    config = command(tmp_path / "d", write_jsonl(tmp_path / "a.jsonl", documents()))
    mine = [tmp_path / "d" / n for n in ("text.jsonl", "overlap-notes.json")]
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
    assert (tmp_path / "d" / "train-00000.bin").read_bytes() == b"mine"
    (tmp_path / "d" / "train-00000.bin").unlink()
    prepare(config)
    assert [path.read_bytes() for path in mine] == [b"mine"] * 2


def test_an_existing_tokenizer_is_used_only_if_it_is_given(tmp_path):
    config = command(tmp_path / "d", write_jsonl(tmp_path / "a.jsonl", documents()))
    made, _ = make_tokenizer(config)
    model = tmp_path / "d" / "tokenizer.model"
    before = model.read_bytes(), model.stat().st_mtime_ns
    (tmp_path / "other.model").write_bytes(train_tokenizer(documents(), 310).model)
    refused = [(make_tokenizer, ""), (prepare, ""), (prepare, str(tmp_path / "other.model"))]
    for make, given in refused:
        config.tokenizer = TokenizerConfig(vocab_size=300, model=given)
        with pytest.raises(InputError, match=r"model exists.*tokenizer.model=.*another data_dir"):
            make(config)
    config.tokenizer = TokenizerConfig(model=str(model))
    assert make_tokenizer(config)[0].sha256 == made.sha256
    assert prepare(config).tokenizer.sha256 == made.sha256
    assert (model.read_bytes(), model.stat().st_mtime_ns) == before


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
    rename, moved = p.rename, []
    def counted(a, b):
        if Path(b).parent == Path(data_dir): moved.append(b)
        if point == "rename" and len(moved) == 3: die()
        rename(a, b)
    p.rename = counted
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


def test_a_second_process_in_the_same_folder_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", documents())

    def again(stage: str, done: float, total: float) -> None:
        if stage == "tokenizer":
            with pytest.raises(InputError, match="being prepared by another process"):
                prepare(command(tmp_path / "d", path))

    prepare(command(tmp_path / "d", path), again)


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


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    path = write_jsonl(tmp_path / "a.jsonl", documents(3))
    with pytest.raises(InputError, match="data_dir="):
        prepare(command(tmp_path / "file" / "d", path))


def test_more_files_than_a_manifest_can_list_are_refused_before_they_are_read(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(pipeline, "JSON_MEMORY", 1000)
    path = write_jsonl(tmp_path / "a.jsonl", documents())
    with pytest.raises(DataError, match="the text has 1 files, too many to record"):
        prepare(command(tmp_path / "d", path))
    assert not (tmp_path / "d").exists()


def test_full_disk_is_one_line(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", documents())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stages.ShardWriter, "add", full)
    with pytest.raises(InputError, match=r"No space left on device.*another data_dir"):
        prepare(command(tmp_path / "d", path))
    assert not (tmp_path / "d" / ".chinchilla-work").exists()


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


@pytest.mark.parametrize(
    ("paths", "data_dir"),
    [
        ("books", "books"),
        ("books", "books/tokens"),
        ("books", "."),
        ("link", "books"),
        ("books/*.txt", "books"),
        ("**/*.txt", "tokens"),
    ],
)
def test_tokens_beside_the_text_are_refused_before_anything_is_written(
    tmp_path, monkeypatch, capsys, paths, data_dir
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "books").mkdir()
    (tmp_path / "link").symlink_to("books")
    (tmp_path / "books" / "a.txt").write_text("text")
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["data", "corpus=text", f"corpus.paths=[{paths}]", f"data_dir={data_dir}"]) == 2
    assert "would put tokens beside the text" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", [pipeline.WORK, pipeline.LOCK, "tokenizer.model", "manifest.json"])
def test_a_link_in_the_folder_does_not_lead_elsewhere(tmp_path, name):
    """Planted by another user of a shared folder; what is in the way is replaced or refused."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "precious").write_text("mine")
    (tmp_path / "d").mkdir()
    target = tmp_path / "home" / ("" if name == pipeline.WORK else "precious")
    (tmp_path / "d" / name).symlink_to(target)
    with contextlib.suppress(InputError, DataError):
        prepare(command(tmp_path / "d", write_jsonl(tmp_path / "a.jsonl", documents(30))))
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["precious"]
    assert (tmp_path / "home" / "precious").read_text() == "mine"
