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
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from chinchilla.core.files.reading import open_regular, read_json
from chinchilla.core.files.writing import (
    create_file,
    fsync_dir,
    make_dirs,
    remove,
    rename,
    write_json,
)

N_BUCKETS = 128  # open files while writing; macOS allows 256 by default
COUNTS = "counts.json"
_KEY_BYTES = 32
_HEAD = struct.Struct("<Q")  # bytes of text

Document = tuple[int, bytes, bytes]  # source, key, text


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
        written: documents written to a bucket, duplicates included.
        dropped: documents not written, by reason.
        lowest, highest: extreme split positions of the documents written.
    """

    read: int = 0
    read_bytes: int = 0
    written: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: {"empty": 0, "not_unicode": 0})
    lowest: float = 1.0
    highest: float = 0.0


def write_source(texts: Iterable[str], folder: Path) -> Iterator[int]:
    """Write the documents of one source into bucket files, and their counts.

    The folder gets its name once it is complete. A folder with that name is left as it is.

    Yields:
        The bytes of text read so far, after every document.
    """
    if folder.exists():
        return
    temporary = folder.with_name(f"{folder.name}.unfinished")
    remove(temporary, missing_ok=True)
    make_dirs(temporary)
    counts = SourceCounts()
    with ExitStack() as stack:
        files = [
            stack.enter_context(open(create_file(temporary / f"{i:03d}"), "wb"))
            for i in range(N_BUCKETS)
        ]
        for text in texts:
            counts.read += 1
            try:
                data = text.encode("utf-8")
            except UnicodeEncodeError:
                counts.dropped["not_unicode"] += 1
                continue
            counts.read_bytes += len(data)
            if data:
                key = document_key(data)
                files[key[0] * N_BUCKETS // 256].write(key + _HEAD.pack(len(data)) + data)
                counts.written += 1
                counts.lowest = min(counts.lowest, split_position(key))
                counts.highest = max(counts.highest, split_position(key))
            else:
                counts.dropped["empty"] += 1
            yield counts.read_bytes
        for file in files:
            if file.tell():
                file.flush()
                os.fsync(file.fileno())
    write_json(temporary / COUNTS, asdict(counts))
    rename(temporary, folder)
    fsync_dir(folder.parent)


class Documents:
    """The documents of all sources, in key order and without duplicates.

    Attributes:
        counts: by source, what `write_source` has counted.
        bytes: of text on disk, duplicates included.
    """

    def __init__(self, folders: list[Path]) -> None:
        self.folders = folders
        self.counts = [SourceCounts(**read_json(f / COUNTS, "data_dir")) for f in folders]
        self.bytes = sum(counts.read_bytes for counts in self.counts)

    def read(self, bucket: int) -> tuple[list[Document], list[Counter[str]]]:
        """One bucket: (source, key, text) of its documents; by source, those dropped by reason."""
        records = []
        for source, folder in enumerate(self.folders):
            with open_regular(folder / f"{bucket:03d}") as file:
                while key := file.read(_KEY_BYTES):
                    [length] = _HEAD.unpack(file.read(_HEAD.size))
                    records.append((key, source, file.read(length)))
        records.sort()
        documents: list[Document] = []
        dropped: list[Counter[str]] = [Counter() for _ in self.folders]
        for key, source, text in records:
            if documents and documents[-1][1] == key:
                same_source = documents[-1][0] == source
                dropped[source]["duplicate" if same_source else "in_other_source"] += 1
            else:
                documents.append((source, key, text))
        return documents, dropped

    def __iter__(self) -> Iterator[Document]:
        for bucket in range(N_BUCKETS):
            yield from self.read(bucket)[0]
