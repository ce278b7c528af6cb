"""Pieces of the model whose gradients are written out by hand.

What autograd would do with them reads and writes the same numbers several times over, and keeps
more of them. Each formula is the textbook's; tests/unit/model/test_functions.py compares values and
gradients with autograd's in fp64.
"""

import torch
from torch import Tensor
from torch.autograd import Function

NORM_EPS = 1e-6
CHUNK_BYTES = {"cpu": 16 << 20, "cuda": 512 << 20}  # of fp32 logits held at a time


def _wide(x: Tensor) -> torch.dtype:
    """What sums over x are kept in: fp32, or fp64 where x is."""
    return torch.promote_types(x.dtype, torch.float32)


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    """x over its root mean square along the last dimension, times gain, in x's dtype.

    Args:
        x: (..., width).
        gain: (width,), any dtype.
    """
    y: Tensor = _RMSNorm.apply(x, gain)
    return y


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx, x: Tensor, gain: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=_wide(x))
        scale = (length.square() / x.shape[-1] + NORM_EPS).rsqrt()  # (..., 1)
        h = (x * scale).to(x.dtype)
        ctx.save_for_backward(h, scale, gain)
        return h * gain.to(x.dtype)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
        h, scale, gain = ctx.saved_tensors
        along = dy * h
        d_gain = along.flatten(0, -2).sum(0, dtype=_wide(h)).to(gain.dtype)
        mean = (along @ gain.to(h.dtype)).unsqueeze(-1) / h.shape[-1]
        dx = torch.addcmul(dy * gain.to(h.dtype), h, mean, value=-1) * scale
        return dx.to(h.dtype), d_gain


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the halves of each head by its position's angles (Su et al. 2021).

    Args:
        x: (..., T, n_heads, kv_size).
        angles: cos and sin, (2, >= T, kv_size / 2).
    """
    cos, sin = angles[:, : x.shape[-3], None].to(x.dtype)
    y: Tensor = _Rotation.apply(x, cos, sin)
    return y


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return torch.cat(
        (torch.addcmul(left * cos, right, sin, value=-1), torch.addcmul(right * cos, left, sin)), -1
    )


class _Rotation(Function):
    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        cos, sin = ctx.saved_tensors
        return _turned(dy, cos, -sin), None, None


def total_loss(x: Tensor, embedding: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Sum of the targets' cross-entropies under logits x @ embedding.T + bias, nats, a float64 scalar.

    The logits of all tokens never exist together: a chunk of rows is turned into losses and
    gradients before the next one is looked at. Cross-entropy is computed in fp32.

    Args:
        x: (n, d_model) in the compute dtype.
        embedding: (vocab_size, d_model), any dtype.
        bias: (vocab_size,), any dtype.
        targets: (n,) token ids.
    """
    y: Tensor = _TotalLoss.apply(x, embedding, bias, targets)
    return y


class _TotalLoss(Function):
    @staticmethod
    def forward(ctx, x: Tensor, embedding: Tensor, bias: Tensor, targets: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        weight, b = embedding.to(x.dtype), bias.to(x.dtype)
        rows = max(1, CHUNK_BYTES.get(x.device.type, 16 << 20) // (4 * len(weight)))
        pieces = list(zip(x.split(rows), targets.split(rows), strict=True))
        wide = _wide(x)
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        if not any(ctx.needs_input_grad):
            for piece, t in pieces:
                total += losses(torch.addmm(b, piece, weight.t()).to(wide), t).sum(
                    dtype=total.dtype
                )
            return total
        dx = torch.empty_like(x)
        dW = torch.zeros_like(weight, dtype=wide)
        db = torch.zeros_like(b, dtype=wide)
        for (piece, t), d_piece in zip(pieces, dx.split(rows), strict=True):
            loss, d = losses_and_gradients(torch.addmm(b, piece, weight.t()).to(wide), t)
            total += loss.sum(dtype=total.dtype)
            db += d.sum(0)
            d = d.to(x.dtype)
            torch.mm(d, weight, out=d_piece)
            if x.dtype == wide:
                dW.addmm_(d.t(), piece)
            else:
                dW += d.t() @ piece
        ctx.save_for_backward(dx, dW, db)
        ctx.dtypes = embedding.dtype, bias.dtype
        return total

    @staticmethod
    def backward(ctx, scale: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[no-untyped-def]
        dx, dW, db = ctx.saved_tensors
        scale = scale.to(dW.dtype)
        of_weight, of_bias = ctx.dtypes
        # In place: nobody else holds them, and a second backward would be a mistake.
        return dx.mul_(scale), dW.mul_(scale).to(of_weight), db.mul_(scale).to(of_bias), None


def losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each target, nats: logits (n, vocab_size), targets (n,), gives (n,)."""
    of_target = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    return logits.logsumexp(1) - of_target


def losses_and_gradients(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """`losses`, and the gradient of each with respect to its row of logits: (n,), (n, vocab_size)."""
    t = targets.unsqueeze(1)
    of_target = logits.gather(1, t).squeeze(1)
    largest = logits.amax(1)
    p = logits.softmax(1)
    # The largest probability is at least 1 / vocab_size, so its logarithm is exact enough.
    loss = largest - p.amax(1).log() - of_target
    return loss, p.scatter_add_(1, t, p.new_full((1, 1), -1.0).expand_as(t))
