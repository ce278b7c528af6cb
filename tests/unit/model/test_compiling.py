"""Compiled blocks compute the same, and all depths of one width share a program."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters

from chinchilla.core.parametrization import multipliers
from chinchilla.core.shapes import ModelShape
from chinchilla.model import Transformer, compiling
from chinchilla.model.functions import total_loss

torch.set_num_threads(1)
POSITIONS = ("rope", "relative")


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[object], None]]:
    """Choose the compiler backend for one test."""

    def choose(name: object) -> None:
        monkeypatch.setattr(compiling, "BACKEND", name)

    compiling.compiled.cache_clear()
    torch._dynamo.reset()
    counters.clear()
    yield choose
    compiling.compiled.cache_clear()
    torch._dynamo.reset()


def model(
    width: int, depth: int, compile_blocks: bool, positions: str = "rope", **settings
) -> Transformer:
    shape = ModelShape(width, 4 * width, 8, width // 8, depth, 64, 24, positions)
    return Transformer(shape, compile_blocks=compile_blocks, **settings).init_weights(0)


def passed(m: Transformer, rows: int = 3) -> list[torch.Tensor]:
    """Loss and gradients of one pass."""
    tokens = torch.randint(64, (rows, 25), generator=torch.Generator().manual_seed(0))
    m.zero_grad()
    loss = m(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    return [loss.detach(), *(p.grad for p in m.parameters())]


def same(one: Transformer, other: Transformer) -> None:
    for a, b in zip(passed(one), passed(other), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("recompute", [False, True])
def test_a_compiled_model_computes_the_same(backend, positions: str, recompute: bool):
    backend("aot_eager")
    settings = {"positions": positions, "recompute": recompute}
    same(model(16, 2, True, **settings), model(16, 2, False, **settings))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
@pytest.mark.parametrize("positions", POSITIONS)
def test_a_model_compiled_to_machine_code_computes_the_same(backend, positions: str):
    backend("inductor")
    same(model(16, 2, True, positions), model(16, 2, False, positions))


@pytest.mark.slow
def test_depths_and_further_runs_of_a_width_share_their_programs(backend):
    backend("aot_eager")
    passed(model(16, 2, True))
    first = counters["stats"]["unique_graphs"]
    assert first == 2  # a block and the last norm; on a GPU the loss of a chunk, too
    for depth in (1, 2, 5):
        passed(model(16, depth, True))
    assert counters["stats"]["unique_graphs"] == first
    passed(model(24, 2, True))
    assert counters["stats"]["unique_graphs"] == 2 * first
    passed(model(16, 3, True))
    assert counters["stats"]["unique_graphs"] == 2 * first


@pytest.mark.slow
def test_depths_share_their_programs_where_branches_are_scaled_by_depth(backend):
    backend("aot_eager")
    for depth in (1, 2, 5):
        by = replace(multipliers(model(16, depth, True).shape), residual=1 / depth)
        same(model(16, depth, True, factors=by), model(16, depth, False, factors=by))
    assert counters["stats"]["unique_graphs"] <= 3  # a scaled block, one that is not, norm


@pytest.mark.slow
def test_many_widths_in_one_process_are_all_compiled(backend):
    """torch's default limit is eight programs per function."""
    backend("eager")
    for n in range(2, 14):
        passed(model(8 * n, 1, True))
    assert counters["stats"]["unique_graphs"] == 2 * 12


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aot_eager", "inductor"])
def test_a_compiled_chunk_has_the_same_loss_and_gradients(backend, name: str):
    """As on a GPU, with a vocabulary that is padded."""
    if name == "inductor" and not shutil.which("g++"):
        pytest.skip("no C++ compiler")
    backend(name)
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(*size, generator=generator) for size in ((40, 16), (1024, 16), (1024,))]
    targets = torch.randint(1024, (40,), generator=generator)
    found = []
    for compile_chunks in (True, False):
        leaves = [w.clone().requires_grad_() for w in weights]
        loss = total_loss(*leaves, targets, compile_chunks)
        found.append([loss.detach(), *torch.autograd.grad(loss, leaves)])
    assert counters["stats"]["unique_graphs"] == 1
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)
