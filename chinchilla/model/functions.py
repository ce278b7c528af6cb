"""Normalization, rotary embedding and loss with hand-written gradients.

Autograd would read and write the same values several times and save more of them for the backward
pass. tests/unit/model/test_functions.py compares values and gradients with those of autograd in
fp64. On a CPU, RMSNorm takes about half the time of F.rms_norm, forward and backward.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from chinchilla.model.compiling import compiled
from chinchilla.plan.memory import loss_chunk_rows, padded_vocab

NORM_EPS = 1e-6


def _sum_dtype(x: Tensor) -> torch.dtype:
    """The dtype of sums over x: fp64 if x is fp64, else fp32."""
    return torch.promote_types(x.dtype, torch.float32)


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    """Divide x by its root mean square along the last dimension, multiply by gain; in x's dtype.

    Args:
        x: (..., width).
        gain: (width,), any dtype.
    """
    y: Tensor = _RMSNorm.apply(x, gain)
    return y


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx, x: Tensor, gain: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=_sum_dtype(x))
        scale = (norm.square() / x.shape[-1] + NORM_EPS).rsqrt()  # (..., 1)
        h = (x * scale).to(x.dtype)
        ctx.save_for_backward(h, scale, gain)
        return h * gain.to(x.dtype)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
        h, scale, gain = ctx.saved_tensors
        dy_h = dy * h
        d_gain = dy_h.flatten(0, -2).sum(0, dtype=_sum_dtype(h)).to(gain.dtype)
        mean = (dy_h @ gain.to(h.dtype)).unsqueeze(-1) / h.shape[-1]
        dx = torch.addcmul(dy * gain.to(h.dtype), h, mean, value=-1) * scale
        return dx.to(h.dtype), d_gain


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary position embedding: rotate the halves of each head (Su et al. 2021).

    Args:
        x: (..., T, n_heads, kv_size).
        angles: cos and sin of the positions, (2, >= T, kv_size / 2).
    """
    cos, sin = angles[:, : x.shape[-3], None].to(x.dtype)
    y: Tensor = _Rotation.apply(x, cos, sin)
    return y


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return torch.cat(
        (torch.addcmul(left * cos, right, sin, value=-1), torch.addcmul(right * cos, left, sin)), -1
    )


class _Rotation(Function):
    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        cos, sin = ctx.saved_tensors
        return _rotated(dy, cos, -sin), None, None


def total_loss(
    x: Tensor, embedding: Tensor, bias: Tensor, targets: Tensor, compile_chunks: bool = False
) -> Tensor:
    """Sum of the cross-entropies of the targets under logits x @ embedding.T + bias.

    Losses and gradients are computed one chunk of rows at a time, so that the logits of all rows
    are never in memory together. Cross-entropy is computed in fp32. The vocabulary may be padded
    for speed (`memory.padded_vocab`); padding has probability zero.

    Args:
        x: (n, d_model) in the compute dtype.
        embedding: (vocab_size, d_model), any dtype.
        bias: (vocab_size,), any dtype.
        targets: (n,) token ids.
        compile_chunks: compile the work on a chunk.

    Returns:
        Scalar, nats, float64.
    """
    # Inside a Function, gradients are always disabled, so the gradient mode is read here.
    with_gradients = torch.is_grad_enabled()
    y: Tensor = _TotalLoss.apply(x, embedding, bias, targets, compile_chunks, with_gradients)
    return y


class _TotalLoss(Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        x: Tensor,
        embedding: Tensor,
        bias: Tensor,
        targets: Tensor,
        compile_chunks: bool,
        with_gradients: bool,
    ) -> Tensor:
        device = "cuda" if x.is_cuda else "cpu"
        weight, b = embedding.to(x.dtype), bias.to(x.dtype)
        pad = padded_vocab(len(embedding), device) - len(embedding)
        if pad and (with_gradients or x.is_cuda):  # on a CPU padding only speeds up gradients
            weight, b = F.pad(weight, (0, 0, 0, pad)), F.pad(b, (0, pad), value=-math.inf)
        rows = loss_chunk_rows(len(weight), device)
        pieces = zip(x.split(rows), targets.split(rows), strict=True)
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        if not with_gradients:
            for piece, t in pieces:
                total += chunk_loss(piece, weight, b, t)
            return total
        chunk = compiled(chunk_gradients) if compile_chunks else chunk_gradients
        dx, sum_dtype = torch.empty_like(x), _sum_dtype(x)
        dW = torch.zeros_like(weight, dtype=sum_dtype)
        db = torch.zeros_like(b, dtype=sum_dtype)
        for (piece, t), d_piece in zip(pieces, dx.split(rows), strict=True):
            loss, d, d_bias = chunk(piece, weight, b, t)
            total += loss
            db += d_bias
            torch.mm(d, weight, out=d_piece)
            if x.dtype == sum_dtype:
                dW.addmm_(d.t(), piece)
            else:
                dW += d.t() @ piece
        ctx.save_for_backward(dx, dW[: len(embedding)], db[: len(bias)])
        ctx.dtypes = embedding.dtype, bias.dtype
        return total

    @staticmethod
    def backward(ctx, scale: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        dx, dW, db = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        # In place: the saved gradients are used once, since a second backward pass is not supported.
        scale = scale.to(dW.dtype)
        return (
            dx.mul_(scale),
            dW.mul_(scale).to(weight_dtype),
            db.mul_(scale).to(bias_dtype),
            *[None] * 3,
        )


def chunk_loss(x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropies of a chunk of rows, a float64 scalar."""
    logits = torch.addmm(bias, x, weight.t()).to(_sum_dtype(x))
    target_logits = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    return (logits.logsumexp(1) - target_logits).sum(dtype=torch.float64)


def chunk_gradients(
    x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`chunk_loss` with its gradients for logits (n, vocab_size), in x's dtype, and bias, in fp32."""
    logits = torch.addmm(bias, x, weight.t()).to(_sum_dtype(x))
    t = targets.unsqueeze(1)
    target_logits = logits.gather(1, t).squeeze(1)
    largest = logits.amax(1)
    if torch.compiler.is_compiling():
        # Subtracting 1 by comparison lets the compiler compute the gradient from the logits in one
        # pass. An indexed addition would need fp32 probabilities in memory, written and read again.
        p = logits.softmax(1)
        d = p - (torch.arange(len(weight), device=t.device) == t).to(p.dtype)
        largest_p = p.amax(1)
    else:
        p = torch.softmax(logits, 1, out=logits)  # in place
        largest_p = p.amax(1)
        d = p.scatter_add_(1, t, -torch.ones_like(t, dtype=p.dtype))
    # The largest probability is at least 1 / vocab_size, so its logarithm is accurate enough.
    loss = (largest - largest_p.log() - target_logits).sum(dtype=torch.float64)
    return loss, d.to(x.dtype), d.sum(0)
