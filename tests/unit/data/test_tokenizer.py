"""The tokenizer gives back every text it is given, and says what it cannot be trained on."""

from functools import cache

import pytest
import sentencepiece
from data_corpora import documents
from hypothesis import given, settings
from hypothesis import strategies as st

from chinchilla.data.tokenizer import Tokenizer, segments, train_tokenizer
from chinchilla.errors import DataError

DIFFICULT = [
    "",
    " ",
    "  leading and trailing  ",
    "\t\ttabs\tinside\t",
    "a\r\nb\rc\n\n\nd",
    "\x00 \x01 \x1f \x7f \x85 \u2028 \u2029",
    "\ufeffbyte order mark",
    "ﬁ ½ ① Å Ａ e\u0301 é \u1e9b\u0323",  # all changed by NFKC
    "👍🏽 👩‍👩‍👧‍👦 \U0010ffff",
    "▁ a▁b ▁▁ ▁",  # how SentencePiece writes a space
    "▅ ⁇ \ufffd",  # its signs for unknown and malformed
    "<s></s><unk><pad><0x0A> [eos]",
    "العربية 中文 हिन्दी",
]


@cache
def tokenizer(algorithm: str) -> Tokenizer:
    return train_tokenizer(documents(), 330, algorithm)


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
@pytest.mark.parametrize("text", DIFFICULT)
def test_difficult_text_comes_back(algorithm, text):
    t = tokenizer(algorithm)
    ids = t.encode(text)
    assert t.decode(ids) == text
    assert t.eos_id not in ids
    assert all(0 <= i < t.vocab_size for i in ids)


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text(alphabet=" \n\t\r▁a\0é👍"))
def test_any_text_comes_back(text):
    assert tokenizer("bpe").decode(tokenizer("bpe").encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab \n"), st.integers(1, 7))
def test_segments_lose_nothing_and_stay_short(text, limit):
    parts = list(segments(text, limit))
    assert "".join(parts) == text
    assert all(0 < len(p) <= limit for p in parts)


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_cutting_at_newlines_changes_no_token(algorithm):
    """What a document becomes does not depend on how it was cut up for SentencePiece."""
    t = tokenizer(algorithm)
    text = "\n\n".join(documents(400))
    assert len(text) > 2 * 32_768
    whole = sentencepiece.SentencePieceProcessor(model_proto=t.model).encode(text)
    assert t.encode(text) == whole


def test_one_line_of_a_million_characters():
    text = "a" * 500_000 + " word" * 100_000
    t = tokenizer("bpe")
    assert t.decode(t.encode(text)) == text


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_training_again_gives_the_same_model(algorithm):
    assert train_tokenizer(documents(), 330, algorithm).sha256 == tokenizer(algorithm).sha256


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_too_many_pieces_names_the_largest_number_that_works(algorithm):
    with pytest.raises(DataError, match=r"at most tokenizer.vocab_size=") as caught:
        train_tokenizer(["to be or not to be"] * 3, 5_000, algorithm)
    largest = int(str(caught.value).split("vocab_size=")[2].split(",")[0])
    assert train_tokenizer(["to be or not to be"] * 3, largest, algorithm).vocab_size == largest


def test_too_few_pieces_for_the_alphabet_names_the_smallest_number():
    text = "".join(chr(0x4E00 + i) for i in range(500))
    with pytest.raises(DataError, match="too small for the characters") as caught:
        train_tokenizer([text], 400)
    smallest = int(str(caught.value).rstrip(".").split("=")[-1])
    assert train_tokenizer([text], smallest).vocab_size == smallest


@pytest.mark.parametrize("texts", [[], [""], ["\n\n\n"], ["\0"]])
def test_nothing_to_train_on(texts):
    with pytest.raises(DataError, match="no text to train a tokenizer on"):
        train_tokenizer(texts, 300)


def test_training_is_silent(capfd):
    train_tokenizer(documents(5), 300)
    assert capfd.readouterr() == ("", "")


def test_model_file_that_is_none(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        Tokenizer.load(tmp_path / "absent.model")
    for content in (b"not a model", b"\0" * 100):
        (tmp_path / "bad.model").write_bytes(content)
        with pytest.raises(DataError, match=r"is not a SentencePiece model|has no eos"):
            Tokenizer.load(tmp_path / "bad.model")
    (tmp_path / "bad.model").write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        Tokenizer.load(tmp_path / "bad.model")
