"""Validation loss. All runs of a sweep use the same tokens, so that sampling noise cancels."""

from typing import Any

import numpy as np
import torch

from chinchilla.model import Transformer
from chinchilla.train.distributed import SINGLE, RankGroup


@torch.no_grad()
def validation_loss(
    model: Transformer, rows: np.ndarray, rows_per_pass: int, group: RankGroup = SINGLE
) -> float:
    """Mean loss over all targets of `rows`, nats per token.

    Args:
        model: on its device.
        rows: (n_rows, seq_len + 1) token ids, the same on all ranks.
        rows_per_pass: rows of a rank's forward pass. Sums are in float64, so it does not matter.
        group: the ranks that share the work.
    """
    device = model.embedding.device
    total = 0.0
    for start in range(0, len(rows), rows_per_pass * group.world_size):
        begin = start + group.rank * rows_per_pass
        own_rows = rows[begin : begin + rows_per_pass]
        # All ranks take part in each pass of a sharded model; one without rows discards its loss.
        batch = own_rows if len(own_rows) else rows[:1]
        tokens = torch.from_numpy(batch.astype(np.int64)).to(device)
        loss = model(tokens[:, :-1], tokens[:, 1:])
        if len(own_rows):
            total += float(loss)
    reshard: Any = getattr(model, "reshard", None)
    if reshard:  # free the gathered weights, as a backward pass would
        reshard()
    total = float(group.reduce_sum(torch.tensor(total, dtype=torch.float64)))
    return total / (rows.shape[0] * (rows.shape[1] - 1))


def evaluation_steps(steps: int, n: int, stable_steps: int = 0) -> list[int]:
    """Updates after which to evaluate: at most n, log-spaced from steps / 8 to steps.

    There are none in the first `stable_steps`: whether another run has trained the stable phase
    must not change the curve.
    """
    chosen = {round(s) for s in np.geomspace(steps, max(1.0, steps / 8), n)}
    return sorted(s for s in chosen if s > stable_steps)
