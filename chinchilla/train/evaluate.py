"""Validation loss. All runs of a sweep use the same tokens, so that sampling noise cancels."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from chinchilla.config import RuntimeConfig
from chinchilla.model import Transformer
from chinchilla.plan.memory import rows_that_fit
from chinchilla.plan.records import RunSpec
from chinchilla.train.distributed import SINGLE, RankGroup

PASS_TOKENS = 4096  # of a forward pass, if memory allows; fewer take longer on any device
# Evaluations of a short run take at most this share of its training FLOPs, but there are at least
# MIN_EVALUATIONS (if runtime.validation_evals allows), from which a curve can be drawn.
EVALUATION_SHARE, MIN_EVALUATIONS = 0.1, 8


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


def evaluation_rows(
    spec: RunSpec,
    micro_rows: int,
    runtime: RuntimeConfig,
    room: float,
    device: torch.device,
    group: RankGroup = SINGLE,
) -> int:
    """Rows of a rank's forward pass without gradients, equal on all ranks.

    At least those of a micro-batch. More, up to PASS_TOKENS, if they fit into `room` bytes beside the
    state (only one block's activations are kept at a time) and the micro-batch is not configured.
    """
    rows = max(micro_rows, PASS_TOKENS // spec.model.seq_len)
    if runtime.micro_batch_tokens or rows == micro_rows:
        return micro_rows
    shape = replace(spec, batch_tokens=rows * spec.model.seq_len)
    fitting = rows_that_fit(
        shape, rows, room, group.shards, True, device.type, fsdp=group.world_size > 1
    )
    return max(micro_rows, min(group.gather(fitting)))


def evaluation_steps(spec: RunSpec, runtime: RuntimeConfig) -> list[int]:
    """Updates after which to evaluate, log-spaced from steps / 8 to steps.

    At most runtime.validation_evals, and fewer in a short run (EVALUATION_SHARE). A forward pass takes a
    third of the FLOPs of an update. There are none in the stable phase: whether another run has
    trained it must not change the curve.
    """
    affordable = int(3 * EVALUATION_SHARE * spec.D / runtime.validation_tokens)
    n = min(runtime.validation_evals, max(MIN_EVALUATIONS, affordable))
    chosen = {round(s) for s in np.geomspace(spec.steps, max(1.0, spec.steps / 8), n)}
    return sorted(s for s in chosen if s > spec.stable_steps)
