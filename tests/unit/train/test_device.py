"""Devices, and memory that malloc keeps or returns."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from train_world import make_runtime, make_spec

from chinchilla.core.errors import InputError
from chinchilla.train import device, train_run
from chinchilla.train.device import pick_device

PROGRAM = """
import ctypes, resource, sys
PR_SET_THP_DISABLE = 41
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)  # a fault maps a page, not 2 MiB

import torch
from chinchilla.train.device import give_memory_back, keep_freed_memory

PAGE = resource.getpagesize()

def faults(updates):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(updates):
        held = [torch.ones(n, 1 << 20) for n in (8, 1, 4, 2, 16)]  # 124 MiB
        del held
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / updates

def resident():
    return int(open("/proc/self/statm").read().split()[1])

torch.set_num_threads(1)
faults(2)
print(faults(5) * PAGE / 2**20)
keep_freed_memory(torch.device("cpu"))
faults(5)
print(faults(10) * PAGE / 2**20)
before = resident()
give_memory_back()
print((before - resident()) * PAGE / 2**20)
keep_freed_memory(torch.device("cpu"), False)
before = resident()
larger = torch.ones(128, 1 << 20)  # 512 MiB, larger than any gap between live blocks
del larger
print((resident() - before) * PAGE / 2**20)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc's allocator")
def test_freed_memory_is_reused_during_a_run_and_returned_afterwards():
    """MiB that an update requests by default and with the setting, and that are returned and kept."""
    allocator = ("MALLOC_", "GLIBC_TUNABLES", "THP_MEM", "LD_PRELOAD")
    env = {k: v for k, v in os.environ.items() if not k.startswith(allocator)}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    by_default, requested, returned, kept = map(float, done.stdout.split())
    assert by_default > 50  # otherwise the setting is not needed
    assert requested < 5
    assert returned > 100
    assert kept < 5


def test_a_run_on_a_cpu_keeps_freed_memory(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls = []
    monkeypatch.setattr(
        device, "keep_freed_memory", lambda where, keep=True: calls.append((where.type, keep))
    )
    assert train_run(make_spec(data_dir, steps=2), tmp_path, data_dir, make_runtime())
    assert calls == [("cpu", True), ("cpu", False)]


def test_a_run_on_a_gpu_does_not_change_the_host_allocator(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device.ctypes, "CDLL", lambda name: pytest.fail("the C library was loaded"))
    device.keep_freed_memory(torch.device("cuda"))
    device.keep_freed_memory(torch.device("cuda"), False)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "meta", "mps"])
def test_unsupported_devices_are_refused_by_name(name: str):
    with pytest.raises(InputError, match=f"runtime.device='{name}'.*auto, cpu, cuda or cuda:1"):
        pick_device(name)


def test_a_missing_gpu_is_refused():
    with pytest.raises(InputError, match=r"runtime.device=cuda:99: this machine has \d+ CUDA"):
        pick_device("cuda:99")


def test_auto_is_an_available_device():
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
