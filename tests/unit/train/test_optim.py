from dataclasses import replace

import pytest
import torch
from train_world import make_spec

from chinchilla.model import Transformer
from chinchilla.plan.records import RunSpec
from chinchilla.train import optim
from chinchilla.train.optim import Update, build_optimizer, set_learning_rate

SPEC = make_spec(positions="relative", weight_decay=0.3, beta1=0.8, beta2=0.9, peak_lr=0.05)


def stepped(n: int, spec: RunSpec = SPEC):
    """Model, optimizer, weights before, and gradients of n updates with random gradients."""
    model = Transformer(spec.model).init_weights(0)
    optimizer = build_optimizer(model, spec)
    draw = torch.Generator().manual_seed(0)
    for p in model.parameters():  # the decay of zeros would not show
        p.data += torch.randn(p.shape, generator=draw)
    before = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    grads = []
    for _ in range(n):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=draw)
        grads.append({name: p.grad.double() for name, p in model.named_parameters()})
        optimizer.step()
    return model, optimizer, before, grads


def test_three_updates_are_loshchilov_and_hutters_algorithm_2():
    """Decay on matrices only, computed in float64."""
    model, _, before, grads = stepped(3)
    for name, p in model.named_parameters():
        theta, m, v = before[name], 0.0, 0.0
        decay = 0.3 if p.dim() == 2 else 0.0
        for t, grad in enumerate((g[name] for g in grads), 1):
            theta = theta * (1 - 0.05 * decay)
            m = 0.8 * m + 0.2 * grad
            v = 0.9 * v + 0.1 * grad**2
            theta = theta - 0.05 * (m / (1 - 0.8**t)) / ((v / (1 - 0.9**t)).sqrt() + SPEC.adam_eps)
        torch.testing.assert_close(p.double(), theta, rtol=3e-6, atol=3e-6, msg=name)


def test_gains_and_biases_are_not_decayed_and_everything_else_is():
    model, optimizer, _, _ = stepped(1)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for name, p in model.named_parameters():
        vector = name.endswith((".gain", "bias", ".u", ".v"))
        assert decay[id(p)] == (0.0 if vector else 0.3), name
    assert len(decay) == len(list(model.parameters()))


def test_moments_are_fp32():
    _, optimizer, _, _ = stepped(1)
    for state in optimizer.state.values():
        assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.float32


def test_adam_adds_the_decay_to_the_gradient():
    """Algorithm 2 of Loshchilov and Hutter without decoupling, in float64."""
    model, _, before, grads = stepped(3, replace(SPEC, optimizer="adam"))
    for name, p in model.named_parameters():
        theta, m, v = before[name], 0.0, 0.0
        decay = 0.3 if p.dim() == 2 else 0.0
        for t, grad in enumerate((g[name] for g in grads), 1):
            grad = grad + decay * theta
            m = 0.8 * m + 0.2 * grad
            v = 0.9 * v + 0.1 * grad**2
            theta = theta - 0.05 * (m / (1 - 0.8**t)) / ((v / (1 - 0.9**t)).sqrt() + SPEC.adam_eps)
        torch.testing.assert_close(p.double(), theta, rtol=3e-6, atol=3e-6, msg=name)


def test_set_learning_rate_handles_numbers_tensors_and_group_scales():
    p = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    groups = [{"params": p[:1], "lr_scale": 1.0},
              {"params": p[1:2], "lr_scale": 1.0, "lr": torch.tensor(1.0)},
              {"params": p[2:], "lr_scale": 0.25}]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    tensor = optimizer.param_groups[1]["lr"]
    set_learning_rate(optimizer, 0.5)
    assert [float(g["lr"]) for g in optimizer.param_groups] == [0.5, 0.5, 0.125]
    assert optimizer.param_groups[1]["lr"] is tensor  # a captured graph reads this tensor


def updated(n: int, keep: bool) -> tuple[list[torch.Tensor], list[float]]:
    """Weights and gradient norms after n updates with random gradients."""
    model = Transformer(SPEC.model).init_weights(0)
    update = Update(model, build_optimizer(model, SPEC), max_norm=1.0)
    draw, norms = torch.Generator().manual_seed(0), []
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    for i in range(n):
        for p in model.parameters():
            grad = torch.randn(p.shape, generator=draw)
            p.grad = p.grad.copy_(grad) if keep else grad
        update(0.01 * (i + 1), keep)
        norms.append(float(update.norm))
        assert all((p.grad is None) != keep for p in model.parameters())
        assert not keep or not any(p.grad.any() for p in model.parameters())
    return list(model.parameters()), norms


def test_the_second_update_is_captured_and_replayed_with_the_same_weights(
    monkeypatch: pytest.MonkeyPatch,
):
    """The substitute records without executing, as a CUDA graph does, and executes at each replay."""
    replays = []

    class Recorded:
        def __init__(self, function):
            self.function = function

        def replay(self):
            replays.append(1)
            self.function()

    expected, norms = updated(4, False)
    monkeypatch.setattr(optim, "capture", lambda function, device: Recorded(function))
    found, norms_of_graph = updated(4, True)
    assert len(replays) == 3
    assert norms == norms_of_graph
    assert all(map(torch.equal, found, expected))


def test_an_update_that_cannot_be_captured_is_made_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def broken(function, device):
        raise RuntimeError("not permitted when stream is capturing")

    expected, _ = updated(3, False)
    monkeypatch.setattr(optim, "capture", broken)
    found, _ = updated(3, True)
    assert all(map(torch.equal, found, expected))
    [message] = [r.getMessage() for r in caplog.records]
    assert message.startswith("no CUDA graph of the update: not permitted")
