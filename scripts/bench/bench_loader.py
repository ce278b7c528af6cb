"""Speed of reading batches in tokens per CPU-second, compared with nanoGPT's `get_batch`.

    python scripts/bench/bench_loader.py data/sotu [--out docs/results/loader.json]     any prepared folder

`get_batch` is that of nanoGPT: it maps the file in every call, selects random positions, and copies to
int64 twice. Both are measured alternately, 1,024 batches at a time, so that our time includes computing the
order of rows. Figures are medians.
"""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bench_tools import Arguments, count, existing_folder, out_file

from chinchilla.core.errors import InputError
from chinchilla.data.dataset import BLOCK_ROWS, TokenData
from chinchilla.data.manifest import HEADER_BYTES, Shard

BATCHES = 1024


def rate(batch: Callable[[int], object], first: int, tokens: int) -> float:
    """Tokens per CPU-second of this process."""
    began = time.process_time()
    for step in range(first, first + BATCHES):
        batch(step)
    return BATCHES * tokens / (time.process_time() - began)


def nanogpt_batch(
    path: Path, shard: Shard, dtype: str, rows: int, seq_len: int
) -> Callable[[int], object]:
    """get_batch of nanoGPT's train.py."""
    import torch

    def batch(_: int) -> object:
        data = np.memmap(path, dtype, "r", HEADER_BYTES, (shard.tokens,))
        places = torch.randint(len(data) - seq_len, (rows,))
        x = torch.stack([torch.from_numpy(data[i : i + seq_len].astype(np.int64)) for i in places])
        y = torch.stack(
            [torch.from_numpy(data[i + 1 : i + 1 + seq_len].astype(np.int64)) for i in places]
        )
        return x, y

    return batch


def machine() -> dict[str, Any]:
    """Date, commit, machine and versions."""
    import torch

    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": git.stdout.strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
    }


def main() -> None:
    parser = Arguments(__doc__)
    parser.add_argument("data_dir", type=existing_folder)
    parser.add_argument("--rows", type=count, default=32)
    parser.add_argument("--seq-len", type=count, default=512)
    parser.add_argument("--times", type=count, default=7)
    parser.add_argument("--out", type=out_file, help="JSON; entries for other numbers of sources are kept")  # fmt: skip
    arguments = parser.parse_args()
    if (least := -(-BLOCK_ROWS // BATCHES)) > arguments.rows:
        parser.error(
            f"--rows {arguments.rows}: too few to compute an order in every turn. Give at least {least}."
        )
    try:
        data = TokenData.open(arguments.data_dir)
        data.epoch_tokens(arguments.seq_len)  # raises if a row is longer than the text
    except InputError as error:
        parser.error(str(error))
    try:
        found = (
            json.loads(arguments.out.read_text())["measured"]
            if arguments.out and arguments.out.exists()
            else []
        )
        found = [each for each in found if each["sources"] != len(data.sources)]
    except (ValueError, KeyError, TypeError):
        parser.error(
            f"--out {arguments.out} exists and was not written by this script. Move it away."
        )
    import torch

    torch.set_num_threads(1)
    shard = max(data.manifest.splits["train"].shards, key=lambda s: s.tokens)
    path, dtype = arguments.data_dir / shard.file, data.manifest.dtype
    tokens = arguments.rows * arguments.seq_len
    nanogpt = nanogpt_batch(path, shard, dtype, arguments.rows, arguments.seq_len)
    rates: dict[str, list[float]] = {"TokenData.batch": [], "get_batch": []}
    for turn in range(arguments.times):
        ours = rate(
            lambda step: data.batch(0, step, arguments.rows, arguments.seq_len),
            turn * BATCHES,
            tokens,
        )
        rates["TokenData.batch"].append(ours)
        rates["get_batch"].append(rate(nanogpt, 0, tokens))
    ours, other = (statistics.median(each) for each in rates.values())
    print(
        f"{len(data.sources)} sources, {arguments.rows} rows of {arguments.seq_len} tokens, medians of {arguments.times}"
    )
    print(f"TokenData.batch  {ours / 1e6:8.1f} M tokens per CPU-second")
    print(f"get_batch        {other / 1e6:8.1f} M, {ours / other:.1f} times less")
    if arguments.out:
        found.append({
            "sources": len(data.sources), "training_tokens": data.n_train_tokens, "rows": arguments.rows,
            "seq_len": arguments.seq_len, "times": arguments.times,
            "tokens_per_cpu_second": {k: statistics.median(v) for k, v in rates.items()},
            "ratio": ours / other, **machine(),
        })  # fmt: skip
        found.sort(key=lambda each: each["sources"])
        arguments.out.write_text(json.dumps({"measured": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
