"""Read files that another program, another user or a damaged disk may have changed.

Only regular files are read: opening a FIFO can wait forever, and a device can have no end. Each kind of
file has a limit of its size or of the memory that its contents can take. Files are read in blocks, so
that signals are answered. The errors are those of the operating system, with the reason in `strerror`.
"""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from chinchilla.core.errors import InputError, nearest_path

LFS_POINTER_BYTES = 1024  # a Git LFS pointer is smaller
BLOCK = 1 << 20  # bytes read at once
MB = 1_000_000
RECORD_BYTES = 4 * MB  # of the record of a run, a claim, a job; they have some kB
TEXT_BYTES = 64 * MB  # of a file that is read as a whole, if its reader states no other limit
LINE_BYTES = 1 * MB  # of a record in a file of JSON lines
JSON_MEMORY = 256 * MB  # that the values of a JSON file may take
MOST_PER_BYTE = 100  # bytes of memory that `_json_memory` estimates for one byte of JSON

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class RefusedFile(OSError):
    """A file that is never read: it is not a regular file, or is larger than its kind allows."""


class UnreadableFile(InputError):
    """A file that exists and that the system does not let this process read; it may be intact.

    Attributes:
        cause: the error of the system: of permissions, the disk, the file server or memory.
    """

    def __init__(self, message: str, cause: OSError) -> None:
        super().__init__(message)
        self.cause = cause


