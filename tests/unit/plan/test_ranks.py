"""Ranks divide a batch and the weights evenly, or are refused."""

import pytest
from train_world import make_spec

from chinchilla.core.errors import InputError
from chinchilla.plan.ranks import rows_per_rank, shards_of


def test_a_batch_that_does_not_divide_among_ranks_is_refused():
    spec = make_spec(batch_tokens=8 * 16)
    assert rows_per_rank(spec, 4) == 2
    with pytest.raises(InputError, match=r"batch of 8 rows \(128 tokens\) .* by the 3 ranks of a"):
        rows_per_rank(spec, 3)


def test_shard_ranks_that_do_not_divide_the_ranks_are_refused():
    assert [shards_of(n, 6) for n in (0, 1, 2, 3, 6)] == [6, 1, 2, 3, 6]
    assert shards_of(4, 1) == 1
    with pytest.raises(InputError, match=r"shard_ranks=4 does not divide the 6 ranks of a worker"):
        shards_of(4, 6)
