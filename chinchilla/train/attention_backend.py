"""Choose torch's fastest attention kernel for each shape, by measuring once per process.

GPU only: several kernels compute the same attention up to rounding, and none is the fastest for all
shapes. FlashAttention-3 is one of them where its package (flash_attn_interface) is installed and the
GPU is a Hopper: torch calls it in place of its own flash kernel once it is activated. On a CPU the
bits of a run must not depend on a timing, so torch's default stays.
"""

import contextlib
import functools
import importlib.util
import logging
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch.nn import attention
from torch.nn.attention import SDPBackend, sdpa_kernel

from chinchilla.core.errors import one_line
from chinchilla.core.shapes import ModelShape

FA3 = "FA3"  # torch's name of FlashAttention-3
Kernel = SDPBackend | str
CANDIDATES: tuple[Kernel, ...] = (
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
    kernel = fastest_kernel(shape, rows, dtype, device)
    return contextlib.nullcontext() if kernel is None else restrict_to(kernel)


def fastest_kernel(
    shape: ModelShape, rows: int, dtype: torch.dtype, device: torch.device
) -> Kernel | None:
    """The fastest kernel for passes of `rows` rows; None = torch's default."""
    if device.type != "cuda":
        return None
    masked = shape.positions == "relative"
    size = (rows, shape.n_heads, shape.seq_len, shape.kv_size)
    return fastest_backend(candidates_on(device), size, masked, dtype, device)


@functools.cache
def candidates_on(device: torch.device) -> tuple[Kernel, ...]:
    """The kernels to measure on a GPU."""
    hopper = torch.cuda.get_device_capability(device)[0] == 9
    if hopper and FA3 in attention.list_flash_attention_impls():
        if importlib.util.find_spec("flash_attn_interface"):
            return (FA3, *CANDIDATES)
        log.info("FlashAttention-3 is not used: flash_attn_interface is not installed")
    return CANDIDATES


def name_of(kernel: Kernel | None) -> str:
    """Name of a kernel in messages and results."""
    return "default" if kernel is None else kernel if isinstance(kernel, str) else kernel.name


@contextlib.contextmanager
def restrict_to(kernel: Kernel) -> Iterator[None]:
    """Allow only `kernel`, and tag compiled programs with it.

    The keys of torch's on-disk compiler cache do not contain the allowed backends (torch 2.13), so
    without the tag a program compiled for another backend could be loaded.
    """
    import torch.compiler.config as compiler

    wanted = FA3 if kernel == FA3 else None
    if attention.current_flash_attention_impl() != wanted:
        if wanted:
            attention.activate_flash_attention_impl(FA3)
        else:
            attention.restore_flash_attention_impl()
    backend = SDPBackend.FLASH_ATTENTION if isinstance(kernel, str) else kernel
    with sdpa_kernel(backend), compiler.patch(cache_key_tag=name_of(kernel)):  # type: ignore[attr-defined]
        yield


@functools.cache
def fastest_backend(
    candidates: Iterable[Kernel],
    size: tuple[int, int, int, int],
    masked: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> Kernel | None:
    """The fastest candidate for one layer, forward and backward; None if none supports it.

    Args:
        candidates: kernels to measure.
        size: rows, heads, positions, width of a head.
        masked: with an additive bias on the scores (relative positions) instead of `is_causal`.
        dtype: of the activations.
        device: a GPU; tests also use the CPU.
    """
    seconds: dict[Kernel, float] = {}
    for kernel in candidates:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # reasons why a kernel does not support the size
            try:
                with restrict_to(kernel):
                    seconds[kernel] = _seconds(size, masked, dtype, device)
            except torch.OutOfMemoryError:
                raise
            except (ImportError, RuntimeError) as error:  # how torch says that it does not
                log.info("attention of %s: no %s: %s", size, name_of(kernel), one_line(error, 200))
    log.info("attention of %s: %s", size, {name_of(k): f"{s:.2e} s" for k, s in seconds.items()})
    if not seconds:
        log.warning(
            "no fast attention kernel supports %s %s: torch's default is used, which may be slow and "
            "need more memory", size, dtype,
        )  # fmt: skip
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
