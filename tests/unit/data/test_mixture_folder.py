"""Several sources in one folder: shares of the stream, epochs, duplicates."""

import json
import shutil

import numpy as np
import pytest
from data_corpora import documents, shard_tokens, write_jsonl

from chinchilla.config import CorpusConfig, DataCommand, SourceConfig, TokenizerConfig
from chinchilla.core.errors import DataError, InputError
from chinchilla.data.dataset import TokenData
from chinchilla.data.prepare.pipeline import prepare

SEQ = 64  # long enough that all rows are distinct
SHARES = {"books": 0.5, "laws": 0.3, "tiny": 0.2}


def mixture(folder, data_dir, weights=None, **settings):
    """Three sources of different sizes; each text begins with the name of its source."""
    weights = weights or SHARES
    texts = {
        "books": [f"book {t}" for t in documents(60, seed=1)],
        "laws": [f"law {t}" for t in documents(40, seed=2)],
        "tiny": [f"tiny {t}" for t in documents(12, seed=3)],
    }
    sources = [
        SourceConfig(
            name=name, weight=weights[name], format="jsonl", licence=f"licence of {name}",
            paths=[str(write_jsonl(folder / f"{name}.jsonl", texts[name]))],
        )
        for name in weights
    ]  # fmt: skip
    return DataCommand(
        corpus=CorpusConfig(name="mixture", sources=sources),
        tokenizer=TokenizerConfig(vocab_size=300),
        data_dir=str(data_dir),
        **{"validation_fraction": 0.3, "shard_tokens": 1_000, **settings},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("mixture")
    prepare(mixture(made, made / "data"))
    return made / "data"


@pytest.fixture(scope="module")
def data(folder):
    return TokenData.open(folder, verify=True)


def rows_of(data, name, seq=SEQ):
    """All training rows of one source, read from its shards."""
    shards = [s for s in data.manifest.splits["train"].shards if f"-{name}-" in s.file]
    tokens = np.concatenate([shard_tokens(data.data_dir / s.file) for s in shards])
    n = (len(tokens) - 1) // seq
    return [tuple(tokens[i * seq : i * seq + seq + 1]) for i in range(n)]


def origin(data, rows):
    """The source of each row; rows are long enough to be distinct."""
    homes = {row: name for name in SHARES for row in rows_of(data, name, rows.shape[1] - 1)}
    return [homes[tuple(row)] for row in rows]


def test_every_prefix_of_the_stream_has_the_shares(data):
    names = np.array(origin(data, data.batch(0, 0, 1_000, SEQ)))
    k = np.arange(1, 1_001)
    for name, share in SHARES.items():
        assert np.abs(np.cumsum(names == name) - share * k).max() < 1


@pytest.mark.parametrize("rows", [2, 3, 8])
def test_batch_size_does_not_change_what_is_read(data, rows):
    one = np.concatenate([data.batch(1, s, 1, SEQ) for s in range(48)])
    many = np.concatenate([data.batch(1, s, rows, SEQ) for s in range(48 // rows)])
    assert np.array_equal(one, many)


def test_each_source_is_read_completely_before_it_repeats(data):
    n = len(rows_of(data, "tiny"))
    rows = data.batch(0, 0, 11 * n, SEQ)  # a fifth of these rows: more than two epochs
    seen = [tuple(row) for row in rows if tuple(row) in set(rows_of(data, "tiny"))]
    assert sorted(seen[:n]) == sorted(seen[n : 2 * n]) == sorted(rows_of(data, "tiny"))
    assert seen[:n] != seen[n : 2 * n]


def test_epoch_tokens_is_the_longest_run_without_repeats(data):
    longest = data.epoch_tokens(SEQ)
    assert data.scarcest(SEQ) == "tiny"
    for D, times in ((longest, 1), (longest + 6 * SEQ, 2)):
        rows = [tuple(row) for row in data.batch(0, 0, D // SEQ, SEQ)]
        tiny = [row for row in rows if row in set(rows_of(data, "tiny"))]
        assert max(tiny.count(row) for row in tiny) == times
    use = {s.name: s for s in data.use(2 * longest, SEQ)}
    assert use["tiny"].epochs == pytest.approx(2, abs=0.01)
    assert use["tiny"].unique == use["tiny"].tokens
    assert use["books"].unique == use["books"].drawn
    assert sum(s.drawn for s in use.values()) == 2 * longest
    assert [s.share for s in use.values()] == [0.5, 0.3, 0.2]


def test_validation_rows_have_the_same_shares_and_scarce_sources_repeat(data, folder):
    rows = [tuple(row) for row in data.validation_rows(10**9, SEQ)]
    assert data.validation_rows(20 * SEQ, SEQ).shape == (20, SEQ + 1)
    counts = np.array([len(rows_heldout(folder, name)) for name in SHARES])
    expected = int((counts / list(SHARES.values())).max() + 1e-9)
    assert len(rows) == expected
    for name, share in SHARES.items():
        own = set(rows_heldout(folder, name))
        assert abs(sum(row in own for row in rows) - share * len(rows)) <= 1 + share
        assert own <= set(rows)


def rows_heldout(folder, name):
    tokens = np.concatenate(
        [shard_tokens(p) for p in sorted(folder.glob(f"validation-{name}-*.bin"))]
    )
    return [tuple(tokens[i : i + SEQ + 1]) for i in range(0, len(tokens) - SEQ, SEQ)]


def test_bytes_per_token_is_weighted_by_share(data):
    each = [s.splits["train"].bytes / s.splits["train"].tokens for s in data.sources]
    assert data.bytes_per_token("train") == pytest.approx(np.dot(each, [0.5, 0.3, 0.2]))


def test_the_manifest_has_the_counts_of_each_source(data):
    books, laws, tiny = data.manifest.sources
    assert [s.name for s in (books, laws, tiny)] == ["books", "laws", "tiny"]
    assert [s.rows for s in (books, laws, tiny)] == [5, 3, 2]
    assert tiny.licence == "licence of tiny"
    assert [s.documents for s in (books, laws, tiny)] == [60, 40, 12]
    for split, whole in data.manifest.splits.items():
        for count in ("documents", "tokens", "bytes"):
            parts = [getattr(s.splits[split], count) for s in data.manifest.sources]
            assert getattr(whole, count) == sum(parts)


def test_the_stream_does_not_depend_on_order_workers_or_shard_size(tmp_path, data, monkeypatch):
    monkeypatch.setattr("chinchilla.data.prepare.stages.BYTES_PER_WORKER", 1)
    monkeypatch.setattr("chinchilla.data.prepare.encode.BATCH_BYTES", 2_000)
    backwards = dict(reversed(SHARES.items()))
    config = mixture(tmp_path, tmp_path / "d", backwards, n_workers=2, shard_tokens=700)
    again = prepare(config)
    assert again.splits["train"].sha256 == data.manifest.splits["train"].sha256
    assert again.data_id == data.data_id
    assert np.array_equal(
        TokenData.open(tmp_path / "d").batch(5, 7, 9, SEQ), data.batch(5, 7, 9, SEQ)
    )


def test_other_shares_give_another_data_id(tmp_path, data):
    other = {"books": 0.4, "laws": 0.4, "tiny": 0.2}
    again = prepare(mixture(tmp_path, tmp_path / "d", other))
    assert again.data_id != data.data_id
    with pytest.raises(InputError, match=r"corpus.sources.books.weight=0.4, now 0.5"):
        prepare(mixture(tmp_path, tmp_path / "d"))


def test_a_text_in_two_sources_counts_once(tmp_path):
    config = mixture(tmp_path, tmp_path / "d")
    shared = [f"law {t}" for t in documents(40, seed=2)][:5]
    with open(tmp_path / "tiny.jsonl", "a") as f:
        f.writelines(json.dumps({"text": t}) + "\n" for t in shared)
    m = prepare(config)
    _, laws, tiny = m.sources
    assert tiny.documents == 17
    assert tiny.dropped["in_other_source"] == 5
    assert sum(p.documents for p in tiny.splits.values()) == 12
    assert laws.dropped["duplicate"] == 0


def test_a_source_without_distinct_documents_is_refused(tmp_path):
    config = mixture(tmp_path, tmp_path / "d")
    shutil.copy(tmp_path / "laws.jsonl", tmp_path / "tiny.jsonl")
    with pytest.raises(
        DataError, match=r"'tiny' has no train documents that are not in the sources"
    ):
        prepare(config)


def test_each_source_needs_both_splits(tmp_path):
    with pytest.raises(
        DataError, match=r"12 documents of source 'tiny' empty. Use validation_fraction="
    ):
        prepare(mixture(tmp_path, tmp_path / "d", validation_fraction=0.05))


def test_a_source_shorter_than_a_row_is_named(folder):
    with pytest.raises(
        DataError, match=r"the train split of source 'tiny' has \d+ tokens, fewer than one row"
    ):
        TokenData.open(folder).epoch_tokens(9_000)


def test_files_that_moved_to_another_source_are_refused(tmp_path):
    config = mixture(tmp_path, tmp_path / "d")
    write_jsonl(tmp_path / "more.jsonl", documents(20, seed=9))
    config.corpus.sources[0].paths.append(str(tmp_path / "more.jsonl"))
    prepare(config)
    config.corpus.sources[0].paths.pop()
    config.corpus.sources[1].paths.insert(0, str(tmp_path / "more.jsonl"))
    with pytest.raises(InputError, match=r"more.jsonl has other contents or another source now"):
        prepare(config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sources": ["a", "a"]}, "two have the name 'a'"),
        ({"sources": ["a"], "paths": ["x"]}, r"corpus.paths=\['x'\] applies to a single source"),
        ({"sources": ["a"], "max_documents": 50}, "max_documents=50 .* set it in each of corpus.so"),
        ({"sources": ["a"], "column": "b"}, "corpus.column=b applies to a single source"),
        ({"sources": ["a"], "format": "embedded"}, "begin with corpus=text"),
        ({"sources": ["a b"]}, "Use one word"),
        ({"sources": ["../a"]}, "Use one word"),
        ({"sources": ["a" * 101]}, "at most 100 letters"),
    ],
)  # fmt: skip
def test_invalid_corpora_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        CorpusConfig(**{
            **settings,
            "sources": [SourceConfig(name=n, format="embedded") for n in settings["sources"]],
        })  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"format": "xml"}, r"corpus.sources, a: format='xml'"),
        ({"format": "text"}, r"corpus.sources, a: paths=FILE"),
        ({"format": "embedded", "weight": 0}, r"corpus.sources, a: weight=0 must be above 0"),
    ],
)
def test_a_source_that_cannot_be_read_is_named(given, message):
    with pytest.raises(InputError, match=message):
        SourceConfig(name="a", **given)
