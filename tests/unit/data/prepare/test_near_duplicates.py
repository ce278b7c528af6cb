"""dedup=near: near duplicates are dropped, whatever the order and the number of workers."""

import json
import random
import sys
import zlib

import numpy as np
import pytest
from data_corpora import command, decoded, documents, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from chinchilla.cli import main
from chinchilla.config import CorpusConfig, DataCommand, NearConfig, SourceConfig, TokenizerConfig
from chinchilla.core.errors import InputError
from chinchilla.data.prepare.near_duplicates import (
    NearDuplicates,
    Signer,
    bands_of,
    find_near_duplicates,
)
from chinchilla.data.prepare.pipeline import prepare

pytest.importorskip("datasketch")
VOCABULARY = [f"w{i:04d}" for i in range(3_000)]


def text(seed: int, words: int = 200) -> list[str]:
    return random.Random(seed).choices(VOCABULARY, k=words)


def changed(words: list[str], places: int) -> str:
    """The text with `places` words replaced."""
    out = list(words)
    for i in range(places):
        out[(i + 1) * len(out) // (places + 1)] = f"changed{i}"
    return " ".join(out)


def similarity(a: str, b: str, n: int = 5) -> float:
    """Exact Jaccard similarity of the word n-grams."""
    sets = [{tuple(t.split()[i : i + n]) for i in range(len(t.split()) - n + 1)} for t in (a, b)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def near(folder, *texts, **settings):
    paths = [write_jsonl(folder / f"{i}.jsonl", each) for i, each in enumerate(texts)]
    config = command(folder / "d", *paths, dedup="near", **settings)
    return prepare(config)


def test_planted_near_duplicates_are_dropped_and_distinct_documents_kept(tmp_path):
    originals = [text(i) for i in range(60)]
    planted = [changed(words, 2) for words in originals[:20]]
    apart = [changed(words, 12) for words in originals[20:40]]  # 60 of 196 n-grams differ
    kept = [" ".join(words) for words in originals]
    assert min(similarity(a, b) for a, b in zip(kept[:20], planted, strict=True)) > 0.9
    assert max(similarity(a, b) for a, b in zip(kept[20:40], apart, strict=True)) < 0.6
    m = near(tmp_path, [*kept, *planted, *apart])
    assert m.dropped["near_duplicate"] == 20
    left = decoded(tmp_path / "d", "train") + decoded(tmp_path / "d", "validation")
    assert set(apart) | set(kept[20:]) <= set(left)
    assert all((a in left) != (b in left) for a, b in zip(kept[:20], planted, strict=True))


def test_case_punctuation_and_line_breaks_are_ignored(tmp_path):
    words = text(1)
    same = [" ".join(words), "\n".join(words), ", ".join(words).upper() + "!"]
    assert near(tmp_path, [*documents(30), *same]).dropped["near_duplicate"] == 2


def test_documents_shorter_than_an_ngram_are_kept(tmp_path):
    short = ["one two", "one, two", "One two.", "a b c d", "A b c d"]
    m = near(tmp_path, [*documents(30), *short])
    assert m.dropped["near_duplicate"] == 0
    assert sum(s.documents for s in m.splits.values()) == 35


@pytest.mark.slow
def test_the_result_does_not_depend_on_order_or_workers(tmp_path, monkeypatch):
    monkeypatch.setattr("chinchilla.data.prepare.stages.BYTES_PER_WORKER", 1)
    monkeypatch.setattr("chinchilla.data.prepare.encode.BATCH_BYTES", 3_000)
    texts = [changed(text(i // 3), i % 3) for i in range(60)]
    ids = []
    for seed in range(2):
        random.Random(seed).shuffle(texts)
        folder = tmp_path / str(seed)
        folder.mkdir()
        ids.append(near(folder, texts[:25], texts[25:], n_workers=1 + seed).data_id)
    assert ids[0] == ids[1]


def test_of_two_sources_the_first_by_name_keeps_its_own(tmp_path):
    originals = [text(i) for i in range(30)]
    given = {
        "b": [*documents(20), *(" ".join(words) for words in originals)],
        "a": [*documents(20, seed=9), *(changed(words, 1) for words in originals)],
    }
    sources = [
        SourceConfig(
            name=name, format="jsonl", paths=[str(write_jsonl(tmp_path / f"{name}.jsonl", texts))]
        )
        for name, texts in given.items()
    ]
    m = prepare(
        DataCommand(
            corpus=CorpusConfig(sources=sources),
            tokenizer=TokenizerConfig(vocab_size=300),
            data_dir=str(tmp_path / "d"),
            validation_fraction=0.3,
            dedup="near",
        )
    )
    assert {s.name: s.dropped["near_duplicate"] for s in m.sources} == {"a": 0, "b": 30}
    card = json.loads((tmp_path / "d" / "data_card.json").read_text())
    assert "near_duplicate | 30 |" in (tmp_path / "d" / "data_card.md").read_text()
    for source in card["sources"]:
        kept = source["train"]["documents"] + source["validation"]["documents"]
        assert source["documents_in"] == kept + sum(source["dropped"].values())


def test_a_chain_of_near_documents_is_one_group(tmp_path):
    """Each is a near duplicate of the next, but the ends are not of each other."""
    words, chain = text(5), []
    for step in range(12):
        words = [*words[:10], *(f"s{step}x{i}" for i in range(3)), *words[13:]][3:] + words[:3]
        chain.append(" ".join(words))
    assert similarity(chain[0], chain[1]) > 0.85 > 0.8 > similarity(chain[0], chain[-1])
    assert near(tmp_path, [*documents(30), *chain]).dropped["near_duplicate"] == 11


@settings(max_examples=30, deadline=None)
@given(st.floats(0.3, 1), st.integers(16, 512))
def test_bands_find_pairs_at_the_threshold(threshold, permutations):
    bands, rows = bands_of(NearConfig(threshold=threshold, permutations=permutations))
    assert bands * rows <= permutations
    assert 1 - (1 - threshold**rows) ** bands >= 0.99


def test_signatures_have_not_changed():
    """Other permutations of the library would change which documents are kept."""
    signatures = Signer(NearConfig())(
        [b"the quick brown fox jumps over the lazy dog", b"too short"]
    )
    assert zlib.crc32(signatures[0].astype("<u4").tobytes()) == 3196080518
    assert (signatures[1] == 0xFFFFFFFF).all()
    assert signatures.shape == (2, 128)


def test_signatures_do_not_depend_on_how_a_long_document_is_cut(monkeypatch):
    long = " ".join(text(3, 5_000)).encode()
    [whole] = Signer(NearConfig())([long])
    monkeypatch.setattr("chinchilla.data.prepare.near_duplicates._NGRAMS_PER_UPDATE", 100)
    [parts] = Signer(NearConfig())([long])
    assert np.array_equal(whole, parts)


def test_groups_are_those_of_all_pairs(tmp_path):
    """Compared with all pairs of signatures, with many documents per bucket."""
    config = NearConfig(permutations=64, threshold=0.7)
    texts = [changed(text(i // 6), i % 6 * 2).encode() for i in range(180)]
    signatures = Signer(config)(texts)
    sources = [i % 2 for i in range(180)]
    left_out = find_near_duplicates([signatures[:100], signatures[100:]], sources, config, tmp_path)
    alike = (signatures[:, None] == signatures[None]).mean(axis=2) >= 0.7
    group = np.arange(180)
    for _ in range(180):
        group = np.array([group[row].min() for row in alike])
    for name in np.unique(group):
        stays = [i for i in np.flatnonzero(group == name) if not left_out[i]]
        first = min(np.flatnonzero(group == name), key=lambda i: (sources[i], i))
        assert stays == [first]


def test_counts_are_exact_in_every_bucket():
    from collections import Counter

    given = [[(0, b"1", b"a"), (1, b"2", b"b")], [(1, b"3", b"c")]]
    leave_out = NearDuplicates(np.array([False, True, True]), np.array([2, 1]))
    counts = [Counter(), Counter()]
    assert list(leave_out(0, given[0], counts)) == [given[0][0]]
    assert list(leave_out(1, given[1], counts)) == []
    assert counts == [Counter(near_duplicate=0), Counter(near_duplicate=2)]


def test_a_missing_library_is_reported_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    path = write_jsonl(tmp_path / "a.jsonl", documents())
    with pytest.raises(InputError, match=r"pip install 'chinchilla-lab\[near\]'"):
        prepare(command(tmp_path / "d", path, dedup="near"))
    words = ["data", "corpus=jsonl", f"corpus.paths=[{path}]", f"data_dir={tmp_path / 'e'}"]
    assert main([*words, "dedup=near"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_folders_with_other_dedup_settings_are_refused(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", documents())
    prepare(command(tmp_path / "d", path, dedup="near"))
    assert prepare(command(tmp_path / "d", path, dedup="near")).already_prepared
    with pytest.raises(InputError, match=r"dedup=.*now exact"):
        prepare(command(tmp_path / "d", path))
    with pytest.raises(InputError, match=r"dedup.threshold=0.8, now 0.9"):
        prepare(command(tmp_path / "d", path, dedup="near", near=NearConfig(threshold=0.9)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"threshold": 0.1}, "near.threshold=0.1"), ({"threshold": 1.1}, "near.threshold=1.1"),
     ({"ngram": 0}, "near.ngram=0"), ({"permutations": 8}, "near.permutations=8")],
)  # fmt: skip
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        NearConfig(**settings)
