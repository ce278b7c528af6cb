"""The hardware and software of a run: device, precision, memory, timing, versions."""

import ctypes
import gc
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import torch

from chinchilla.core.errors import InputError
from chinchilla.plan.memory import MEMORY_SHARE

# Dense bf16 FLOP/s from data sheets. The first key contained in the device's name applies.
PEAK_FLOPS = (
    ("H200", 989e12), ("H100 PCIe", 756e12), ("H100 NVL", 835e12), ("H100", 989e12),
    ("B200", 2250e12), ("A100", 312e12), ("L40S", 362e12), ("A10G", 70e12), ("A10", 125e12),
    ("L4", 121e12), ("RTX 4090", 165e12), ("RTX 3090", 71e12),
)  # fmt: skip
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # options of glibc's mallopt


def pick_device(name: str) -> torch.device:
    """The device of runtime.device; auto is the first GPU, or the CPU if there is none.

    Raises:
        InputError: this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("not supported for training")
    except RuntimeError:
        raise InputError(
            f"runtime.device={name!r} cannot be used for training: give auto, cpu, cuda or cuda:1."
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"runtime.device={name}: this machine has {torch.cuda.device_count()} CUDA devices. "
            "Use an existing device, or runtime.device=cpu."
        )
    return device


def device_name(device: torch.device) -> str:
    """The GPU's product name, or the CPU's with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {_cpu_model()}, {torch.get_num_threads()} threads"


def peak_flops(device: torch.device) -> float | None:
    """Data-sheet dense bf16 FLOP/s; None for CPUs and unknown GPUs."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAK_FLOPS if key in name), None)


class Timer:
    """Seconds spent training, without checkpoints, evaluation and compilation."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds, self._since = device, 0.0, 0.0

    def start(self) -> None:
        """Count from now."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # updates are queued, and finish later
        self._since = time.perf_counter()

    def read(self) -> float:
        """The total until now."""
        before = self._since
        self.start()
        self.seconds += self._since - before
        return self.seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time spent in the with block out of the total."""
        self.read()
        yield
        self.start()


def memory_room(device: torch.device) -> float:
    """Bytes that the automatic micro-batch may use.

    MEMORY_SHARE of the GPU's free memory, or half of the host's total memory, so that a CPU run
    does not depend on other processes.
    """
    if device.type == "cuda":
        return MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]
    return 0.5 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def keep_freed_memory(device: torch.device, keep: bool = True) -> None:
    """On a CPU, make malloc reuse freed memory instead of returning it to the system.

    By default glibc returns large blocks at once, and each update allocates the same ones again, at
    the cost of a page fault per 4 KiB. Applies to the main thread under glibc.

    Args:
        device: nothing is changed for a GPU.
        keep: False restores the default, for memory allocated from now on.
    """
    if device.type == "cpu" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0 if keep else 65_536)
        libc.mallopt(M_TRIM_THRESHOLD, -1 if keep else 128 * 1024)


def give_memory_back() -> None:
    """Return this process's free memory to the system, as the next run's micro-batch may need it."""
    gc.collect()
    torch.cuda.empty_cache()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def peak_memory(device: torch.device) -> int:
    """Peak bytes: allocated on the GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    result = {"python": platform.python_version(), "chinchilla": metadata.version("chinchilla-lab")}
    result |= {name: metadata.version(name) for name in ("torch", "numpy", "sentencepiece")}
    if torch.version.cuda:
        result["cuda"] = torch.version.cuda
    return result


def _cpu_model() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
