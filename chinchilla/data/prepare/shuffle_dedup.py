"""Shuffle and deduplicate documents on disk, ordered by content hash.

The key of a document is the SHA-256 of its text. Its first bits select one of 128 bucket files. Read
back bucket by bucket, each sorted by key, the documents come in an order that depends only on their
text: a fixed shuffle, whatever the order of the input. Equal documents are adjacent, which makes
exact deduplication simple; a document that occurs in several sources stays in the first of them.
Disk: the size of the text. Memory: one bucket, 1/128 of the text.
"""

import hashlib
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from chinchilla.data.shards import ResumeError

N_BUCKETS = 128  # open files while writing; macOS allows 256 by default
_KEY_BYTES = 32
_HEAD = struct.Struct("<HQ")  # source, bytes of text

Document = tuple[int, bytes, bytes]  # source, key, text
Dropped = list[Counter[str]]  # per source: what was left out, by reason
Filter = Callable[[int, Iterable[Document], Dropped], Iterable[Document]]


def document_key(text: bytes) -> bytes:
    """32 bytes; the first 8 determine the order of a document, the last 8 its split."""
    return hashlib.sha256(b"chinchilla document\0" + text).digest()


def split_position(key: bytes) -> float:
    """A number in [0, 1); documents below validation_fraction are the validation split."""
    return int.from_bytes(key[-8:], "big") / 2**64


def split_of(key: bytes, validation_fraction: float) -> str:
    """The split of a document: train or validation."""
    return "validation" if split_position(key) < validation_fraction else "train"


@dataclass
class SourceCounts:
    """Counts of the documents read from one source.

    Attributes:
        read: documents read.
        read_bytes: bytes of those that are valid Unicode.
        documents: documents written to a bucket, duplicates included.
        dropped: documents not written, by reason.
        lowest, highest: extreme split positions of the documents written.
    """

    read: int = 0
    read_bytes: int = 0
    documents: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: {"empty": 0, "not_unicode": 0})
    lowest: float = 1.0
    highest: float = 0.0


@dataclass
class BucketState:
    """State from which `Buckets` continues after an interruption."""

    lengths: list[int] = field(default_factory=lambda: [0] * N_BUCKETS)  # bytes of each file
    sources: list[SourceCounts] = field(default_factory=list)
    bytes: int = 0  # of all documents written, duplicates included
    last_key: str = ""  # of the last document read, also if it was dropped


class Buckets:
    """Documents on disk, to be read back in key order.

    Attributes:
        state: what was written.
        filters: called in turn with (bucket, documents, dropped) for each bucket read back.
    """

    def __init__(self, folder: Path, n_sources: int = 1, state: BucketState | None = None) -> None:
        """Start with empty files, or continue from a state returned by `sync`.

        Raises:
            ResumeError: a file is shorter than it was.
        """
        folder.mkdir(exist_ok=True)
        self.state = state or BucketState(sources=[SourceCounts() for _ in range(n_sources)])
        self.filters: list[Filter] = []
        self._files = []
        self._unsynced: set[int] = set()
        for i, length in enumerate(self.state.lengths):
            path = folder / f"{i:03d}"
            if length and (not path.is_file() or path.stat().st_size < length):
                raise ResumeError(f"{path} is not as it was written.")
            file = open(path, "r+b" if length else "w+b")  # noqa: SIM115
            self._files.append(file)
            file.truncate(length)
            file.seek(length)

    def add(self, text: str, source: int = 0, broken_rule: str = "") -> None:
        """Write one document; count it as dropped if it is empty, invalid or breaks a rule."""
        counts = self.state.sources[source]
        counts.read += 1
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError:
            self.state.last_key = document_key(text.encode("utf-8", "surrogatepass")).hex()
            counts.dropped["not_unicode"] += 1
            return
        key = document_key(data)
        self.state.last_key = key.hex()
        counts.read_bytes += len(data)
        if not data or broken_rule:
            reason = broken_rule if data else "empty"
            counts.dropped[reason] = counts.dropped.get(reason, 0) + 1
            return
        bucket = key[0] * N_BUCKETS // 256
        self._files[bucket].write(key + _HEAD.pack(source, len(data)) + data)
        self._unsynced.add(bucket)
        self.state.lengths[bucket] += _KEY_BYTES + _HEAD.size + len(data)
        self.state.bytes += len(data)
        counts.documents += 1
        position = split_position(key)
        counts.lowest = min(counts.lowest, position)
        counts.highest = max(counts.highest, position)

    def sync(self) -> BucketState:
        """Flush everything to the disk and return the state to continue from."""
        for bucket in self._unsynced:
            self._files[bucket].flush()
            os.fsync(self._files[bucket].fileno())
        self._unsynced.clear()
        return self.state

    def read(self, bucket: int, dropped: Dropped | None = None) -> list[Document]:
        """The documents of one bucket in key order, without duplicates and filtered.

        Args:
            bucket: number of the bucket.
            dropped: receives the counts of what was left out of this bucket.

        Returns:
            (source, key, text) of each document. The key is that of the whole document, also where
            a filter has removed paragraphs.
        """
        counts: Dropped = [Counter() for _ in self.state.sources]
        documents: Iterable[Document] = self._distinct(bucket, counts)
        for leave_out in self.filters:
            documents = leave_out(bucket, documents, counts)
        result = list(documents)
        for total, each in zip(dropped or [], counts, strict=False):
            total.update(each)
        return result

    def __iter__(self) -> Iterator[Document]:
        for bucket in range(N_BUCKETS):
            yield from self.read(bucket)

    def _distinct(self, bucket: int, dropped: Dropped) -> Iterator[Document]:
        file = self._files[bucket]
        file.seek(0)
        records = []
        while key := file.read(_KEY_BYTES):
            source, length = _HEAD.unpack(file.read(_HEAD.size))
            records.append((key, source, file.read(length)))
        records.sort()
        last_key, first_source = b"", -1
        for key, source, text in records:
            if key != last_key:
                yield source, key, text
                last_key, first_source = key, source
            else:
                reason = "duplicate" if source == first_source else "in_other_source"
                dropped[source][reason] += 1

    def __enter__(self) -> "Buckets":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files:
            file.close()
