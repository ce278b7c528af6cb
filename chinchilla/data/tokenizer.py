"""SentencePiece tokenizers (Kudo and Richardson 2018), configured to be lossless, and their statistics.

Section 4.1 of the paper trains SentencePiece with 32,000 pieces and without NFKC. Identity
normalization, byte fallback and preserved spaces make decode(encode(text)) == text, with one exception:
SentencePiece represents a space as U+2581, so a U+2581 in the text would be decoded as a space. `encode`
emits the three byte pieces of that character instead.
"""

import hashlib
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece

from chinchilla.core.errors import DataError
from chinchilla.core.files.reading import MB, is_lfs_pointer, read_bytes

SPACE_MARK = "\u2581"  # represents a space inside pieces
TOKENIZER_BYTES = 16 * MB  # of a .model file; one of 256,000 pieces has 5 MB
MAX_SEGMENT = 32_768  # characters per call of SentencePiece, whose memory grows with them
MAX_TRAIN_LINE = 1_000  # characters; at most 4,000 bytes, under SentencePiece's 4,192
_UNTRAINABLE = re.compile(
    "[\n\0\u2581\u2585]"
)  # always separate pieces, or reserved by the trainer
MEASURED_BYTES = 4_000_000  # per source; beyond this, bytes per token change by under one percent
_WORD = re.compile(r"\w+")
_PROBE = (
    "a\u2581 \t\r\n\n  \u00e9 e\u0301 \ufb01 \u4e2d \U0001f44d\U0001f3fd <s></s><unk> \x00\x7f "
)


def segments(text: str, limit: int = MAX_SEGMENT) -> Iterator[str]:
    """Cut text into at most `limit` characters: after a newline, else before a space, else anywhere."""
    start = 0
    while len(text) - start > limit:
        cut = text.rfind("\n", start, start + limit) + 1
        if cut <= start:
            cut = text.rfind(" ", start + 1, start + limit)
        if cut <= start:
            cut = start + limit
        yield text[start:cut]
        start = cut
    if start < len(text):
        yield text[start:]


class Tokenizer:
    """A trained SentencePiece model.

    Attributes:
        vocab_size: pieces.
        eos_id: ends every document; never produced by encoding text.
        sha256: of the model file.
    """

    def __init__(self, model: bytes) -> None:
        self.model = model
        self.sha256 = hashlib.sha256(model).hexdigest()
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size: int = self._processor.vocab_size()
        self.eos_id: int = self._processor.eos_id()
        mark = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()]
        self._space_mark = mark if all(self._processor.is_byte(i) for i in mark) else []

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read a SentencePiece .model file.

        Raises:
            DataError: the file is missing, not a SentencePiece model, or has no eos piece.
        """
        try:
            model = read_bytes(path, TOKENIZER_BYTES)
        except OSError as error:
            raise DataError(f"tokenizer {path} cannot be read ({error.strerror}).") from None
        if not model:
            raise DataError(f"tokenizer {path} is empty.")
        if is_lfs_pointer(model):
            raise DataError(
                f"tokenizer {path} is a Git LFS pointer. Fetch the contents in that repository with: git lfs "
                "pull."
            )
        try:
            tokenizer = cls(model)
        except (RuntimeError, IndexError):
            raise DataError(f"tokenizer {path} is not a SentencePiece model.") from None
        if tokenizer.eos_id < 0 or tokenizer.vocab_size <= tokenizer.eos_id:
            raise DataError(f"tokenizer {path} has no eos piece, which separates documents.")
        return tokenizer

    def encode(self, text: str) -> list[int]:
        """Piece ids of a text, without eos."""
        ids: list[int] = []
        for segment in segments(text):
            if SPACE_MARK in segment and self._space_mark:
                head, *tail = segment.split(SPACE_MARK)
                ids += self._processor.encode(head)
                for part in tail:
                    ids += self._space_mark
                    ids += self._processor.encode(part)
            else:
                ids += self._processor.encode(segment)
        return ids

    def encode_each(self, words: list[str]) -> list[list[int]]:
        """Piece ids of short texts without U+2581; one call is faster than many."""
        return self._processor.encode(words, num_threads=1)

    def decode(self, ids: list[int]) -> str:
        """Text of piece ids; eos decodes to an empty string."""
        return self._processor.decode(ids)

    @property
    def has_space(self) -> bool:
        """Whether a space has a piece; else it is encoded as the bytes of U+2581 and not restored."""
        return bool(self._processor.piece_to_id(SPACE_MARK) != self._processor.unk_id())

    @property
    def lossless(self) -> bool:
        """Whether a probe of difficult text is restored; false for most models trained elsewhere."""
        return self.decode(self.encode(_PROBE)) == _PROBE


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    algorithm: str = "bpe",
    split_digits: bool = False,
    normalization: str = "identity",
) -> Tokenizer:
    """Train a tokenizer. The same texts in the same order give the same model.

    Training is single-threaded and holds the texts in memory (about 12 MB/s for bpe, 1 MB/s for
    unigram).

    SentencePiece leaves out the rarest characters, one in 2,000 in all, which become bytes. If spaces
    are among them, training is repeated with a piece for the space. (Requiring it always would change
    the hash of every model.)

    Args:
        texts: sample of documents; may be read twice.
        vocab_size: pieces, of which 259 are unknown, eos, newline and the 256 bytes.
        algorithm: bpe or unigram.
        split_digits: encode each digit as a separate piece.
        normalization: identity, or nfkc, which is lossy.

    Raises:
        DataError: the text supports only fewer pieces, or its alphabet needs more.
    """
    # The model file records every option that is passed, so defaults are not.
    options: dict[str, Any] = {"split_digits": True} if split_digits else {}
    options |= {
        "vocab_size": vocab_size,
        "model_type": algorithm,
        "normalization_rule_name": normalization,
    }
    try:
        try:
            tokenizer = _train(texts, options)
        except RuntimeError as error:
            if "required_chars" not in str(error):
                raise
            tokenizer = None  # too few pieces: the next error counts the space too
        if tokenizer is None or not tokenizer.has_space:
            tokenizer = _train(texts, {**options, "required_chars": SPACE_MARK})
        return tokenizer
    except RuntimeError as error:
        raise DataError(_explain(str(error), vocab_size)) from None


def _train(texts: Iterable[str], options: dict[str, Any]) -> Tokenizer:
    """One training with the options given, beside those that make a tokenizer lossless."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_training_lines(texts),
        model_writer=out,
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        user_defined_symbols=["\n"],
        unk_id=0,
        eos_id=1,
        bos_id=-1,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,  # errors only, which are raised as exceptions
        **options,
    )
    return Tokenizer(out.getvalue())


