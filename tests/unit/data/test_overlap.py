"""Overlap of evaluation items with the training text."""

import hashlib
import json
import os
import re

import numpy as np
import pytest
from data_corpora import command, decoded, documents, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from chinchilla.cli import main
from chinchilla.core.errors import DataError
from chinchilla.data.dataset import TokenData
from chinchilla.data.overlap import WordHashes, documents_of, ngram_hashes, overlap
from chinchilla.data.prepare.pipeline import prepare
from chinchilla.data.tokenizer import Tokenizer, train_tokenizer

SECRET = (
    "the quick brown fox jumps over the lazy dog while seven wizards brew strong black tea tonight"
)
FRESH = "nobody ever wrote this sentence about purple submarines gliding under frozen lakes of liquid helium"


@pytest.fixture
def folder(tmp_path):
    texts = [*documents(60), *(f"{d}\n{SECRET}" for d in documents(20, seed=7))]
    prepare(command(tmp_path / "d", write_jsonl(tmp_path / "a.jsonl", texts)))
    return tmp_path / "d"


def test_only_items_in_the_training_text_are_found(folder, tmp_path):
    """Case and punctuation do not hide an item; a shared part is counted."""
    half = " ".join(SECRET.split()[:14]) + " but then it went " + FRESH
    loud = SECRET.upper().replace(" ", ", ") + "!"
    evaluation = write_jsonl(tmp_path / "eval.jsonl", [SECRET, FRESH, loud, half, "too short"])
    report = overlap(folder, evaluation, 13, "text")
    assert report["per_item"] == [[1, 5, 5], [2, 3, 0], [3, 5, 5], [4, 21, 2], [5, 0, 0]]
    assert (report["items"], report["too_short"]) == (5, 1)
    assert (report["any"], report["half"], report["all"]) == (3, 2, 2)


def test_the_validation_split_is_not_searched(folder, tmp_path):
    data = TokenData.open(folder)
    tokenizer = Tokenizer.load(folder / "tokenizer.model")
    trained = set(documents_of(data, tokenizer, 0))
    held_out = [d for d in documents(60) if d not in trained]
    assert 0 < len(held_out) < 60
    report = overlap(folder, write_jsonl(tmp_path / "e.jsonl", held_out), 13, "text")
    assert report["any"] == 0
    report = overlap(folder, write_jsonl(tmp_path / "f.jsonl", sorted(trained)), 13, "text")
    assert report["all"] == report["items"] == len(trained)


def test_documents_in_two_shards_are_decoded_whole(folder):
    data, tokenizer = TokenData.open(folder), Tokenizer.load(folder / "tokenizer.model")
    assert len(data.manifest.splits["train"].shards) > 1
    assert list(documents_of(data, tokenizer, 0)) == decoded(folder, "train")


def test_no_ngram_spans_two_documents(tmp_path):
    words = SECRET.split()
    texts = [*documents(30), " ".join(words[:8]), " ".join(words[8:])]
    prepare(
        command(tmp_path / "d", write_jsonl(tmp_path / "a.jsonl", texts), validation_fraction=0.05)
    )
    evaluation = write_jsonl(tmp_path / "e.jsonl", [SECRET])
    report = overlap(tmp_path / "d", evaluation, 9, "text")
    assert report["ngrams_found"] <= 1  # one of the nine-word n-grams is inside the second part


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abcd"), max_size=40), st.integers(1, 6))
def test_hashes_are_equal_exactly_for_equal_ngrams(words, n):
    hashes = ngram_hashes(WordHashes()(" ".join(words)), n)
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    assert len(hashes) == len(grams)
    assert len(np.unique(hashes)) == len(set(grams))


def test_the_command_adds_the_overlap_to_the_data_card(folder, tmp_path, capsys):
    evaluation = write_jsonl(tmp_path / "my|eval.jsonl", [SECRET, FRESH])
    assert "Not measured" in (folder / "data_card.md").read_text()
    assert main(["data", "overlap", f"data_dir={folder}", f"against=['{evaluation}']"]) == 0
    assert "2 items; 1 share a 13-gram" in capsys.readouterr().out
    sha256 = hashlib.sha256(evaluation.read_bytes()).hexdigest()[:8]
    where = rf"| {tmp_path.name}/my\|eval.jsonl | {sha256} | 13 | 2 | 0 | 1 |"
    assert where in (folder / "data_card.md").read_text()
    [path] = folder.glob("overlap-my_eval.jsonl-text-13-*.json")
    config = json.loads(path.read_text())
    assert config["per_item"] == [[1, 5, 5], [2, 3, 0]]


