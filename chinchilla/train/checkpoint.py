"""Checkpoints that are whole or absent.

    checkpoints/step-00000120/weights.safetensors optimizer.safetensors state.json MANIFEST.json

Written into a temporary folder, every file fsynced, the folder renamed into place; MANIFEST.json
holds the SHA-256 of each file and of itself. A new checkpoint is read back before an older one
goes. Loading walks back to the newest that verifies; one that does not is put aside. No pickle.

Ranks that hold a shard each write it (`shards`), and rank 0 commits once all have. Every rank calls
`save_checkpoint` and `load_checkpoint`; what goes wrong on one goes wrong on all, and all load the
same. Any number of ranks reads what any other number wrote.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from chinchilla import __version__
from chinchilla.errors import InputError
from chinchilla.files import (
    clean_leftovers,
    fsync_dir,
    make_dirs,
    read_json,
    remove,
    sha256_file,
    temporary_path,
    write_json,
    write_text,
)
from chinchilla.records import RunSpec
from chinchilla.train.ranks import ALONE, Ranks
from chinchilla.train.shards import OPTIMIZER, WEIGHTS, of_shard, read_rows, shard_files

SCHEMA = 2
SHARDED = 3  # schema of those in shards, which versions that know of none must not call damaged
KEEP = 2  # checkpoints kept per run: the newest and the one before it
STATE = "state.json"
FILES = (WEIGHTS, OPTIMIZER, STATE)  # of a checkpoint in one shard
MANIFEST = "MANIFEST.json"
ASIDE = "damaged-"  # before the name of a checkpoint that did not verify
T = TypeVar("T")
_STEP = re.compile(r"step-(\d{8,})")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on as if it had never stopped."""

    step: int  # updates done
    weights: dict[str, torch.Tensor]  # this rank's rows of each
    optimizer: dict[str, torch.Tensor]  # exp_avg.<name>, exp_avg_sq.<name>, step.<name>, losses
    progress: dict[str, Any]  # plain JSON: wall seconds, held-out evaluations so far

    @property
    def n_bytes(self) -> int:
        """Room it takes on a disk, headers and state counted generously."""
        tensors = (*self.weights.values(), *self.optimizer.values())
        return sum(t.nbytes + 256 for t in tensors) + len(json.dumps(self.progress)) + 8192


class _Damaged(Exception):
    """A checkpoint that is not what was written."""


def save_checkpoint(
    folder: Path,
    spec: RunSpec,
    checkpoint: Checkpoint,
    tokenizer: str = "",
    ranks: Ranks = ALONE,
    keep_all: bool = False,
) -> Path:
    """Write one checkpoint under `folder`; once it reads back, keep it and the one before it.

    Those of later steps stay: they belong to whoever took this run over. A whole one of the same
    step stays as well: it holds the same.

    Args:
        folder: the run's checkpoints; made if needed.
        spec: whose state it is.
        checkpoint: the state; each rank gives the rows it holds.
        tokenizer: SHA-256 of the tokenizer that made the data.
        ranks: those that save together.
        keep_all: leave older ones as well. Several runs may save the same there at once.

    Returns:
        Where it is.

    Raises:
        OSError: the disk is full or gone; a full one is said with the bytes needed and free.
            Older checkpoints are untouched.
        InputError: another run's checkpoint stands in its place.
    """
    final = folder / f"step-{checkpoint.step:08d}"
    there = False
    with ranks.together():
        if ranks.rank == 0:
            make_dirs(folder)
            there = _is_there(final, spec, tokenizer)
    if not any(ranks.agree(there)):
        _write(final, spec, checkpoint, tokenizer, ranks)
        with ranks.together():
            try:
                _verify(final, ranks, from_disk=True)
            except _Damaged as error:
                _put_aside(final)
                why = f"a checkpoint does not read back as it was written ({error})"
                raise OSError(errno.EIO, why, str(final)) from None
    if ranks.rank == 0:
        earlier = [path for path in _newest_first(folder) if _step(path) <= checkpoint.step]
        for path in (*(() if keep_all else earlier[KEEP:]), *folder.glob(f"{ASIDE}*")):
            _discard(path)
    return final


