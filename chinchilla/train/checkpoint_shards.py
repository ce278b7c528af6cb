"""The tensor files of a checkpoint: one pair, or a pair for each shard.

    weights.safetensors              optimizer.safetensors
    weights-00000-of-00004.safetensors ... optimizer-00003-of-00004.safetensors

A shard holds the same rows of every tensor, so that a tensor is its shards' rows put one below the
other. What has no rows, and the losses so far, are in the first shard only.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from chinchilla.train.distributed import RankGroup

WEIGHTS, OPTIMIZER = "weights.safetensors", "optimizer.safetensors"
LOSSES = "losses"  # in the optimizer's file: the loss of every step so far


def of_shard(name: str, shard: int, n_shards: int) -> str:
    """The file's name in a checkpoint of so many shards."""
    stem = name.removesuffix(".safetensors")
    return name if n_shards == 1 else f"{stem}-{shard:05d}-of-{n_shards:05d}.safetensors"


def shard_files(n_shards: int) -> list[str]:
    """All tensor files of a checkpoint."""
    return [of_shard(name, i, n_shards) for i in range(n_shards) for name in (WEIGHTS, OPTIMIZER)]


def read_rows(files: Sequence[Path], ranks: RankGroup) -> dict[str, torch.Tensor]:
    """This rank's rows of every tensor in `files`, the shards' files in order; no other rows are read.

    Raises:
        SafetensorError: a file that is no safetensors, or shards that do not fit together.
    """
    if len(files) == ranks.shards == 1:
        return load_file(files[0])
    tensors = {}
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(safe_open(f, "pt")) for f in files]
        for name in opened[0].keys():  # noqa: SIM118 (no mapping)
            first = opened[0].get_slice(name)
            if name == LOSSES or not first.get_shape():
                tensors[name] = opened[0].get_tensor(name)
                continue
            parts = [f.get_slice(name) for f in opened]
            shapes = [part.get_shape() for part in parts]
            if any(shape[1:] != shapes[0][1:] for shape in shapes):
                raise SafetensorError(f"the shards of {name} do not fit together")
            want = ranks.rows(sum(shape[0] for shape in shapes))
            pieces, begin = [], 0
            for part, shape in zip(parts, shapes, strict=True):
                low, high = max(want.start, begin), min(want.stop, begin + shape[0])
                if low < high:
                    pieces.append(part[low - begin : high - begin])
                begin += shape[0]
            tensors[name] = torch.cat(pieces) if pieces else opened[0].get_tensor(name)[:0]
    return tensors
