"""The files of a corpus: what is read, what is refused, and what is reported."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_corpora import command, decoded, documents, write_jsonl

from chinchilla import cli
from chinchilla.config import CorpusConfig, SourceConfig
from chinchilla.core.errors import DataError
from chinchilla.data.corpus import read_documents
from chinchilla.data.corpus_files import find_files
from chinchilla.data.manifest import Manifest
from chinchilla.data.prepare.pipeline import prepare

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:66\nsize 146946961\n"


def texts(*paths: Path | str, kind: str = "text") -> list[str]:
    return list(read_documents(CorpusConfig(format=kind, paths=[str(p) for p in paths])))


def shards(root: Path, kind: str, names: list[str]) -> None:
    """One document in each file, its own name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "parquet":
            pq.write_table(pa.table({"text": [name]}), path)
        else:
            path.write_text(name if kind == "text" else json.dumps({"text": name}))


SUFFIX = {"text": ".txt", "jsonl": ".jsonl", "parquet": ".parquet"}


@pytest.mark.parametrize("kind", SUFFIX)
def test_linked_folders_and_files_are_read(tmp_path, kind):
    end = SUFFIX[kind]
    shards(tmp_path, kind, [f"d/a{end}", f"elsewhere/c{end}", f"elsewhere/b{end}", f"f{end}"])
    (tmp_path / "d" / "part2").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "d" / f"z{end}").symlink_to(tmp_path / f"f{end}")
    read = texts(tmp_path / "d", kind=kind)
    assert read == [f"d/a{end}", f"elsewhere/b{end}", f"elsewhere/c{end}", f"f{end}"]


def test_loops_of_links_are_cut_and_named(tmp_path):
    shards(tmp_path, "text", ["d/a.txt", "d/e/b.txt"])
    (tmp_path / "d" / "again").symlink_to(tmp_path / "d")
    (tmp_path / "d" / "e" / "up").symlink_to("..")
    found = find_files(CorpusConfig(format="text", paths=[str(tmp_path / "d")]))
    assert [p.name for p in found.files] == ["a.txt", "b.txt"]
    assert "folder found twice" in found.note()
    assert "/d/again" in found.note()
    assert "/d/e/up" in found.note()


@pytest.mark.parametrize("pattern", ["d", "d/*", "d/**/*.jsonl", "d/part*/*"])
@pytest.mark.parametrize("target", ["nowhere", "b.jsonl", "a.jsonl/inside"])
def test_broken_links_are_refused_by_name(tmp_path, pattern, target):
    """To a file that is missing, to itself, and through a file; all name the link."""
    shards(tmp_path, "jsonl", ["d/a.jsonl"])
    link = tmp_path / "d" / ("part2" if "part" in pattern else "b.jsonl")
    link.symlink_to(link.name if target == "b.jsonl" else target)
    loop = target == "b.jsonl"
    problem = r"itself \(loop\)\. Remove" if loop else r"a file that does not exist\. Restore"
    with pytest.raises(DataError, match=f"{link}: a link to {problem}"):
        texts(tmp_path / pattern, kind="jsonl")
    with pytest.raises(DataError, match=f"a link to {problem}"):
        texts(link, kind="jsonl")


def test_many_broken_links_are_counted(tmp_path):
    for i in range(9):
        (tmp_path / f"{i}.txt").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"/0.txt, \S+/1.txt, \S+/2.txt and 6 more: a link to"):
        texts(tmp_path)


@pytest.mark.parametrize("pattern", ["d", "d/*/*.txt", "d/**/*.txt"])
def test_an_unreadable_folder_is_refused(tmp_path, monkeypatch, pattern):
    shards(tmp_path, "text", ["d/a.txt", "d/closed/b.txt"])
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(
        DataError, match=r"folder \S+/d/closed cannot be read \(Permission denied\)"
    ):
        texts(tmp_path / pattern)


@pytest.mark.parametrize("kind", SUFFIX)
def test_git_lfs_pointers_are_refused(tmp_path, kind):
    """Before anything is read or written, in a folder and by name."""
    shards(tmp_path, kind, [f"d/a{SUFFIX[kind]}"])
    (tmp_path / "d" / f"900{SUFFIX[kind]}").write_bytes(POINTER)
    for path in (tmp_path / "d", tmp_path / "d" / f"900{SUFFIX[kind]}"):
        corpus = CorpusConfig(format=kind, paths=[str(path)])
        with pytest.raises(DataError, match=rf"900{SUFFIX[kind]}: Git LFS pointer.*git lfs pull"):
            find_files(corpus)


