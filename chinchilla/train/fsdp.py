"""A model cut into shards, one for each rank (FSDP2: `torch.distributed.fsdp.fully_shard`).

Every tensor is cut along its rows. A block's weights are put together just before they are used
and dropped after. In bf16 the blocks' weights travel as bf16 and their gradients as fp32; the tied
embedding travels as fp32, because its gradient is summed over tokens before it is sent.
"""

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from chinchilla.model import Transformer
from chinchilla.train.distributed import RankGroup


def local(tensor: Any) -> Tensor:
    """The rows of a tensor that live on this rank; all of them where nothing is cut."""
    tensor = tensor.detach()
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def shard_model(model: Transformer, ranks: RankGroup) -> None:
    """Cut `model`, built on the meta device, and give it memory on this rank's device, not yet filled.

    Gradients come out as sums over ranks, so each rank's loss has to carry its share of the batch.
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    # Logits are a view, and nothing is done to them in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    low = model.dtype if model.dtype != torch.float32 else None
    policy = MixedPrecisionPolicy(low, torch.float32, cast_forward_inputs=False)
    for block in model.blocks:
        fully_shard(block, mesh=ranks.mesh, mp_policy=policy)
    whole = MixedPrecisionPolicy(cast_forward_inputs=False)
    fully_shard(model, mesh=ranks.mesh, mp_policy=whole)
    for module in (model, *model.blocks):
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    model.to_empty(device=ranks.device)
    model.fill_tables()


@torch.no_grad()
def fill(model: Transformer, seed: int, ranks: RankGroup) -> None:
    """Initial weights of `seed`, the same bits whatever the number of ranks.

    Each rank draws every tensor, one at a time, and keeps its rows.
    """
    parameters = dict(model.named_parameters())
    for name, value in model.initial_weights(seed):
        mine, rows = local(parameters[name]), value[ranks.rows(len(value))]
        assert mine.shape == rows.shape, name
        mine.copy_(rows)


def sum_over_copies(model: Any, last: bool) -> None:
    """Whether the next backward sums gradients over copies, too: only a batch's last one has to."""
    model.set_requires_all_reduce(last)


def clip_gradients(parameters: Iterable[nn.Parameter], most: float, ranks: RankGroup) -> None:
    """Scale all gradients so that their norm, over all ranks, is at most `most`.

    One sum over the ranks that hold a copy; nothing is sent to the host.
    """
    if ranks.world_size == 1:
        torch.nn.utils.clip_grad_norm_(parameters, most)
        return
    import torch.distributed as dist

    gradients = [local(p.grad) for p in parameters if p.grad is not None]
    square = torch.stack(torch._foreach_norm(gradients)).square().sum()
    dist.all_reduce(square, group=ranks.mesh.get_group("shard"))
    scale = (most / (square.sqrt() + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, scale)
