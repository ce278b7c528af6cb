"""Build the model on its device: whole, or sharded over ranks (FSDP2: `fully_shard`).

Every tensor is split along its rows. A block's weights are gathered just before they are used and
freed afterwards. In bf16 the blocks' weights are communicated as bf16 and their gradients as fp32.
The tied embedding is communicated as fp32, because its gradient is summed over tokens first.
"""

import warnings
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from chinchilla.config import RuntimeConfig
from chinchilla.model import Transformer
from chinchilla.plan.records import RunSpec
from chinchilla.train.distributed import RankGroup

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "bf16_weights": torch.bfloat16}


def build_model(
    spec: RunSpec, runtime: RuntimeConfig, device: torch.device, group: RankGroup
) -> Transformer:
    """The model on its device, sharded if there are several ranks, its weights uninitialized.

    With runtime.compile_blocks=auto blocks are compiled on a GPU only. On a CPU compilation can take
    longer than a small run and saves less than a tenth of each step
    (docs/results/throughput_steps_cpu.json).
    """
    compiled = {"always": True, "never": False, "auto": device.type == "cuda"}
    with torch.device("cpu" if group.world_size == 1 else "meta"):
        model = Transformer(
            spec.model,
            DTYPES[spec.precision],
            runtime.activation_checkpointing,
            spec.multipliers,
            compiled[runtime.compile_blocks],
        )
    if spec.precision == "bf16_weights":  # no fp32 copy (figure A6)
        for p in model.parameters():
            p.data = p.data.to(torch.bfloat16)
    if group.world_size == 1:
        return model.to(device)
    shard_model(model, group)
    return model


def shard_model(model: Transformer, group: RankGroup) -> None:
    """Shard a model built on the meta device and allocate its memory on this rank's device.

    Gradients are summed over ranks, so each rank's loss has to be divided by the tokens of the
    whole batch.
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    # Logits are a view, and nothing is done to them in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    compute_dtype = model.dtype if model.dtype != torch.float32 else None
    policy = MixedPrecisionPolicy(compute_dtype, torch.float32, cast_forward_inputs=False)
    for block in model.blocks:
        fully_shard(block, mesh=group.mesh, mp_policy=policy)
    full_precision = MixedPrecisionPolicy(cast_forward_inputs=False)
    fully_shard(model, mesh=group.mesh, mp_policy=full_precision)
    for module in (model, *model.blocks):
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    model.to_empty(device=group.device)
    model.fill_tables()


@torch.no_grad()
def init_weights(model: Transformer, seed: int, group: RankGroup) -> None:
    """Set the initial weights of `seed`, with the same bits for any number of ranks.

    Each rank draws every tensor, one at a time, and keeps its rows.
    """
    parameters = dict(model.named_parameters())
    for name, value in model.initial_weights(seed):
        target, rows = local(parameters[name]), value[group.rows(len(value))]
        assert target.shape == rows.shape, name
        target.copy_(rows)


def local(tensor: Any) -> Tensor:
    """The rows of a tensor on this rank; all rows if it is not sharded."""
    tensor = tensor.detach()
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def reduce_copies(model: Any, enabled: bool) -> None:
    """Set whether the next backward pass also sums gradients over copies of the weights (HSDP)."""
    model.set_requires_all_reduce(enabled)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float, group: RankGroup) -> Tensor:
    """Scale all gradients so that their norm over all ranks is at most `max_norm`.

    Uses one all-reduce over the ranks of a copy and no synchronization with the host.

    Returns:
        The norm before, a scalar on the device.
    """
    if group.world_size == 1:
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    gradients = [local(p.grad) for p in parameters if p.grad is not None]
    square = torch.stack(torch._foreach_norm(gradients)).square().sum()
    dist.all_reduce(square, group=group.mesh.get_group("shard"))
    norm = square.sqrt()
    torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
