"""What is in a checkpoint's folder, and whether it is what was written.

    step-00000120/weights.safetensors optimizer.safetensors state.json MANIFEST.json

MANIFEST.json holds the SHA-256 of each file and of itself. `train.checkpoint` writes such folders and
chooses among them.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from chinchilla import __version__
from chinchilla.core.errors import InputError
from chinchilla.core.files import read_json, sha256_file
from chinchilla.plan.records import RunSpec
from chinchilla.train.checkpoint_shards import OPTIMIZER, WEIGHTS, shard_files
from chinchilla.train.distributed import RankGroup

SCHEMA = 2
SHARDED = 3  # schema of those in shards, which versions that know of none must not call damaged
STATE = "state.json"
FILES = (WEIGHTS, OPTIMIZER, STATE)  # of a checkpoint in one shard
MANIFEST = "MANIFEST.json"
_STEP = re.compile(r"step-(\d{8,})")


class Damaged(Exception):
    """A checkpoint that is not what was written."""


def newest_first(folder: Path) -> list[Path]:
    """A run's checkpoints by their steps, whole or not; without those put aside."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted((p for p in found if _STEP.fullmatch(p.name)), key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """Updates done at a checkpoint, by its folder's name."""
    match = _STEP.fullmatch(path.name)
    return int(match[1]) if match else 0


def manifest_text(body: dict[str, Any]) -> str:
    """The manifest as it is written; only an untouched one is equal to what this makes of it."""
    digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, indent=1) + "\n"


def verify(path: Path, ranks: RankGroup, from_disk: bool = False) -> int:
    """Read every byte and compare it with the manifest; each rank its part of the files.

    Args:
        path: the checkpoint.
        ranks: those that share the reading.
        from_disk: ask the disk for what has just been written, not the memory of it.

    Returns:
        In how many shards it is.

    Raises:
        Damaged: saying what differs; InputError: whole, but another version's.
    """
    _plain_file(path, MANIFEST)
    try:
        text = (path / MANIFEST).read_bytes().decode()
        body = dict(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        raise Damaged(f"{MANIFEST} is not JSON") from None
    body.pop("sha256", None)
    if manifest_text(body) != text:
        raise Damaged(f"{MANIFEST} does not match its SHA-256")
    if body.get("schema") not in (SCHEMA, SHARDED):
        raise InputError(
            f"checkpoint {path} was written by version {body.get('version')} (schema "
            f"{body.get('schema')}); version {__version__} reads schema {SCHEMA} and {SHARDED}. "
            "Resume with the version that wrote it, or use another folder."
        )
    stated = body.get("files")
    n_shards = len(stated) // 2 if isinstance(stated, dict) else 1
    files = (*shard_files(n_shards), STATE)
    if not isinstance(stated, dict) or set(stated) != set(files):
        raise Damaged(f"{MANIFEST} does not list the three files, or those of every shard")
    for name in files:
        _plain_file(path, name)
    for name in files[ranks.rank :: ranks.world_size]:
        if from_disk and hasattr(os, "posix_fadvise"):
            with open(path / name, "rb") as f:
                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if stated[name] != sha256_file(path / name):
            raise Damaged(f"{name} does not match its SHA-256")
    return n_shards


def _plain_file(path: Path, name: str) -> None:
    if path.is_symlink() or (path / name).is_symlink():
        raise Damaged(f"{name} is a symbolic link")
    if not (path / name).is_file():
        raise Damaged(f"{name} is missing")


def read_state(path: Path) -> dict[str, Any]:
    """state.json, with the fields and the step that it must have.

    Raises:
        Damaged: it has not.
    """
    try:
        state = dict(read_json(path / STATE, "state"))
        spec = RunSpec.from_dict(state["spec"], str(path / STATE))
        if state["run_id"] != spec.run_id or not isinstance(state["tokenizer"], str):
            raise ValueError("its run_id is not its spec's")
        if state["step"] != step_of(path):
            raise ValueError("its step is not its folder's")
        float(state["progress"]["train_seconds"])
        [(int(a), float(b)) for a, b in state["progress"]["evaluations"]]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damaged(f"{STATE}: {error}") from None
    return state
