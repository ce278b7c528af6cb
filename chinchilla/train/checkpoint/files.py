"""The files of one checkpoint folder: names, manifest, verification, and tensors split into shards.

    step-00000120/weights.safetensors optimizer.safetensors state.json MANIFEST.json

MANIFEST.json holds the SHA-256 of each file and of itself. With several shards there is a pair of
tensor files for each, such as weights-00000-of-00004.safetensors. A shard holds the same rows of
every tensor; scalars and the loss history are in the first shard only. In a checkpoint of weights
only, the optimizer's file holds the loss history and nothing else.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from chinchilla import __version__
from chinchilla.core.errors import InputError
from chinchilla.core.files.reading import (
    RECORD_BYTES,
    RefusedFile,
    open_regular,
    parse_json,
    read_json,
    read_text,
    sha256_file,
)
from chinchilla.core.files.writing import create_file, remove, rename, temporary_path
from chinchilla.plan.checkpoint_names import checkpoint_step
from chinchilla.plan.records import RunSpec
from chinchilla.train.device import available_memory
from chinchilla.train.distributed import RankGroup

SCHEMA = 4
WEIGHTS, OPTIMIZER = "weights.safetensors", "optimizer.safetensors"
LOSSES = "losses"  # key in the optimizer's file: the loss of every step so far
STATE = "state.json"
MANIFEST = "MANIFEST.json"
FILES = (WEIGHTS, OPTIMIZER, STATE)  # of a checkpoint in one shard
DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16"}  # in safetensors
DAMAGED_PREFIX = "damaged-"  # a damaged checkpoint is renamed, and deleted after the next save
STAGING_SHARE = 0.8  # share of the host's available memory that a copy of the state may take
CHUNK_BYTES = 16 << 20  # written and hashed at a time


class Damaged(Exception):
    """The checkpoint differs from what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the next update depends on; tensors contain this rank's rows."""

    step: int  # updates done
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]  # exp_avg.<name>, exp_avg_sq.<name>, step.<name>, losses
    progress: dict[str, Any]  # plain JSON: training seconds, validation evaluations so far

    @property
    def n_bytes(self) -> int:
        """Size of this rank's tensors."""
        return sum(t.nbytes for t in (*self.weights.values(), *self.optimizer.values()))

    @property
    def weights_only(self) -> "Checkpoint":
        """The same without the optimizer's moments: enough for a run that has done all updates."""
        return replace(self, optimizer={k: v for k, v in self.optimizer.items() if k == LOSSES})

    def fits_host(self, group: RankGroup) -> bool:
        """Whether the host has room for the copies of all ranks on it that write checkpoints."""
        writers = group.hosts[: group.shards]
        n_copies = writers.count(group.hosts[group.rank]) if writers else group.shards
        return n_copies * self.n_bytes <= STAGING_SHARE * available_memory(torch.device("cpu"))

    def staged(self) -> "Checkpoint":
        """A copy in host memory, which later updates do not change."""
        weights, optimizer = (
            {name: t.to("cpu", copy=True) for name, t in tensors.items()}
            for tensors in (self.weights, self.optimizer)
        )
        return replace(self, weights=weights, optimizer=optimizer)


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


def write_tensors(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    check: Callable[[], None] = lambda: None,
) -> str:
    """Write and sync a safetensors file, hashing its bytes on the way to the disk.

    The bytes are those of `safetensors.torch.save_file`, which cannot hash what it writes: a length, a
    JSON header padded to a multiple of 8 bytes, and the tensors, those of wide dtypes first.

    Args:
        path: the file to create.
        tensors: on any device; one at a time is copied to the host.
        check: called before each chunk; an exception from it ends the write.

    Returns:
        SHA-256 of the file, hexadecimal.
    """
    header: dict[str, Any] = {}
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    end = 0
    for name in names:
        t, begin, end = tensors[name], end, end + tensors[name].nbytes
        shape = list(t.shape)
        header[name] = {"dtype": DTYPES[t.dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with open(create_file(path), "wb", buffering=0) as f:

        def write(data: memoryview) -> None:
            for start in range(0, len(data), CHUNK_BYTES):
                check()
                chunk = data[start : start + CHUNK_BYTES]
                digest.update(chunk)
                while chunk:  # the system may write a part, as at a file size limit
                    chunk = chunk[f.write(chunk) :]

        write(memoryview(len(text).to_bytes(8, "little") + text))
        for name in names:
            if tensors[name].nbytes:
                host = tensors[name].cpu().contiguous().reshape(-1).view(torch.uint8)
                write(host.numpy().data)
        os.fsync(f.fileno())
    return digest.hexdigest()


def verify(path: Path, group: RankGroup) -> int:
    """Compare every file with its hash in the manifest. The ranks divide the files among them.

    Returns:
        The number of shards.

    Raises:
        Damaged: a file is missing or does not match.
        InputError: the checkpoint is of another schema.
    """
    try:
        text = read_text(path / MANIFEST, RECORD_BYTES)
        body = dict(parse_json(text))
    except FileNotFoundError:
        raise Damaged(f"{MANIFEST} is missing") from None
    except RefusedFile as error:
        raise Damaged(f"{MANIFEST} cannot be read ({error.strerror})") from None
    except (ValueError, TypeError):
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
        except RefusedFile as error:
            raise Damaged(f"{name} cannot be read ({error.strerror})") from None
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
    for file in files:
        with open_regular(file) as f:  # its header is JSON, preceded by its length
            if int.from_bytes(f.read(8), "little") > RECORD_BYTES:
                raise SafetensorError(
                    f"the header of {file.name} is longer than any that is written"
                )
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


def delete(path: Path) -> None:
    """Rename, then delete: a partly deleted folder never has a checkpoint's name."""
    with contextlib.suppress(OSError):
        temporary = temporary_path(path)
        rename(path, temporary)
        remove(temporary)


def set_aside(path: Path) -> None:
    """Rename a damaged checkpoint so that it can be inspected; another process may do the same."""
    target = path.with_name(f"{DAMAGED_PREFIX}{path.name}")
    if os.path.lexists(target):
        delete(target)
    with contextlib.suppress(OSError):
        rename(path, target)


def refuse_another(path: Path, state: dict[str, Any], spec: RunSpec) -> None:
    """Raise InputError if the checkpoint's spec differs from this run's."""
    differences = RunSpec.from_dict(state["spec"], str(path / STATE)).differences(spec)
    if differences:
        raise InputError(
            f"checkpoint {path} belongs to run {state['run_id']}, not {spec.run_id} ({differences}). "
            "Resume with the same settings and data, or use another folder."
        )
