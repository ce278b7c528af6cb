"""Write checkpoints in a thread while training continues."""

import contextlib
import errno
import functools
import hashlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chinchilla import __version__
from chinchilla.core.files.folders import FolderGone
from chinchilla.core.files.owners import PERMISSION_ERRORS, nearest_existing, ownership
from chinchilla.core.files.writing import (
    fsync_dir,
    make_dirs,
    pretty_json,
    remove,
    rename,
    temporary_path,
    write_text,
)
from chinchilla.core.terminal import print_message
from chinchilla.plan.checkpoint_names import KEPT_CHECKPOINTS, checkpoint_name
from chinchilla.plan.records import RunSpec
from chinchilla.train.checkpoint.files import (
    DAMAGED_PREFIX,
    MANIFEST,
    OPTIMIZER,
    SCHEMA,
    STATE,
    WEIGHTS,
    Checkpoint,
    Damaged,
    delete,
    files_of,
    manifest_text,
    newest_first,
    read_state,
    refuse_another,
    set_aside,
    shard_file,
    step_of,
    verify,
    write_tensors,
)
from chinchilla.train.checkpoint.host import POLL_SECONDS, in_thread
from chinchilla.train.distributed import SINGLE, RankGroup

# A write that takes longer than this counts as failed: the file system does not answer.
WRITE_SECONDS, MIN_BYTES_PER_SECOND = 600.0, 10e6
OCCUPIED = (
    errno.ENOTEMPTY,
    errno.EEXIST,
    errno.ENOTDIR,
    *PERMISSION_ERRORS,
)  # by an old checkpoint
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class _Pending:
    """A checkpoint that is being written."""

    final: Path
    temporary: Path  # the same on all ranks
    spec: RunSpec
    checkpoint: Checkpoint
    keep: int | None
    deadline: float  # of this rank's files or of the commit, by time.monotonic
    committing: bool = False  # every rank's files are complete


class CheckpointWriter:
    """Writes one checkpoint at a time in a thread. All ranks call its methods at the same points.

    Each rank's thread writes and syncs its own files. Once all are complete, `advance` exchanges their
    hashes, checks the claim, and lets rank 0 commit. Collectives are used only by the calling thread.

    Attributes:
        pending: the checkpoint that is not committed yet; None on all ranks at the same points.
    """

    def __init__(self, group: RankGroup = SINGLE) -> None:
        self.group = group
        self.pending: _Pending | None = None
        self._task: Future[dict[str, str]] = Future()
        self._cancelled = threading.Event()

    @property
    def busy(self) -> bool:
        """Whether this rank's thread is at work, and not later than its deadline."""
        if self.pending is None or self._task.done():
            return False
        return time.monotonic() < self.pending.deadline

    def start(
        self,
        folder: Path,
        spec: RunSpec,
        checkpoint: Checkpoint,
        keep: int | None = KEPT_CHECKPOINTS,
    ) -> None:
        """Start to write a checkpoint. Its tensors must not change until it is no longer pending.

        An intact checkpoint of the same step, such as a stable phase that another run has saved, is
        kept. One that is damaged or that this user may not read is renamed; if that is refused too, there is
        a warning, and nothing is saved. Afterwards all but the newest `keep` up to this step are deleted. Checkpoints of later
        steps are not touched: they belong to a worker that has taken over the run.

        Args:
            folder: the run's checkpoints; created if missing.
            spec: the run.
            checkpoint: the state; each rank passes its rows.
            keep: how many to keep; None = all. Several runs may then save the same step at once.
        """
        assert self.pending is None
        final = folder / checkpoint_name(checkpoint.step)
        temporary = Path(self.group.gather(str(temporary_path(final)))[0])
        self.pending = _Pending(final, temporary, spec, checkpoint, keep, 0.0)
        self._run(self._write, self.pending)

    def advance(self, still_mine: Callable[[], bool], busy: bool) -> bool:
        """Take the next step of a pending checkpoint, without waiting.

        Args:
            still_mine: checked before the commit.
            busy: whether any rank's thread is `busy`, the same value on all ranks.

        Returns:
            False if another worker has taken over the run; the checkpoint is then discarded.

        Raises:
            OSError: the checkpoint cannot be written; for a full disk with the bytes needed and free,
                without permission with the owner of the file. Older checkpoints are untouched.
            InputError: a checkpoint of another run has the same path.
        """
        if self.pending is None or busy:
            return True
        pending, group = self.pending, self.group
        with group.raise_together(), _disk_errors_explained(pending):
            if not self._task.done():
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
            digests = self._task.result()
        if pending.committing:
            self.pending = None
            return True
        for others in group.gather(digests):
            digests = digests | others
        if any(group.any_rank(not still_mine())):
            self.close()
            return False
        pending.committing = True
        self._run(self._commit, pending, digests)
        return True

    def finish(self, still_mine: Callable[[], bool] = lambda: True) -> bool:
        """Wait until nothing is pending; as `advance`.

        The ranks wait in many short collectives, whose time limit thus need not depend on the size
        of the state.
        """
        while self.pending is not None:
            while any(self.group.any_rank(self.busy)):
                wait([self._task], timeout=POLL_SECONDS)
            if not self.advance(still_mine, busy=False):
                return False
        return True

    def close(self) -> None:
        """Discard what is not committed. A commit that has begun is completed."""
        if self.pending is None:
            return
        pending, self.pending = self.pending, None
        self._cancelled.set()
        wait([self._task], timeout=max(0.0, pending.deadline - time.monotonic()))
        self._cancelled.clear()
        if self.group.rank == 0:
            _discard(pending.temporary)

    def _run(self, work: Callable[..., dict[str, str]], pending: _Pending, *args: Any) -> None:
        seconds = WRITE_SECONDS + pending.checkpoint.n_bytes / MIN_BYTES_PER_SECOND
        pending.deadline = time.monotonic() + seconds
        self._task = in_thread(functools.partial(work, pending, *args))

    # In the thread

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise InterruptedError("the checkpoint is discarded")

    def _write(self, pending: _Pending) -> dict[str, str]:
        """Write this rank's files; returns their hashes."""
        group, checkpoint, spec = self.group, pending.checkpoint, pending.spec
        make_dirs(pending.temporary)  # by every rank: none waits for another one here
        digests = {}
        if group.rank == 0:
            state = {
                "run_id": spec.run_id,
                "spec": spec.to_dict(),
                "step": checkpoint.step,
                "progress": checkpoint.progress,
            }
            text = pretty_json(state) + "\n"
            write_text(pending.temporary / STATE, text)
            digests[STATE] = hashlib.sha256(text.encode()).hexdigest()
        tensor_files = ((WEIGHTS, checkpoint.weights), (OPTIMIZER, checkpoint.optimizer))
        for name, tensors in tensor_files if group.saves_shard else ():
            path = pending.temporary / shard_file(name, group.shard, group.shards)
            digests[path.name] = write_tensors(path, tensors, self._check)
        return digests

    def _commit(self, pending: _Pending, digests: dict[str, str]) -> dict[str, str]:
        """On rank 0: write the manifest, rename the folder into place, delete obsolete ones."""
        if self.group.rank:
            return {}
        temporary, final = pending.temporary, pending.final
        files = {name: digests[name] for name in files_of(self.group.shards)}
        body = {"schema": SCHEMA, "version": __version__, "files": files}
        write_text(temporary / MANIFEST, manifest_text(body))  # also fsyncs the folder
        try:
            rename(temporary, final)
        except OSError as error:
            if error.errno not in OCCUPIED:
                raise
            if not final.is_dir() or not _is_intact(final, pending.spec):
                set_aside(final)
                try:
                    rename(temporary, final)
                except OSError as again:
                    if again.errno not in OCCUPIED or not os.path.lexists(final):
                        raise
                    _discard(temporary)
                    _warn_of_occupied(final)
                    return {}  # older checkpoints are kept
        _discard(temporary)
        fsync_dir(final.parent)
        earlier = [p for p in newest_first(final.parent) if step_of(p) <= step_of(final)]
        obsolete = [] if pending.keep is None else earlier[pending.keep :]
        for path in (*obsolete, *final.parent.glob(f"{DAMAGED_PREFIX}*")):
            delete(path)
        return {}


