"""Writing so that a crash, a full disk or a second reader never sees half a file.

One file per fact: written to a temporary name beside its place, fsynced, renamed, and the folder
fsynced, so that after a power cut there is either the old file or the new one.
"""

import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from chinchilla.errors import InputError


def fsync_dir(path: Path) -> None:
    """Make renames inside `path` survive a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file that takes `path`'s place only when the block ends without an error."""
    if path.is_dir():  # said before the work is done, and by its own name
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
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
    text = json.dumps(value, indent=1, allow_nan=False)
    return re.sub(r"\[\n\s+((?:[^\[\]{}\"\s]+,\n\s+)*[^\[\]{}\"\s]+)\n\s+\]", _on_one_line, text)


def _on_one_line(match: re.Match[str]) -> str:
    return "[" + re.sub(r",\n\s+", ", ", match.group(1)) + "]"


def read_json(path: Path, what: str) -> Any:
    """The JSON in `path`; `what` names it in the error a person sees.

    Raises:
        InputError: missing, unreadable, or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{what}: {path} does not exist.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{what}: {path} cannot be read ({error}).") from None


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
    probe = path / f".write-test-{uuid.uuid4().hex[:8]}"
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
