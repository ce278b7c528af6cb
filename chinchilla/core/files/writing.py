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
from chinchilla.core.files.folders import ID_FILE, Folder, opened, read_identity, register, unguard

LEFTOVER_SECONDS = 3600.0  # age above which another machine's temporary file is deleted
EMPTY_SECONDS = 2.0  # after which an empty .folder-id has been left by a killed process
# What link() answers on a file system without hard links. ENOTSUP is EOPNOTSUPP on Linux, not on macOS.
NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})-(\d{1,9})-[0-9a-f]{8}\.tmp")


def fsync_dir(path: Path) -> None:
    """Sync a folder, so that renames in it survive a power failure."""
    with opened(path) as folder:
        folder.sync()


def make_dirs(path: Path) -> None:
    """Create a folder and its parents, each synced so that it survives a power failure.

    Neither a guarded folder (`core.files.folders`) nor its parents are created.
    """
    with opened(path, create=True):
        pass


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


def remove(path: Path, missing_ok: bool = False) -> None:
    """Delete a file, a link (not its target), or a folder with its contents."""
    try:
        with opened(path.parent) as folder:
            if folder.is_dir(path.name):
                shutil.rmtree(path.name, dir_fd=folder.fd)
            else:
                os.unlink(path.name, dir_fd=folder.fd)
    except OSError as error:
        if not (missing_ok and isinstance(error, FileNotFoundError)):
            _name(error, path)
            raise


def rename(old: Path, new: Path) -> None:
    """Rename a file or a folder; an existing file, or an empty folder, is replaced."""
    try:
        with opened(old.parent) as a, opened(new.parent) as b:
            os.rename(old.name, new.name, src_dir_fd=a.fd, dst_dir_fd=b.fd)
    except OSError as error:
        _name(error, new)
        raise


def touch(path: Path, wait: bool = True) -> None:
    """Set the time of a file to now; create it if it is missing."""
    with opened(path.parent, wait=wait) as folder:
        fd = folder.open(path.name, os.O_WRONLY)
        try:
            os.utime(fd)
        finally:
            os.close(fd)


def create_file(path: Path) -> int:
    """Create a file that must not exist; returns its descriptor."""
    with opened(path.parent) as folder:
        return folder.create(path.name)


def open_log(path: Path) -> IO[bytes]:
    """Open a file to append to it; anything but a regular file with one name is replaced."""
    with opened(path.parent, create=True) as folder:
        return open(folder.open(path.name, os.O_WRONLY | os.O_APPEND), "ab")


def _name(error: OSError, path: Path) -> None:
    """Give an error the path that it is about: those of `os` know a name in a folder, or none."""
    if not error.filename or not os.path.isabs(error.filename):
        error.filename = str(path)


@contextmanager
def atomic_write(
    path: Path, mode: str = "w", *, sync: bool = True, wait: bool = True, keep_open: bool = False
) -> Iterator[IO[Any]]:
    """Open a temporary file that replaces `path` when the block ends without an error.

    Args:
        path: the file to write.
        mode: w or wb.
        sync: sync the file and its folder. Without, a power failure may leave an incomplete file.
        wait: wait for a guarded folder that is not there (`core.files.folders`).
        keep_open: do not close the file, so that more can be appended to what has been renamed.
    """
    temporary = temporary_path(path).name
    try:
        with opened(path.parent, wait=wait) as folder:
            if sync and folder.is_dir(path.name):  # fail before a long block runs
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
            f = open(folder.create(temporary), mode, **text)  # type: ignore[call-overload]  # noqa: SIM115
            try:
                yield f
                f.flush()
                if sync:
                    os.fsync(f.fileno())
                if not keep_open:
                    f.close()
                os.replace(temporary, path.name, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)
                if sync:
                    folder.sync()
            except BaseException:
                with contextlib.suppress(OSError):  # of a full disk, again
                    f.close()
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder.fd)
                raise
    except OSError as error:  # a write to a full disk has no name
        _name(error, path)
        raise


def create_once(path: Path, text: str, *, wait: bool = True) -> bool:
    """Create `path` with `text`; exactly one of several processes succeeds.

    The complete file is linked to its name. Where the file system has no hard links (FAT, some CIFS
    and FUSE), the file is created exclusively (O_EXCL) and then written: a reader may find it
    incomplete for a moment, and a killed process may leave it incomplete. `wait` as of `atomic_write`.

    Returns:
        Whether this call created the file; False if it exists.
    """
    temporary, name = temporary_path(path).name, path.name
    try:
        with opened(path.parent, wait=wait) as folder:
            try:
                _write_synced(folder, temporary, text)
                try:
                    os.link(temporary, name, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)
                except FileExistsError:
                    # After a lost reply, an NFS client repeats the request and finds its own link.
                    if os.stat(temporary, dir_fd=folder.fd).st_nlink != 2:
                        return False
                except OSError as error:
                    if error.errno not in NO_HARD_LINKS:
                        raise
                    try:
                        _write_synced(folder, name, text)
                    except FileExistsError:
                        return False
                folder.sync()
                return True
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder.fd)
    except OSError as error:
        _name(error, path)
        raise


def _write_synced(folder: Folder, name: str, text: str) -> None:
    """Create a file and write it; a file that cannot be written completely is removed."""
    with open(folder.create(name), "w", encoding="utf-8") as f:
        try:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder.fd)
            raise


def write_text(path: Path, text: str, *, sync: bool = True, wait: bool = True) -> None:
    """Replace `path` by `text` atomically; `sync` and `wait` as of `atomic_write`."""
    with atomic_write(path, sync=sync, wait=wait) as f:
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
    probe = temporary_path(path / "write-test").name
    try:
        with opened(path, create=True) as folder:
            os.close(folder.create(probe))
            os.unlink(probe, dir_fd=folder.fd)
    except OSError as error:
        raise InputError(
            f"{key}={path} is not a writable folder ({error.strerror}). Choose another {key}."
        ) from None
    return path


def guard(folder: Path, stop: object = False, key: str = "sweep_dir") -> Path:
    """Register the folder of a sweep in this process, see `core.files.folders`; it gets an identity if it has none.

    Args:
        folder: it exists.
        stop: if true (in the sense of `bool`), nothing waits for a folder that has disappeared.
        key: the setting that gave the folder, for messages.

    Returns:
        Its path without links.

    Raises:
        InputError: nothing can be written there.
    """
    unguard(folder)  # it may have been made anew since
    try:
        register(folder)
        identity = _identity(folder)
        if not identity:
            create_once(folder / ID_FILE, f"{uuid.uuid4().hex}\n")
            identity = _identity(folder) or _fill_identity(folder)
    except OSError as error:
        raise InputError(
            f"{key}={folder} is not a writable folder ({error.strerror}). Choose another {key}."
        ) from None
    return register(folder, identity, stop)


def _identity(folder: Path) -> str:
    with opened(folder) as root:
        return read_identity(root)


def _fill_identity(folder: Path) -> str:
    """Replace an empty .folder-id, which a process leaves that is killed or finds the disk full.

    Without hard links, a file is empty for a moment after it was created, so this waits first. The new number follows
    from the time of the empty file: of several processes, all write the same one.
    """
    deadline = time.monotonic() + EMPTY_SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.1)
        if identity := _identity(folder):
            return identity
    changed = os.lstat(folder / ID_FILE).st_mtime_ns
    if identity := _identity(folder):  # the time may be that of a file just written
        return identity
    write_text(folder / ID_FILE, hashlib.sha256(str(changed).encode()).hexdigest()[:32] + "\n")
    return _identity(folder)
