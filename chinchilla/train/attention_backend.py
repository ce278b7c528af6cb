"""Choose torch's fastest attention kernel for each shape, by measuring once per process.

GPU only: several kernels compute the same attention up to rounding, and none is the fastest for all
shapes. On a CPU the bits of a run must not depend on a timing, so torch's default stays.
"""

import contextlib
import functools
import logging
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from chinchilla.core.shapes import ModelShape

CANDIDATES = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
)
WARMUP_PASSES, TIMED_PASSES = 3, 10  # of one layer
log = logging.getLogger("chinchilla.train")


def fastest_attention(
    shape: ModelShape, rows: int, dtype: torch.dtype, device: torch.device
) -> AbstractContextManager[None]:
    """Context for forward and backward passes of `rows` rows; it selects the fastest kernel."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    masked = shape.positions == "relative"
    size = (rows, shape.n_heads, shape.seq_len, shape.kv_size)
    backend = fastest_backend(CANDIDATES, size, masked, dtype, device)
    return contextlib.nullcontext() if backend is None else restrict_to(backend)


@contextlib.contextmanager
def restrict_to(backend: SDPBackend) -> Iterator[None]:
    """Allow only `backend`, and tag compiled programs with it.

    The keys of torch's on-disk compiler cache do not contain the allowed backends (torch 2.13), so
    without the tag a program compiled for another backend could be loaded.
    """
    import torch.compiler.config as compiler

    with sdpa_kernel(backend), compiler.patch(cache_key_tag=backend.name):  # type: ignore[attr-defined]
        yield


@functools.cache
def fastest_backend(
    candidates: Iterable[SDPBackend],
    size: tuple[int, int, int, int],
    masked: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> SDPBackend | None:
    """The fastest candidate for one layer, forward and backward; None if none supports it.

    Args:
        candidates: backends to measure.
        size: rows, heads, positions, width of a head.
        masked: with an additive bias on the scores (relative positions) instead of `is_causal`.
        dtype: of the activations.
        device: a GPU; tests also use the CPU.
    """
    seconds: dict[SDPBackend, float] = {}
    for backend in candidates:
        with warnings.catch_warnings(), sdpa_kernel(backend):
            warnings.simplefilter("ignore")  # reasons why a backend does not support the size
            try:
                seconds[backend] = _seconds(size, masked, dtype, device)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # the only way to learn that a size is not supported
                continue
    log.info("attention of %s: %s", size, {b.name: f"{s:.2e} s" for b, s in seconds.items()})
    return min(seconds, key=seconds.__getitem__, default=None)


def _seconds(
    size: tuple[int, int, int, int], masked: bool, dtype: torch.dtype, device: torch.device
) -> float:
    """Mean time of one pass, with q, k and v in the memory layout of `Attention`."""
    rows, heads, length, width = size
    leaves = [torch.randn(rows, length, heads, width, dtype=dtype, device=device) for _ in range(3)]
    bias = torch.zeros(rows, heads, length, length, dtype=dtype, device=device) if masked else None
    inputs = [x.requires_grad_() for x in (*leaves, bias) if x is not None]
    q, k, v = (x.transpose(1, 2) for x in leaves)

    def synchronize() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def run(n: int) -> float:
        synchronize()
        start = time.perf_counter()
        for _ in range(n):
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=not masked)
            torch.autograd.grad(y, inputs, torch.ones_like(y))
        synchronize()
        return (time.perf_counter() - start) / n

    run(WARMUP_PASSES)
    return run(TIMED_PASSES)
