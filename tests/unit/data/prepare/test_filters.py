"""Filters of documents and paragraphs: for each rule, a text that breaks only this rule."""

import json
import random
from collections import Counter

import numpy as np
import pytest
from data_corpora import WORDS, command, decoded, documents, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from chinchilla.data.dataset import TokenData
from chinchilla.data.prepare import filters
from chinchilla.data.prepare.filters import RepeatedParagraphs, gopher_rule
from chinchilla.data.prepare.pipeline import prepare

VOCABULARY = [f"{a}{b}" for a in WORDS for b in ("", "ed", "ing", "ly", "er", "ness", "al")]


def prose(n: int = 300, seed: int = 0) -> str:
    """Lines of many different words and some stop words, like natural text."""
    draw = random.Random(seed)
    words = [
        draw.choice(VOCABULARY) if i % 4 else ["of", "the", "to", "and", "that"][i // 4 % 5]
        for i in range(n)
    ]
    return "\n".join(" ".join(words[i : i + 10]) for i in range(0, n, 10))


def lines(change, every: int = 1) -> str:
    return "\n".join(change(x) if i % every == 0 else x for i, x in enumerate(prose().split("\n")))


BREAKS = {
    "gopher_length": "the state of the union",
    "gopher_word_length": " ".join(f"the of {'x' * 40} {i}" for i in range(60)),
    "gopher_symbols": lines(lambda line: f"# # {line}"),
    "gopher_bullets": lines(lambda line: f"- {line}"),
    "gopher_ellipses": lines(lambda line: f"{line}...", every=2),
    "gopher_alphabetic": " ".join(f"the of 1{i:03d} 2{i:03d}" for i in range(60)),
    "gopher_stop_words": " ".join(w for w in VOCABULARY if w not in filters.STOP_WORDS),
    "gopher_repeated_lines": prose(200) + "\n" + "\n".join(prose(60, 1).split("\n") * 3),
    "gopher_repeated_paragraphs": "\n\n".join([prose(200, i) for i in range(4)] + ["ad"] * 4),
    "gopher_common_2gram": " ".join(f"big dog {w}" for w in prose(150).split()),
    "gopher_repeated_10gram": " ".join(
        f"{prose(40, i)} {prose(20, 999)}".replace("\n", f" x{i} y{i} ") for i in range(4)
    ),
}  # fmt: skip


def test_prose_is_accepted():
    assert [gopher_rule(prose(n, n)) for n in (50, 300, 2_000)] == ["", "", ""]


@pytest.mark.parametrize("rule", BREAKS)
def test_each_rule_rejects_its_text(rule):
    expected = "gopher_repeated_" if rule == "gopher_repeated_10gram" else rule
    assert gopher_rule(BREAKS[rule]).startswith(expected)


@pytest.mark.parametrize("text", ["", " ", "\n\n", "\0", "a" * 10**6, "\ud800 lone", "# " * 999])
def test_any_text_is_accepted_as_input(text):
    assert gopher_rule(text).startswith("gopher_")


def test_characters_in_repeats_count_once():
    words = ["a", "b", "c", "d", "e", "f", "g", "a", "b", "c", "d", "e", "f", "g"]
    assert in_repeated(words, 5) == 7
    assert in_repeated(words[:7], 5) == 0


def test_a_source_with_gopher_is_filtered(tmp_path):
    texts = [prose(200, i) for i in range(30)] + ["too short"] * 2 + [BREAKS["gopher_bullets"]]
    config = command(tmp_path / "d", write_jsonl(tmp_path / "a.jsonl", texts))
    config.corpus.gopher = True
    m = prepare(config)
    assert m.dropped["gopher_length"] == 2
    assert m.dropped["gopher_bullets"] == 1
    assert sum(s.documents for s in m.splits.values()) == 30
    assert "| gopher_length | 2 | rule of Rae" in (tmp_path / "d" / "data_card.md").read_text()


# Paragraphs


def in_repeated(words: list[str], n: int) -> int:
    ids = np.unique(words, return_inverse=True)[1].astype(np.uint64)
    return filters._in_repeated_ngrams(ids, np.array([len(word) for word in words]), n)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), min_size=1, max_size=40), st.integers(2, 6))
