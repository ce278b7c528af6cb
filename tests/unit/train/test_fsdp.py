"""The initial weights of a sharded model."""

from pathlib import Path

import pytest
import torch
from ranks_world import end, output_of, start
from train_world import make_spec

from chinchilla.model import Transformer
from chinchilla.plan.records import RunSpec
from chinchilla.train.distributed import join
from chinchilla.train.fsdp import init_weights, local, shard_model


def weights_are_those_of_one_process(spec: RunSpec) -> None:
    ranks = join("cpu", seconds=60)
    with torch.device("meta"):
        model = Transformer(spec.model)
    shard_model(model, ranks)
    init_weights(model, spec.seed, ranks)
    alone = Transformer(spec.model).init_weights(spec.seed)
    for name, p in alone.named_parameters():
        mine = local(dict(model.named_parameters())[name])
        assert mine.numpy().tobytes() == p[ranks.rows(len(p))].detach().numpy().tobytes(), name
    assert torch.equal(model.positions, alone.positions)
    ranks.close()


@pytest.mark.slow
def test_shards_start_with_the_weights_of_one_process(tmp_path: Path):
    """Three ranks: some shards are shorter than others, and some are empty."""
    codes = end(start(3, tmp_path, weights_are_those_of_one_process, make_spec()))
    assert codes == [0] * 3, output_of(tmp_path)
