"""The machine a run trains on: device, compute dtype, peak speed, memory, versions."""

import ctypes
import gc
import os
import platform
import resource
import sys
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from chinchilla.core.errors import InputError
from chinchilla.plan.records import RunSpec

# Dense bf16 FLOP/s by data sheet, matched against the device's name in this order.
PEAK_FLOPS = (
    ("H200", 989e12), ("H100 PCIe", 756e12), ("H100 NVL", 835e12), ("H100", 989e12),
    ("B200", 2250e12), ("A100", 312e12), ("L40S", 362e12), ("A10G", 70e12), ("A10", 125e12),
    ("L4", 121e12), ("RTX 4090", 165e12), ("RTX 3090", 71e12),
)  # fmt: skip
MEMORY_SHARE = 0.85  # of a GPU's free memory that the automatic micro-batch may plan for
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt
GLIBC_DEFAULTS = {M_TRIM_THRESHOLD: 128 * 1024, M_MMAP_MAX: 65_536}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "bf16_weights": torch.bfloat16}


Model = TypeVar("Model", bound=nn.Module)


def cast_weights(model: Model, spec: RunSpec) -> Model:
    """Turn the weights themselves into bf16 where `spec` wants no fp32 copy of them (figure A6)."""
    if spec.precision == "bf16_weights":
        for p in model.parameters():
            p.data = p.data.to(torch.bfloat16)
    return model


def pick_device(name: str) -> torch.device:
    """The device called `name`; auto is the first GPU, or the CPU.

    Raises:
        InputError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = check_device(name)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # streams, events and graphs are made on the current one
    return device


def check_device(name: str) -> torch.device:
    """A device that this machine has.

    Raises:
        InputError: it has not.
    """
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("not a device that training was tried on")
    except RuntimeError:
        raise InputError(
            f"runtime.device={name!r} is not a device that trains: auto, cpu, cuda or cuda:1."
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"runtime.device={name}: this machine shows {torch.cuda.device_count()} CUDA devices. Use runtime.device=cpu."
        )
    return device


def compiles(asked: str, device: torch.device) -> bool:
    """Whether runtime.compile_blocks = auto, always or never means to compile: auto does on a GPU.

    On a CPU compiling a shape takes as long as many a small run, and gains less than a tenth
    (docs/results/throughput_steps_cpu.json).
    """
    return asked == "always" or (asked == "auto" and device.type == "cuda")


def device_name(device: torch.device) -> str:
    """What a person calls it: the GPU's product name, or the CPU's with its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {_cpu_model()}, {torch.get_num_threads()} threads"


def peak_flops(device: torch.device) -> float | None:
    """Data-sheet dense bf16 FLOP/s, None where it is not known (CPUs)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAK_FLOPS if key in name), None)


def memory_room(device: torch.device) -> float:
    """Bytes the automatic micro-batch may plan for: MEMORY_SHARE of a GPU's, or half the host's.

    The host's whole memory counts, not what is free: a run's bits must not depend on its neighbours.
    """
    if device.type == "cuda":
        return MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]
    return 0.5 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def keep_freed_memory(device: torch.device) -> None:
    """Let this process keep what CPU tensors of its main thread free for the next ones, during a run.

    glibc gives large blocks back to the system as soon as they are freed, and each update asks for the
    same ones again: a page fault for every 4 KiB of them. With another C library, or in another thread,
    nothing changes. `free_as_usual` ends it.
    """
    _tell_malloc(device, {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1})


def free_as_usual(device: torch.device) -> None:
    """End `keep_freed_memory`: new memory goes back to the system once it is freed, as before."""
    _tell_malloc(device, GLIBC_DEFAULTS)


def _tell_malloc(device: torch.device, settings: dict[int, int]) -> None:
    if device.type == "cpu" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for key, value in settings.items():
            libc.mallopt(key, value)


def give_memory_back() -> None:
    """Give the system what a run of this process left: the next one's micro-batch may depend on it."""
    gc.collect()
    torch.cuda.empty_cache()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def reset_peak_memory(device: torch.device) -> None:
    """Start counting a run's own peak; a CPU's is that of the process and cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: allocated on the GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    found = {"python": platform.python_version(), "chinchilla": metadata.version("chinchilla-lab")}
    found |= {name: metadata.version(name) for name in ("torch", "numpy", "sentencepiece")}
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found


def _cpu_model() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
