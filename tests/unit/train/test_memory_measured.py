"""The memory model beside the peak of a process that trains (resident set, Linux)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# The peak above what the process held before, with an allocator that gives memory back at once.
PROGRAM = """
import gc, json, sys
from types import SimpleNamespace
import torch
from chinchilla.memory import memory
from chinchilla.model import Transformer
from chinchilla.shapes import ModelShape, n_params
from chinchilla.train.passes import Passes

def trained(shape, rows, recompute, steps):
    model = Transformer(shape, recompute=recompute).init_weights(0)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    passes = Passes(model, rows, 1 / (rows * shape.seq_len), graphs=False, may_fall_back=False)
    for _ in range(steps):
        for _ in range(2):
            passes.add(torch.randint(shape.vocab_size, (rows, shape.seq_len + 1)))
        optimizer.step()
        passes.clear()

n_layers, d_model, vocab_size, seq_len, rows, recompute, positions = json.loads(sys.argv[1])
torch.set_num_threads(1)
trained(ModelShape(64, 256, 64, 1, 1, 64, 16, positions), 2, recompute, 1)  # loads what it needs
shape = ModelShape(d_model, 4 * d_model, 64, d_model // 64, n_layers, vocab_size, seq_len, positions)
gc.collect()
before = 4096 * int(open("/proc/self/statm").read().split()[1])
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
trained(shape, rows, recompute, 2)
[peak] = [int(s.split()[1]) for s in open("/proc/self/status") if s.startswith("VmHWM")]
tokens = rows * seq_len
spec = SimpleNamespace(model=shape, precision="fp32", N=n_params(shape), batch_tokens=tokens)
estimate = memory(spec, tokens, recompute=recompute, device="cpu").total
print(json.dumps([1024 * peak - before, estimate]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux counts peaks")
@pytest.mark.parametrize(
    "settings",  # n_layers, d_model, vocab_size, seq_len, rows, recompute, positions
    [
        (4, 256, 512, 256, 16, False, "rope"),
        (8, 256, 512, 256, 16, True, "rope"),
        (4, 256, 512, 256, 16, False, "relative"),
        (3, 384, 32768, 256, 8, False, "rope"),
        (4, 512, 512, 128, 4, False, "rope"),
    ],
    ids=["activations", "recomputed", "relative", "vocabulary", "weights"],
)
def test_the_memory_model_is_within_a_tenth_of_the_measured_peak(settings: tuple):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(settings)], capture_output=True, text=True,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"},
        check=True,
    )  # fmt: skip
    measured, estimate = json.loads(done.stdout)
    assert estimate == pytest.approx(measured, rel=0.1)
