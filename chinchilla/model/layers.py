"""Layers of a transformer block: linear, RMSNorm, attention (rotary or Transformer-XL), FFN.

Weights are fp32 for every compute dtype and are cast to the activations' dtype where they are used.
The same code therefore trains in fp32 on a CPU and in bf16 with fp32 master weights on a GPU
(section 4.1).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from chinchilla.core.parametrization import Multipliers
from chinchilla.core.shapes import ModelShape
from chinchilla.model.compiling import compiled
from chinchilla.model.functions import rms_norm, rotate


class Linear(nn.Module):
    """y = x W^T (+ b) in x's dtype, with fp32 weight (n_out, n_in) and bias (n_out,)."""

    def __init__(self, n_in: int, n_out: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in))
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class RMSNorm(nn.Module):
    """Root-mean-square normalization with a gain and no bias, as in Gopher."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.gain)


def rope_angles(seq_len: int, kv_size: int, device: torch.device | None = None) -> Tensor:
    """cos and sin of rotary positions (Su et al. 2021), stacked: (2, seq_len, kv_size / 2)."""
    rates = 10_000 ** (-torch.arange(0, kv_size, 2, device=device).float() / kv_size)
    angles = torch.outer(torch.arange(seq_len, device=device).float(), rates)
    return torch.stack((angles.cos(), angles.sin()))


def sinusoid(seq_len: int, width: int, device: torch.device | None = None) -> Tensor:
    """Transformer-XL's sinusoidal encoding of distances seq_len-1 ... 0: (seq_len, width)."""
    rates = 10_000 ** (-torch.arange(0, width, 2, device=device).float() / width)
    angles = torch.outer(torch.arange(seq_len - 1, -1, -1, device=device).float(), rates)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)[:, :width]


def relative_shift(x: Tensor) -> Tensor:
    """Reorder scores by distance into scores by key: (..., T, T) to (..., T, T).

    Column k of the input is the score of distance T-1-k. Column j of the output is the score of
    distance i-j for query i; entries with j > i are undefined and must be masked (Dai et al. 2019,
    appendix B).
    """
    *batch, T, _ = x.shape
    return F.pad(x, (1, 0)).reshape(*batch, T + 1, T)[..., 1:, :]


class Attention(nn.Module):
    """Causal self-attention with n_heads heads of kv_size, and rotary or relative positions."""

    def __init__(self, shape: ModelShape, factors: Multipliers) -> None:
        super().__init__()
        d, q = shape.d_model, shape.inner
        self.scale = factors.attention
        self.n_heads, self.kv_size = shape.n_heads, shape.kv_size
        self.qkv = Linear(d, 3 * q)  # rows: query, key, value
        self.out = Linear(q, d, bias=True)
        self.relative = shape.positions == "relative"
        if self.relative:
            self.distance = Linear(d, q)
            self.u = nn.Parameter(torch.zeros(q))  # added to the query for content scores
            self.v = nn.Parameter(torch.zeros(q))  # added to the query for distance scores

    def _heads(self, x: Tensor) -> Tensor:
        """(..., T, n * kv_size) to (..., n, T, kv_size)."""
        return x.unflatten(-1, (-1, self.kv_size)).transpose(-3, -2)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """(B, T, d_model) to (B, T, d_model); positions are those of rope_angles or sinusoid."""
        T, inner = x.shape[-2], self.n_heads * self.kv_size
        qk, v = self.qkv(x).split((2 * inner, inner), -1)
        v = self._heads(v)  # (B, n_heads, T, kv_size)
        if self.relative:
            q, k = qk.chunk(2, -1)
            r = self._heads(self.distance(positions[-T:].to(x.dtype)))  # (n_heads, T, kv_size)
            by_distance = self._heads(q + self.v.to(x.dtype)) @ r.transpose(-1, -2)
            future = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)
            bias = relative_shift(by_distance).masked_fill(future, -torch.inf)
            y = F.scaled_dot_product_attention(
                self._heads(q + self.u.to(x.dtype)),
                self._heads(k),
                v,
                attn_mask=bias * self.scale,
                scale=self.scale,
            )
        else:
            rotated = rotate(qk.unflatten(-1, (-1, self.kv_size)), positions)
            q, k = rotated.transpose(-3, -2).chunk(2, -3)  # (B, n_heads, T, kv_size) each
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        return self.out(y.transpose(-3, -2).flatten(-2))


class FeedForward(nn.Module):
    """Two linear maps with biases around a GELU of width ffw_size."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.up = Linear(shape.d_model, shape.ffw_size, bias=True)
        self.down = Linear(shape.ffw_size, shape.d_model, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + FFN(norm(x)).

    With `recompute` only the input is kept, and the backward pass runs the block again (activation
    checkpointing).
    """

    def __init__(self, shape: ModelShape, factors: Multipliers, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.scaled = factors.residual != 1.0
        # As a buffer it is an input of the compiled program, which all depths can thus share.
        self.residual: Tensor
        self.register_buffer("residual", torch.tensor(factors.residual), persistent=False)
        self.attention_norm = RMSNorm(shape.d_model)
        self.attention = Attention(shape, factors)
        self.ffw_norm = RMSNorm(shape.d_model)
        self.ffw = FeedForward(shape)

    def forward(self, x: Tensor, positions: Tensor, compiled_block: bool = False) -> Tensor:
        """(B, T, d_model) to (B, T, d_model); positions are from `Transformer.position_table`."""
        run = compiled(Block.compute) if compiled_block else Block.compute
        y: Tensor
        if self.recompute and torch.is_grad_enabled():
            y = checkpoint(run, self, x, positions, use_reentrant=False, preserve_rng_state=False)
        else:
            y = run(self, x, positions)
        return y

    def compute(self, x: Tensor, positions: Tensor) -> Tensor:
        """The part that is compiled. Its program may depend on shapes only."""
        if not self.scaled:
            x = x + self.attention(self.attention_norm(x), positions)
            return x + self.ffw(self.ffw_norm(x))
        x = x + self.residual * self.attention(self.attention_norm(x), positions)
        return x + self.residual * self.ffw(self.ffw_norm(x))
