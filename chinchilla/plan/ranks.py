"""How the ranks of a run divide its batch and its weights.

Checked when jobs are planned, before they wait in a queue, and again by the ranks themselves.
"""

from chinchilla.core.errors import InputError
from chinchilla.plan.records import RunSpec


def rows_per_rank(spec: RunSpec, n_ranks: int, where: str = "a worker") -> int:
    """Rows of each rank's part of a batch.

    Args:
        spec: the run.
        n_ranks: ranks that train it together.
        where: whose ranks they are, for the message.

    Raises:
        InputError: the batch does not divide evenly.
    """
    rows = spec.batch_tokens // spec.model.seq_len
    if rows % n_ranks:
        raise InputError(
            f"run {spec.run_id}: a batch of {rows} rows ({spec.batch_tokens:,} tokens) is not divisible "
            f"by the {n_ranks} ranks of {where}. Choose a divisor of {rows}, or another "
            "recipe.batch_tokens."
        )
    return rows // n_ranks


def shards_of(shard_ranks: int, n_ranks: int, where: str = "a worker") -> int:
    """Ranks that share one copy of the weights.

    Args:
        shard_ranks: runtime.shard_ranks; 0 = all. One rank has the whole model in any case.
        n_ranks: ranks that train a run together.
        where: whose ranks they are, for the message.

    Raises:
        InputError: shard_ranks does not divide the number of ranks.
    """
    if n_ranks > 1 and shard_ranks and n_ranks % shard_ranks:
        raise InputError(
            f"runtime.shard_ranks={shard_ranks} does not divide the {n_ranks} ranks of {where}. "
            "Choose a divisor, or 0 for all."
        )
    return shard_ranks if n_ranks > 1 and shard_ranks else n_ranks
