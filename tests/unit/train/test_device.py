"""What the training process asks of its machine."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from chinchilla.train.device import keep_freed_memory

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
if sys.argv[1] == "keep":
    keep_freed_memory(torch.device("cpu"))
faults(10)
print(faults(10) * PAGE / 2**20)
before = resident()
keep_freed_memory(torch.device("cpu"))
print((before - resident()) * PAGE / 2**20)
"""


def asked(how: str) -> tuple[float, float]:
    """MiB that an update asks the system for again, and that are given back by the next run."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    again, given_back = map(float, done.stdout.split())
    return again, given_back


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_what_an_update_frees_serves_the_next_and_goes_back_before_another_run():
    again, given_back = asked("keep")
    assert again < 5
    assert given_back > 100
    again, _ = asked("do not")
    assert again > 50  # or it need not be done
