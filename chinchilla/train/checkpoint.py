"""Checkpoints that are whole or absent.

    checkpoints/step-00000120/weights.safetensors optimizer.safetensors state.json MANIFEST.json

Written into a temporary folder, every file fsynced, the folder renamed into place; MANIFEST.json
holds the SHA-256 of each file and of itself. A new checkpoint is read back before an older one
goes. Loading walks back to the newest that verifies; one that does not is put aside. No pickle.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

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

SCHEMA = 2
KEEP = 2  # checkpoints kept per run: the newest and the one before it
WEIGHTS, OPTIMIZER, STATE = FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")
MANIFEST = "MANIFEST.json"
ASIDE = "damaged-"  # before the name of a checkpoint that did not verify
_STEP = re.compile(r"step-(\d{8,})")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on as if it had never stopped."""

    step: int  # updates done
    weights: dict[str, torch.Tensor]
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
    folder: Path, spec: RunSpec, checkpoint: Checkpoint, tokenizer: str = ""
) -> Path:
    """Write one checkpoint under `folder`; once it reads back, keep it and the one before it.

    Those of later steps stay: they belong to whoever took this run over. A whole one of the same
    step stays as well: it holds the same.

    Args:
        folder: the run's checkpoints; made if needed.
        spec: whose state it is.
        checkpoint: the state.
        tokenizer: SHA-256 of the tokenizer that made the data.

    Returns:
        Where it is.

    Raises:
        OSError: the disk is full or gone; a full one is said with the bytes needed and free.
            Older checkpoints are untouched.
        InputError: another run's checkpoint stands in its place.
    """
    final = folder / f"step-{checkpoint.step:08d}"
    make_dirs(folder)
    if not _is_there(final, spec, tokenizer):
        _write(final, spec, checkpoint, tokenizer)
        try:
            _verify(final, from_disk=True)
        except _Damaged as error:
            _put_aside(final)
            why = f"a checkpoint does not read back as it was written ({error})"
            raise OSError(errno.EIO, why, str(final)) from None
    earlier = [path for path in _newest_first(folder) if _step(path) <= checkpoint.step]
    for path in (*earlier[KEEP:], *folder.glob(f"{ASIDE}*")):
        _discard(path)
    return final


def load_checkpoint(
    folder: Path, spec: RunSpec, tokenizer: str = ""
) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies (None: start anew), and a line for each that did not.

    What killed saves left behind is removed. A damaged checkpoint is put aside, and goes when the
    next one has been saved.

    Args:
        folder: the run's checkpoints.
        spec: the run.
        tokenizer: SHA-256 of the tokenizer that made the data; "" = whichever.

    Raises:
        InputError: the newest that verifies belongs to another spec, data set, tokenizer or version;
            says which.
    """
    clean_leftovers(folder)
    complaints = []
    for path in _newest_first(folder):
        try:
            _verify(path)
            state = _read_state(path)
            weights, optimizer = load_file(path / WEIGHTS), load_file(path / OPTIMIZER)
        except (_Damaged, SafetensorError) as error:
            complaints.append(f"checkpoint {path} is damaged ({error}); trying the one before it.")
            _put_aside(path)
            continue
        except OSError as error:  # a file server's trouble says nothing about what it holds
            complaints.append(f"checkpoint {path} cannot be read ({error}); trying an older one.")
            continue
        _refuse_another(path, state, spec, tokenizer)
        return Checkpoint(state["step"], weights, optimizer, state["progress"]), complaints
    if complaints:
        complaints.append(f"no checkpoint in {folder} can be used: the run starts anew.")
    return None, complaints


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
        _verify(final)
        _refuse_another(final, _read_state(final), spec, tokenizer)
    except _Damaged:
        _put_aside(final)
        return False
    return True


def _write(final: Path, spec: RunSpec, checkpoint: Checkpoint, tokenizer: str) -> None:
    temporary = temporary_path(final)
    with _full_disk_explained(final, checkpoint.n_bytes):
        try:
            temporary.mkdir()
            state = {
                "run_id": spec.run_id,
                "spec": spec.to_dict(),
                "tokenizer": tokenizer,
                "step": checkpoint.step,
                "progress": checkpoint.progress,
            }
            write_json(temporary / STATE, state)
            for name, tensors in ((WEIGHTS, checkpoint.weights), (OPTIMIZER, checkpoint.optimizer)):
                save_file(tensors, temporary / name)
                # safetensors makes files for their owner alone; the umask decides, as for others.
                shutil.copymode(temporary / STATE, temporary / name)
                _fsync(temporary / name)
            digests = {name: sha256_file(temporary / name) for name in FILES}
            body = {"schema": SCHEMA, "version": __version__, "files": digests}
            write_text(temporary / MANIFEST, _manifest_text(body))  # fsyncs the folder, too
            os.rename(temporary, final)
            fsync_dir(final.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _full_disk_explained(path: Path, needed: int) -> Iterator[None]:
    """Refuse to begin without room; say what was needed where a write fails for want of it."""
    try:
        if shutil.disk_usage(path.parent).free < needed:
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


def _verify(path: Path, from_disk: bool = False) -> None:
    """Read every byte and compare it with the manifest.

    Args:
        path: the checkpoint.
        from_disk: ask the disk for what has just been written, not the memory of it.

    Raises:
        _Damaged: saying what differs; InputError: whole, but another version's.
    """
    for name in (MANIFEST, *FILES):
        if path.is_symlink() or (path / name).is_symlink():
            raise _Damaged(f"{name} is a symbolic link")
        if not (path / name).is_file():
            raise _Damaged(f"{name} is missing")
        if from_disk and hasattr(os, "posix_fadvise"):
            with open(path / name, "rb") as f:
                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        text = (path / MANIFEST).read_bytes().decode()
        body = dict(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        raise _Damaged(f"{MANIFEST} is not JSON") from None
    body.pop("sha256", None)
    if _manifest_text(body) != text:
        raise _Damaged(f"{MANIFEST} does not match its SHA-256")
    if body.get("schema") != SCHEMA:
        raise InputError(
            f"checkpoint {path} was written by version {body.get('version')} (schema "
            f"{body.get('schema')}); version {__version__} reads schema {SCHEMA}. Resume with the "
            "version that wrote it, or use another folder."
        )
    stated = body.get("files")
    if not isinstance(stated, dict) or set(stated) != set(FILES):
        raise _Damaged(f"{MANIFEST} does not list the three files")
    for name in FILES:
        if stated[name] != sha256_file(path / name):
            raise _Damaged(f"{name} does not match its SHA-256")


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
    there, here = _flat(state["spec"]), _flat(spec.to_dict())
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
