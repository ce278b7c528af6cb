"""Documents on disk, in an order that only their text decides.

Each document is keyed by the SHA-256 of its text and put into one of 128 files by the first bits of
the key. Read back file by file, each sorted, the documents come in key order: a fixed shuffle that
is the same whatever order they arrived in. Equal documents meet, so duplicates drop out exactly; of
those in several sources the first source keeps its own. Disk: the size of the text. Memory: one
file, 1/128 of the text.
"""

import dataclasses
import hashlib
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from chinchilla.core.errors import DataError

N_BUCKETS = 128  # open files while writing; macOS allows 256 by default
_KEY_BYTES = 32
_HEAD = struct.Struct("<HQ")  # source, bytes of text

Document = tuple[int, bytes, bytes]  # source, key, text
Filter = Callable[[int, Iterable[Document], list[Counter[str]]], Iterable[Document]]


class NotAsWritten(DataError):
    """Files of an unfinished preparation that are not as its state says: it is begun anew."""


def document_key(text: bytes) -> bytes:
    """32 bytes that decide a document's place: the first 8 its order, the last 8 its split."""
    return hashlib.sha256(b"chinchilla document\0" + text).digest()


def split_position(key: bytes) -> float:
    """Where a document falls in [0, 1); below validation_fraction it is held out."""
    return int.from_bytes(key[-8:], "big") / 2**64


@dataclass
class Intake:
    """What one source gave while it was read.

    Attributes:
        read, read_bytes: documents as they came in, and the bytes of those that are text.
        documents: kept so far, duplicates included.
        dropped: documents left out, by reason.
        lowest, highest: extreme split positions seen.
    """

    read: int = 0
    read_bytes: int = 0
    documents: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: {"empty": 0, "not_unicode": 0})
    lowest: float = 1.0
    highest: float = 0.0


@dataclass
class SpoolState:
    """How far a spool has come; `Spool` takes it up again from there."""

    lengths: list[int] = field(default_factory=lambda: [0] * N_BUCKETS)  # bytes of each file
    intake: list[Intake] = field(default_factory=list)
    bytes: int = 0  # of all documents kept, duplicates included
    last: str = ""  # key of the last document given, whatever became of it


class Spool:
    """Documents waiting to be tokenised, in `folder`.

    Attributes:
        state: what came in.
        left_out: bucket -> source -> what was left out of it when it was last read back, by reason.
        filters: what else leaves documents out; called with (bucket, documents, counts by source).
    """

    def __init__(self, folder: Path, n_sources: int = 1, state: SpoolState | None = None) -> None:
        """Begin, or go on from what `sync` gave.

        Raises:
            NotAsWritten: the files are shorter than they were then.
        """
        folder.mkdir(exist_ok=True)
        self.state = state or SpoolState(intake=[Intake() for _ in range(n_sources)])
        self._files = []
        self._unsynced: set[int] = set()
        for i, length in enumerate(self.state.lengths):
            path = folder / f"{i:03d}"
            if length and (not path.is_file() or path.stat().st_size < length):
                raise NotAsWritten(f"{path} is not as it was written.")
            file = open(path, "r+b" if length else "w+b")  # noqa: SIM115
            self._files.append(file)
            file.truncate(length)
            file.seek(length)
        self.left_out: list[list[Counter[str]]] = [[] for _ in range(N_BUCKETS)]
        self.filters: list[Filter] = []

    @property
    def bytes(self) -> int:
        return self.state.bytes

    @property
    def intake(self) -> list[Intake]:
        return self.state.intake

    def add(self, text: str, source: int = 0, broken_rule: str = "") -> None:
        """Keep one document; empty ones, lone surrogates and breakers of rules are only counted."""
        intake, dropped = self.intake[source], self.intake[source].dropped
        intake.read += 1
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError:
            self.state.last = document_key(text.encode("utf-8", "surrogatepass")).hex()
            dropped["not_unicode"] += 1
            return
        key = document_key(data)
        self.state.last = key.hex()
        intake.read_bytes += len(data)
        if not data:
            dropped["empty"] += 1
            return
        if broken_rule:
            dropped[broken_rule] = dropped.get(broken_rule, 0) + 1
            return
        bucket = key[0] * N_BUCKETS // 256
        self._unsynced.add(bucket)
        self._files[bucket].write(key + _HEAD.pack(source, len(data)) + data)
        self.state.lengths[bucket] += _KEY_BYTES + _HEAD.size + len(data)
        intake.documents += 1
        self.state.bytes += len(data)
        position = split_position(key)
        intake.lowest = min(intake.lowest, position)
        intake.highest = max(intake.highest, position)

    def sync(self) -> SpoolState:
        """Everything so far to the disk, and what that is."""
        for bucket in self._unsynced:
            self._files[bucket].flush()
            os.fsync(self._files[bucket].fileno())
        self._unsynced.clear()
        return dataclasses.replace(self.state)

    def bucket(self, number: int) -> list[Document]:
        """(source, key, text) of the distinct documents of one file that the filters leave, in key order.

        The key is that of the document as it came in, whatever was left out of it.
        """
        counts: list[Counter[str]] = [Counter() for _ in self.intake]
        documents: Iterable[Document] = self._distinct(number, counts)
        for leave_out in self.filters:
            documents = leave_out(number, documents, counts)
        found = list(documents)
        self.left_out[number] = counts
        return found

    def __iter__(self) -> Iterator[Document]:
        for number in range(N_BUCKETS):
            yield from self.bucket(number)

    def dropped(self, source: int) -> Counter[str]:
        """All that was left out of a source, by reason."""
        total = Counter({"duplicate": 0, **self.intake[source].dropped})
        for counts in self.left_out:
            total.update(counts[source] if counts else {})
        return total

    def _distinct(self, number: int, counts: list[Counter[str]]) -> Iterator[Document]:
        file = self._files[number]
        file.seek(0)
        records = []
        while key := file.read(_KEY_BYTES):
            source, length = _HEAD.unpack(file.read(_HEAD.size))
            records.append((key, source, file.read(length)))
        records.sort()
        last, owner = b"", -1
        for key, source, text in records:
            if key != last:
                yield source, key, text
                last, owner = key, source
            else:
                counts[source]["duplicate" if source == owner else "in_other_source"] += 1

    def __enter__(self) -> "Spool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files:
            file.close()
