"""Train a few updates and print [peak bytes above those before, estimated bytes].

python memory_program.py SETTINGS.json     as one rank of several where RANK and WORLD_SIZE say so
"""

import gc
import json
import sys
from pathlib import Path
from typing import Any

import torch

from chinchilla.config import RecipeConfig, RuntimeConfig
from chinchilla.core.shapes import ModelShape
from chinchilla.plan.grid import plan_run
from chinchilla.plan.memory import memory
from chinchilla.plan.records import RunSpec
from chinchilla.train.distributed import RankGroup, join
from chinchilla.train.forward_backward import ForwardBackward
from chinchilla.train.fsdp import build_model, clip_gradients, init_weights
from chinchilla.train.optim import build_optimizer


def spec_of(shape: tuple[int, ...], rows: int, precision: str, positions: str) -> RunSpec:
    """A run with `rows` rows per batch; shape is n_layers, d_model, vocab_size, seq_len."""
    n_layers, d, vocab_size, seq_len = shape
    return plan_run(
        ModelShape(d, 4 * d, 64, d // 64, n_layers, vocab_size, seq_len, positions),
        RecipeConfig(batch_tokens=rows * seq_len, warmup_steps=0),
        flop_convention="with_head", data_id="none", precision=precision, tokens=rows * seq_len * 10,
    )  # fmt: skip


def train(spec: RunSpec, micro_rows: int, recompute: bool, ranks: RankGroup, updates: int) -> None:
    """Train on random tokens like the training loop; rows are those of one rank.

    Freed memory is not kept (`keep_freed_memory`), since the estimate does not include fragmentation.
    """
    shape = spec.model
    rows = spec.batch_tokens // shape.seq_len
    runtime = RuntimeConfig(activation_checkpointing=recompute, compile_blocks="never")
    model = build_model(spec, runtime, torch.device("cpu"), ranks)
    init_weights(model, 0, ranks)
    optimizer = build_optimizer(model, spec)
    forward_backward = ForwardBackward(
        model, micro_rows, 1 / spec.batch_tokens, cuda_graphs=False, may_fall_back=False
    )
    for _ in range(updates):
        for _ in range(rows // micro_rows):
            forward_backward(torch.randint(shape.vocab_size, (micro_rows, shape.seq_len + 1)))
        clip_gradients(model.parameters(), 1.0, ranks)
        optimizer.step()
        forward_backward.zero_grad()


def measure(settings_given: dict[str, Any], ranks: RankGroup) -> tuple[float, float]:
    precision, positions = settings_given["precision"], settings_given["positions"]
    recompute, micro_rows = settings_given["recompute"], settings_given["micro_rows"]
    spec = spec_of(settings_given["shape"], settings_given["rows"], precision, positions)
    # A small run first loads libraries.
    train(spec_of((1, 64, 64, 16), 2, precision, positions), 1, recompute, ranks, 1)
    gc.collect()
    before = 4096 * int(Path("/proc/self/statm").read_text().split()[1])
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    train(spec, micro_rows, recompute, ranks, 2)
    status = Path("/proc/self/status").read_text().splitlines()
    [peak] = [int(line.split()[1]) for line in status if line.startswith("VmHWM")]
    tokens = micro_rows * spec.model.seq_len
    estimate = memory(spec, tokens, ranks.world_size, recompute, "cpu")
    print(estimate, file=sys.stderr)
    return 1024 * peak - before, estimate.total


if __name__ == "__main__":
    torch.set_num_threads(1)
    ranks = join("cpu")
    print(json.dumps(measure(json.loads(sys.argv[1]), ranks)))
    ranks.close()
