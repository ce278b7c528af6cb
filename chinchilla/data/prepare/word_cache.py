"""SentencePiece word by word, each distinct word once: the same tokens, in a fraction of the time.

A BPE model merges only what is a piece. Where none of its pieces has a space after anything but spaces,
and none mixes a newline or U+2581 with anything, no merge crosses from one word into the next, so a
text's tokens are those of its words, one after the other. Words are few: of 20 MB of documentation
95 in 100 have been seen before.

Unigram models are left alone: their scores are summed in 32 bits along the whole text, whose rounding
can decide between two ways to cut one word. So is any model that changes text (NFKC, a dummy
prefix, removed spaces) and any with pieces out of use.
"""

import re
from array import array
from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np

from chinchilla.data.tokenizer import SPACE_MARK, Tokenizer, segments

MAX_WORDS = 1 << 19  # remembered at once, in 100 to 150 MB
MAX_LENGTH = 32  # characters of a word that is worth remembering
_WORD = re.compile(rf" *[^ \n{SPACE_MARK}]+| +|[\n{SPACE_MARK}]")
_CODES = {"uint16": "H", "uint32": "I"}


class Words:
    """The words that were met, with their tokens.

    `separable` says whether a model can be used so.
    """

    def __init__(self, tokenizer: Tokenizer, dtype: str) -> None:
        self._tokenizer, self._dtype, self._code = tokenizer, np.dtype(dtype), _CODES[dtype]
        # SentencePiece itself would take U+2581 for a space.
        self._mark = {SPACE_MARK: self._bytes(tokenizer.encode(SPACE_MARK))}
        self._known = dict(self._mark)
        self._eos = self._bytes([tokenizer.eos_id])

    def encode(self, texts: Iterable[str]) -> np.ndarray:
        """(tokens,) of each text, each followed by eos."""
        parted = [list(chain.from_iterable(map(_WORD.findall, segments(t)))) for t in texts]
        long = self._learn(set().union(*parted))
        known = self._known.__getitem__
        found = b"".join(b"".join(map(known, words)) + self._eos for words in parted)
        for word in long:  # hardly ever met again, and of any size
            del self._known[word]
        return np.frombuffer(found, self._dtype)

    def _learn(self, words: set[str]) -> list[str]:
        """Know all of them; gives those that are too long to be kept."""
        new = words.difference(self._known)
        if len(self._known) + len(new) > MAX_WORDS:
            self._known = dict(self._mark)
            new = words.difference(self._known)
        listed = list(new)
        for word, ids in zip(listed, self._tokenizer.encode_each(listed), strict=True):
            self._known[word] = self._bytes(ids)
        return [word for word in listed if len(word) > MAX_LENGTH]

    def _bytes(self, ids: list[int]) -> bytes:
        return array(self._code, ids).tobytes()


def separable(model: bytes) -> bool:
    """Whether a SentencePiece model's tokens of a text are those of its words, whatever the text."""
    try:
        from sentencepiece import sentencepiece_model_pb2
    except (ImportError, TypeError):  # protobuf of another age: the slow way gives the same
        return False
    schema: Any = sentencepiece_model_pb2
    proto = schema.ModelProto()
    proto.ParseFromString(model)
    trained, normal = proto.trainer_spec, proto.normalizer_spec
    kinds = schema.ModelProto.SentencePiece
    return (
        trained.model_type == schema.TrainerSpec.BPE
        and trained.byte_fallback
        and not trained.treat_whitespace_as_suffix
        and not normal.precompiled_charsmap
        and not normal.add_dummy_prefix
        and not normal.remove_extra_whitespaces
        and normal.escape_whitespaces
        and all(piece.type != kinds.UNUSED for piece in proto.pieces)
        and all(
            _WORD.fullmatch(piece.piece.replace(SPACE_MARK, " "))
            for piece in proto.pieces
            if piece.type in (kinds.NORMAL, kinds.USER_DEFINED)
        )
    )
