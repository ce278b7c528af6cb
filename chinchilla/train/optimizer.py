"""AdamW with decoupled decay on matrices only, fp32 state (section 4.1)."""

import torch
from torch import nn

from chinchilla.records import RunSpec


def build_optimizer(model: nn.Module, spec: RunSpec) -> torch.optim.AdamW:
    """AdamW over the fp32 master weights; gains and biases are not decayed.

    The learning rate is a placeholder: the loop sets it before every update.
    """
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": spec.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=spec.peak_lr, betas=(spec.beta1, spec.beta2), eps=spec.adam_eps, fused=True
    )