def test_ngram_counts_match_a_direct_computation(words, n):
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    covered = {
        place for i, gram in enumerate(grams) if gram in grams[:i] for place in range(i, i + n)
    }
    assert in_repeated(words, n) == sum(len(words[place]) for place in covered)
    ids = np.unique(words, return_inverse=True)[1].astype(np.uint64)
    sizes = np.array([len(word) for word in words])
    most = max(grams, key=lambda g: grams.count(g) * len("".join(g)), default=())
    expected = grams.count(most) * len("".join(most)) if grams.count(most) > 1 else 0
    assert filters._in_top_ngram(ids, sizes, n) == expected


def documents_with(paragraph: str) -> list[str]:
    return [f"{d}\n\n{paragraph}\n\nThe end of {i}." for i, d in enumerate(documents(40))]


def test_the_first_occurrence_of_a_paragraph_is_kept(tmp_path):
    notice = "All rights of this made up notice are reserved by nobody at all."
    config = command(tmp_path / "d", write_jsonl(tmp_path / "a.jsonl", documents_with(notice)))
    config.corpus.dedup_paragraphs = 40
    m = prepare(config)
    texts = decoded(tmp_path / "d", "train") + decoded(tmp_path / "d", "validation")
    assert sum(t.count(notice) for t in texts) == 1
    assert sum("The end of" in t for t in texts) == 40  # shorter paragraphs are kept
    [source] = m.sources
    assert source.paragraphs == 39
    assert source.paragraph_bytes == 39 * len(notice + "\n\n")
    kept = sum(p.bytes for p in source.splits.values())
    assert source.bytes == kept + source.paragraph_bytes
    card = (tmp_path / "d" / "data_card.md").read_text()
    assert "39 paragraphs" in card


def test_the_paragraph_kept_does_not_depend_on_order_or_workers(tmp_path, monkeypatch):
    texts = documents_with("A paragraph that is in every document of this corpus.")
    streams = []
    for seed in (0, 1):
        random.Random(seed).shuffle(texts)
        config = command(tmp_path / str(seed), write_jsonl(tmp_path / f"{seed}.jsonl", texts))
        config.corpus.dedup_paragraphs = 1
        config.n_workers = seed + 1
        monkeypatch.setattr("chinchilla.data.prepare.stages.BYTES_PER_WORKER", 1)
        streams.append(prepare(config).data_id)
    assert streams[0] == streams[1]


def test_a_document_of_only_repeats_is_dropped(tmp_path):
    a, b = "first paragraph of some length", "second paragraph of some length"
    texts = [*documents(30), f"{a}\n\n{b}", a, b, f"{b}\n\n{a}"]
    config = command(tmp_path / "d", write_jsonl(tmp_path / "a.jsonl", texts))
    config.corpus.dedup_paragraphs = 5
    m = prepare(config)
    kept = sum(s.documents for s in m.splits.values())
    assert kept + m.dropped["only_repeats"] == 34
    assert m.dropped["only_repeats"] >= 2
    TokenData.open(tmp_path / "d", verify=True)


def test_text_without_repeats_is_unchanged():
    texts = [b"a\n\nb \r\n \t\n\n c\n", b"\n\n\nd", b"e\n\n", b"\xc3\xa9\n \nf"]
    given = [(0, bytes([i]), t) for i, t in enumerate(texts)]
    left = [t for _, _, t in RepeatedParagraphs([given], [2])(0, given, [Counter()])]
    assert left == texts


def test_sources_without_the_filter_are_unchanged():
    given = [(0, b"0", b"same text"), (1, b"1", b"same text\n\nsame text"), (0, b"2", b"same text")]
    left = [t for _, _, t in RepeatedParagraphs([given], [0, 5])(0, given, [Counter(), Counter()])]
    assert left == [b"same text", b"same text\n\n", b"same text"]


def test_the_card_has_the_paragraph_counts(tmp_path):
    config = command(tmp_path / "d", write_jsonl(tmp_path / "a.jsonl", documents()))
    prepare(config)
    [source] = json.loads((tmp_path / "d" / "data_card.json").read_text())["sources"]
    assert (source["paragraphs_dropped"], source["paragraph_bytes_dropped"]) == (0, 0)