def _training_lines(texts: Iterable[str]) -> Iterator[str]:
    """Lines short enough for the trainer, which skips long ones."""
    for text in texts:
        for line in _UNTRAINABLE.split(text):
            yield from segments(line, MAX_TRAIN_LINE)


def _explain(message: str, vocab_size: int) -> str:
    """Rephrase an error of SentencePiece, with the number of pieces to use."""
    setting = f"tokenizer.vocab_size={vocab_size}"
    if match := re.search(r"too high.*<= (\d+)", message):
        return (
            f"{setting} is more than this text supports: use at most "
            f"tokenizer.vocab_size={match[1]}, or more text."
        )
    if match := re.search(r"smaller than required_chars. \d+ vs (\d+)", message):
        return (
            f"{setting} is too small for the characters of this text: use at least "
            f"tokenizer.vocab_size={match[1]}."
        )
    if "sentences_.empty" in message:
        return (
            "the corpus has no text to train a tokenizer on: only newlines or control characters."
        )
    return f"{setting}: SentencePiece could not train ({message.strip().splitlines()[-1]})."


@dataclass(frozen=True)
class TokenizerStats:
    """Statistics of one tokenizer on the validation documents of one source."""

    source: str
    documents: int
    bytes: int
    tokens: int  # without eos
    words: int  # runs of letters and digits, independent of the tokenizer
    changed: int  # documents that decode(encode(text)) does not restore
    nfkc_changed: int  # documents that NFKC, the default of SentencePiece, would change

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / max(1, self.tokens)

    @property
    def fertility(self) -> float:
        """Tokens per word."""
        return self.tokens / max(1, self.words)


def tokenizer_stats(
    tokenizer: Tokenizer, documents: Iterable[tuple[int, bytes]], names: list[str]
) -> list[TokenizerStats]:
    """Measure a tokenizer on the first MEASURED_BYTES of each source.

    Args:
        tokenizer: any tokenizer.
        documents: (source number, text), of a split on which it was not trained.
        names: of the sources.
    """
    counts = [[0] * 6 for _ in names]
    for source, data in documents:
        if counts[source][1] >= MEASURED_BYTES:
            if all(each[1] >= MEASURED_BYTES for each in counts):
                break
            continue
        text = data.decode("utf-8")
        ids = tokenizer.encode(text)
        of_document = (
            1,
            len(data),
            len(ids),
            len(_WORD.findall(text)),
            tokenizer.decode(ids) != text,
            unicodedata.normalize("NFKC", text) != text,
        )
        counts[source] = [a + b for a, b in zip(counts[source], of_document, strict=True)]
    return [TokenizerStats(name, *each) for name, each in zip(names, counts, strict=True)]
