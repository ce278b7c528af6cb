"""Save and load checkpoints, which are either complete or absent.

A checkpoint is written into a temporary folder, every file is fsynced and hashed, and the folder is
renamed into place (`checkpoint_files` has its contents). Loading verifies all hashes and falls back
to the previous checkpoint if the newest one is damaged. Nothing is pickled.

All ranks call `save_checkpoint` and `load_checkpoint` together. Each rank of the first copy of the
weights writes its own shard and rank 0 commits; an error on one rank is raised on all. A run can be
resumed with a different number of ranks or copies than it was saved with.
"""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
from chinchilla.plan.checkpoint_names import KEPT_CHECKPOINTS, checkpoint_name
from chinchilla.plan.records import RunSpec
from chinchilla.train.checkpoint_files import (
    MANIFEST,
    OPTIMIZER,
    SCHEMA,
    STATE,
    WEIGHTS,
    Damaged,
    files_of,
    manifest_text,
    newest_first,
    read_rows,
    read_state,
    shard_file,
    step_of,
    verify,
)
from chinchilla.train.distributed import SINGLE, RankGroup

DAMAGED_PREFIX = "damaged-"  # a damaged checkpoint is renamed, and deleted after the next save


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


def save_checkpoint(
    folder: Path,
    spec: RunSpec,
    checkpoint: Checkpoint,
    group: RankGroup = SINGLE,
    keep_all: bool = False,
) -> Path:
    """Write a checkpoint, then delete all but the newest two up to its step.

    Checkpoints of later steps are not touched: they belong to a worker that has taken over the run.
    An intact checkpoint of the same step, such as a stable phase that another run has saved, is kept.

    Args:
        folder: the run's checkpoints; created if missing.
        spec: the run.
        checkpoint: the state; each rank passes its rows.
        group: the ranks that save together.
        keep_all: do not delete older checkpoints. Several runs may save the same step at once.

    Returns:
        Path of the checkpoint.

    Raises:
        OSError: the checkpoint cannot be written; for a full disk with the bytes needed and free.
            Older checkpoints are untouched.
        InputError: a checkpoint of another run has the same path.
    """
    final = folder / checkpoint_name(checkpoint.step)
    with group.raise_together():
        if group.rank == 0:
            make_dirs(folder)
    _write(final, spec, checkpoint, group)
    if group.rank == 0:
        earlier = [path for path in newest_first(folder) if step_of(path) <= checkpoint.step]
        obsolete = [] if keep_all else earlier[KEPT_CHECKPOINTS:]
        for path in (*obsolete, *folder.glob(f"{DAMAGED_PREFIX}*")):
            _delete(path)
    return final


def load_checkpoint(
    folder: Path,
    spec: RunSpec,
    group: RankGroup = SINGLE,
    max_step: int | None = None,
) -> tuple[Checkpoint | None, list[str]]:
    """Load the newest intact checkpoint.

    Temporary folders of killed processes are deleted, and damaged checkpoints renamed.

    Args:
        folder: the run's checkpoints.
        spec: the run.
        group: the ranks that load together; each gets its rows.
        max_step: ignore later checkpoints; None = no limit.

    Returns:
        The checkpoint, or None if there is none, and a warning for each that could not be used.

    Raises:
        InputError: the newest intact checkpoint belongs to another spec or version.
    """
    if group.rank == 0:
        clean_leftovers(folder)
    paths = [p for p in newest_first(folder) if max_step is None or step_of(p) <= max_step]
    warnings: list[str] = []
    for name in group.gather([path.name for path in paths])[0]:  # as rank 0 lists them
        path = folder / name
        checkpoint: Checkpoint | None = None
        problem: _Problem | None = None
        with group.raise_together():
            try:
                checkpoint = _read(path, spec, group)
            except Damaged as error:
                problem = _Problem(0, True, str(error))
            except SafetensorError as error:  # possibly of a file whose hash another rank checks
                problem = _Problem(1, True, str(error))
            except OSError as error:  # an error of the file server does not prove damage
                problem = _Problem(2, False, str(error))
        problems = [_Problem(*p) for p in group.gather(problem) if p]
        if not problems:
            return checkpoint, warnings
        first = min(problems)
        state = "is damaged" if first.damaged else "cannot be read"
        warnings.append(f"checkpoint {path} {state} ({first.reason}); trying an older one.")
        if group.rank == 0 and first.damaged:
            _set_aside(path)
    if warnings:
        warnings.append(
            f"no checkpoint in {folder} can be used: the run starts from the beginning."
        )
    return None, warnings


