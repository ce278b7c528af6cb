"""AdamW, or Adam as used for Gopher (section 4.1, figure A7), and the state that checkpoints hold."""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from chinchilla.core.errors import one_line
from chinchilla.plan.records import RunSpec
from chinchilla.train.distributed import SINGLE, RankGroup
from chinchilla.train.forward_backward import capture
from chinchilla.train.fsdp import clip_gradients, local

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
MOMENTS = ("exp_avg", "exp_avg_sq")
log = logging.getLogger("chinchilla.train")


def build_optimizer(model: nn.Module, spec: RunSpec) -> torch.optim.Optimizer:
    """The optimizer of `spec` for all weights, without weight decay on gains and biases.

    Hidden matrices form their own group; the parametrization scales its learning rate and decay.

    AdamW subtracts peak_lr * weight_decay of a weight at each update. Adam adds weight_decay times
    the weight to its gradient after clipping, so the decay is normalized like the gradient
    (Loshchilov and Hutter 2019, algorithm 2).

    The moments have the weights' dtype: fp32 for `precision` bf16 and fp32, bf16 for bf16_weights.
    The learning rate given here is a placeholder that `set_learning_rate` replaces before every
    update. On a GPU each group holds it as a tensor there.
    """
    factors = spec.multipliers
    parameters = dict(model.named_parameters())
    embedding = parameters.pop("embedding")
    hidden = [p for p in parameters.values() if p.dim() >= 2]
    vectors = [p for p in parameters.values() if p.dim() < 2]
    decay = spec.weight_decay
    groups = [
        {
            "params": hidden,
            "weight_decay": decay * factors.hidden_decay,
            "lr_scale": factors.hidden_lr,
        },
        {"params": [embedding], "weight_decay": decay, "lr_scale": 1.0},
        {"params": vectors, "weight_decay": 0.0, "lr_scale": 1.0},
    ]
    if embedding.device.type == "cuda":
        for group in groups:
            group["lr"] = torch.tensor(spec.peak_lr, device=embedding.device)
    return OPTIMIZERS[spec.optimizer](
        groups,
        lr=spec.peak_lr,
        betas=(spec.beta1, spec.beta2),
        eps=spec.adam_eps * factors.eps,
        fused=True,
        capturable=embedding.device.type == "cuda",  # by a CUDA graph
    )


class Update:
    """Clips the gradients, updates the weights and sets the gradients to zero, without waiting.

    If the gradients stay in the same tensors (CUDA graphs), the second update is captured as a CUDA
    graph and replayed from then on. The first one allocates the optimizer's state.

    Args:
        model: on its device.
        optimizer: of `build_optimizer`.
        max_norm: of the gradients of all weights; 0 = no clipping.
        group: the ranks that share the weights.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        max_norm: float,
        group: RankGroup = SINGLE,
    ) -> None:
        self.optimizer, self.max_norm, self.group = optimizer, max_norm, group
        self.parameters = list(model.parameters())
        self.norm: Tensor | None = None  # of the last gradients, on the device; None = no clipping
        self.graph: Any = None
        self._updates = 0

    def __call__(self, rate: float, keep_gradients: bool = False) -> None:
        """Update with this learning rate; `keep_gradients`: their tensors stay, set to zero."""
        set_learning_rate(self.optimizer, rate)
        if self._updates == 1 and keep_gradients:
            self._capture()
        if self.graph is None:
            self._plain(keep_gradients)
        else:
            self.graph.replay()
        self._updates += 1

    def _plain(self, keep_gradients: bool) -> None:
        # Clip the global norm, so that one bad batch cannot make a large update.
        if self.max_norm:
            self.norm = clip_gradients(self.parameters, self.max_norm, self.group)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=not keep_gradients)

    def _capture(self) -> None:
        try:
            self.graph = capture(lambda: self._plain(True), self.parameters[0].device)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            log.warning("no CUDA graph of the update: %s", one_line(error, 300))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of the next update in every group, times the group's `lr_scale`."""
    for group in optimizer.param_groups:
        scaled = rate * group["lr_scale"]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(scaled)
        else:
            group["lr"] = scaled


def state_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, rank: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """This rank's rows of weights and optimizer state, not copied; scalars on rank 0 only."""
    weights = {name: local(p) for name, p in model.named_parameters()}
    state = {
        f"{key}.{name}": local(value)
        for name, p in model.named_parameters()
        for key, value in optimizer.state[p].items()
        if value.dim() or rank == 0
    }
    return weights, state


def load_state(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    weights: dict[str, Tensor],
    state: dict[str, Tensor],
) -> None:
    """Copy what `state_of` returned into the model and its optimizer.

    A checkpoint of weights only has no state of the optimizer, and none is set.
    """
    parameters = dict(model.named_parameters())
    assert weights.keys() == parameters.keys()
    for name, p in parameters.items():
        if f"step.{name}" not in state:
            local(p).copy_(weights[name])
            continue
        moments = {key: torch.zeros_like(p) for key in MOMENTS}
        pairs = [(state[f"{key}.{name}"], moment) for key, moment in moments.items()]
        for rows, target in ((weights[name], p), *pairs):
            assert rows.shape == local(target).shape, name
            local(target).copy_(rows)
        step = state[f"step.{name}"].to(p.device, copy=True)
        optimizer.state[p] = {"step": step, **moments}