def load_checkpoint(
    folder: Path,
    spec: RunSpec,
    tokenizer: str = "",
    ranks: Ranks = ALONE,
    at_most: int | None = None,
) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies (None: start anew), and a line for each that did not.

    What killed saves left behind is removed. A damaged checkpoint is put aside, and goes when the
    next one has been saved.

    Args:
        folder: the run's checkpoints.
        spec: the run.
        tokenizer: SHA-256 of the tokenizer that made the data; "" = whichever.
        ranks: those that load together; each gets its rows.
        at_most: the last step that will do; None = any.

    Raises:
        InputError: the newest that verifies belongs to another spec, data set, tokenizer or version;
            says which.
    """
    if ranks.rank == 0:
        clean_leftovers(folder)
    complaints: list[str] = []
    paths = [p for p in _newest_first(folder) if at_most is None or _step(p) <= at_most]
    for name in ranks.broadcast([path.name for path in paths]):
        path = folder / name
        found = None
        # Every file is known to be whole before any rank reads a number.
        n_shards, damaged, why = _tried(ranks, partial(_verify, path, ranks))
        if n_shards and not why:
            load = partial(_load, path, n_shards, spec, tokenizer, ranks)
            found, damaged, why = _tried(ranks, load)
        if found and not why:
            return found, complaints
        if damaged:
            complaints.append(f"checkpoint {path} is damaged ({why}); trying the one before it.")
            if ranks.rank == 0:
                _put_aside(path)
        else:
            complaints.append(f"checkpoint {path} cannot be read ({why}); trying an older one.")
    if complaints:
        complaints.append(f"no checkpoint in {folder} can be used: the run starts anew.")
    return None, complaints


def _tried(ranks: Ranks, work: Callable[[], T]) -> tuple[T | None, bool, str]:
    """What `work` gives here; whether it met damage on any rank, and what any rank could not read."""
    value, damaged, unreadable = None, "", ""
    with ranks.together():
        try:
            value = work()
        except (_Damaged, SafetensorError) as error:
            damaged = str(error)
        except OSError as error:  # a file server's trouble says nothing about what it holds
            unreadable = str(error)
    said = ranks.gather([damaged, unreadable])
    if why := next((d for d, _ in said if d), ""):
        return value, True, why
    return value, False, next((u for _, u in said if u), "")


def _load(path: Path, n_shards: int, spec: RunSpec, tokenizer: str, ranks: Ranks) -> Checkpoint:
    state = _read_state(path)
    weights, optimizer = (
        read_rows([path / of_shard(name, i, n_shards) for i in range(n_shards)], ranks)
        for name in (WEIGHTS, OPTIMIZER)
    )
    _refuse_another(path, state, spec, tokenizer)
    return Checkpoint(state["step"], weights, optimizer, state["progress"])


def recorded_tokenizer(folder: Path) -> str:
    """SHA-256 of the tokenizer that the newest checkpoint was trained with; "" if none says."""
    for path in _newest_first(folder):
        with contextlib.suppress(_Damaged):
            return str(_read_state(path)["tokenizer"])
    return ""


# Writing


def _is_there(final: Path, spec: RunSpec, tokenizer: str) -> bool:
    """Whether this very checkpoint was saved before; a damaged one makes room."""
    if not os.path.lexists(final):
        return False
    try:
        _verify(final, ALONE)
        _refuse_another(final, _read_state(final), spec, tokenizer)
    except _Damaged:
        _put_aside(final)
        return False
    return True


def _write(
    final: Path, spec: RunSpec, checkpoint: Checkpoint, tokenizer: str, ranks: Ranks
) -> None:
    temporary = Path(ranks.broadcast(str(temporary_path(final))))
    needed = sum(ranks.gather(checkpoint.n_bytes if ranks.writes else 0))
    try:
        with ranks.together(), _full_disk_explained(final, needed):
            if ranks.rank == 0:
                temporary.mkdir()
                state = {
                    "run_id": spec.run_id,
                    "spec": spec.to_dict(),
                    "tokenizer": tokenizer,
                    "step": checkpoint.step,
                    "progress": checkpoint.progress,
                }
                write_json(temporary / STATE, state)
        digests = {}
        with ranks.together(), _full_disk_explained(final, needed, begun=True):
            both = ((WEIGHTS, checkpoint.weights), (OPTIMIZER, checkpoint.optimizer))
            for name, tensors in both if ranks.writes else ():
                path = temporary / of_shard(name, ranks.shard, ranks.shards)
                save_file(tensors, path)
                # safetensors makes files for their owner alone; the umask decides, as for others.
                shutil.copymode(temporary / STATE, path)
                _fsync(path)
                digests[path.name] = sha256_file(path)
        for more in ranks.gather(digests):
            digests |= more
        with ranks.together(), _full_disk_explained(final, needed, begun=True):
            if ranks.rank == 0:
                digests[STATE] = sha256_file(temporary / STATE)
                schema = SCHEMA if ranks.shards == 1 else SHARDED
                files = {name: digests[name] for name in (*shard_files(ranks.shards), STATE)}
                body = {"schema": schema, "version": __version__, "files": files}
                write_text(temporary / MANIFEST, _manifest_text(body))  # fsyncs the folder, too
                try:
                    os.rename(temporary, final)
                except OSError as error:  # somebody was faster (a trunk's); it is verified next
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                fsync_dir(final.parent)
    finally:
        if ranks.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _full_disk_explained(path: Path, needed: int, begun: bool = False) -> Iterator[None]:
    """Refuse to begin without room; say what was needed where a write fails for want of it."""
    try:
        if not begun and shutil.disk_usage(path.parent).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None)
        if isinstance(error, SafetensorError):  # it knows the number, but is no OSError
            told = re.search(r"\(os error (\d+)\)", str(error))
            number = int(told[1]) if told else errno.EIO
        if number not in _FULL:
            raise OSError(number, f"a checkpoint cannot be written ({error})", str(path)) from error
        free = shutil.disk_usage(path.parent).free
        why = (
            f"{os.strerror(number)}: a checkpoint needs {needed:,} bytes and {free:,} are free. Older "
            "checkpoints are untouched: make room (or ask for more quota) and launch again"
        )
        raise OSError(number, why, str(path)) from None


def _fsync(path: Path) -> None:
    with open(path, "rb") as f:
        os.fsync(f.fileno())


def _manifest_text(body: dict[str, Any]) -> str:
    """The manifest as it is written; only an untouched one is equal to what this makes of it."""
    digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, indent=1) + "\n"


def _discard(path: Path) -> None:
    """Delete a checkpoint; under its own name it is never half there."""
    with contextlib.suppress(OSError):
        temporary = temporary_path(path)
        os.rename(path, temporary)
        remove(temporary)


def _put_aside(path: Path) -> None:
    """Keep what is damaged out of the way, to be looked at; others' may have been faster."""
    aside = path.with_name(f"{ASIDE}{path.name}")
    if os.path.lexists(aside):
        _discard(aside)
    with contextlib.suppress(OSError):
        os.rename(path, aside)


