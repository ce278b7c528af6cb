"""Shards: files of tokens that say what they are, and where each document ends.

    64 bytes       "chintoks", version (1), bytes a token, tokens, documents that end here; zeros
    tokens         little-endian uint16 or uint32
    documents      uint64, little-endian: tokens of this file up to the end of each

Folders of version 0.1.0 have tokens and nothing else. The hash of a split is that of its tokens alone,
so the two kinds of folder name the same stream.
"""

import hashlib
import os
import struct
from pathlib import Path
from typing import IO

import numpy as np

from chinchilla.core.errors import DataError
from chinchilla.core.files import sha256_file
from chinchilla.data.manifest import HEADER_BYTES, Shard, Split
from chinchilla.data.prepare.shuffle_dedup import NotAsWritten

_MAGIC, _VERSION = b"chintoks", 1
_HEADER = struct.Struct("<8sIIQQ32x")
_BLOCK = 1 << 24  # bytes
assert _HEADER.size == HEADER_BYTES


class ShardWriter:
    """Tokens of one source's split into files of at most `shard_tokens`, named `prefix`-00000.bin."""

    def __init__(self, folder: Path, prefix: str, shard_tokens: int, dtype: str, eos: int) -> None:
        self.folder, self.prefix, self.shard_tokens = folder, prefix, shard_tokens
        self.dtype, self.eos = np.dtype(dtype).newbyteorder("<"), eos
        self.shards: list[Shard] = []
        self.documents = self.tokens = self.bytes = 0
        self._stream = hashlib.sha256()
        self._file: IO[bytes] | None = None
        self._ends: list[np.ndarray] = []  # of documents in the open file, in tokens

    def add(self, tokens: np.ndarray, documents: int, n_bytes: int) -> None:
        """Append tokens that stand for so many documents and bytes of text."""
        self.documents += documents
        self.tokens += len(tokens)
        self.bytes += n_bytes
        while len(tokens):
            file = self._file or self._open(0)
            part, tokens = tokens[: self._room], tokens[self._room :]
            data = part.astype(self.dtype, copy=False).tobytes()
            file.write(data)
            self._stream.update(data)
            self._ends.append(np.flatnonzero(part == self.eos) + 1 + self.shard_tokens - self._room)
            self._room -= len(part)
            if self._room == 0:
                self._end_shard()

    def _open(self, tokens: int) -> IO[bytes]:
        """The file of the next shard, of which so many tokens are there already."""
        path = self.folder / f"{self.prefix}-{len(self.shards):05d}.bin"
        file = open(path, "r+b" if tokens else "w+b")  # noqa: SIM115 (open across calls)
        file.seek(HEADER_BYTES + tokens * self.dtype.itemsize)
        file.truncate()
        self._file, self._room, self._ends = file, self.shard_tokens - tokens, []
        return file

    def _end_shard(self) -> None:
        file = self._file
        assert file is not None
        tokens, ends = self.shard_tokens - self._room, np.concatenate(self._ends)
        file.write(ends.astype("<u8").tobytes())
        file.seek(0)
        file.write(_HEADER.pack(_MAGIC, _VERSION, self.dtype.itemsize, tokens, len(ends)))
        file.flush()
        os.fsync(file.fileno())
        file.close()
        name = f"{self.prefix}-{len(self.shards):05d}.bin"
        digest = sha256_file(self.folder / name)
        self.shards.append(Shard(name, tokens, digest, HEADER_BYTES, len(ends)))
        self._file = None

    def sync(self) -> Split:
        """Everything so far to the disk, and what that is; `resume` goes on from it."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        return Split(self.documents, self.tokens, self.bytes, "", list(self.shards))

    def resume(self, done: Split) -> None:
        """Take up what `sync` gave; what was written after it is forgotten.

        Raises:
            NotAsWritten: the files are not as they were.
        """
        self.documents, self.bytes = done.documents, done.bytes
        for shard in done.shards:
            path = self.folder / shard.file
            if not path.is_file() or sha256_file(path) != shard.sha256:
                raise NotAsWritten(f"{path} is not as it was written.")
            self._read(path, shard.tokens)
        self.shards, self.tokens = list(done.shards), sum(shard.tokens for shard in done.shards)
        rest = done.tokens - self.tokens
        if rest:
            path = self.folder / f"{self.prefix}-{len(self.shards):05d}.bin"
            if (
                not path.is_file()
                or path.stat().st_size < HEADER_BYTES + rest * self.dtype.itemsize
            ):
                raise NotAsWritten(f"{path} is not as it was written.")
            ends = self._read(path, rest)
            self._open(rest)
            self._ends, self.tokens = [ends], done.tokens

    def _read(self, path: Path, tokens: int) -> np.ndarray:
        """Hash the tokens of a file into the stream; the places where documents end."""
        left, ends, at = tokens * self.dtype.itemsize, [np.zeros(0, np.int64)], 0
        with open(path, "rb") as file:
            file.seek(HEADER_BYTES)
            while left and (data := file.read(min(left, _BLOCK))):
                self._stream.update(data)
                part = np.frombuffer(data, self.dtype)
                ends.append(np.flatnonzero(part == self.eos) + 1 + at)
                left, at = left - len(data), at + len(part)
        return np.concatenate(ends)

    def close(self) -> Split:
        """End the last shard and say what was written."""
        if self._file is not None:
            self._end_shard()
        digest = self._stream.hexdigest()
        return Split(self.documents, self.tokens, self.bytes, digest, self.shards)


def map_tokens(path: Path, shard: Shard, dtype: str) -> np.ndarray:
    """(tokens,) the tokens of a shard, mapped.

    Raises:
        DataError: the file is another one than the manifest states.
    """
    width = np.dtype(dtype).itemsize
    if shard.header:
        with open(path, "rb") as file:
            head = file.read(HEADER_BYTES)
        expected = (_MAGIC, _VERSION, width, shard.tokens, shard.documents)
        if len(head) < HEADER_BYTES or _HEADER.unpack(head) != expected:
            raise DataError(
                f"{path} does not begin as a shard of {shard.tokens} tokens and {shard.documents} "
                "documents does. Delete it, and prepare the data again (chinchilla data)."
            )
    little = np.dtype(dtype).newbyteorder("<")
    return np.asarray(np.memmap(path, little, "r", shard.header, (shard.tokens,)))


def document_ends(path: Path, shard: Shard, tokens: np.ndarray, eos: int) -> np.ndarray:
    """(documents,) int64 tokens of a shard up to the end of each document in it."""
    if not shard.header:
        return np.flatnonzero(tokens == eos) + 1
    begin = shard.header + tokens.nbytes
    return np.fromfile(path, "<u8", shard.documents, offset=begin).astype(np.int64)
