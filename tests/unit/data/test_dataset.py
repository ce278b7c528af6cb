"""Batches are a pure function of (seed, step); all runs read the same stream."""

import json
import shutil

import numpy as np
import pytest
from data_corpora import shard_tokens
from hypothesis import given, settings
from hypothesis import strategies as st

from chinchilla.core.errors import DataError, InputError
from chinchilla.data.dataset import TokenData, permute
from chinchilla.data.manifest import Manifest

SEQ = 16


@pytest.fixture(scope="module")
def data(token_dir):
    return TokenData.open(token_dir, verify=True)


def stream(token_dir, split="train"):
    manifest = Manifest.load(token_dir)
    shards = [token_dir / s.file for s in manifest.splits[split].shards]
    return np.concatenate([shard_tokens(s) for s in shards]).astype(np.int64)


def n_rows(data):
    return data.epoch_tokens(SEQ) // SEQ


def test_an_epoch_reads_every_row_once(data, token_dir):
    """Rows are seq_len + 1 tokens at stride seq_len, over shard ends too."""
    tokens, n = stream(token_dir), n_rows(data)
    assert len(data.manifest.splits["train"].shards) > 3
    assert len(tokens) == data.n_train_tokens
    rows = data.batch(seed=0, step=0, rows=n, seq_len=SEQ)
    expected = np.stack([tokens[i * SEQ : i * SEQ + SEQ + 1] for i in range(n)])
    assert rows.dtype == np.int64
    assert not np.array_equal(rows, expected)
    assert sorted(map(tuple, rows)) == sorted(map(tuple, expected))


@pytest.mark.parametrize("rows", [2, 3, 8])
def test_batch_size_does_not_change_what_is_read(data, rows):
    one = np.concatenate([data.batch(1, s, 1, SEQ) for s in range(24)])
    many = np.concatenate([data.batch(1, s, rows, SEQ) for s in range(24 // rows)])
    assert np.array_equal(one, many)


def test_a_batch_may_span_epochs(data):
    n = n_rows(data)
    both = data.batch(0, 0, 2 * n + 5, SEQ)
    step, rows = n // 7, 7  # this batch spans two epochs
    assert np.array_equal(data.batch(0, step, rows, SEQ), both[step * rows : (step + 1) * rows])


def test_seeds_and_epochs_have_different_orders(data):
    n = n_rows(data)
    orders = [data.batch(seed, epoch, n, SEQ) for seed in (0, 1) for epoch in (0, 1)]
    for i, a in enumerate(orders):
        for b in orders[:i]:
            assert not np.array_equal(a, b)
            assert sorted(map(tuple, a)) == sorted(map(tuple, b))


def test_the_permutation_has_not_changed():
    """A change would change every run and need a new DATA_ID_VERSION."""
    assert permute(np.arange(10), 10, "0/0").tolist() == [6, 0, 1, 8, 3, 7, 9, 5, 2, 4]
    assert permute(np.arange(3), 10**9, "7/3").tolist() == [92570543, 939313330, 121840702]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5_000), st.text(max_size=8))
def test_permutation_is_a_bijection(n, key):
    assert np.array_equal(np.sort(permute(np.arange(n), n, key)), np.arange(n))


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 2**62), st.data())
def test_permutation_of_a_large_range_stays_inside_and_distinct(n, draw):
    places = draw.draw(st.lists(st.integers(0, n - 1), unique=True, min_size=1, max_size=50))
    image = permute(np.array(places), n, "k")
    assert len(set(image.tolist())) == len(places)
    assert image.min() >= 0
    assert image.max() < n


def test_permutation_looks_random():
    """Every place is equally likely: chi-squared over 500 keys, 12 x 12 runs."""
    n, keys = 12, 500
    counts = np.zeros((n, n))
    for k in range(keys):
        counts[np.arange(n), permute(np.arange(n), n, f"{k}/0")] += 1
    chi2 = ((counts - keys / n) ** 2 / (keys / n)).sum()
    assert chi2 < 121 + 5 * np.sqrt(2 * 121)  # (n-1)^2 degrees of freedom, 5 sigma


