"""Shards: token files with a header and an index of the ends of documents.

64 bytes       "chintoks", version (1), bytes per token, tokens, documents that end here; zeros
tokens         little-endian uint16 or uint32
documents      little-endian uint64: number of tokens in this file up to the end of each document
"""

import hashlib
import os
import struct
from pathlib import Path
from typing import IO

import numpy as np

from chinchilla.core.errors import DataError
from chinchilla.core.files.reading import open_regular, sha256_file
from chinchilla.core.files.writing import create_file, remove
from chinchilla.data.manifest import HEADER_BYTES, Shard, Split

_MAGIC, _VERSION = b"chintoks", 1
_HEADER = struct.Struct("<8sIIQQ32x")
assert _HEADER.size == HEADER_BYTES


class ShardWriter:
    """Writes the tokens of one source and split to files of at most `shard_tokens` tokens.

    The files are called `prefix`-00000.bin, `prefix`-00001.bin, and so on.
    """

    def __init__(self, folder: Path, prefix: str, shard_tokens: int, dtype: str, eos: int) -> None:
        self.folder, self.prefix, self.shard_tokens = folder, prefix, shard_tokens
        self.dtype, self.eos = np.dtype(dtype).newbyteorder("<"), eos
        self.shards: list[Shard] = []
        self.documents = self.tokens = self.bytes = 0
        self._stream = hashlib.sha256()  # of the tokens of all shards
        self._file: IO[bytes] | None = None
        self._ends: list[np.ndarray] = []  # of documents in the open file, in tokens

    def add(self, tokens: np.ndarray, documents: int, n_bytes: int) -> None:
        """Append the tokens of `documents` documents, whose text has `n_bytes` bytes."""
        self.documents += documents
        self.tokens += len(tokens)
        self.bytes += n_bytes
        while len(tokens):
            if self._file is None:
                remove(self._next_path(), missing_ok=True)  # of an interrupted preparation
                self._file = open(create_file(self._next_path()), "wb")  # noqa: SIM115
                self._file.seek(HEADER_BYTES)
                self._room, self._ends = self.shard_tokens, []
            part, tokens = tokens[: self._room], tokens[self._room :]
            data = part.astype(self.dtype, copy=False).tobytes()
            self._file.write(data)
            self._stream.update(data)
            self._ends.append(np.flatnonzero(part == self.eos) + 1 + self.shard_tokens - self._room)
            self._room -= len(part)
            if self._room == 0:
                self._finish_shard()

    def _next_path(self) -> Path:
        return self.folder / f"{self.prefix}-{len(self.shards):05d}.bin"

    def _finish_shard(self) -> None:
        """Write the document index and the header of the open shard, and close it."""
        file, path = self._file, self._next_path()
        assert file is not None
        tokens, ends = self.shard_tokens - self._room, np.concatenate(self._ends)
        file.write(ends.astype("<u8").tobytes())
        file.seek(0)
        file.write(_HEADER.pack(_MAGIC, _VERSION, self.dtype.itemsize, tokens, len(ends)))
        file.flush()
        os.fsync(file.fileno())
        file.close()
        self.shards.append(Shard(path.name, tokens, sha256_file(path), len(ends)))
        self._file = None

    def close(self) -> Split:
        """Finish the last shard and return the contents of all."""
        if self._file is not None:
            self._finish_shard()
        digest = self._stream.hexdigest()
        return Split(self.documents, self.tokens, self.bytes, digest, self.shards)


def map_tokens(path: Path, shard: Shard, dtype: str) -> np.ndarray:
    """(tokens,) the tokens of a shard, memory-mapped.

    Raises:
        DataError: the header does not match the manifest.
    """
    with open_regular(path) as file:
        header = file.read(HEADER_BYTES)
        expected = (_MAGIC, _VERSION, np.dtype(dtype).itemsize, shard.tokens, shard.documents)
        if len(header) < HEADER_BYTES or _HEADER.unpack(header) != expected:
            raise DataError(
                f"{path} does not begin with the header of a shard of {shard.tokens} tokens and "
                f"{shard.documents} documents. Move the folder away, and prepare the data again."
            )
        little_endian = np.dtype(dtype).newbyteorder("<")
        return np.asarray(np.memmap(file, little_endian, "r", HEADER_BYTES, (shard.tokens,)))


def document_ends(path: Path, shard: Shard, token_bytes: int) -> np.ndarray:
    """(documents,) int64 number of tokens of a shard up to the end of each document in it."""
    offset = HEADER_BYTES + token_bytes * shard.tokens
    with open_regular(path) as file:
        return np.fromfile(file, "<u8", shard.documents, offset=offset).astype(np.int64)
