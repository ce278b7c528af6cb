"""Read arrays of an .npz file, which is a zip archive, within a bound of memory."""

import errno
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from chinchilla.core.files.reading import MB, open_regular

HEADER_BYTES = 10_000  # of an array; NumPy writes 128 for one dimension
_END_BYTES = 22  # end record of a zip archive without a comment
_LOCATOR_BYTES = 20  # before it, in a zip64 archive
_DIRECTORY_BYTES = 10_000  # entries of the members


def read_npz(path: Path | str, names: Sequence[str], max_values: int) -> dict[str, np.ndarray]:
    """One-dimensional arrays of numbers from an .npz file.

    Everything is checked before it is decompressed: members that NumPy would not have written are
    refused.

    Args:
        path: the file.
        names: the arrays, without `.npy`. The file must have these members and no others.
        max_values: greatest length of an array.

    Raises:
        OSError: missing, unreadable, or not a regular file.
        ValueError: damaged, or the members are not such arrays.
    """
    with open_regular(path) as file:
        try:
            return _arrays(file, names, limit=8 * max_values + HEADER_BYTES)
        except OSError as error:
            if error.errno != errno.EINVAL:  # of a seek to a position that cannot be
                raise
            raise ValueError("the directory of the archive is damaged") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise ValueError(str(error) or type(error).__name__) from None
        except (SyntaxError, TypeError, OverflowError, LookupError, struct.error) as error:
            raise ValueError(f"a header is damaged ({type(error).__name__})") from None


def _arrays(file: BinaryIO, names: Sequence[str], limit: int) -> dict[str, np.ndarray]:
    _check_directory(file)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        found = ", ".join(member.filename for member in members)
        if sorted(m.filename for m in members) != sorted(f"{name}.npy" for name in names):
            raise ValueError(f"it has the members {found[:200]}, not {', '.join(names)}")
        for member in members:
            _check_member(member, limit)
        return {name: _array(archive, f"{name}.npy") for name in names}


def _check_directory(file: BinaryIO) -> None:
    """Check that the directory, of which zipfile reads all entries into memory, is short."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END_BYTES - _LOCATOR_BYTES))
    end = file.read()
    locator, end = end[:-_END_BYTES], end[-_END_BYTES:]
    if not end.startswith(b"PK\5\6") or end[-2:] != b"\0\0" or locator.startswith(b"PK\6\7"):
        raise ValueError("it does not end as an archive that NumPy has written")
    if int.from_bytes(end[12:16], "little") > _DIRECTORY_BYTES:
        raise ValueError("it has too many members")
    file.seek(0)


def _check_member(member: zipfile.ZipInfo, limit: int) -> None:
    if member.flag_bits & 0x1:
        raise ValueError(f"{member.filename} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} has an unusual compression method")
    if member.file_size > limit:
        raise ValueError(
            f"{member.filename} has {member.file_size / MB:,.1f} MB; at most {limit / MB:,.1f} MB are "
            "expected"
        )


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array; its header must state the size of the member, which bounds what is decompressed."""
    size = archive.getinfo(name).file_size
    with archive.open(name) as f:
        version = np.lib.format.read_magic(f)
        if version != (1, 0):
            raise ValueError(f"{name} has a header of version {version}")
        shape, _, dtype = np.lib.format.read_array_header_1_0(f, max_header_size=HEADER_BYTES)
        if len(shape) != 1 or dtype.kind not in "fiu" or dtype.itemsize > 8:
            raise ValueError(f"{name} is not a list of numbers")
        n_bytes = shape[0] * dtype.itemsize
        if f.tell() + n_bytes != size:
            raise ValueError(f"{name} has {size} bytes, and its header states {n_bytes} after it")
        array = np.empty(shape, dtype)
        view, done = array.view(np.uint8).data, 0
        while done < n_bytes:
            block = f.read(min(n_bytes - done, 1 << 20))
            if not block:
                raise ValueError(f"{name} ends too early")
            view[done : done + len(block)] = block
            done += len(block)
        if f.read(1):  # zipfile compares the CRC at the end
            raise ValueError(f"{name} is longer than stated")
    return array
