"""Rules that leave out documents which are hardly prose: Rae et al. 2021 (Gopher), appendix A.1.1.

Quality and repetition rules with the thresholds printed there. Made for English web pages; code,
tables and other languages fail them, so a source has them only when it asks.
"""

import re

import numpy as np

from chinchilla.data.ngrams import ngram_hashes

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
BULLETS = ("-", "*", "•", "‣", "▪", "●", "–")
ELLIPSES = ("...", "…")
MOST_COMMON = {2: 0.20, 3: 0.18, 4: 0.16}  # n -> share of characters in the commonest n-gram
REPEATED = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}  # ... in n-grams that recur
_BLANK = re.compile(r"\n\s*\n")


def gopher_rule(text: str) -> str:
    """The first rule that `text` breaks, as a word for the data card; empty if it breaks none."""
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
    if sum(word[0].isalpha() or any(map(str.isalpha, word)) for word in words) < 0.8 * n:
        return "gopher_alphabetic"
    if len(STOP_WORDS.intersection(word.lower() for word in words)) < 2:
        return "gopher_stop_words"
    return ""


def _repetition(text: str, words: list[str]) -> str:
    paragraphs = [p.strip() for p in _BLANK.split(text) if p.strip()]
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    for parts, most, name in ((lines, 0.30, "lines"), (paragraphs, 0.30, "paragraphs")):
        again, characters = _repeats(parts)
        if again > most * len(parts) or characters > 0.20 * len(text):
            return f"gopher_repeated_{name}"
    known: dict[str, int] = {}
    ids = np.array([known.setdefault(word, len(known) + 1) for word in words], np.uint64)
    sizes = np.array([len(word) for word in words])
    for n, most in MOST_COMMON.items():
        if _in_commonest_ngram(ids, sizes, n) > most * sizes.sum():
            return f"gopher_common_{n}gram"
    for n, most in REPEATED.items():
        found = _in_repeated_ngrams(ids, sizes, n)
        if found > most * sizes.sum():
            return f"gopher_repeated_{n}gram"
        if found == 0:  # then no longer n-gram recurs either
            break
    return ""


def _repeats(parts: list[str]) -> tuple[int, int]:
    """How many parts stood before already, and their characters."""
    seen: set[str] = set()
    count = characters = 0
    for part in parts:
        if part in seen:
            count, characters = count + 1, characters + len(part)
        seen.add(part)
    return count, characters


def _in_commonest_ngram(ids: np.ndarray, sizes: np.ndarray, n: int) -> int:
    """Characters in all places of the n-gram that has most of them; 0 if it stands once."""
    _, first, counts = np.unique(ngram_hashes(ids, n), return_index=True, return_counts=True)
    if not len(first):
        return 0
    ends = np.concatenate([[0], np.cumsum(sizes)])
    characters = counts * (ends[first + n] - ends[first])
    best = np.lexsort((first, -characters))[0]  # of several the one that stands first
    return int(characters[best]) if counts[best] > 1 else 0


def _in_repeated_ngrams(ids: np.ndarray, sizes: np.ndarray, n: int) -> int:
    """Characters of words that lie in an n-gram which stood before, each word once."""
    grams = ngram_hashes(ids, n)
    again = np.ones(len(grams), np.int64)
    again[np.unique(grams, return_index=True)[1]] = 0
    over = np.concatenate([[0], np.cumsum(np.concatenate([again, np.zeros(n, np.int64)]))])
    words = np.arange(1, len(sizes) + 1)
    return int(sizes[over[words] > over[np.maximum(words - n, 0)]].sum())
