"""Validation loss: every run of a sweep scored on the same tokens, so that their noise cancels."""

from typing import Any

import numpy as np
import torch

from chinchilla.model import Transformer
from chinchilla.train.distributed import SINGLE, RankGroup


@torch.no_grad()
def validation_loss(
    model: Transformer, rows: np.ndarray, rows_per_pass: int, ranks: RankGroup = SINGLE
) -> float:
    """Mean loss over all targets of `rows`, nats per token.

    Args:
        model: on its device.
        rows: (n_rows, seq_len + 1) token ids, the same on all ranks.
        rows_per_pass: rows in one forward pass of a rank; summed in float64, so it does not matter.
        ranks: those that share the work.
    """
    device = model.embedding.device
    total = 0.0
    for start in range(0, len(rows), rows_per_pass * ranks.world_size):
        begin = start + ranks.rank * rows_per_pass
        mine = rows[begin : begin + rows_per_pass]
        # All ranks of a sharded model have to go through it; one without rows takes any, for nothing.
        tokens = torch.from_numpy((mine if len(mine) else rows[:1]).astype(np.int64)).to(device)
        loss = model(tokens[:, :-1], tokens[:, 1:])
        if len(mine):
            total += float(loss)
    reshard: Any = getattr(model, "reshard", None)
    if reshard:  # as a backward pass would: until then `parameters` are those of all ranks
        reshard()
    total = float(ranks.reduce_sum(torch.tensor(total, dtype=torch.float64)))
    return total / (rows.shape[0] * (rows.shape[1] - 1))


def evaluation_steps(steps: int, n: int, after: int = 0) -> list[int]:
    """Updates after which to evaluate: at most n, geometric over the last 8x, ending at steps.

    Those up to `after` are left out: a stable phase is evaluated by none of its horizons, so that each has
    the curve that it would have alone.
    """
    found = {round(s) for s in np.geomspace(steps, max(1.0, steps / 8), n)}
    return sorted(s for s in found if s > after)
