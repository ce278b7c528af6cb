"""The hardware and software of a run: device, precision, memory, timing, versions."""

import ctypes
import gc
import logging
import math
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

import torch

from chinchilla.config import RuntimeConfig
from chinchilla.core.errors import InputError
from chinchilla.plan.memory import MEMORY_SHARE
from chinchilla.plan.records import RunSpec

# Dense bf16 FLOP/s from data sheets. The first key whose words are in the device's name applies: L4 is
# not L40, and A100 is not A1000.
PEAK_FLOPS = (
    ("H200", 989e12), ("GH200", 989e12), ("H100 PCIe", 756e12), ("H100 NVL", 835e12),
    ("H100", 989e12), ("B200", 2250e12), ("GB200", 2500e12), ("A100", 312e12), ("A30", 165e12),
    ("A40", 150e12), ("L40S", 362e12), ("L40", 181e12), ("A10G", 70e12), ("A10", 125e12),
    ("L4", 121e12), ("RTX 4090", 165e12), ("RTX 3090", 71e12),
)  # fmt: skip
# Work of a layer in one forward pass from which a CPU thread more is used. With less, threads mostly wait
# for each other (docs/speed.md).
FLOPS_PER_THREAD = 5e8
log = logging.getLogger("chinchilla.train")
PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
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


def supports_bf16(device: torch.device) -> bool:
    """Whether a GPU has bf16 units; others (V100, T4) emulate bf16 and are slow."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def peak_flops(device: torch.device) -> float | None:
    """Data-sheet dense bf16 FLOP/s; None for CPUs and unknown GPUs."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAK_FLOPS if re.search(rf"\b{key}\b", name)), None)


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
    """Bytes that the automatic micro-batch may use, before the model is built.

    MEMORY_SHARE of the GPU's free memory, or half of the memory that this process may use on the
    host, so that a CPU run does not depend on other processes.
    """
    if device.type == "cuda":
        return MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0.5 * min(physical, *(limit for limit, _ in cgroup_memory()))


def available_memory(device: torch.device) -> float:
    """Bytes that can be allocated now: free memory of the GPU, or what the host and its cgroups leave.

    Infinite where it is not known (a CPU without Linux's /proc/meminfo).
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    host = math.inf
    with suppress(OSError):
        found = re.search(r"^MemAvailable: +(\d+) kB", (PROC / "meminfo").read_text(), re.M)
        host = 1024.0 * int(found[1]) if found else math.inf
    return min(host, *(limit - used for limit, used in cgroup_memory()))


def cgroup_memory() -> list[tuple[float, float]]:
    """Limit, infinite if none, and bytes in use of this process's cgroups (Linux, versions 1 and 2).

    A limit applies to all groups below it. Cached files do not count as used, because the kernel
    discards them when memory is needed.
    """
    found = [(math.inf, 0.0)]
    with suppress(OSError):
        for line in (PROC / "self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            names = ("limit_in_bytes", "usage_in_bytes") if controllers else ("max", "current")
            root = CGROUPS / "memory" if controllers else CGROUPS
            group = root / path.lstrip("/")
            # In a container the group's own path may not exist; the root is then its group.
            for folder in (group, *group.parents):
                if folder.is_relative_to(root):
                    found += _cgroup_limit(folder, *names)
    return found


def _cgroup_limit(folder: Path, limit: str, usage: str) -> list[tuple[float, float]]:
    """Limit and use of one group; [] if it has no readable limit."""
    try:
        most, used = ((folder / f"memory.{name}").read_text().strip() for name in (limit, usage))
        counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        prefix = "total_" if limit != "max" else ""
        files = sum(int(counts.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
        return [] if most == "max" else [(float(most), float(used) - files)]
    except (OSError, ValueError):
        return []


def prepare(device: torch.device, spec: RunSpec, rows: int) -> int:
    """Prepare this process for a run with passes of `rows` rows.

    On a CPU freed memory is kept and the number of threads is set to what the size of a pass can use,
    at most the present one. The number is a function of the shape and not of a timing: it may change
    the rounding. On a GPU fp32 matrix products use TF32.

    Returns:
        The number of CPU threads before.
    """
    before = torch.get_num_threads()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.cuda.reset_peak_memory_stats(device)
        return before
    keep_freed_memory(device)
    shape = spec.model
    layer = 2 * (4 * shape.inner + 2 * shape.ffw_size) * shape.d_model * rows * shape.seq_len
    torch.set_num_threads(min(before, max(1, int(layer / FLOPS_PER_THREAD))))
    return before


def warn_of_slow_settings(
    device: torch.device, spec: RunSpec, runtime: RuntimeConfig, single: bool
) -> None:
    """Log what keeps a GPU from its speed: precision, compilation or CUDA graphs.

    Args:
        device: of the run.
        spec: the run.
        runtime: as configured.
        single: whether one process trains the run alone.
    """
    if device.type != "cuda":
        return
    if spec.precision != "fp32" and not supports_bf16(device):
        log.warning(
            "%s has no bf16 units: bf16 is emulated and slow. Plan the run with recipe.precision=fp32.",
            device_name(device),
        )
    if not runtime.cuda_graphs or not single:
        reason = (
            "several ranks train the run" if runtime.cuda_graphs else "runtime.cuda_graphs=false"
        )
        log.warning("no CUDA graphs: %s", reason)
    if runtime.compile_blocks == "never":
        log.warning("not compiled: runtime.compile_blocks=never")


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
