"""Devices, and memory that malloc keeps or returns."""

import ctypes
import os
import subprocess
import sys
from dataclasses import replace
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


# Memory of this process


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_the_cgroup_counts_without_cached_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
):
    """A job's group has no limit of its own; the group above it allows 8 GB, of which 3 are used."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 64000000 kB\nMemAvailable:   60000000 kB\n")
    limit, usage = ("max", "current") if version == 2 else ("limit_in_bytes", "usage_in_bytes")
    (proc / "self/cgroup").write_text(
        "0::/jobs/7\n" if version == 2 else "4:cpu:/\n5:memory:/jobs/7\n"
    )
    root = groups if version == 2 else groups / "memory"
    (root / "jobs/7").mkdir(parents=True)
    prefix = "" if version == 2 else "total_"
    for folder, most in (
        (root / "jobs/7", "max" if version == 2 else str(2**63 - 4096)),
        (root / "jobs", "8000000000"),
    ):
        (folder / f"memory.{limit}").write_text(most + "\n")
        (folder / f"memory.{usage}").write_text("5000000000\n")
        (folder / "memory.stat").write_text(
            f"{prefix}inactive_file 1500000000\n{prefix}active_file 500000000\n"
        )
    monkeypatch.setattr(device, "PROC", proc)
    monkeypatch.setattr(device, "CGROUPS", groups)
    cpu = torch.device("cpu")
    assert device.available_memory(cpu) == 8e9 - 3e9
    assert device.memory_room(cpu) <= 4e9
    (proc / "self/cgroup").write_text("0::/elsewhere\n")
    assert device.available_memory(cpu) == 60_000_000 * 1024


def test_a_machine_that_tells_nothing_refuses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(device, "PROC", tmp_path)
    assert device.available_memory(torch.device("cpu")) == float("inf")
    assert device.memory_room(torch.device("cpu")) < float("inf")


# GPUs by name


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA L4", 121e12), ("NVIDIA L40", 181e12), ("NVIDIA L40S", 362e12),
        ("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA RTX A1000", None), ("NVIDIA A10G", 70e12),
        ("NVIDIA A10", 125e12), ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA GH200 480GB", 989e12), ("NVIDIA B200", 2250e12), ("Tesla T4", None),
    ],
)  # fmt: skip
def test_peaks_belong_to_devices_with_exactly_that_name(
    monkeypatch: pytest.MonkeyPatch, name: str, peak: float | None
):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda where: name)
    assert device.peak_flops(torch.device("cuda")) == peak


def test_what_slows_a_gpu_down_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda where: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda where: (7, 5))
    gpu, plain = torch.device("cuda"), make_runtime(cuda_graphs=False, compile_blocks="never")
    device.warn_of_slow_settings(gpu, make_spec(precision="bf16"), plain, single=True)
    device.warn_of_slow_settings(gpu, make_spec(), make_runtime(), single=False)
    assert [r.getMessage().partition(":")[0] for r in caplog.records] == [
        "Tesla T4 has no bf16 units", "no CUDA graphs", "not compiled", "no CUDA graphs",
    ]  # fmt: skip
    caplog.clear()
    device.warn_of_slow_settings(gpu, make_spec(), make_runtime(), single=True)
    device.warn_of_slow_settings(
        torch.device("cpu"), make_spec(precision="bf16"), plain, single=True
    )
    assert not caplog.records


# Threads


def test_small_models_use_one_thread_and_the_previous_number_is_restored(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The number is a function of the shape: 4 threads at most, of 5e8 FLOPs per layer each."""
    torch.set_num_threads(4)
    try:
        wide = replace(make_spec().model, d_model=512, ffw_size=2048, kv_size=64, n_heads=8)
        for rows, threads in ((1, 1), (10, 2), (20, 4), (10_000, 4)):
            assert device.prepare(torch.device("cpu"), replace(make_spec(), model=wide), rows) == 4
            assert torch.get_num_threads() == threads
            torch.set_num_threads(4)
        result = train_run(make_spec(data_dir, steps=2), tmp_path, data_dir, make_runtime())
        assert result.execution["threads"] == 1
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(1)
        device.keep_freed_memory(torch.device("cpu"), False)
