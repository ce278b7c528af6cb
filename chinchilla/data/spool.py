"""Documents on disk, in an order that only their text decides.

Each document is keyed by the SHA-256 of its text and put into one of 128 files by the first bits of
the key. Read back file by file, each sorted, the documents come in key order: a fixed shuffle that
is the same whatever order they arrived in. Equal documents meet, so duplicates drop out exactly; of
those in several sources the first source keeps its own. Disk: the size of the text. Memory: one
file, 1/128 of the text.
"""

import hashlib
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from chinchilla.data.paragraphs import Document, Repeats

N_BUCKETS = 128  # open files while writing; macOS allows 256 by default
_KEY_BYTES = 32
_HEAD = struct.Struct("<HQ")  # source, bytes of text


def document_key(text: bytes) -> bytes:
    """32 bytes that decide a document's place: the first 8 its order, the last 8 its split."""
    return hashlib.sha256(b"chinchilla document\0" + text).digest()


def split_position(key: bytes) -> float:
    """Where a document falls in [0, 1); below held_out_fraction it is held out."""
    return int.from_bytes(key[-8:], "big") / 2**64


@dataclass
class Intake:
    """What one source gave.

    Attributes:
        read, read_bytes: documents as they came in, and the bytes of those that are text.
        documents: kept so far, duplicates included.
        dropped: documents left out, by reason; duplicates are counted when read back.
        lowest, highest: extreme split positions seen.
        paragraphs, paragraph_bytes: left out of documents because they stood before.
    """

    read: int = 0
    read_bytes: int = 0
    documents: int = 0
    dropped: Counter[str] = field(
        default_factory=lambda: Counter(duplicate=0, empty=0, not_unicode=0)
    )
    lowest: float = 1.0
    highest: float = 0.0
    paragraphs: int = 0
    paragraph_bytes: int = 0


class Spool:
    """Documents waiting to be tokenised, in `folder`.

    Attributes:
        intake: what each source gave, by its number.
        bytes: of all documents kept, duplicates included.
    """

    def __init__(self, folder: Path, n_sources: int = 1) -> None:
        folder.mkdir()
        self._files = [(folder / f"{i:03d}").open("w+b") for i in range(N_BUCKETS)]
        self.intake = [Intake() for _ in range(n_sources)]
        self.bytes = 0
        self._repeats: Repeats | None = None

    def add(self, text: str, source: int = 0, broken_rule: str = "") -> None:
        """Keep one document; empty ones, lone surrogates and breakers of rules are only counted."""
        intake = self.intake[source]
        intake.read += 1
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError:
            intake.dropped["not_unicode"] += 1
            return
        intake.read_bytes += len(data)
        if not data:
            intake.dropped["empty"] += 1
            return
        if broken_rule:
            intake.dropped[broken_rule] += 1
            return
        key = document_key(data)
        head = _HEAD.pack(source, len(data))
        self._files[key[0] * N_BUCKETS // 256].write(key + head + data)
        intake.documents += 1
        self.bytes += len(data)
        position = split_position(key)
        intake.lowest = min(intake.lowest, position)
        intake.highest = max(intake.highest, position)

    def drop_paragraphs(self, shortest: list[int]) -> None:
        """From now on, leave out paragraphs of so many bytes that stood before; 0 = none, by source."""
        if any(shortest):
            self._repeats = Repeats(self._distinct(), shortest)

    def __iter__(self) -> Iterator[Document]:
        """(source, key, text) of each distinct document in key order; counts drops anew.

        The key is that of the document as it came in, whatever was left out of it.
        """
        if self._repeats is None:
            yield from self._distinct()
            return
        for intake in self.intake:
            intake.dropped["only_repeats"] = 0
        for source, key, text in self._repeats.leave_out(self._distinct()):
            if text:
                yield source, key, text
            else:
                self.intake[source].dropped["only_repeats"] += 1
        for intake, removed in zip(self.intake, self._repeats.removed, strict=True):
            intake.paragraphs, intake.paragraph_bytes = removed

    def _distinct(self) -> Iterator[Document]:
        for intake in self.intake:
            intake.dropped["duplicate"] = 0
            intake.dropped.pop("in_other_source", None)
        for file in self._files:
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
                    reason = "duplicate" if source == owner else "in_other_source"
                    self.intake[source].dropped[reason] += 1

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
