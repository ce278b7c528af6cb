"""Documents on disk: duplicates are left out and counted; a source is complete or absent."""

import json

import pytest
from data_corpora import command, documents, write_jsonl

from chinchilla.data.prepare.pipeline import prepare
from chinchilla.data.prepare.shuffle_dedup import Documents, write_source


def test_duplicates_empty_and_broken_documents_are_dropped_and_counted(tmp_path):
    texts = documents(30)
    path = write_jsonl(tmp_path / "a.jsonl", texts + texts[:4] + ["", ""])
    with path.open("a") as f:
        f.write('{"text": "lone \\ud800 surrogate"}\n{"text": null}\n')
    m = prepare(command(tmp_path / "d", path))
    assert m.sources[0].dropped == {"duplicate": 4, "empty": 3, "not_unicode": 1}
    assert sum(s.documents for s in m.splits.values()) == 30


def test_a_source_that_fails_leaves_no_folder_and_starts_over(tmp_path):
    def texts(n: int):
        yield from documents(n)
        if n < 30:
            raise OSError("lost")

    with pytest.raises(OSError, match="lost"):
        list(write_source(texts(20), tmp_path / "s"))
    assert not (tmp_path / "s").exists()
    assert len(list(write_source(texts(30), tmp_path / "s"))) == 30
    assert sorted(text for _, _, text in Documents([tmp_path / "s"])) == sorted(
        text.encode() for text in documents(30)
    )
    assert json.loads((tmp_path / "s" / "counts.json").read_text())["written"] == 30
    assert list(write_source(texts(30), tmp_path / "s")) == []  # complete: nothing is read again
