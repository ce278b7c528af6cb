"""Held-out loss: every run of a sweep scored on the same tokens, so that their noise cancels."""

import numpy as np
import torch

from chinchilla.model import Transformer, token_losses


@torch.no_grad()
def held_out_loss(model: Transformer, rows: np.ndarray, rows_per_pass: int) -> float:
    """Mean loss over all targets of `rows`, nats per token.

    Args:
        model: on its device.
        rows: (n_rows, seq_len + 1) token ids.
        rows_per_pass: rows in one forward pass; summed in float64, so it does not matter.
    """
    device = model.embedding.device
    total = 0.0
    for start in range(0, len(rows), rows_per_pass):
        tokens = torch.from_numpy(rows[start : start + rows_per_pass].astype(np.int64)).to(device)
        total += float(token_losses(model(tokens[:, :-1]), tokens[:, 1:]).double().sum())
    return total / (rows.shape[0] * (rows.shape[1] - 1))


def evaluation_steps(steps: int, n: int) -> list[int]:
    """Updates after which to evaluate: at most n, geometric over the last 8x, ending at steps."""
    return sorted({round(s) for s in np.geomspace(steps, max(1.0, steps / 8), n)})
