"""Batches with and without prefetching, on one and several ranks."""

from contextlib import closing
from pathlib import Path

import pytest
import torch
from train_world import make_spec

from chinchilla.core.errors import DataError
from chinchilla.data.dataset import TokenData
from chinchilla.train.dataloader import BatchLoader
from chinchilla.train.distributed import RankGroup

CPU = torch.device("cpu")


def test_prefetching_gives_the_same_batches(data_dir: Path):
    data, spec = TokenData.open(data_dir), make_spec()
    plain = BatchLoader(data, spec, 4, CPU)
    with closing(BatchLoader(data, spec, 4, CPU, prefetch=True)) as loader:
        for step in (0, 1, 2, 3, 7, 8, 2, 3, spec.steps - 1):  # a resumed run begins anywhere
            expected, got = plain.batch(step), loader.batch(step)
            assert got.dtype == torch.int64
            assert torch.equal(got, expected)


def test_token_ids_above_the_signed_16_bit_range_are_kept(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    """Vocabularies up to 65,536 use uint16, which torch converts by way of int16."""
    data, spec = TokenData.open(data_dir), make_spec()
    high = data.batch(0, 0, 4, spec.model.seq_len) + 60_000
    monkeypatch.setattr(data, "batch", lambda *a: high)
    with closing(BatchLoader(data, spec, 4, CPU, prefetch=True)) as loader:
        assert torch.equal(loader.batch(0), torch.from_numpy(high))


def test_ranks_share_a_batch_in_its_order(data_dir: Path):
    data, spec = TokenData.open(data_dir), make_spec()
    whole = BatchLoader(data, spec, 4, CPU).batch(5)
    parts = [BatchLoader(data, spec, 2, CPU, RankGroup(r, 2)).batch(5) for r in range(2)]
    assert torch.equal(torch.cat(parts), whole)


def test_an_error_of_the_prefetching_thread_is_raised_by_batch(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    data, spec = TokenData.open(data_dir), make_spec()

    def damaged(*a):
        raise DataError("a shard is damaged")

    with closing(BatchLoader(data, spec, 4, CPU, prefetch=True)) as loader:
        loader.batch(0)
        loader.batch(1)
        monkeypatch.setattr(data, "batch", damaged)
        loader._next = None  # may have been read before the damage
        with pytest.raises(DataError, match="damaged"):
            loader.batch(2)
