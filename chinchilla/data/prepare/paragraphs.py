"""Paragraphs that stood before, anywhere in the corpus, left out of documents.

A paragraph ends at a blank line. Documents come in the order of their keys, so which of two equal
paragraphs is the first depends on the text alone. Paragraphs are told apart by 64-bit hashes: among
fifty million the chance that any two differ and share one is below a ten-thousandth.
Memory: about 40 bytes a paragraph while they are compared, one each afterwards.
"""

import hashlib
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from chinchilla.data.prepare.shuffle_dedup import Document

_BLANK = re.compile(rb"(\n[ \t\r]*\n\s*)")


class Repeats:
    """Which paragraphs of a fixed sequence of documents stood before; a filter of a spool.

    Attributes:
        shortest: source -> bytes from which a paragraph counts; 0 leaves the source alone.
    """

    def __init__(self, buckets: Iterable[list[Document]], shortest: list[int]) -> None:
        self.shortest = shortest
        hashes = array("Q")
        self._begins = []  # of each bucket among all paragraphs
        for documents in buckets:
            self._begins.append(len(hashes))
            for source, _, text in documents:
                for part in self._candidates(source, text):
                    digest = hashlib.blake2b(part, digest_size=8).digest()
                    hashes.append(int.from_bytes(digest, "little"))
        _, first = np.unique(np.frombuffer(hashes, np.uint64), return_index=True)
        self._again = np.ones(len(hashes), bool)
        self._again[first] = False

    def _candidates(self, source: int, text: bytes) -> Iterator[bytes]:
        if shortest := self.shortest[source]:
            yield from (part for part in _BLANK.split(text)[::2] if len(part) >= shortest)

    def __call__(
        self, bucket: int, documents: Iterable[Document], counts: list[Counter[str]]
    ) -> Iterator[Document]:
        """The documents of a bucket without repeats, and not those that have nothing else.

        Counts `paragraphs` and `paragraph_bytes` left out, and documents `only_repeats`, by source.
        """
        number = self._begins[bucket]
        for each in counts:
            each["only_repeats"] += 0
        for source, key, text in documents:
            shortest, kept = self.shortest[source], []
            parts = _BLANK.split(text) if shortest else [text]
            for part, gap in zip(parts[::2], [*parts[1::2], b""], strict=True):
                if shortest and len(part) >= shortest:
                    number += 1
                    if self._again[number - 1]:
                        counts[source]["paragraphs"] += 1
                        counts[source]["paragraph_bytes"] += len(part + gap)
                        continue
                kept.append(part + gap)
            left = b"".join(kept)
            if left.strip():
                yield source, key, left
            else:
                counts[source]["only_repeats"] += 1
