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
from chinchilla.core.errors import InputError
from chinchilla.core.files import (
    clean_leftovers,
    fsync_dir,
    make_dirs,
    remove,
    sha256_file,
    temporary_path,
    write_json,
    write_text,
)
from chinchilla.plan.records import RunSpec
from chinchilla.train.checkpoint_files import (
    MANIFEST,
    SCHEMA,
    SHARDED,
    STATE,
    Damaged,
    manifest_text,
    newest_first,
    read_state,
    step_of,
    verify,
)
from chinchilla.train.checkpoint_shards import OPTIMIZER, WEIGHTS, of_shard, read_rows, shard_files
from chinchilla.train.distributed import SINGLE, RankGroup

KEEP = 2  # checkpoints kept per run: the newest and the one before it
ASIDE = "damaged-"  # before the name of a checkpoint that did not verify
T = TypeVar("T")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on as if it had never stopped."""

    step: int  # updates done
    weights: dict[str, torch.Tensor]  # this rank's rows of each
    optimizer: dict[str, torch.Tensor]  # exp_avg.<name>, exp_avg_sq.<name>, step.<name>, losses
    progress: dict[str, Any]  # plain JSON: wall seconds, validation evaluations so far

    @property
    def n_bytes(self) -> int:
        """Room it takes on a disk, headers and state counted generously."""
        tensors = (*self.weights.values(), *self.optimizer.values())
        return sum(t.nbytes + 256 for t in tensors) + len(json.dumps(self.progress)) + 8192


def save_checkpoint(
    folder: Path,
    spec: RunSpec,
    checkpoint: Checkpoint,
    tokenizer: str = "",
    ranks: RankGroup = SINGLE,
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
    with ranks.raise_together():
        if ranks.rank == 0:
            make_dirs(folder)
            there = _is_there(final, spec, tokenizer)
    if not any(ranks.any_rank(there)):
        _write(final, spec, checkpoint, tokenizer, ranks)
        with ranks.raise_together():
            try:
                verify(final, ranks, from_disk=True)
            except Damaged as error:
                _put_aside(final)
                why = f"a checkpoint does not read back as it was written ({error})"
                raise OSError(errno.EIO, why, str(final)) from None
    if ranks.rank == 0:
        earlier = [path for path in newest_first(folder) if step_of(path) <= checkpoint.step]
        for path in (*(() if keep_all else earlier[KEEP:]), *folder.glob(f"{ASIDE}*")):
            _discard(path)
    return final


def load_checkpoint(
    folder: Path,
    spec: RunSpec,
    tokenizer: str = "",
    ranks: RankGroup = SINGLE,
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
    paths = [p for p in newest_first(folder) if at_most is None or step_of(p) <= at_most]
    for name in ranks.gather([path.name for path in paths])[0]:
        path = folder / name
        found = None
        # Every file is known to be whole before any rank reads a number.
        n_shards, damaged, why = _tried(ranks, partial(verify, path, ranks))
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


def _tried(ranks: RankGroup, work: Callable[[], T]) -> tuple[T | None, bool, str]:
    """What `work` gives here; whether it met damage on any rank, and what any rank could not read."""
    value, damaged, unreadable = None, "", ""
    with ranks.raise_together():
        try:
            value = work()
        except (Damaged, SafetensorError) as error:
            damaged = str(error)
        except OSError as error:  # a file server's trouble says nothing about what it holds
            unreadable = str(error)
    said = ranks.gather([damaged, unreadable])
    if why := next((d for d, _ in said if d), ""):
        return value, True, why
    return value, False, next((u for _, u in said if u), "")


def _load(path: Path, n_shards: int, spec: RunSpec, tokenizer: str, ranks: RankGroup) -> Checkpoint:
    state = read_state(path)
    weights, optimizer = (
        read_rows([path / of_shard(name, i, n_shards) for i in range(n_shards)], ranks)
        for name in (WEIGHTS, OPTIMIZER)
    )
    _refuse_another(path, state, spec, tokenizer)
    return Checkpoint(state["step"], weights, optimizer, state["progress"])


def recorded_tokenizer(folder: Path) -> str:
    """SHA-256 of the tokenizer that the newest checkpoint was trained with; "" if none says."""
    for path in newest_first(folder):
        with contextlib.suppress(Damaged):
            return str(read_state(path)["tokenizer"])
    return ""


# Writing


def _is_there(final: Path, spec: RunSpec, tokenizer: str) -> bool:
    """Whether this very checkpoint was saved before; a damaged one makes room."""
    if not os.path.lexists(final):
        return False
    try:
        verify(final, SINGLE)
        _refuse_another(final, read_state(final), spec, tokenizer)
    except Damaged:
        _put_aside(final)
        return False
    return True


def _write(
    final: Path, spec: RunSpec, checkpoint: Checkpoint, tokenizer: str, ranks: RankGroup
) -> None:
    temporary = Path(ranks.gather(str(temporary_path(final)))[0])
    needed = sum(ranks.gather(checkpoint.n_bytes if ranks.saves_shard else 0))
    try:
        with ranks.raise_together(), _full_disk_explained(final, needed):
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
        with ranks.raise_together(), _full_disk_explained(final, needed, begun=True):
            both = ((WEIGHTS, checkpoint.weights), (OPTIMIZER, checkpoint.optimizer))
            for name, tensors in both if ranks.saves_shard else ():
                path = temporary / of_shard(name, ranks.shard, ranks.shards)
                save_file(tensors, path)
                # safetensors makes files for their owner alone; the umask decides, as for others.
                shutil.copymode(temporary / STATE, path)
                _fsync(path)
                digests[path.name] = sha256_file(path)
        for more in ranks.gather(digests):
            digests |= more
        with ranks.raise_together(), _full_disk_explained(final, needed, begun=True):
            if ranks.rank == 0:
                digests[STATE] = sha256_file(temporary / STATE)
                schema = SCHEMA if ranks.shards == 1 else SHARDED
                files = {name: digests[name] for name in (*shard_files(ranks.shards), STATE)}
                body = {"schema": schema, "version": __version__, "files": files}
                write_text(temporary / MANIFEST, manifest_text(body))  # fsyncs the folder, too
                try:
                    os.rename(temporary, final)
                except (
                    OSError
                ) as error:  # somebody was faster (a stable phase's); it is verified next
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
