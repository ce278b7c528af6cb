"""What a tokenizer does to each source: bytes a token, tokens a word, what does not come back.

Measured on validation documents, which no tokenizer here was trained on. Fertility counts words as
runs of letters and digits (`\\w+`), the same for every tokenizer, so that it compares across them.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from chinchilla.data.tokenizer import Tokenizer

MEASURED_BYTES = 4_000_000  # of each source; bytes per token moves by less than a percent beyond
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class SourceMeasure:
    """One tokenizer on one source's validation documents."""

    source: str
    documents: int
    bytes: int
    tokens: int  # without eos
    words: int
    changed: int  # documents that decode(encode(text)) does not give back
    nfkc_changed: int  # documents that NFKC, which SentencePiece applies by default, would change

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / max(1, self.tokens)

    @property
    def fertility(self) -> float:
        """Tokens per word."""
        return self.tokens / max(1, self.words)


def measure(
    tokenizer: Tokenizer, documents: Iterable[tuple[int, bytes]], names: list[str]
) -> list[SourceMeasure]:
    """Count what `tokenizer` makes of the first MEASURED_BYTES of each source.

    Args:
        tokenizer: any.
        documents: (source number, text).
        names: of the sources.
    """
    counts = [[0] * 6 for _ in names]
    for source, data in documents:
        mine = counts[source]
        if mine[1] >= MEASURED_BYTES:
            if all(each[1] >= MEASURED_BYTES for each in counts):
                break
            continue
        text = data.decode("utf-8")
        ids = tokenizer.encode(text)
        added = (
            1,
            len(data),
            len(ids),
            len(_WORD.findall(text)),
            tokenizer.decode(ids) != text,
            unicodedata.normalize("NFKC", text) != text,
        )
        counts[source] = [a + b for a, b in zip(mine, added, strict=True)]
    return [SourceMeasure(name, *each) for name, each in zip(names, counts, strict=True)]
