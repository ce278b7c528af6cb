"""Read files that another program, another user or a damaged disk may have changed."""

import hashlib
import json
from pathlib import Path
from typing import Any

from chinchilla.core.errors import InputError, nearest_path

LFS_POINTER_BYTES = 1024  # a Git LFS pointer is smaller


def read_json(path: Path, what: str) -> Any:
    """Read JSON; `what` describes the file in error messages.

    Raises:
        InputError: missing, unreadable, not JSON, or containing NaN or infinity, which are never
            written.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not allowed")

    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except FileNotFoundError:
        raise InputError(f"{what}: {path} does not exist.{nearest_path(path)}") from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON
        why = getattr(error, "strerror", None) or error
        raise InputError(
            f"{what}: {path} cannot be read ({why}). Restore it from a copy, or create it again."
        ) from None


def inside(folder: Path, name: str) -> Path:
    """`folder/name`, checked to lie in `folder`.

    Raises:
        InputError: an absolute name, a name with `..`, or a symbolic link to a path outside.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()) or path.resolve() == folder.resolve():
        raise InputError(f"{path} points outside of {folder}. Only files in this folder are read.")
    return path


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def is_lfs_pointer(data: bytes) -> bool:
    """Whether the bytes of a file are a Git LFS pointer, which stands for contents not fetched."""
    return len(data) < LFS_POINTER_BYTES and data.startswith(b"version https://git-lfs.github.com/")
