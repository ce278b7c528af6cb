"""Parts of a block: linear maps with fp32 weights, rotary and Transformer-XL attention, FFN.

Weights are fp32 whatever the compute dtype; each use casts them to the activations' dtype, so the
same source trains in fp32 on a CPU and in bf16 on a GPU with fp32 master weights (section 4.1).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from chinchilla.core.parametrization import Multipliers, multipliers
from chinchilla.core.shapes import ModelShape
from chinchilla.model.compiling import compiled
from chinchilla.model.functions import rms_norm, rotate


class Linear(nn.Module):
    """y = x W^T (+ b) in x's dtype; weight (n_out, n_in) and bias (n_out,) stay fp32."""

    def __init__(self, n_in: int, n_out: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in))
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a gain, no bias (Gopher's choice)."""

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
    """Transformer-XL's encoding of distances seq_len-1 ... 0: (seq_len, width)."""
    rates = 10_000 ** (-torch.arange(0, width, 2, device=device).float() / width)
    angles = torch.outer(torch.arange(seq_len - 1, -1, -1, device=device).float(), rates)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)[:, :width]


def relative_shift(x: Tensor) -> Tensor:
    """Turn scores by distance into scores by key: (..., T, T) to (..., T, T).

    Column k of the input scores distance T-1-k. Column j of the output scores distance i-j for
    query i; entries with j > i are meaningless and must be masked (Dai et al. 2019, appendix B).
    """
    *batch, T, _ = x.shape
    return F.pad(x, (1, 0)).reshape(*batch, T + 1, T)[..., 1:, :]


class Attention(nn.Module):
    """Causal self-attention over n_heads heads of kv_size; positions rotary or relative."""

    def __init__(self, shape: ModelShape, by: Multipliers | None = None) -> None:
        super().__init__()
        d, q = shape.d_model, shape.inner
        self.scale = (by or multipliers(shape)).attention
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
        """x (B, T, d_model); positions: rope_angles or sinusoid. Gives (B, T, d_model)."""
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
            turned = rotate(qk.unflatten(-1, (-1, self.kv_size)), positions)
            q, k = turned.transpose(-3, -2).chunk(2, -3)  # (B, n_heads, T, kv_size) each
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

    With `recompute` only the input is kept for the backward pass, which runs the block again.
    """

    def __init__(
        self, shape: ModelShape, recompute: bool = False, by: Multipliers | None = None
    ) -> None:
        super().__init__()
        self.recompute = recompute
        residual = (by or multipliers(shape)).residual
        self.scaled = residual != 1.0
        # A tensor: compiled programs take it as an input, so that depths share them.
        self.residual: Tensor
        self.register_buffer("residual", torch.tensor(residual), persistent=False)
        self.attention_norm = RMSNorm(shape.d_model)
        self.attention = Attention(shape, by)
        self.ffw_norm = RMSNorm(shape.d_model)
        self.ffw = FeedForward(shape)

    def forward(self, x: Tensor, positions: Tensor, compile_it: bool = False) -> Tensor:
        """x (B, T, d_model) and what `Transformer.position_table` gives; (B, T, d_model)."""
        run = compiled(Block.work) if compile_it else Block.work
        y: Tensor
        if self.recompute and torch.is_grad_enabled():
            y = checkpoint(run, self, x, positions, use_reentrant=False, preserve_rng_state=False)
        else:
            y = run(self, x, positions)
        return y

    def work(self, x: Tensor, positions: Tensor) -> Tensor:
        """What is compiled: nothing in it may depend on anything but shapes."""
        if not self.scaled:
            x = x + self.attention(self.attention_norm(x), positions)
            return x + self.ffw(self.ffw_norm(x))
        x = x + self.residual * self.attention(self.attention_norm(x), positions)
        return x + self.residual * self.ffw(self.ffw_norm(x))