# Reading


def _verify(path: Path, ranks: Ranks, from_disk: bool = False) -> int:
    """Read every byte and compare it with the manifest; each rank its part of the files.

    Args:
        path: the checkpoint.
        ranks: those that share the reading.
        from_disk: ask the disk for what has just been written, not the memory of it.

    Returns:
        In how many shards it is.

    Raises:
        _Damaged: saying what differs; InputError: whole, but another version's.
    """
    _plain_file(path, MANIFEST)
    try:
        text = (path / MANIFEST).read_bytes().decode()
        body = dict(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        raise _Damaged(f"{MANIFEST} is not JSON") from None
    body.pop("sha256", None)
    if _manifest_text(body) != text:
        raise _Damaged(f"{MANIFEST} does not match its SHA-256")
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
        raise _Damaged(f"{MANIFEST} does not list the three files, or those of every shard")
    for name in files:
        _plain_file(path, name)
    for name in files[ranks.rank :: ranks.world]:
        if from_disk and hasattr(os, "posix_fadvise"):
            with open(path / name, "rb") as f:
                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if stated[name] != sha256_file(path / name):
            raise _Damaged(f"{name} does not match its SHA-256")
    return n_shards


def _plain_file(path: Path, name: str) -> None:
    if path.is_symlink() or (path / name).is_symlink():
        raise _Damaged(f"{name} is a symbolic link")
    if not (path / name).is_file():
        raise _Damaged(f"{name} is missing")


def _read_state(path: Path) -> dict[str, Any]:
    """state.json, with the fields and the step that it must have."""
    try:
        state = dict(read_json(path / STATE, "state"))
        spec = RunSpec.from_dict(state["spec"], str(path / STATE))
        if state["run_id"] != spec.run_id or not isinstance(state["tokenizer"], str):
            raise ValueError("its run_id is not its spec's")
        if state["step"] != _step(path):
            raise ValueError("its step is not its folder's")
        float(state["progress"]["train_seconds"])
        [(int(a), float(b)) for a, b in state["progress"]["evaluations"]]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _Damaged(f"{STATE}: {error}") from None
    return state


def _refuse_another(path: Path, state: dict[str, Any], spec: RunSpec, tokenizer: str) -> None:
    """Raise InputError with what differs, if anything does that matters."""
    saved = RunSpec.from_dict(state["spec"], str(path / STATE))
    there, here = _flat(dataclasses.asdict(saved)), _flat(dataclasses.asdict(spec))
    if tokenizer and state["tokenizer"]:
        there["tokenizer"], here["tokenizer"] = state["tokenizer"][:12], tokenizer[:12]
    differs = [k for k in here if here[k] != there.get(k) and k != "sweep"]
    if differs:
        listed = ", ".join(f"{k} {there.get(k)} there and {here[k]} here" for k in differs)
        raise InputError(
            f"checkpoint {path} belongs to run {state['run_id']}, not {spec.run_id}: {listed}. "
            "Resume with what it was trained with, or use another folder."
        )


def _flat(spec: dict[str, Any]) -> dict[str, Any]:
    return {**spec, **{f"model.{k}": v for k, v in spec["model"].items()}, "model": None}


def _newest_first(folder: Path) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted((p for p in found if _STEP.fullmatch(p.name)), key=_step, reverse=True)


def _step(path: Path) -> int:
    match = _STEP.fullmatch(path.name)
    return int(match[1]) if match else 0
