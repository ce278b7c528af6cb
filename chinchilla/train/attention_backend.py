"""Which of torch's attention kernels is the fastest here: measured, once for each shape in a process.

Only on a GPU: there several give the same numbers but for rounding, and none is the fastest for all
shapes. On a CPU a run's bits must not follow from a clock, so torch's own choice stays.
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
WARM_UPS, TIMES = 3, 10  # passes of one layer
log = logging.getLogger("chinchilla.train")


def chosen(
    shape: ModelShape, rows: int, dtype: torch.dtype, device: torch.device
) -> AbstractContextManager[None]:
    """Where passes of `rows` rows run, forward and backward."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    masked = shape.positions == "relative"
    size = (rows, shape.n_heads, shape.seq_len, shape.kv_size)
    best = fastest(CANDIDATES, size, masked, dtype, device)
    return contextlib.nullcontext() if best is None else only(best)


@contextlib.contextmanager
def only(kernel: SDPBackend) -> Iterator[None]:
    """Attention by `kernel`, also in programs that come out of the compiler's cache on disk.

    Its keys do not know which kernels were allowed (torch 2.13): a program made for one would be
    taken where another was chosen.
    """
    import torch.compiler.config as compiler

    with sdpa_kernel(kernel), compiler.patch(cache_key_tag=kernel.name):  # type: ignore[attr-defined]
        yield


@functools.cache
def fastest(
    candidates: Iterable[SDPBackend],
    size: tuple[int, int, int, int],
    masked: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> SDPBackend | None:
    """The candidate that takes least time for one layer forward and backward; None if none can do it.

    Args:
        size: rows, heads, positions, width of a head.
        masked: with a learned bias on the scores (relative positions), not only causal.
    """
    seconds: dict[SDPBackend, float] = {}
    for backend in candidates:
        # Some cannot do some shapes, and say so only when they are asked to.
        with warnings.catch_warnings(), sdpa_kernel(backend):
            warnings.simplefilter("ignore")  # why one cannot
            try:
                seconds[backend] = _seconds(size, masked, dtype, device)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:
                continue
    best = min(seconds, key=seconds.__getitem__, default=None)
    log.info("attention of %s: %s", size, {b.name: f"{s:.2e} s" for b, s in seconds.items()})
    return best


def _seconds(
    size: tuple[int, int, int, int], masked: bool, dtype: torch.dtype, device: torch.device
) -> float:
    """Of one pass; q, k and v lie as `Attention` makes them, (rows, positions, heads, width) turned."""
    rows, heads, length, width = size
    leaves = [torch.randn(rows, length, heads, width, dtype=dtype, device=device) for _ in range(3)]
    bias = torch.zeros(rows, heads, length, length, dtype=dtype, device=device) if masked else None
    wanted = [x.requires_grad_() for x in (*leaves, bias) if x is not None]
    q, k, v = (x.transpose(1, 2) for x in leaves)

    def run(times: int) -> float:
        _wait(device)
        began = time.perf_counter()
        for _ in range(times):
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=not masked)
            torch.autograd.grad(y, wanted, torch.ones_like(y))
        _wait(device)
        return (time.perf_counter() - began) / times

    run(WARM_UPS)
    return run(TIMES)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
