"""Optional filters of documents: the quality rules of Gopher, and repeated paragraphs.

The rules and thresholds are those of Rae et al. 2021 (Gopher), appendix A.1.1. They are made for
English web pages and reject code, tables and other languages, so each source enables them itself.

Paragraphs are separated by blank lines and compared by 64-bit hash over the whole corpus. Documents
are visited in key order, so which of several equal paragraphs stays depends only on the text. Among
fifty million paragraphs the probability of any hash collision is below 1e-4. Memory: about 40 bytes
per paragraph during the comparison, one byte each afterwards.
"""

import hashlib
import re
from array import array
from collections.abc import Iterable, Iterator

import numpy as np

from chinchilla.data.ngrams import ngram_hashes
from chinchilla.data.prepare.shuffle_dedup import Document, Dropped

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
BULLETS = ("-", "*", "•", "‣", "▪", "●", "–")
ELLIPSES = ("...", "…")
TOP_NGRAM = {2: 0.20, 3: 0.18, 4: 0.16}  # n -> largest share of characters in the top n-gram
REPEATED_NGRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}  # ... in repeated ones
_BLANK_LINES = re.compile(r"\n\s*\n")
_PARAGRAPH_END = re.compile(rb"(\n[ \t\r]*\n\s*)")


def gopher_rule(text: str) -> str:
    """Name of the first rule that `text` breaks; empty if it breaks none."""
    words = text.split()
    return _quality(text, words) or _repetition(text, words)


def _quality(text: str, words: list[str]) -> str:
    n = len(words)
    if not 50 <= n <= 100_000:
        return "gopher_length"
    if not 3 <= sum(map(len, words)) / n <= 10:
        return "gopher_word_length"
    symbols = max(text.count("#"), sum(text.count(x) for x in ELLIPSES))
    if symbols / n > 0.1:
        return "gopher_symbols"
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if sum(line.startswith(BULLETS) for line in lines) > 0.9 * len(lines):
        return "gopher_bullets"
    if sum(line.endswith(ELLIPSES) for line in lines) > 0.3 * len(lines):
        return "gopher_ellipses"
    if sum(any(map(str.isalpha, word)) for word in words) < 0.8 * n:
        return "gopher_alphabetic"
    if len(STOP_WORDS.intersection(word.lower() for word in words)) < 2:
        return "gopher_stop_words"
    return ""


def _repetition(text: str, words: list[str]) -> str:
    paragraphs = [p.strip() for p in _BLANK_LINES.split(text) if p.strip()]
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    for parts, name in ((lines, "lines"), (paragraphs, "paragraphs")):
        count, characters = _repeats(parts)
        if count > 0.30 * len(parts) or characters > 0.20 * len(text):
            return f"gopher_repeated_{name}"
    vocabulary: dict[str, int] = {}
    ids = np.array([vocabulary.setdefault(word, len(vocabulary) + 1) for word in words], np.uint64)
    lengths = np.array([len(word) for word in words])
    for n, limit in TOP_NGRAM.items():
        if _in_top_ngram(ids, lengths, n) > limit * lengths.sum():
            return f"gopher_common_{n}gram"
    for n, limit in REPEATED_NGRAMS.items():
        characters = _in_repeated_ngrams(ids, lengths, n)
        if characters > limit * lengths.sum():
            return f"gopher_repeated_{n}gram"
        if characters == 0:  # no longer n-gram is repeated either
            break
    return ""


def _repeats(parts: list[str]) -> tuple[int, int]:
    """Number of parts that occurred before, and their characters."""
    seen: set[str] = set()
    count = characters = 0
    for part in parts:
        if part in seen:
            count, characters = count + 1, characters + len(part)
        seen.add(part)
    return count, characters


def _in_top_ngram(ids: np.ndarray, lengths: np.ndarray, n: int) -> int:
    """Characters in all occurrences of the n-gram that has most of them; 0 if it occurs once."""
    _, first, counts = np.unique(ngram_hashes(ids, n), return_index=True, return_counts=True)
    if not len(first):
        return 0
    ends = np.concatenate([[0], np.cumsum(lengths)])
    characters = counts * (ends[first + n] - ends[first])
    top = np.lexsort((first, -characters))[0]  # ties: the n-gram that occurs first
    return int(characters[top]) if counts[top] > 1 else 0


def _in_repeated_ngrams(ids: np.ndarray, lengths: np.ndarray, n: int) -> int:
    """Characters of words inside an n-gram that occurred before, each word counted once."""
    grams = ngram_hashes(ids, n)
    repeated = np.ones(len(grams), np.int64)
    repeated[np.unique(grams, return_index=True)[1]] = 0
    total = np.concatenate([[0], np.cumsum(np.concatenate([repeated, np.zeros(n, np.int64)]))])
    words = np.arange(1, len(lengths) + 1)
    return int(lengths[total[words] > total[np.maximum(words - n, 0)]].sum())


class RepeatedParagraphs:
    """Filter of buckets that removes paragraphs which occurred in an earlier document.

    Attributes:
        min_bytes: per source, the shortest paragraph to compare; 0 leaves the source unchanged.
    """

    def __init__(self, buckets: Iterable[list[Document]], min_bytes: list[int]) -> None:
        """Find the repeats; the same documents are filtered afterwards, bucket by bucket."""
        self.min_bytes = min_bytes
        hashes = array("Q")
        self._starts = []  # of each bucket among all paragraphs
        for documents in buckets:
            self._starts.append(len(hashes))
            for source, _, text in documents:
                for paragraph, _ in self._paragraphs(source, text):
                    if self._is_compared(source, paragraph):
                        digest = hashlib.blake2b(paragraph, digest_size=8).digest()
                        hashes.append(int.from_bytes(digest, "little"))
        _, first = np.unique(np.frombuffer(hashes, np.uint64), return_index=True)
        self._repeated = np.ones(len(hashes), bool)
        self._repeated[first] = False

    def __call__(
        self, bucket: int, documents: Iterable[Document], dropped: Dropped
    ) -> Iterator[Document]:
        """Yield the documents of a bucket without repeats, except those with nothing else.

        Counts, by source, `paragraphs` and `paragraph_bytes` removed and documents `only_repeats`.
        """
        number = self._starts[bucket]
        for each in dropped:
            each["only_repeats"] += 0
        for source, key, text in documents:
            kept = []
            for paragraph, separator in self._paragraphs(source, text):
                repeated = False
                if self._is_compared(source, paragraph):
                    repeated = self._repeated[number]
                    number += 1
                if repeated:
                    dropped[source]["paragraphs"] += 1
                    dropped[source]["paragraph_bytes"] += len(paragraph + separator)
                else:
                    kept.append(paragraph + separator)
            rest = b"".join(kept)
            if rest.strip():
                yield source, key, rest
            else:
                dropped[source]["only_repeats"] += 1

    def _paragraphs(self, source: int, text: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Each paragraph with the blank lines after it."""
        parts = _PARAGRAPH_END.split(text) if self.min_bytes[source] else [text]
        return zip(parts[::2], [*parts[1::2], b""], strict=True)

    def _is_compared(self, source: int, paragraph: bytes) -> bool:
        return 0 < self.min_bytes[source] <= len(paragraph)
