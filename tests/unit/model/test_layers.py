"""Attention and the encodings of positions."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chinchilla.core.parametrization import multipliers
from chinchilla.core.shapes import ModelShape
from chinchilla.model.functions import rotate
from chinchilla.model.layers import Attention, relative_shift, rope_angles, sinusoid

torch.set_num_threads(1)


def test_relative_shift_puts_distances_under_their_keys():
    """Column k scores distance T-1-k, so key j of query i must get column T-1-(i-j)."""
    for T in (1, 2, 5, 8):
        x = torch.arange(3 * T * T).view(3, T, T)
        shifted = relative_shift(x)
        for i in range(T):
            for j in range(i + 1):
                assert torch.equal(shifted[:, i, j], x[:, i, T - 1 - (i - j)])


def transformer_xl_attention(layer: Attention, x: Tensor) -> Tensor:
    """Dai et al. (2019), section 3.3, one score at a time: (a) + (b) + (c) + (d)."""
    B, T, d = x.shape
    H, K = layer.n_heads, layer.kv_size
    y = torch.zeros(B, T, H * K, dtype=x.dtype)
    q, k, v = F.linear(x, layer.qkv.weight.to(x.dtype)).chunk(3, -1)
    u, w = layer.u.to(x.dtype), layer.v.to(x.dtype)
    W_R = layer.distance.weight.to(x.dtype)
    for b in range(B):
        for h in range(H):
            head = slice(h * K, (h + 1) * K)
            for i in range(T):
                scores = []
                for j in range(i + 1):
                    angles = (i - j) / 10_000 ** (torch.arange(0, d, 2, dtype=x.dtype) / d)
                    R = torch.cat((angles.sin(), angles.cos()))  # (d,), of distance i-j
                    r = (W_R @ R)[head]
                    scores.append(
                        (q[b, i, head] @ k[b, j, head] + q[b, i, head] @ r)
                        + (u[head] @ k[b, j, head] + w[head] @ r)
                    )
                share = (torch.stack(scores) / math.sqrt(K)).softmax(0)
                y[b, i, head] = share @ v[b, : i + 1, head]
    return F.linear(y, layer.out.weight.to(x.dtype), layer.out.bias.to(x.dtype))


def test_relative_attention_is_transformer_xls_formula():
    torch.manual_seed(0)
    shape = ModelShape(16, 64, 4, 3, 1, 64, 12, "relative")
    layer = Attention(shape, multipliers(shape))
    for p in layer.parameters():  # u, v and biases too, which start at zero
        torch.nn.init.normal_(p, std=0.4)
    x = torch.randn(2, 9, 16)  # shorter than seq_len: the farthest distances go unused
    with torch.no_grad():
        got = layer(x, sinusoid(shape.seq_len, shape.d_model))
        expected = transformer_xl_attention(layer, x.double())
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(got.double(), expected, atol=3e-6, rtol=3e-6)


def test_sinusoid_counts_distances_down_to_zero():
    table = sinusoid(7, 6)
    assert torch.equal(table[-1], torch.tensor([0.0, 0, 0, 1, 1, 1]))
    assert table[0, 0] == pytest.approx(math.sin(6), abs=1e-6)


def test_rotary_scores_depend_only_on_distance():
    torch.manual_seed(0)
    angles = rope_angles(64, 16)
    q, k = (torch.randn(16).expand(1, 64, 1, 16) for _ in range(2))
    q, k = (rotate(x, angles)[0, :, 0] for x in (q, k))
    scores = q @ k.T  # (64, 64)
    for distance in (0, 1, 17, 63):
        along = scores.diagonal(-distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), atol=2e-5, rtol=0)
    assert scores[40].std() > 0.1  # and do depend on it


def test_rotation_keeps_lengths():
    x = torch.randn(2, 64, 3, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rotate(x, rope_angles(64, 16)).norm(dim=-1), x.norm(dim=-1))