def test_evaluations_with_the_same_file_name_are_both_in_the_card(folder, tmp_path):
    """The report of the second, clean one must not replace that of the first."""
    for name, texts in (("leaked", [SECRET, SECRET + " x"]), ("clean", [FRESH])):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "test.jsonl", texts)
    words = ["data", "overlap", f"data_dir={folder}"]
    both = [str(tmp_path / name / "test.jsonl") for name in ("leaked", "clean")]
    assert main([*words, f"against=[{','.join(both)}]"]) == 0
    assert main([*words, f"against={both[1]}"]) == 0  # again: replaces only its own report
    text = (folder / "data_card.md").read_text()
    assert re.search(r"\| clean/test.jsonl \| \w+ \| 13 \| 1 \| 0 \| 0 \|", text)
    assert re.search(r"\| leaked/test.jsonl \| \w+ \| 13 \| 2 \| 0 \| 2 \|", text)
    assert len(list(folder.glob("overlap-*.json"))) == 2
    assert main([*words, f"against={both[0]}", "ngram=15"]) == 0  # another report
    text = (folder / "data_card.md").read_text()
    assert re.search(r"\| leaked/test.jsonl \| \w+ \| 13 \|", text)
    assert re.search(r"\| leaked/test.jsonl \| \w+ \| 15 \|", text)


def test_columns_with_non_ascii_names_are_both_in_the_card(folder, tmp_path):
    """The report of the clean column must not replace that of the other."""
    evaluation = tmp_path / "e.jsonl"
    evaluation.write_text(json.dumps({"問題": SECRET, "答案": FRESH}) + "\n")
    for column in ("問題", "答案"):
        words = [f"data_dir={folder}", f"against={evaluation}", f"column={column}"]
        assert main(["data", "overlap", *words]) == 0
    text = (folder / "data_card.md").read_text()
    for column, found in (("問題", 1), ("答案", 0)):
        assert re.search(rf"e.jsonl \({column}\) \| \w+ \| 13 \| 1 \| 0 \| {found} \|", text)


def test_another_tokenizer_in_the_folder_is_refused(folder, tmp_path):
    """It would decode the tokens to wrong words, and no overlap would be found."""
    model = train_tokenizer([SECRET * 50, FRESH * 50], 290).model
    (folder / "tokenizer.model").write_bytes(model)
    with pytest.raises(DataError, match="is not the tokenizer that produced the tokens"):
        overlap(folder, write_jsonl(tmp_path / "e.jsonl", [SECRET]), 13, "text")


def test_overlap_without_files_or_with_bad_ones(folder, tmp_path, capsys):
    assert main(["data", "overlap", f"data_dir={folder}"]) == 2
    assert "against is missing" in capsys.readouterr().err
    assert main(["data", "overlap", f"data_dir={folder}", f"against={tmp_path / 'no.jsonl'}"]) == 2
    assert "against: " in (message := capsys.readouterr().err)
    assert "no.jsonl does not exist" in message
    good = write_jsonl(tmp_path / "good.jsonl", [SECRET])
    both = f"against=[{good},{tmp_path}]"
    assert main(["data", "overlap", f"data_dir={folder}", both]) == 2
    assert f"against: {tmp_path} is a folder" in capsys.readouterr().err
    os.mkfifo(tmp_path / "pipe")
    assert main(["data", "overlap", f"data_dir={folder}", f"against={tmp_path / 'pipe'}"]) == 2
    assert "pipe is not a regular file" in capsys.readouterr().err
    assert not list(folder.glob("overlap-*"))  # refused before any search
    with pytest.raises(DataError, match="has no item of 13 words"):
        overlap(folder, write_jsonl(tmp_path / "e.jsonl", ["short"]), 13, "text")
    (tmp_path / "blank.txt").write_text(" \n\n")
    with pytest.raises(DataError, match=r"blank.txt has no text\.$"):
        overlap(folder, tmp_path / "blank.txt", 13, "text")
    with pytest.raises(DataError, match=r"no column 'question'.*Set column="):
        overlap(folder, write_jsonl(tmp_path / "e.jsonl", [SECRET]), 13, "question")


@pytest.mark.parametrize(
    "text",
    [
        '{"mine": 1}',
        "{",
        "[]",
        '{**ours, "any": null}',
        '{**ours, "sources": ["a"]}',
        '{**ours, "data_id": "0"}',
    ],
)
def test_other_files_and_reports_about_other_tokens_are_ignored(folder, tmp_path, text):
    evaluation = write_jsonl(tmp_path / "e.jsonl", [SECRET])
    words = ["data", "overlap", f"data_dir={folder}", f"against={evaluation}"]
    assert main(words) == 0
    card = (folder / "data_card.md").read_text()
    [ours] = folder.glob("overlap-e.jsonl-*.json")
    report = ours.read_text().rstrip().removesuffix("}")
    other = text.replace("{**ours", report) if "ours" in text else text
    (folder / "overlap-mine.json").write_text(other)
    assert main(words) == 0
    assert (folder / "data_card.md").read_text() == card
