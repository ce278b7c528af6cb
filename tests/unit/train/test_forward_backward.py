"""Gradients of a batch do not depend on its micro-batches, nor on a compiler that fails."""

import logging

import pytest
import torch
from train_world import make_spec

from chinchilla.model import Transformer, compiling
from chinchilla.train import forward_backward
from chinchilla.train.forward_backward import ForwardBackward

SHAPE = make_spec().model


def tokens(rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(SHAPE.vocab_size, (rows, SHAPE.seq_len + 1), generator=generator)


def accumulated(
    micro_rows: int, batch: torch.Tensor, **settings
) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients of a batch, split into micro-batches."""
    model = Transformer(SHAPE, **settings).init_weights(0)
    share = 1 / batch[:, 1:].numel()
    forward_backward = ForwardBackward(
        model, micro_rows, share, cuda_graphs=False, may_fall_back=True
    )
    forward_backward.prepare(batch)
    loss = sum(float(forward_backward(micro)) for micro in batch.split(micro_rows))
    return loss, [p.grad for p in model.parameters()]


@pytest.mark.parametrize("micro_rows", [1, 2, 3, 4])
def test_micro_batches_add_up_to_the_batch(micro_rows: int):
    batch = tokens(8)
    whole, gradients = accumulated(8, batch)
    loss, cut = accumulated(micro_rows, batch)
    assert loss == pytest.approx(whole, rel=1e-6)
    for a, b in zip(cut, gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_failing_compiler_is_reported_once_and_changes_no_gradient(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(compiling, "BACKEND", broken)
    compiling.compiled.cache_clear()
    torch._dynamo.reset()
    batch = tokens(4)
    with caplog.at_level(logging.WARNING):
        loss, gradients = accumulated(2, batch, compile_blocks=True)
    compiling.compiled.cache_clear()
    torch._dynamo.reset()
    expected_loss, expected = accumulated(2, batch)
    assert loss == expected_loss
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))
    [message] = [r.getMessage() for r in caplog.records if "not compiled" in r.getMessage()]
    assert "no compiler here" in message
    assert "\n" not in message


def test_a_compiler_may_fail_at_a_later_shape(monkeypatch: pytest.MonkeyPatch):
    """The last micro-batch has fewer rows and is therefore compiled separately."""
    made = []

    def fails_late(graph, inputs):
        made.append(graph)
        if len(made) > 2:
            raise RuntimeError("no more room for programs")
        return graph.forward

    batch = tokens(5)
    expected_loss, expected = accumulated(3, batch)
    monkeypatch.setattr(compiling, "BACKEND", fails_late)
    compiling.compiled.cache_clear()
    torch._dynamo.reset()
    loss, gradients = accumulated(3, batch, compile_blocks=True)
    compiling.compiled.cache_clear()
    torch._dynamo.reset()
    assert len(made) > 2
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_zero_grad_discards_gradients():
    model = Transformer(SHAPE).init_weights(0)
    forward_backward = ForwardBackward(model, 2, 1.0, cuda_graphs=False, may_fall_back=True)
    forward_backward(tokens(2))
    forward_backward.zero_grad()
    assert all(p.grad is None for p in model.parameters())


class Recorded:
    """Substitute for a CUDA graph: the call that records changes nothing, a replay runs it."""

    replays = 0

    def __init__(self, function, model):
        self.function, self.model = function, model

    def pool(self):
        return "pool"

    def replay(self):
        Recorded.replays += 1
        self.function()


def test_a_smaller_last_micro_batch_has_a_graph_that_shares_the_memory_of_the_first(
    monkeypatch: pytest.MonkeyPatch,
):
    pools = []
    batch = tokens(5)
    _, expected = accumulated(2, batch)
    model = Transformer(SHAPE).init_weights(0)

    def fake_capture(function, device, warm_ups, pool):
        pools.append(pool)
        for _ in range(warm_ups + 1):
            function()
        return Recorded(function, model)

    monkeypatch.setattr(forward_backward, "capture", fake_capture)
    monkeypatch.setattr(Recorded, "replays", 0)
    passes = ForwardBackward(
        model, 2, 1 / batch[:, 1:].numel(), cuda_graphs=True, may_fall_back=True
    )
    passes.prepare(batch)
    assert pools == [None, "pool"]
    assert passes.keeps_gradients
    kept = [p.grad for p in model.parameters()]
    assert not any(g.any() for g in kept)
    for micro in batch.split(2):
        passes(micro)
    assert Recorded.replays == 3
    for p, g, e in zip(model.parameters(), kept, expected, strict=True):
        assert p.grad is g
        torch.testing.assert_close(g, e, rtol=1e-5, atol=1e-6)


def test_a_failing_capture_is_reported_and_changes_no_gradient(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def broken(*a):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(forward_backward, "capture", broken)
    batch = tokens(4)
    model = Transformer(SHAPE).init_weights(0)
    passes = ForwardBackward(
        model, 2, 1 / batch[:, 1:].numel(), cuda_graphs=True, may_fall_back=True
    )
    passes.prepare(batch)
    for micro in batch.split(2):
        passes(micro)
    assert not passes.keeps_gradients
    assert [r.getMessage() for r in caplog.records] == [
        "no CUDA graph: operation not permitted when stream is capturing"
    ]
    for p, e in zip(model.parameters(), accumulated(2, batch)[1], strict=True):
        assert torch.equal(p.grad, e)