def open_regular(path: Path | str) -> BinaryIO:
    """Open a regular file, or a link to one, for reading, without waiting.

    Raises:
        OSError: the file cannot be opened.
        RefusedFile: it is a directory, a FIFO, a device or a socket, which is not opened, or a link to
            itself.
    """
    try:
        _check_regular(os.stat(path).st_mode, path)
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            raise RefusedFile(errno.ELOOP, error.strerror, str(path)) from None
        if not isinstance(error, FileNotFoundError):  # on NFS, open() may find a file that is new
            raise
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _check_regular(os.fstat(fd).st_mode, path)  # it may have been replaced
        os.set_blocking(fd, True)  # else reading a file that is on tape may fail with EAGAIN
        return os.fdopen(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def _check_regular(mode: int, path: Path | str) -> None:
    if stat.S_ISDIR(mode):
        raise RefusedFile(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "not a file with contents")
        raise RefusedFile(errno.EINVAL, f"it is {kind}, and only regular files are read", str(path))


def read_blocks(path: Path | str, limit: int | None = None) -> Iterator[bytes]:
    """The bytes of a regular file, in blocks.

    Raises:
        OSError: as of `open_regular`.
        RefusedFile: the file has more than `limit` bytes.
    """
    with open_regular(path) as f:
        size = os.fstat(f.fileno()).st_size
        if limit is not None and size > limit:
            raise _too_large(path, size, limit)
        done = 0
        while block := f.read(BLOCK):
            done += len(block)
            if limit is not None and done > limit:  # it has grown
                raise _too_large(path, done, limit)
            yield block


def _too_large(path: Path | str, size: int, limit: int) -> RefusedFile:
    reason = f"it has {size / MB:,.1f} MB; files of its kind have at most {limit / MB:,.1f} MB"
    return RefusedFile(errno.EFBIG, reason, str(path))


def read_bytes(path: Path | str, limit: int | None = TEXT_BYTES) -> bytes:
    """The contents of a regular file of at most `limit` bytes.

    Raises:
        OSError: as of `read_blocks`.
    """
    return b"".join(read_blocks(path, limit))


def read_text(path: Path | str, limit: int | None = TEXT_BYTES) -> str:
    """The text of a regular file in UTF-8 of at most `limit` bytes.

    Raises:
        OSError: as of `read_blocks`.
        UnicodeDecodeError: not UTF-8.
    """
    return read_bytes(path, limit).decode("utf-8")


def read_tail(path: Path | str, n_bytes: int) -> tuple[str, bool]:
    """The last `n_bytes` of a log, and whether there is text before them.

    Raises:
        OSError: as of `open_regular`.
    """
    with open_regular(path) as f:
        size = f.seek(0, os.SEEK_END)
        f.seek(max(0, size - n_bytes))
        return f.read(n_bytes).decode(errors="replace"), size > n_bytes


def read_lines(
    path: Path | str, limit: int | None = None, line_bytes: int = LINE_BYTES
) -> Iterator[bytes]:
    """The lines of a regular file with their endings, without holding the file in memory.

    Raises:
        OSError: as of `open_regular`.
        RefusedFile: the file has more than `limit` bytes, or a line more than `line_bytes`.
    """
    done = 0
    with open_regular(path) as f:
        while line := f.readline(line_bytes + 1):
            done += len(line)
            if len(line) > line_bytes:
                reason = f"it has a line of over {line_bytes / MB:,.1f} MB"
                raise RefusedFile(errno.EFBIG, reason, str(path))
            if limit is not None and done > limit:
                raise _too_large(path, done, limit)
            yield line


def parse_json(text: bytes | str, memory: int = JSON_MEMORY) -> Any:
    """The value of a JSON text in UTF-8.

    Raises:
        ValueError: not UTF-8 or not JSON; a key occurs twice in an object; NaN or infinity, which are
            never written; nested too deeply; or the values could take more than `memory` bytes.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(data) * MOST_PER_BYTE > memory and (size := _json_memory(data)) > memory:
        raise ValueError(
            f"its values may take {size / MB:,.0f} MB of memory; at most {memory / MB:,.0f} MB are used"
        )

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not allowed")

    try:
        return json.loads(
            data.decode("utf-8"), parse_constant=refuse, object_pairs_hook=_without_duplicates
        )
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise ValueError(f"the key {twice[:100]!r} occurs twice in an object")
    return value


def _json_memory(data: bytes) -> int:
    """An upper bound of the memory in bytes that parsing takes, the text included.

    Measured with CPython 3.11 to 3.13: at most 90 bytes for an empty object or array and its place in a
    list, 205 for an object of one item, 215 for an item of a large object. A text that is not ASCII takes
    up to four bytes per character, as do the strings cut from it.
    """
    n_containers = data.count(b"{") + data.count(b"[")
    n_values = data.count(b",") + n_containers
    characters = 3 if data.isascii() else 9
    return characters * len(data) + 60 * n_containers + 60 * n_values + 150 * data.count(b":")


def read_json(path: Path, what: str, limit: int = RECORD_BYTES) -> Any:
    """Read JSON of at most `limit` bytes; `what` describes the file in error messages.

    Raises:
        InputError: missing, not a regular file, too large, or refused by `parse_json`.
        UnreadableFile: the system does not let this process read it.
    """
    try:
        return parse_json(read_bytes(path, limit))
    except FileNotFoundError:
        if os.path.islink(path):
            problem = f"is a link to {os.readlink(path)}, which does not exist."
        else:
            problem = f"does not exist.{nearest_path(path)}"
        raise InputError(f"{what}: {path} {problem}") from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, not JSON
        why = getattr(error, "strerror", None) or error
        message = (
            f"{what}: {path} cannot be read ({why}). Restore it from a copy, or create it again."
        )
        if isinstance(error, OSError) and not isinstance(error, RefusedFile):
            raise UnreadableFile(message, error) from None
        raise InputError(message) from None


def inside(folder: Path, name: str) -> Path:
    """`folder/name`, checked to lie in `folder`.

    Raises:
        InputError: an absolute name, a name with `..`, or a symbolic link to a path outside.
    """
    path = folder / name
    real, of_folder = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    if real == of_folder or not real.is_relative_to(of_folder):
        raise InputError(f"{path} points outside of {folder}. Only files in this folder are read.")
    return path


def sha256_file(path: Path) -> str:
    """SHA-256 of the bytes of a regular file, hexadecimal.

    Raises:
        OSError: as of `open_regular`.
    """
    digest = hashlib.sha256()
    for block in read_blocks(path):
        digest.update(block)
    return digest.hexdigest()


def is_lfs_pointer(data: bytes) -> bool:
    """Whether the bytes of a file are a Git LFS pointer, which stands for contents not fetched."""
    return len(data) < LFS_POINTER_BYTES and data.startswith(b"version https://git-lfs.github.com/")
