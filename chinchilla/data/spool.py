"""Documents on disk, in an order that only their text decides.

Each document is keyed by the SHA-256 of its text and put into one of 128 files by the first bits of
the key. Read back file by file, each sorted, the documents come in key order: a fixed shuffle that
is the same whatever order they arrived in. Equal documents meet, so duplicates drop out exactly.
Disk: the size of the text. Memory: one file, 1/128 of the text.
"""

import hashlib
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

N_BUCKETS = 128  # open files while writing; macOS allows 256 by default
_KEY_BYTES = 32
_LENGTH = struct.Struct("<Q")


def document_key(text: bytes) -> bytes:
    """32 bytes that decide a document's place: the first 8 its order, the last 8 its split."""
    return hashlib.sha256(b"chinchilla document\0" + text).digest()


def split_position(key: bytes) -> float:
    """Where a document falls in [0, 1); below held_out_fraction it is held out."""
    return int.from_bytes(key[-8:], "big") / 2**64


class Spool:
    """Documents waiting to be tokenised, in `folder`.

    Attributes:
        documents, bytes: kept so far, duplicates included.
        dropped: documents left out, by reason: empty, not_unicode; duplicate once read back.
        lowest, highest: extreme split positions seen.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._files = [(folder / f"{i:03d}").open("w+b") for i in range(N_BUCKETS)]
        self.documents = self.bytes = 0
        self.dropped: Counter[str] = Counter(duplicate=0, empty=0, not_unicode=0)
        self.lowest, self.highest = 1.0, 0.0

    def add(self, text: str) -> None:
        """Keep one document; empty ones and lone surrogates are counted and left out."""
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError:
            self.dropped["not_unicode"] += 1
            return
        if not data:
            self.dropped["empty"] += 1
            return
        key = document_key(data)
        self._files[key[0] * N_BUCKETS // 256].write(key + _LENGTH.pack(len(data)) + data)
        self.documents += 1
        self.bytes += len(data)
        position = split_position(key)
        self.lowest = min(self.lowest, position)
        self.highest = max(self.highest, position)

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """(key, text) of each distinct document in key order; counts duplicates anew."""
        self.dropped["duplicate"] = 0
        for file in self._files:
            file.seek(0)
            records = []
            while key := file.read(_KEY_BYTES):
                (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
                records.append((key, file.read(length)))
            records.sort()
            last = b""
            for key, text in records:
                if key == last:
                    self.dropped["duplicate"] += 1
                else:
                    yield key, text
                last = key

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