def test_other_pointers_are_refused_too(tmp_path, capsys):
    (tmp_path / "t.model").write_bytes(POINTER)
    (tmp_path / "q.jsonl").write_bytes(POINTER)
    (tmp_path / "runs.csv").write_bytes(POINTER)
    prepare(command(tmp_path / "d", write_jsonl(tmp_path / "a.jsonl", documents())))
    for words in (
        ["data", "corpus=sotu", f"tokenizer.model={tmp_path / 't.model'}", "data_dir=x"],
        ["data", "overlap", f"data_dir={tmp_path / 'd'}", f"against={tmp_path / 'q.jsonl'}"],
        ["fit", f"observations={tmp_path / 'runs.csv'}", f"out_dir={tmp_path / 'o'}"],
    ):
        assert cli.main([w.replace("=x", f"={tmp_path / 'x'}") for w in words]) == 2
        message = capsys.readouterr().err
        assert "Git LFS pointer" in message
        assert "git lfs pull" in message
        assert message.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_files_left_out_are_reported_and_recorded(tmp_path, capsys):
    folder = tmp_path / "shards"
    folder.mkdir()
    write_jsonl(folder / "A.JSONL", documents())
    for name in ("b.md", "c.md", "d.md", "e.md", "LICENSE"):
        (folder / name).touch()
    os.mkfifo(folder / "pipe.jsonl")
    words = ["corpus=jsonl", f"corpus.paths={folder}", "tokenizer.vocab_size=300"]
    words += [f"data_dir={tmp_path / 'd'}", "validation_fraction=0.2"]
    assert cli.main(["data", *words]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"*.md ({folder}/b.md, {folder}/c.md, {folder}/d.md and 1 more)" in out
    counts = {"*": 1, "*.md": 4, "not a regular file": 1}
    assert Manifest.load(tmp_path / "d").sources[0].files_left_out == counts
    assert "files: *.md | 4" in (tmp_path / "d" / "data_card.md").read_text()


def test_names_that_are_not_utf8(tmp_path):
    for name in (b"\xff.txt", b"b.\xff"):
        Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).write_text("one")
    assert texts(tmp_path) == ["one"]
    note = find_files(CorpusConfig(format="text", paths=[str(tmp_path)])).note()
    assert note.startswith("left out: *.\\udcff (")
    assert note.encode()


def test_the_same_documents_are_the_same_data_in_every_format(tmp_path):
    """Byte order marks and line ends included; text in files, JSON lines and Parquet."""
    same = ["\ufeff" * (i % 3 == 0) + d.replace("\n", "\r\n") for i, d in enumerate(documents())]
    (tmp_path / "text").mkdir()
    for i, text in enumerate(same):
        (tmp_path / "text" / f"{i}.txt").write_bytes(text.encode())
    write_jsonl(tmp_path / "a.jsonl", same)
    pq.write_table(pa.table({"text": same}), tmp_path / "a.parquet")
    found = set()
    for kind, path in (("text", "text"), ("jsonl", "a.jsonl"), ("parquet", "a.parquet")):
        config = command(tmp_path / f"d-{kind}", tmp_path / path)
        config.corpus = CorpusConfig(format=kind, paths=[str(tmp_path / path)])
        found.add(prepare(config).data_id)
    assert len(found) == 1
    assert "\r\n" in decoded(tmp_path / "d-text", "validation")[0]


NAMES = ["a.txt", "b.text", "x/c.txt", "x/y/d.txt", "x/y/e.txt.zst", ".h/f.txt", "[z].txt"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.txt", ["[z].txt", "a.txt"]),
        ("*.t*", ["[z].txt", "a.txt", "b.text"]),  # other suffixes too
        ("?.text", ["b.text"]),
        ("**/*.txt", ["[z].txt", "a.txt", "x/c.txt", "x/y/d.txt"]),
        ("x/**/*.txt*", ["x/c.txt", "x/y/d.txt", "x/y/e.txt.zst"]),
        ("x*", ["x/c.txt", "x/y/d.txt", "x/y/e.txt.zst"]),  # a folder
        ("x/**", ["x/c.txt", "x/y/d.txt", "x/y/e.txt.zst"]),
        ("[ab].t[!a]*", ["a.txt", "b.text"]),
        ("[z].txt", ["[z].txt"]),  # a file of this name, before the pattern
        ("b.text", ["b.text"]),
    ],
)
def test_patterns(tmp_path, monkeypatch, pattern, found):
    shards(tmp_path, "text", NAMES)
    assert texts(tmp_path / pattern) == found
    monkeypatch.chdir(tmp_path)
    assert texts(pattern) == found


