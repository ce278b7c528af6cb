"""The files of one checkpoint folder: names, manifest, verification, and tensors split into shards.

    step-00000120/weights.safetensors optimizer.safetensors state.json MANIFEST.json

MANIFEST.json holds the SHA-256 of each file and of itself. With several shards there is a pair of
tensor files for each, such as weights-00000-of-00004.safetensors. A shard holds the same rows of
every tensor; scalars and the loss history are in the first shard only.
"""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from chinchilla import __version__
from chinchilla.core.errors import InputError
from chinchilla.core.files import read_json, sha256_file
from chinchilla.plan.checkpoint_names import checkpoint_step
from chinchilla.plan.records import RunSpec
from chinchilla.train.distributed import RankGroup

SCHEMA = 4
WEIGHTS, OPTIMIZER = "weights.safetensors", "optimizer.safetensors"
LOSSES = "losses"  # key in the optimizer's file: the loss of every step so far
STATE = "state.json"
MANIFEST = "MANIFEST.json"
FILES = (WEIGHTS, OPTIMIZER, STATE)  # of a checkpoint in one shard


class Damaged(Exception):
    """The checkpoint differs from what was written."""


def newest_first(folder: Path) -> list[Path]:
    """Checkpoints of a run, by descending step, without looking inside."""
    paths = folder.iterdir() if folder.is_dir() else ()
    found = [p for p in paths if checkpoint_step(p.name) is not None]
    return sorted(found, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """Number of updates done, from the name of the checkpoint's folder."""
    return checkpoint_step(path.name) or 0


def shard_file(name: str, shard: int, n_shards: int) -> str:
    """Name of a tensor file in a checkpoint of `n_shards` shards."""
    stem = name.removesuffix(".safetensors")
    return name if n_shards == 1 else f"{stem}-{shard:05d}-of-{n_shards:05d}.safetensors"


def files_of(n_shards: int) -> list[str]:
    """All files of a checkpoint but the manifest."""
    tensors = (shard_file(n, i, n_shards) for i in range(n_shards) for n in (WEIGHTS, OPTIMIZER))
    return [*tensors, STATE]


def manifest_text(body: dict[str, Any]) -> str:
    """The manifest as written to disk, with its own SHA-256 appended."""
    digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, indent=1) + "\n"


def verify(path: Path, group: RankGroup) -> int:
    """Compare every file with its hash in the manifest. The ranks divide the files among them.

    Returns:
        The number of shards.

    Raises:
        Damaged: a file is missing or does not match.
        InputError: the checkpoint is of another schema.
    """
    try:
        text = (path / MANIFEST).read_bytes().decode()
        body = dict(json.loads(text))
    except FileNotFoundError:
        raise Damaged(f"{MANIFEST} is missing") from None
    except (ValueError, TypeError, RecursionError):
        raise Damaged(f"{MANIFEST} is not JSON") from None
    body.pop("sha256", None)
    if manifest_text(body) != text:
        raise Damaged(f"{MANIFEST} does not match its SHA-256")
    if body["schema"] != SCHEMA:
        raise InputError(
            f"checkpoint {path} was written by version {body.get('version')} (schema "
            f"{body['schema']}); version {__version__} reads schema {SCHEMA}. Resume with the "
            "version that wrote it, or use another folder."
        )
    digests = body["files"]
    n_shards = len(digests) // 2
    if not n_shards or set(digests) != set(files_of(n_shards)):
        raise Damaged(f"{MANIFEST} does not list {STATE} and the tensor files of every shard")
    own_files = files_of(n_shards)[group.rank :: group.world_size]
    for name in {STATE, *own_files}:  # every rank reads the state
        try:
            digest = sha256_file(path / name)
        except FileNotFoundError:
            raise Damaged(f"{name} is missing") from None
        if digests[name] != digest:
            raise Damaged(f"{name} does not match its SHA-256")
    return n_shards


def read_state(path: Path) -> dict[str, Any]:
    """Read state.json and check its fields.

    Raises:
        Damaged: a field is missing or inconsistent.
    """
    try:
        state = dict(read_json(path / STATE, "state"))
        spec = RunSpec.from_dict(state["spec"], str(path / STATE))
        if state["run_id"] != spec.run_id:
            raise ValueError("run_id does not match the spec")
        if state["step"] != step_of(path):
            raise ValueError("step does not match the folder's name")
        float(state["progress"]["train_seconds"])
        [(int(a), float(b)) for a, b in state["progress"]["evaluations"]]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damaged(f"{STATE}: {error}") from None
    return state


def read_rows(files: Sequence[Path], group: RankGroup) -> dict[str, torch.Tensor]:
    """Read this rank's rows of every tensor; other rows are not read from disk.

    Args:
        files: the files of all shards, in order. Their number may differ from the number of ranks.
        group: the reading ranks.

    Raises:
        SafetensorError: not a safetensors file, or shards of different widths.
    """
    if len(files) == group.world_size == 1:
        return load_file(files[0])
    tensors = {}
    with contextlib.ExitStack() as stack:
        shards = [stack.enter_context(safe_open(f, "pt")) for f in files]
        for name in shards[0].keys():  # noqa: SIM118 (no mapping)
            if name == LOSSES or not shards[0].get_slice(name).get_shape():
                tensors[name] = shards[0].get_tensor(name)
                continue
            slices = [shard.get_slice(name) for shard in shards]
            shapes = [s.get_shape() for s in slices]
            if any(shape[1:] != shapes[0][1:] for shape in shapes):
                raise SafetensorError(f"the shards of {name} do not fit together")
            wanted = group.rows(sum(shape[0] for shape in shapes))
            pieces, begin = [], 0
            for part, (n_rows, *_) in zip(slices, shapes, strict=True):
                low, high = max(wanted.start, begin), min(wanted.stop, begin + n_rows)
                if low < high:
                    pieces.append(part[low - begin : high - begin])
                begin += n_rows
            tensors[name] = torch.cat(pieces) if pieces else shards[0].get_tensor(name)[:0]
    return tensors
