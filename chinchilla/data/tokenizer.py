"""SentencePiece (Kudo and Richardson 2018), set so that decode(encode(text)) == text.

Section 4.1 of the paper trains on SentencePiece with 32,000 pieces and without NFKC. Identity
normalisation, byte fallback and kept spaces make it lossless but for one character: SentencePiece
writes a space as U+2581, so that a U+2581 in the text would come back as a space. `encode` gives
that character as its three byte pieces instead.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import sentencepiece

from chinchilla.core.errors import DataError

SPACE_MARK = "\u2581"  # how SentencePiece spells a space inside pieces
MAX_SEGMENT = 32_768  # characters given to SentencePiece at once; memory grows with it
MAX_TRAIN_LINE = 1_000  # characters; at most 4,000 bytes, under SentencePiece's 4,192
_UNTRAINABLE = re.compile("[\n\0\u2581\u2585]")  # pieces of their own, or reserved by the trainer
_PROBE = (
    "a\u2581 \t\r\n\n  \u00e9 e\u0301 \ufb01 \u4e2d \U0001f44d\U0001f3fd <s></s><unk> \x00\x7f "
)


def segments(text: str, limit: int = MAX_SEGMENT) -> Iterator[str]:
    """Cut text after newlines, else before spaces, else anywhere, into at most `limit` characters."""
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
        eos_id: closes every document; never the result of encoding text.
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
            DataError: missing, not a SentencePiece model, or without an end-of-text piece.
        """
        try:
            model = path.read_bytes()
        except OSError as error:
            raise DataError(f"tokenizer {path} cannot be read ({error.strerror}).") from None
        if not model:
            raise DataError(f"tokenizer {path} is empty.")
        try:
            tokenizer = cls(model)
        except (RuntimeError, IndexError):
            raise DataError(f"tokenizer {path} is not a SentencePiece model.") from None
        if tokenizer.eos_id < 0 or tokenizer.vocab_size <= tokenizer.eos_id:
            raise DataError(
                f"tokenizer {path} has no eos piece; documents could not be told apart."
            )
        return tokenizer

    def encode(self, text: str) -> list[int]:
        """Text to piece ids, without eos."""
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
        """Short texts without U+2581 to piece ids, without eos; one call is faster than many."""
        return self._processor.encode(words, num_threads=1)

    def decode(self, ids: list[int]) -> str:
        """Piece ids to text; eos decodes to nothing."""
        return self._processor.decode(ids)

    @property
    def lossless(self) -> bool:
        """Whether difficult text survives: false for most models trained elsewhere."""
        return self.decode(self.encode(_PROBE)) == _PROBE


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    algorithm: str = "bpe",
    split_digits: bool = False,
    normalization: str = "identity",
) -> Tokenizer:
    """Train a tokenizer; the same texts in the same order give the same model.

    Single-threaded. Holds the texts in memory, so give a sample (bpe: 12 MB/s here, unigram 1).

    Args:
        texts: sample of documents.
        vocab_size: pieces, of which 259 are unknown, eos, newline and the 256 bytes.
        algorithm: bpe or unigram.
        split_digits: each digit a piece of its own.
        normalization: identity, or nfkc: then text that NFKC changes does not come back.

    Raises:
        DataError: the text supports fewer pieces, or its alphabet needs more.
    """
    out = io.BytesIO()
    # Only what was asked for: the model file records every option it is given.
    more: dict[str, Any] = {"split_digits": True} if split_digits else {}
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_training_lines(texts),
            model_writer=out,
            vocab_size=vocab_size,
            model_type=algorithm,
            normalization_rule_name=normalization,
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
            minloglevel=2,  # errors only; they come back as exceptions
            **more,
        )
    except RuntimeError as error:
        raise DataError(_explain(str(error), vocab_size)) from None
    return Tokenizer(out.getvalue())


def _training_lines(texts: Iterable[str]) -> Iterator[str]:
    """Lines that SentencePiece keeps: it skips long ones and cuts nothing."""
    for text in texts:
        for line in _UNTRAINABLE.split(text):
            yield from segments(line, MAX_TRAIN_LINE)


def _explain(message: str, vocab_size: int) -> str:
    """SentencePiece's message in our words, with the number to use."""
    given = f"tokenizer.vocab_size={vocab_size}"
    if match := re.search(r"too high.*<= (\d+)", message):
        return (
            f"{given} is more than this text supports: use at most "
            f"tokenizer.vocab_size={match[1]}, or more text."
        )
    if match := re.search(r"smaller than required_chars. \d+ vs (\d+)", message):
        return (
            f"{given} is too small for the characters of this text: use at least "
            f"tokenizer.vocab_size={match[1]}."
        )
    if "sentences_.empty" in message:
        return (
            "the corpus has no text to train a tokenizer on: only newlines or control characters."
        )
    return f"{given}: SentencePiece could not train ({message.strip().splitlines()[-1]})."
