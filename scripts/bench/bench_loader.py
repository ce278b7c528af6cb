"""Speed of reading batches in tokens per CPU-second, compared with nanoGPT's `get_batch`.

    python scripts/bench/bench_loader.py DATA_DIR [--out docs/results/loader.json]

DATA_DIR is a folder that `chinchilla data` prepared. nanoGPT's `get_batch` maps the file in every call, selects
random positions, and copies to int64 twice. The two are measured alternately, 1,024 batches at a time, so that
the time of this package includes computing the order of rows. The figures are medians.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bench_tools import Arguments, count, existing_folder, out_file, provenance, save_json

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
    """Function like get_batch in nanoGPT's train.py."""
    import torch

    def batch(_: int) -> object:
        data = np.memmap(path, dtype, "r", HEADER_BYTES, (shard.tokens,))
        starts = torch.randint(len(data) - seq_len, (rows,))
        return [
            torch.stack([torch.from_numpy(data[i : i + seq_len].astype(np.int64)) for i in places])
            for places in (starts, starts + 1)
        ]

    return batch


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
            f"--rows {arguments.rows}: too few to compute the order of rows in every turn. Give at least {least}."
        )
    try:
        data = TokenData.open(arguments.data_dir)
        data.epoch_tokens(arguments.seq_len)  # raises if a row is longer than the text
    except InputError as error:
        parser.error(str(error))
    try:
        exists = arguments.out and arguments.out.exists()
        entries = json.loads(arguments.out.read_text())["measured"] if exists else []
        entries = [each for each in entries if each["sources"] != len(data.sources)]
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
    settings = f"{arguments.rows} rows of {arguments.seq_len} tokens"
    print(f"{len(data.sources)} sources, {settings}, medians of {arguments.times}")
    print(f"TokenData.batch  {ours / 1e6:8.1f} M tokens per CPU-second")
    print(
        f"get_batch        {other / 1e6:8.1f} M, TokenData.batch is {ours / other:.1f} times as fast"
    )
    if arguments.out:
        entries.append({
            "sources": len(data.sources), "training_tokens": data.n_train_tokens, "rows": arguments.rows,
            "seq_len": arguments.seq_len, "times": arguments.times,
            "tokens_per_cpu_second": {k: statistics.median(v) for k, v in rates.items()},
            "ratio": ours / other, **provenance(),
            "python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__,
        })  # fmt: skip
        entries.sort(key=lambda each: each["sources"])
        save_json(arguments.out, {"measured": entries})


if __name__ == "__main__":
    main()
