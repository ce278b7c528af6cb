"""Writing token shards: little-endian integers, nothing else."""

import hashlib
import os
from pathlib import Path
from typing import IO

import numpy as np

from chinchilla.data.manifest import Shard, Split


class ShardWriter:
    """Tokens of one source's split into files of at most `shard_tokens`, named `prefix`-00000.bin."""

    def __init__(self, folder: Path, prefix: str, shard_tokens: int) -> None:
        self.folder, self.prefix, self.shard_tokens = folder, prefix, shard_tokens
        self.shards: list[Shard] = []
        self.documents = self.tokens = self.bytes = 0
        self.stream = hashlib.sha256()
        self.file: IO[bytes] | None = None

    def add(self, tokens: np.ndarray, documents: int, n_bytes: int) -> None:
        """Append tokens that stand for so many documents and bytes of text."""
        self.documents += documents
        self.tokens += len(tokens)
        self.bytes += n_bytes
        while len(tokens):
            if self.file is None:
                self.name = f"{self.prefix}-{len(self.shards):05d}.bin"
                self.file = open(self.folder / self.name, "wb")  # noqa: SIM115 (open across calls)
                self.digest, self.room = hashlib.sha256(), self.shard_tokens
            part, tokens = tokens[: self.room], tokens[self.room :]
            data = part.astype(part.dtype.newbyteorder("<"), copy=False).tobytes()
            self.file.write(data)
            self.digest.update(data)
            self.stream.update(data)
            self.room -= len(part)
            if self.room == 0:
                self._end_shard()

    def _end_shard(self) -> None:
        assert self.file is not None
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        self.file = None
        tokens = self.shard_tokens - self.room
        self.shards.append(Shard(self.name, tokens, self.digest.hexdigest()))

    def close(self) -> Split:
        """End the last shard and say what was written."""
        if self.file is not None:
            self._end_shard()
        return Split(self.documents, self.tokens, self.bytes, self.stream.hexdigest(), self.shards)
