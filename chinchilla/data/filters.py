"""Rules that leave out documents which are hardly prose: Rae et al. 2021 (Gopher), appendix A.1.1.

Quality and repetition rules with the thresholds printed there. Made for English web pages; code,
tables and other languages fail them, so a source has them only when it asks.
"""

import re
from collections import Counter

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
    if sum(any(c.isalpha() for c in word) for word in words) < 0.8 * n:
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
    total = sum(map(len, words))
    for n, most in MOST_COMMON.items():
        grams = Counter(zip(*(words[i:] for i in range(n)), strict=False))
        gram, count = max(grams.items(), key=lambda each: each[1] * sum(map(len, each[0])))
        if count > 1 and count * sum(map(len, gram)) > most * total:
            return f"gopher_common_{n}gram"
    for n, most in REPEATED.items():
        if _in_repeated_ngrams(words, n) > most * total:
            return f"gopher_repeated_{n}gram"
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


def _in_repeated_ngrams(words: list[str], n: int) -> int:
    """Characters of words that lie in an n-gram which stood before, each word once."""
    seen: set[tuple[str, ...]] = set()
    spans: list[tuple[int, int]] = []
    for i in range(len(words) - n + 1):
        gram = tuple(words[i : i + n])
        if gram in seen:
            spans.append((i, i + n))
        seen.add(gram)
    ends = [0, *(end for _, end in spans)]
    fresh = [(max(begin, last), end) for (begin, end), last in zip(spans, ends, strict=False)]
    return sum(len(word) for begin, end in fresh for word in words[begin:end])
