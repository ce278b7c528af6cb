"""AdamW, or Adam as Gopher was trained with (section 4.1, figure A7)."""

import torch
from torch import Tensor, nn

from chinchilla.plan.records import RunSpec

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


def build_optimizer(model: nn.Module, spec: RunSpec) -> torch.optim.Optimizer:
    """The optimizer of `spec` over all weights; gains and biases are not decayed.

    Hidden matrices have a group of their own, whose rate and decay follow the parametrisation.

    AdamW takes peak_lr * weight_decay of a weight away at each update; Adam adds weight_decay times
    the weight to its gradient, after clipping, so that the decay is divided by the gradient's size as
    well (Loshchilov and Hutter 2019, algorithm 2).

    Its two moments have the weights' dtype: fp32 beside fp32 weights (`precision` bf16 and fp32),
    bf16 beside bf16 weights (bf16_weights). The learning rate is a placeholder: `set_learning_rate`
    sets it before every update. On a GPU it is a tensor there, one for each group.
    """
    by = spec.multipliers
    parameters = dict(model.named_parameters())
    embedding = parameters.pop("embedding")
    hidden = [p for p in parameters.values() if p.dim() >= 2]
    vectors = [p for p in parameters.values() if p.dim() < 2]
    decay = spec.weight_decay
    groups = [
        {"params": hidden, "weight_decay": decay * by.hidden_decay, "lr_scale": by.hidden_lr},
        {"params": [embedding], "weight_decay": decay, "lr_scale": 1.0},
        {"params": vectors, "weight_decay": 0.0, "lr_scale": 1.0},
    ]
    if embedding.device.type == "cuda":
        for group in groups:
            group["lr"] = torch.tensor(spec.peak_lr, device=embedding.device)
    betas = (spec.beta1, spec.beta2)
    return OPTIMIZERS[spec.optimizer](
        groups, lr=spec.peak_lr, betas=betas, eps=spec.adam_eps * by.eps, fused=True
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The rate of the next update, numbers or tensors; a group may have its own multiple of it."""
    for group in optimizer.param_groups:
        scaled = rate * group["lr_scale"]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(scaled)
        else:
            group["lr"] = scaled
