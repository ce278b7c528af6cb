"""Atomic writes: neither a crash nor a full disk nor another reader leaves or sees a partial file.

A file is written under a temporary name beside its final path, synced and renamed, and its folder
is synced, so that after a power failure either the old or the new file exists. The temporary name
identifies the process that made it, so that leftovers of a killed process can be told from work in
progress.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from chinchilla.core.errors import InputError

LEFTOVER_SECONDS = 3600.0  # age above which another machine's temporary file is deleted
# What link() answers on a file system without hard links. ENOTSUP is EOPNOTSUPP on Linux, not on macOS.
NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})-(\d{1,9})-[0-9a-f]{8}\.tmp")


def fsync_dir(path: Path) -> None:
    """Sync a folder, so that renames in it survive a power failure.

    Some file systems (older CIFS, some FUSE) cannot sync a folder and answer EINVAL. They decide
    themselves when a rename becomes durable, so that answer is ignored.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(fd)


def make_dirs(path: Path) -> None:
    """Create a folder and its parents, each synced so that it survives a power failure."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        fsync_dir(folder.parent)


@functools.cache
def process_table() -> str:
    """Identifier of the process table (machine, boot, PID namespace); pids are unique only within one."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def process_start(pid: int) -> str | None:
    """Start time of process `pid`, "" if it cannot be read; None if no such process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return None if fields[0] in "ZX" else fields[19]  # state and start time; a zombie is dead


def temporary_path(path: Path) -> Path:
    """A unique path beside `path` that identifies this process."""
    return path.with_name(
        f".{path.name}.{_table_digest()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"
    )


@functools.cache
def _table_digest() -> str:
    return hashlib.sha256(process_table().encode()).hexdigest()[:8]


def clean_leftovers(folder: Path) -> list[str]:
    """Remove the temporary files that killed processes left in `folder`.

    Files of dead processes of this machine are removed at once, those of other machines after an
    hour without a change. Other files are not touched, and links are not followed.

    Returns:
        The names of the removed files.
    """
    removed = []
    for name in os.listdir(folder) if folder.is_dir() else ():
        if (match := _TEMPORARY.fullmatch(name)) is None:
            continue
        path = folder / name
        dead = match[1] == _table_digest() and process_start(int(match[2])) is None
        with contextlib.suppress(OSError):  # another process may remove it first
            if dead or time.time() - _last_change(path) > LEFTOVER_SECONDS:
                remove(path)
                removed.append(name)
    return removed


def _last_change(path: Path) -> float:
    children = path.iterdir() if path.is_dir() and not path.is_symlink() else ()
    return max(p.lstat().st_mtime for p in (path, *children))


def remove(path: Path) -> None:
    """Delete a file, a link (not its target), or a folder with its contents."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file that replaces `path` when the block ends without an error."""
    if path.is_dir():  # fail before the block runs, with the right name
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = temporary_path(path)
    try:
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
        with open(temporary, mode, **text) as f:  # type: ignore[call-overload]
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
        fsync_dir(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)  # a write to a full disk has no name
        raise
    finally:
        temporary.unlink(missing_ok=True)


def create_once(path: Path, text: str) -> bool:
    """Create `path` with `text`; exactly one of several processes succeeds.

    The complete file is linked to its name. Where the file system has no hard links (FAT, some CIFS
    and FUSE), the file is created exclusively (O_EXCL) and then written: a reader may find it
    incomplete for a moment, and a killed process may leave it incomplete.

    Returns:
        Whether this call created the file; False if it exists.
    """
    temporary = temporary_path(path)
    try:
        _write_synced(temporary, text)
        try:
            os.link(temporary, path)
        except FileExistsError:
            # After a lost reply, an NFS client repeats the request and finds its own link.
            if os.stat(temporary).st_nlink != 2:
                return False
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            try:
                _write_synced(path, text)
            except FileExistsError:
                return False
        fsync_dir(path.parent)
        return True
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _write_synced(path: Path, text: str) -> None:
    """Create a file and write it; a file that cannot be written completely is removed."""
    with open(path, "x", encoding="utf-8") as f:
        try:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        except OSError:
            path.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` atomically."""
    with atomic_write(path) as f:
        f.write(text)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as JSON atomically; NaN and infinity raise ValueError."""
    write_text(path, pretty_json(value) + "\n")


def pretty_json(value: Any, newline: str = "\n") -> str:
    """JSON with one key per line; lists of numbers are on one line. `newline` holds the indentation."""
    inner = newline + " "
    if isinstance(value, dict) and value:
        rows = (f"{inner}{json.dumps(str(k))}: {pretty_json(x, inner)}" for k, x in value.items())
        return "{" + ",".join(rows) + newline + "}"
    if isinstance(value, list | tuple) and any(
        isinstance(x, dict | list | tuple | str) for x in value
    ):
        return "[" + ",".join(inner + pretty_json(x, inner) for x in value) + newline + "]"
    return json.dumps(value, allow_nan=False)  # json encodes a long list of numbers fast


def writable_dir(path: Path, key: str) -> Path:
    """Create `path` if needed, and check that files can be created in it.

    Raises:
        InputError: naming the setting `key` that gave the folder.
    """
    probe = temporary_path(path / "write-test")
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"{key}={path} is not a writable folder ({error.strerror}). Choose another {key}."
        ) from None
    return path