def save_checkpoint(
    folder: Path,
    spec: RunSpec,
    checkpoint: Checkpoint,
    group: RankGroup = SINGLE,
    keep: int | None = KEPT_CHECKPOINTS,
) -> Path:
    """Write a checkpoint and wait until it is complete; see `CheckpointWriter.start`.

    Returns:
        Path of the checkpoint.
    """
    writer = CheckpointWriter(group)
    try:
        writer.start(folder, spec, checkpoint, keep)
        writer.finish()
    finally:
        writer.close()
    return folder / checkpoint_name(checkpoint.step)


def _discard(temporary: Path) -> None:
    """Delete a temporary folder, if it exists and can be deleted."""
    with contextlib.suppress(OSError):
        remove(temporary)


@contextlib.contextmanager
def _disk_errors_explained(pending: _Pending) -> Iterator[None]:
    """Add to an error what is needed to correct it: free bytes, or the owner of a file."""
    try:
        yield
    except FolderGone:
        raise
    except OSError as error:
        number, folder = error.errno or errno.EIO, pending.final.parent
        path, message = str(pending.final), os.strerror(number)
        if number in DISK_FULL:
            free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
            message += (
                f": a checkpoint needs {pending.checkpoint.n_bytes:,} bytes and {free:,} are free. Older "
                "checkpoints are untouched. Free some space or request a larger quota; then launch again"
            )
        elif number in PERMISSION_ERRORS:
            # The temporary folder is this user's own: what is refused is to create it.
            refused = Path(error.filename or folder)
            beside = refused.name == pending.temporary.name
            path = str(folder if beside else refused)
            message += (
                f": a checkpoint cannot be written. {ownership(nearest_existing(Path(path)))}. Older "
                "checkpoints are untouched. Correct the permissions or ask the owner; then launch again"
            )
        else:
            message += ": a checkpoint cannot be written. Older checkpoints are untouched"
        raise OSError(number, message, path) from error


def _is_intact(path: Path, spec: RunSpec) -> bool:
    """Whether a checkpoint of this run is intact, in which case it is kept as it is."""
    try:
        verify(path, SINGLE)
        refuse_another(path, read_state(path), spec)
    except (Damaged, PermissionError):
        return False
    return True


def _warn_of_occupied(final: Path) -> None:
    text = f"warning: no checkpoint is saved as {final}: the one that is there can neither be read nor renamed"
    print_message(f"{text}. {ownership(final)}.", file=sys.stderr)
