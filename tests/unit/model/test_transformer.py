import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chinchilla.core.paper import TABLE_A9
from chinchilla.core.shapes import ModelShape, n_params, named_shapes, shape_named
from chinchilla.model import Transformer

POSITIONS = ("rope", "relative")
torch.set_num_threads(1)


def small(positions: str, d_model: int = 32, n_layers: int = 2) -> ModelShape:
    return ModelShape(d_model, 4 * d_model, 8, d_model // 8, n_layers, 64, 24, positions)


def built(
    positions: str = "rope", dtype: torch.dtype = torch.float32, seed: int = 0
) -> Transformer:
    return Transformer(small(positions), dtype).init_weights(seed)


def random_tokens(rows: int, length: int, vocab_size: int = 64, seed: int = 0) -> Tensor:
    return torch.randint(vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed))


@functools.cache  # two tests count the same shapes
def on_meta(shape: ModelShape) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in Transformer(shape).parameters())


# Size


@pytest.mark.parametrize("positions", POSITIONS)
def test_every_named_model_has_the_parameters_that_shapes_counts(positions: str):
    for name in named_shapes():
        shape = shape_named(name, 32_000, 2_048, 64, positions)
        assert on_meta(shape) == n_params(shape), name


def test_models_with_relative_positions_have_table_a9s_sizes():
    for row in TABLE_A9:
        shape = ModelShape(
            row.d_model, row.ffw_size, row.kv_size, row.n_heads, row.n_layers, 32_000, 2_048, "relative"
        )  # fmt: skip
        assert round(on_meta(shape) / 1e6) == row.params_M


def test_heads_need_not_fill_the_width():
    """Six rows of Table A9 have n_heads * kv_size != d_model."""
    shape = ModelShape(24, 96, 8, 2, 1, 64, 16, "relative")
    model = Transformer(shape).init_weights(0)
    assert sum(p.numel() for p in model.parameters()) == n_params(shape)
    assert model(random_tokens(1, 16)).shape == (1, 16, 64)


# Causality


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("place", [1, 11, 23])
def test_a_token_changes_no_earlier_logit(positions: str, place: int):
    model = built(positions)
    tokens = random_tokens(2, 24)
    other = tokens.clone()
    other[:, place] = (other[:, place] + 1) % 64
    with torch.no_grad():
        before, after = model(tokens), model(other)
    assert torch.equal(before[:, :place], after[:, :place])
    assert not torch.equal(before[:, place:], after[:, place:])


@pytest.mark.parametrize("positions", POSITIONS)
def test_the_logits_of_a_prefix_are_a_prefix_of_the_logits(positions: str):
    model, tokens = built(positions), random_tokens(2, 24)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens[:, :9]), model(tokens)[:, :9], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", POSITIONS)
def test_order_of_earlier_tokens_matters(positions: str):
    """One attention layer without positions would be invariant to their order."""
    model = Transformer(small(positions, n_layers=1)).init_weights(0)
    tokens = random_tokens(1, 24)
    swapped = tokens.clone()
    swapped[0, :20] = tokens[0, :20].flip(0)
    with torch.no_grad():
        assert (model(tokens)[0, -1] - model(swapped)[0, -1]).abs().max() > 1e-3


# Start of training


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("d_model", [16, 64, 256])
def test_the_initial_loss_is_near_uniform_at_every_width(d_model: int, positions: str):
    """Unit-variance logits cost ln V + 1/2: the log of the mean of exp(normal)."""
    shape = ModelShape(d_model, 4 * d_model, 8, d_model // 8, 4, 2_000, 32, positions)
    model = Transformer(shape).init_weights(1)
    tokens = random_tokens(8, 33, 2_000)
    with torch.no_grad():
        logits = model(tokens[:, :-1])
        loss = model(tokens[:, :-1], tokens[:, 1:]).item() / (8 * 32)
    assert logits.std().item() == pytest.approx(1.0, abs=0.1)
    assert loss == pytest.approx(math.log(2_000) + 0.5, abs=0.2)


@pytest.mark.parametrize("positions", POSITIONS)
def test_initial_weights_depend_only_on_the_seed(positions: str):
    one, same, other = built(positions, seed=3), built(positions, seed=3), built(positions, seed=4)
    for (name, a), b, c in zip(
        one.named_parameters(), same.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(a, b)
        if a.dim() > 1:
            assert not torch.equal(a, c), name


def test_weights_do_not_depend_on_torchs_global_seed():
    torch.manual_seed(1)
    one = built()
    torch.manual_seed(2)
    assert torch.equal(one.embedding, built().embedding)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_weight_gets_a_finite_fp32_gradient(positions: str, dtype: torch.dtype):
    model, tokens = built(positions, dtype), random_tokens(4, 25)
    (model(tokens[:, :-1], tokens[:, 1:]) / 96).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.dtype == p.grad.dtype == torch.float32, name
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.any(), name


@pytest.mark.parametrize("positions", POSITIONS)
def test_bf16_activations_change_the_loss_little(positions: str):
    """bf16 keeps 8 bits: a mean over 1,200 tokens agrees to a few thousandths of a nat."""
    tokens = random_tokens(50, 25)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        with torch.no_grad():
            logits = built(positions, dtype)(tokens[:, :-1])
        assert logits.dtype == dtype
        found[dtype] = F.cross_entropy(
            logits.float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
        )
    full, half = found[torch.float32], found[torch.bfloat16]
    assert half.mean().item() == pytest.approx(full.mean().item(), abs=3e-3)
    assert (full - half).abs().max() > 0