def test_a_pattern_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in ("[books/*.txt,b/**/*.txt]", "books/*.txt,b/**/*.txt"):
        config = cli.compose("data", ["corpus=text", f"corpus.paths={words}"])
        assert config.corpus.paths == ["books/*.txt", "b/**/*.txt"]


@pytest.mark.parametrize("pattern", ["*.txt", "absent/*.txt", "**/*.md", "x/*"])
def test_a_pattern_without_a_match_is_one_line(tmp_path, pattern):
    (tmp_path / "x").mkdir()
    with pytest.raises(DataError, match=r"nothing matches \S+. Check the pattern"):
        texts(tmp_path / pattern)


def test_a_refused_corpus_leaves_no_folder(tmp_path, capsys):
    """Neither data_dir nor its parents, before and after reading; other files stay."""
    (tmp_path / "bad.jsonl").write_text("{")
    mine = tmp_path / "mine"
    mine.mkdir()
    for path in ("absent.jsonl", "bad.jsonl"):
        for action in ("prepare", "tokenizer"):
            for folder in (tmp_path / "new" / "d", mine):
                words = [action, "corpus=jsonl", f"corpus.paths={tmp_path / path}"]
                assert cli.main(["data", *words, f"data_dir={folder}"]) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.jsonl", "mine"]
    assert capsys.readouterr().err.count("\n") == 8


@pytest.mark.parametrize("hub_dir", ["", "data"])
def test_a_local_copy_of_a_hub_data_set_is_read_completely(tmp_path, hub_dir):
    """`datasets` passes over linked folders and broken links."""
    shards(tmp_path, "jsonl", ["ds/data/train-0.jsonl", "other/train-1.jsonl", "ds/LICENSE"])
    corpus = CorpusConfig(format="hub", hub_name=str(tmp_path / "ds"), hub_dir=hub_dir)
    link = tmp_path / "ds" / "data" / "train-2.jsonl"
    link.symlink_to(tmp_path / "other" / "train-1.jsonl")
    assert list(read_documents(corpus)) == ["ds/data/train-0.jsonl", "other/train-1.jsonl"]
    assert (
        find_files(corpus).note() == f"left out: not read by datasets, * ({tmp_path}/ds/LICENSE)."
    )
    link.unlink()
    link.symlink_to("nowhere")
    with pytest.raises(DataError, match=r"train-2.jsonl: a link to a file that does not exist"):
        find_files(corpus)
    link.unlink()
    link.write_bytes(POINTER)
    with pytest.raises(DataError, match=r"train-2.jsonl: Git LFS pointer"):
        find_files(corpus)
    link.unlink()
    shards(tmp_path, "jsonl", ["third/train-4.jsonl"])
    (tmp_path / "ds" / "data" / "more").symlink_to(tmp_path / "third")
    with pytest.raises(
        DataError, match=r"data/more: a link to a folder, .* corpus.hub_dir=data/more"
    ):
        find_files(corpus)
    corpus.hub_dir = "data/more"
    assert list(read_documents(corpus)) == ["third/train-4.jsonl"]
    assert "LICENSE" in find_files(corpus).note()


@pytest.mark.parametrize(
    ("paths", "found", "twice"),
    [
        (["**/*"], ["x/c.txt", "x/y/d.txt", "a.txt"], "x/y/d.txt"),
        (["*", "*.txt"], ["x/c.txt", "x/y/d.txt", "a.txt"], "a.txt"),
        (["x", "x/c.txt"], ["x/c.txt", "x/y/d.txt"], "x/c.txt"),
        (["link.txt", "x/c.txt"], ["link.txt"], "x/c.txt"),
    ],
)
def test_a_file_that_several_paths_find_is_read_once(tmp_path, paths, found, twice):
    shards(tmp_path, "text", ["a.txt", "x/c.txt", "x/y/d.txt"])
    if "link.txt" in paths:
        (tmp_path / "link.txt").symlink_to("x/c.txt")
    source = SourceConfig(name="s", format="text", paths=[str(tmp_path / path) for path in paths])
    result = find_files(source)
    names = [str(path.relative_to(tmp_path)) for path in result.files]
    assert sorted(names) == sorted(found)
    assert "file found twice" in result.note()
    assert str(tmp_path / twice) in result.note()


def test_a_pattern_may_match_folders_without_files_of_the_format(tmp_path):
    shards(tmp_path, "text", ["a.txt"])
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.png").write_bytes(b"png")
    assert texts(tmp_path / "*") == ["a.txt"]
    with pytest.raises(DataError, match=r"matches only folders without files named \*.txt.*images"):
        texts(tmp_path / "im*")