class _Problem(NamedTuple):
    """Why a rank could not read a checkpoint; of all ranks' problems the smallest counts."""

    order: int  # damage that was proved comes before errors that it may have caused on other ranks
    damaged: bool
    reason: str


def _read(path: Path, spec: RunSpec, group: RankGroup) -> Checkpoint:
    """Verify this rank's part of the files, then read this rank's rows of all of them."""
    n_shards = verify(path, group)
    state = read_state(path)
    _refuse_another(path, state, spec)
    weights, optimizer = (
        read_rows([path / shard_file(name, i, n_shards) for i in range(n_shards)], group)
        for name in (WEIGHTS, OPTIMIZER)
    )
    return Checkpoint(state["step"], weights, optimizer, state["progress"])


# Writing


def _write(final: Path, spec: RunSpec, checkpoint: Checkpoint, group: RankGroup) -> None:
    temporary = Path(group.gather(str(temporary_path(final)))[0])  # rank 0's, on all ranks
    digests: dict[str, str] = {}
    try:
        with group.raise_together(), _disk_errors_explained(final, checkpoint):
            if group.rank == 0:
                temporary.mkdir()
                state = {
                    "run_id": spec.run_id,
                    "spec": spec.to_dict(),
                    "step": checkpoint.step,
                    "progress": checkpoint.progress,
                }
                write_json(temporary / STATE, state)
                digests[STATE] = sha256_file(temporary / STATE)
        with group.raise_together(), _disk_errors_explained(final, checkpoint):
            tensor_files = ((WEIGHTS, checkpoint.weights), (OPTIMIZER, checkpoint.optimizer))
            for name, tensors in tensor_files if group.saves_shard else ():
                path = temporary / shard_file(name, group.shard, group.shards)
                save_file(tensors, path)
                # safetensors creates files of mode 600; give them the mode of the others.
                shutil.copymode(temporary / STATE, path)
                with open(path, "rb") as f:
                    os.fsync(f.fileno())
                digests[path.name] = sha256_file(path)
        for others in group.gather(digests):
            digests |= others
        with group.raise_together(), _disk_errors_explained(final, checkpoint):
            if group.rank == 0:
                files = {name: digests[name] for name in files_of(group.shards)}
                body = {"schema": SCHEMA, "version": __version__, "files": files}
                write_text(temporary / MANIFEST, manifest_text(body))  # also fsyncs the folder
                try:
                    os.rename(temporary, final)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                    if not _is_intact(final, spec):
                        _set_aside(final)
                        os.rename(temporary, final)
                fsync_dir(final.parent)
    finally:
        if group.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _disk_errors_explained(path: Path, checkpoint: Checkpoint) -> Iterator[None]:
    """Add the checkpoint's path and the bytes needed and free to an error."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        # A SafetensorError has the number of the system's error in its message only.
        match = re.search(r"\(os error (\d+)\)", str(error))
        number = getattr(error, "errno", None) or (int(match[1]) if match else errno.EIO)
        free = shutil.disk_usage(path.parent).free
        message = (
            f"{os.strerror(number)}: a checkpoint needs {checkpoint.n_bytes:,} bytes and {free:,} are "
            "free. Older checkpoints are untouched. If the disk is full, free some space or "
            "request a larger quota; then launch again"
        )
        raise OSError(number, message, str(path)) from error


def _is_intact(path: Path, spec: RunSpec) -> bool:
    """Whether a checkpoint of this run is intact, in which case it is kept as it is."""
    try:
        verify(path, SINGLE)
        _refuse_another(path, read_state(path), spec)
    except Damaged:
        return False
    return True


def _delete(path: Path) -> None:
    """Rename, then delete: a partly deleted folder never has a checkpoint's name."""
    with contextlib.suppress(OSError):
        temporary = temporary_path(path)
        os.rename(path, temporary)
        remove(temporary)


def _set_aside(path: Path) -> None:
    """Rename a damaged checkpoint so that it can be inspected; another process may do the same."""
    target = path.with_name(f"{DAMAGED_PREFIX}{path.name}")
    if os.path.lexists(target):
        _delete(target)
    with contextlib.suppress(OSError):
        os.rename(path, target)


def _refuse_another(path: Path, state: dict[str, Any], spec: RunSpec) -> None:
    """Raise InputError if the checkpoint's spec differs from this run's."""
    differences = RunSpec.from_dict(state["spec"], str(path / STATE)).differences(spec)
    if differences:
        raise InputError(
            f"checkpoint {path} belongs to run {state['run_id']}, not {spec.run_id} ({differences}). "
            "Resume with the same settings and data, or use another folder."
        )
