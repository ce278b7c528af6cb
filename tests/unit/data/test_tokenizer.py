"""The tokenizer is lossless, and errors of training are explained."""

import random
from functools import cache

import pytest
import sentencepiece
from data_corpora import documents
from hypothesis import given, settings
from hypothesis import strategies as st

from chinchilla.core.errors import DataError
from chinchilla.data.prepare.word_cache import WordCache, is_separable
from chinchilla.data.tokenizer import Tokenizer, segments, tokenizer_stats, train_tokenizer

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
    "▁ a▁b ▁▁ ▁",  # SentencePiece represents a space as U+2581
    "▅ ⁇ \ufffd",  # symbols for unknown and malformed text
    "<s></s><unk><pad><0x0A> [eos]",
    "العربية 中文 हिन्दी",
    "\u202ereversed\u202c \u200b\u200d\u2060 \u061c",  # invisible characters
    "Z\u0351\u036b\u0343a\u0348\u033bl\u0347g\u0324o",  # stacked combining marks
    "\ufffe \uffff \U000fdd00 \ue000",  # noncharacters and private use
    "ﷺ ㎒ ⅷ ㈱ ﬀﬁﬂ ² ₂ ½ H₂O x²+y²≠z² ℵ₀",  # decomposed by NFKC
    "\u1680\u2000\u2003\u202f\u205f\u3000",  # other spaces
    "\n" * 300 + " " * 300 + "\0" * 300,
    "𝐇𝐞𝐥𝐥𝐨 𝔀𝓸𝓻𝓵𝓭 \U000e0041\U000e007f 🏳️‍🌈 🇫🇷",
    "%s %d {0} ${x} $(x) \\x41 \\u2581 &#9601; <0xE2><0x96><0x81>",
    "1234567890" * 50,
]


@cache
def tokenizer(algorithm: str) -> Tokenizer:
    return train_tokenizer(documents(), 330, algorithm)


@cache
def with_numbers(split_digits: bool) -> Tokenizer:
    texts = [f"{d} 1789 1789 1789 2026 2026" for d in documents()]
    return train_tokenizer(texts, 400, split_digits=split_digits)


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
@pytest.mark.parametrize("text", DIFFICULT)
def test_difficult_text_is_restored(algorithm, text):
    t = tokenizer(algorithm)
    ids = t.encode(text)
    assert t.decode(ids) == text
    assert t.eos_id not in ids
    assert all(0 <= i < t.vocab_size for i in ids)


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text(alphabet=" \n\t\r▁a\0é👍"))
@pytest.mark.slow
def test_any_text_is_restored(text):
    assert tokenizer("bpe").decode(tokenizer("bpe").encode(text)) == text


HAN = "".join(chr(0x4E00 + i) for i in range(60))
RARE_SPACES = {  # the number of spaces among 20,000 characters, of which SentencePiece drops one in 2,000
    "none": "", "one": " ", "eight": " 。 ， 　 \t \n  ", "at the ends": f"  {HAN}  ",
}  # fmt: skip


@cache
def with_rare_spaces(algorithm: str, text: str) -> Tokenizer:
    draw = random.Random(0)
    words = [HAN[i : i + 3] for i in range(0, 60, 2)]
    texts = ["".join(draw.choices(words, k=140)) for _ in range(50)]
    return train_tokenizer([*texts, text], 330, algorithm)


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
@pytest.mark.parametrize("case", RARE_SPACES)
def test_difficult_text_is_restored_if_spaces_are_rare(algorithm, case):
    t = with_rare_spaces(algorithm, RARE_SPACES[case])
    assert t.lossless
    assert t.has_space
    for text in [*DIFFICULT, RARE_SPACES[case], f"{HAN} {HAN[:5]}▁ ▁{HAN[7]}\u0301 \u0301"]:
        assert t.decode(t.encode(text)) == text


def test_spaces_are_required_only_if_they_are_rare():
    """A model that has them keeps the hash of earlier versions, on which data_id depends."""
    assert b"required_chars" not in tokenizer("bpe").model
    assert tokenizer("bpe").sha256.startswith("be791a71db34")


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=" \n\t\r▁a\0é👍\u0301\ufeff\u3000<>" + HAN[:3]) | st.text())
def test_odd_texts_are_restored_if_spaces_are_rare(text):
    t = with_rare_spaces("bpe", RARE_SPACES["one"])
    assert is_separable(t.model)
    assert t.decode(t.encode(text)) == text
    words = WordCache(t, "uint16").encode([text])
    assert words.tolist() == [*t.encode(text), t.eos_id]


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab \n"), st.integers(1, 7))
def test_segments_are_short_and_concatenate_to_the_text(text, limit):
    parts = list(segments(text, limit))
    assert "".join(parts) == text
    assert all(0 < len(p) <= limit for p in parts)


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_cutting_at_newlines_changes_no_token(algorithm):
    """The tokens do not depend on how a document is cut for SentencePiece."""
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


def test_a_file_that_is_not_a_model_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        Tokenizer.load(tmp_path / "absent.model")
    for content in (b"not a model", b"\0" * 100):
        (tmp_path / "bad.model").write_bytes(content)
        with pytest.raises(DataError, match=r"is not a SentencePiece model|has no eos"):
            Tokenizer.load(tmp_path / "bad.model")
    (tmp_path / "bad.model").write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        Tokenizer.load(tmp_path / "bad.model")


def test_split_digits():
    assert len(with_numbers(False).encode("1789")) < 4
    assert len(with_numbers(True).encode("1789")) >= 4
    for text in DIFFICULT:
        assert with_numbers(True).decode(with_numbers(True).encode(text)) == text


def test_nfkc_is_lossy_and_reported_as_such():
    t = train_tokenizer(documents(), 330, normalization="nfkc")
    assert not t.lossless
    assert tokenizer("bpe").lossless
    assert t.decode(t.encode("x² ½ ﬁ")) == "x2 1⁄2 fi"


def test_statistics_by_source():
    """Counts of the texts, of those not restored, and of those NFKC would change."""
    texts = [(0, "peace treaty 1789"), (0, "x² ½"), (1, "war")]
    for normalization, lost in (("identity", 0), ("nfkc", 1)):
        t = train_tokenizer(documents(), 330, normalization=normalization)
        first, second = tokenizer_stats(t, [(n, x.encode()) for n, x in texts], ["a", "b"])
        assert (first.source, first.documents, first.bytes, first.words) == ("a", 2, 23, 5)
        assert first.tokens == sum(len(t.encode(x)) for n, x in texts if n == 0)
        assert (first.changed, first.nfkc_changed) == (lost, 1)
        assert (second.changed, second.nfkc_changed) == (0, 0)
        assert second.bytes_per_token == 3 / len(t.encode("war"))
        assert second.fertility == len(t.encode("war"))


def test_statistics_read_a_limited_amount_of_each_source(monkeypatch):
    monkeypatch.setattr("chinchilla.data.tokenizer.MEASURED_BYTES", 10)
    endless = ((i % 2, b"peace") for i in range(10**9))
    assert [m.documents for m in tokenizer_stats(tokenizer("bpe"), endless, ["a", "b"])] == [2, 2]
