"""Tokens per CPU-second that batches are read with, beside nanoGPT's way of reading them.

    python scripts/bench_loader.py data/sotu          any prepared folder

Theirs is get_batch as nanoGPT writes it: the file mapped anew, random places, two int64 copies. Every
figure is the best of five times 200 batches; ours includes drawing the order of rows.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from chinchilla.data.tokens import TokenData

BATCHES, TIMES = 200, 5


def rate(batch: Callable[[int], object], tokens: int) -> float:
    """Tokens per CPU-second of this process."""
    best = 0.0
    for again in range(TIMES):
        began = time.process_time()
        for step in range(BATCHES):
            batch(again * BATCHES + step)
        best = max(best, BATCHES * tokens / (time.process_time() - began))
    return best


def theirs(path: Path, dtype: str, rows: int, seq_len: int) -> Callable[[int], object]:
    """A batch as nanoGPT's train.py reads it."""

    def batch(_: int) -> object:
        data = np.memmap(path, dtype, "r")
        places = torch.randint(len(data) - seq_len, (rows,))
        x = torch.stack([torch.from_numpy(data[i : i + seq_len].astype(np.int64)) for i in places])
        y = torch.stack(
            [torch.from_numpy(data[i + 1 : i + 1 + seq_len].astype(np.int64)) for i in places]
        )
        return x, y

    return batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=512)
    told = parser.parse_args()
    torch.set_num_threads(1)
    data = TokenData.open(told.data_dir)
    shard = max(data.manifest.splits["train"].shards, key=lambda s: s.tokens)
    path, dtype = told.data_dir / shard.file, data.manifest.dtype
    tokens = told.rows * told.seq_len
    ours = rate(lambda step: data.batch(0, step, told.rows, told.seq_len), tokens)
    nano = rate(theirs(path, dtype, told.rows, told.seq_len), tokens)
    print(f"{len(data.sources)} sources, {told.rows} rows of {told.seq_len} tokens")
    print(f"TokenData.batch  {ours / 1e6:8.1f} M tokens per CPU-second")
    print(f"get_batch        {nano / 1e6:8.1f} M, {ours / nano:.1f} times less")


if __name__ == "__main__":
    main()
