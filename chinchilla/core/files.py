"""Writing so that a crash, a full disk or a second reader never sees half a file.

One file per fact: written to a temporary name beside its place, fsynced, renamed, and the folder
fsynced, so that after a power cut there is either the old file or the new one. A temporary name
says which process made it, so that what a killed one left can be told from work in progress.
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

LEFTOVER_SECONDS = 3600.0  # age at which another machine's temporary file counts as left behind
_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})-(\d{1,9})-[0-9a-f]{8}\.tmp")


def fsync_dir(path: Path) -> None:
    """Make renames inside `path` survive a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_dirs(path: Path) -> None:
    """Create a folder and those above it, each so that it survives a power cut."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        fsync_dir(folder.parent)


@functools.cache
def process_table() -> str:
    """Name of the process table this process is in; pids compare only inside one."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def process_start(pid: int) -> str | None:
    """Something that tells process `pid` from others with its number; None if it does not run."""
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
    """A name beside `path` that nobody else uses, and that says who made it."""
    return path.with_name(
        f".{path.name}.{_table_digest()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"
    )


@functools.cache
def _table_digest() -> str:
    return hashlib.sha256(process_table().encode()).hexdigest()[:8]


def clean_leftovers(folder: Path) -> list[str]:
    """Remove what killed processes left in `folder` under `temporary_path` names.

    A dead process of this machine leaves nothing worth waiting for; of other machines' files only
    those without a change for an hour go. Nothing else is touched, and links are not followed.

    Returns:
        The names that went.
    """
    gone = []
    for name in os.listdir(folder) if folder.is_dir() else ():
        if (match := _TEMPORARY.fullmatch(name)) is None:
            continue
        path = folder / name
        dead = match[1] == _table_digest() and process_start(int(match[2])) is None
        with contextlib.suppress(OSError):  # somebody else may clean here too
            if dead or time.time() - _last_change(path) > LEFTOVER_SECONDS:
                remove(path)
                gone.append(name)
    return gone


def _last_change(path: Path) -> float:
    inside = path.iterdir() if path.is_dir() and not path.is_symlink() else ()
    return max(p.lstat().st_mtime for p in (path, *inside))


def remove(path: Path) -> None:
    """Delete a file, a link (not what it leads to), or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file that takes `path`'s place only when the block ends without an error."""
    if path.is_dir():  # said before the work is done, and by its own name
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = temporary_path(path)
    try:
        with open(
            temporary,
            mode,
            encoding=None if "b" in mode else "utf-8",
            newline="" if "b" not in mode else None,
        ) as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
        fsync_dir(path.parent)
    except OSError as error:
        _name(error, path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _name(error: OSError, path: Path) -> None:
    """Say which file it was: a write to a full disk knows only its descriptor."""
    if error.errno and error.filename is None:
        error.filename = str(path)


def create_once(path: Path, text: str) -> bool:
    """Create `path` with `text`, whole and for good; False if it exists already.

    Raises:
        InputError: the file system has no hard links, which claims are made with.
    """
    temporary = temporary_path(path)
    try:
        with open(temporary, "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            # An NFS server whose answer got lost is asked again and finds its own work: two names.
            if os.stat(temporary).st_nlink != 2:
                return False
        fsync_dir(path.parent)
        return True
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise InputError(
                f"{path.parent}: this file system has no hard links, so workers cannot agree who "
                "trains what. Put the sweep on another one (local disk, NFS, Lustre)."
            ) from None
        _name(error, path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step."""
    with atomic_write(path) as f:
        f.write(text)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as JSON in one step; NaN and infinity are refused."""
    write_text(path, pretty_json(value) + "\n")


def pretty_json(value: Any) -> str:
    """JSON for eyes and diffs: a key a line, a list of plain values on one line."""
    return _pretty(value, "\n")


def _pretty(value: Any, newline: str) -> str:
    inner = newline + " "
    if isinstance(value, dict) and value:
        rows = (f"{inner}{json.dumps(str(k))}: {_pretty(x, inner)}" for k, x in value.items())
        return "{" + ",".join(rows) + newline + "}"
    if isinstance(value, list | tuple) and any(
        isinstance(x, dict | list | tuple | str) for x in value
    ):
        return "[" + ",".join(inner + _pretty(x, inner) for x in value) + newline + "]"
    return json.dumps(value, allow_nan=False)  # all of a long list at once: in C


def read_json(path: Path, what: str) -> Any:
    """The JSON in `path`; `what` names it in the error a person sees.

    Raises:
        InputError: missing, unreadable, not JSON, or with NaN or infinity in it, which we never write.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number that this file may hold")

    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except FileNotFoundError:
        raise InputError(f"{what}: {path} does not exist.") from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON
        why = getattr(error, "strerror", None) or error
        raise InputError(
            f"{what}: {path} cannot be read ({why}). Bring it back from a copy, or have it made anew."
        ) from None


def inside(folder: Path, name: str) -> Path:
    """`folder/name`, once it is sure that it lies in there.

    Raises:
        InputError: an absolute name, one with `..`, or a symbolic link that leads out.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()) or path.resolve() == folder.resolve():
        raise InputError(f"{path} leads out of its folder. Only files inside {folder} are read.")
    return path


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def writable_dir(path: Path, key: str) -> Path:
    """Create `path` if needed and prove that files can be made in it.

    Raises:
        InputError: naming the config `key` that gave the folder.
    """
    probe = temporary_path(path / "write-test")
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"{key}={path} is not a folder that can be written to ({error.strerror}). "
            f"Choose another {key}."
        ) from None
    return path
