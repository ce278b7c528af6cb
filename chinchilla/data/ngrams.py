"""Words and words in a row as 64-bit hashes, the same on every machine.

Words are runs of letters and digits in lower case, so that case, punctuation and line breaks tell no
two texts apart.
"""

import hashlib
import re
from collections.abc import Sequence

import numpy as np

_WORD = re.compile(r"\w+")
_STEP = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing
_KNOWN_WORDS = 1_000_000  # hashes of words kept at once


class WordHashes:
    """Words to 64-bit hashes, remembered."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def __call__(self, text: str) -> np.ndarray:
        """(words,) uint64 of the words of a text in lower case."""
        words = _WORD.findall(text.lower())
        if len(self._known) > _KNOWN_WORDS:
            self._known.clear()
        known = self._known
        for word in set(words).difference(known):
            digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            known[word] = int.from_bytes(digest, "little")
        return np.fromiter(map(known.__getitem__, words), np.uint64, len(words))


def ngram_hashes(words: np.ndarray, n: int) -> np.ndarray:
    """Hash of every n words in a row: (words - n + 1,) uint64, or none.

    Args:
        words: (words,) uint64.
        n: words in a row.
    """
    if len(words) < n:
        return np.zeros(0, np.uint64)
    return joined([words[i : len(words) - n + 1 + i] for i in range(n)])


def joined(columns: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """One hash of several in a row: a polynomial modulo 2^64. (k,) uint64 each."""
    total = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        total = total * _STEP + column
    return total