def test_validation_rows_are_evenly_spread(data, token_dir):
    tokens, n = stream(token_dir, "validation"), len(data.validation_rows(10**9, SEQ))
    rows = data.validation_rows(4 * SEQ, SEQ)
    assert rows.shape == (4, SEQ + 1)
    for k, row in enumerate(rows):
        begin = k * n // 4 * SEQ
        assert np.array_equal(row, tokens[begin : begin + SEQ + 1])
    assert data.validation_rows(10**9, SEQ).shape == (n, SEQ + 1)
    assert data.validation_rows(1, SEQ).shape == (1, SEQ + 1)


def test_an_epoch_consists_of_whole_rows(data):
    assert data.epoch_tokens(SEQ) % SEQ == 0
    assert data.n_train_tokens - SEQ <= data.epoch_tokens(SEQ) < data.n_train_tokens


def test_rows_longer_than_the_data_are_refused(data):
    with pytest.raises(DataError, match="fewer than one row of seq_len"):
        data.epoch_tokens(10**6)
    with pytest.raises(DataError, match="fewer than one row of seq_len"):
        data.batch(0, 0, 1, 10**6)
    with pytest.raises(DataError, match="validation_fraction"):
        data.validation_rows(100, 10**6)


def test_bytes_per_token_is_that_of_the_split(data):
    split = data.manifest.splits["validation"]
    assert data.bytes_per_token() == split.bytes / split.tokens
    assert 1 < data.bytes_per_token("train") < 5


def test_folder_without_tokens(tmp_path):
    with pytest.raises(InputError, match=r"holds no prepared tokens"):
        TokenData.open(tmp_path)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "manifest.json").touch()
    with pytest.raises(InputError, match=r"in it: .*/b\. .*corpus=\.\.\. data_dir=ANOTHER_FOLDER$"):
        TokenData.open(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.unlink(), "train-00001.bin is missing"),
        (lambda p: p.write_bytes(p.read_bytes()[:-2]), "train-00001.bin has 2078 bytes, not 2080"),
        (lambda p: p.write_bytes(p.read_bytes() + b"xx"), "train-00001.bin has 2082 bytes"),
        (lambda p: p.write_bytes(bytes(2_080)), "train-00001.bin has other contents"),
        (lambda p: p.write_bytes(p.read_bytes()[:-8] + bytes(8)), "has other contents"),
    ],
)
def test_damaged_shard_is_named(tmp_path, token_dir, damage, message):
    shutil.copytree(token_dir, tmp_path / "d")
    damage(tmp_path / "d" / "train-00001.bin")
    with pytest.raises(DataError, match=message):
        TokenData.open(tmp_path / "d", verify=True)


def test_swapped_shards_are_found_by_verify(tmp_path, token_dir):
    """Shards swapped for others of the same size are found by verify=True."""
    shutil.copytree(token_dir, tmp_path / "d")
    a, b = (tmp_path / "d" / f"train-0000{i}.bin" for i in (0, 1))
    kept = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(kept)
    TokenData.open(tmp_path / "d")
    with pytest.raises(DataError, match=r"train-00000.bin has other contents"):
        TokenData.open(tmp_path / "d", verify=True)
    manifest = json.loads((tmp_path / "d" / "manifest.json").read_text())
    assert manifest["data_id"] == TokenData.open(tmp_path / "d").data_id


def test_documents_end_after_eos(data, token_dir):
    tokens = stream(token_dir)
    ends = np.flatnonzero(tokens == data.manifest.tokenizer.eos_id) + 1
    assert np.array_equal(data.document_ends("train"), ends)
    assert len(ends) == data.manifest.splits["train"].documents


def test_tokens_beyond_the_vocabulary_are_reported_as_damage(token_dir, tmp_path):
    folder = tmp_path / "tokens"
    shutil.copytree(token_dir, folder)
    for shard in folder.glob("train-*.bin"):
        whole = shard.read_bytes()
        shard.write_bytes(whole[:64] + b"\xff" * (len(whole) - 64))
    with pytest.raises(DataError, match="a shard is damaged"):
        TokenData.open(folder).batch(0, 0, 4, SEQ)
    with pytest.raises(DataError, match="bin"):
        TokenData.open(folder, verify=True)
