"""64-bit hashes of words and of word n-grams, the same on every machine.

A word is a run of letters and digits in lower case, so texts that differ only in case, punctuation or
line breaks have the same hashes.
"""

import hashlib
import re
from collections.abc import Sequence

import numpy as np

_WORD = re.compile(r"\w+")
_STEP = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplication is invertible
_MAX_CACHED_WORDS = 1_000_000


class WordHashes:
    """Hashes the words of texts; hashes of words seen before are cached."""

    def __init__(self) -> None:
        self._cache: dict[str, int] = {}

    def __call__(self, text: str) -> np.ndarray:
        """(words,) uint64 hash of each word of a text, in order."""
        words = _WORD.findall(text.lower())
        if len(self._cache) > _MAX_CACHED_WORDS:
            self._cache.clear()
        cache = self._cache
        for word in set(words).difference(cache):
            digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            cache[word] = int.from_bytes(digest, "little")
        return np.fromiter(map(cache.__getitem__, words), np.uint64, len(words))


def ngram_hashes(words: np.ndarray, n: int) -> np.ndarray:
    """Hash of every word n-gram: (words - n + 1,) uint64, empty for fewer than n words.

    Args:
        words: (words,) uint64 hashes of the words.
        n: words per n-gram.
    """
    if len(words) < n:
        return np.zeros(0, np.uint64)
    return combined_hash([words[i : len(words) - n + 1 + i] for i in range(n)])


def combined_hash(columns: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """(k,) one hash of several (k,) uint64 columns: a polynomial modulo 2^64."""
    total = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        total = total * _STEP + column
    return total
