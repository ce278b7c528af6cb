"""Encoding word by word gives the same tokens as SentencePiece on the whole text."""

import io
from functools import cache

import pytest
import sentencepiece
from data_corpora import documents
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tokenizer import DIFFICULT

from chinchilla.data.prepare import word_cache
from chinchilla.data.prepare.encode import Encoder
from chinchilla.data.prepare.word_cache import WordCache, is_separable
from chinchilla.data.tokenizer import Tokenizer, train_tokenizer


@cache
def tokenizer(**options) -> Tokenizer:
    return train_tokenizer(documents() + ["  x\n\n   y = 12,345.6 (é “a”)."] * 50, 360, **options)


def whole(t: Tokenizer, texts: list[str]) -> list[int]:
    return [i for text in texts for i in (*t.encode(text), t.eos_id)]


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("split_digits", [False, True])
def test_difficult_texts_and_documents(split_digits, dtype):
    t = tokenizer(split_digits=split_digits)
    texts = [*DIFFICULT, " \n ".join(DIFFICULT), "▁".join(DIFFICULT), *documents()]
    found = WordCache(t, dtype).encode(texts)
    assert found.dtype == dtype
    assert found.tolist() == whole(t, texts)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text() | st.text(alphabet=" \n▁ab.1é\0"), max_size=4))
def test_any_texts(texts):
    assert WordCache(tokenizer(), "uint16").encode(texts).tolist() == whole(tokenizer(), texts)


def test_texts_longer_than_a_segment():
    texts = ["a " * 40_000, "b" * 70_000, " " * 70_000 + "c", "d\n" * 40_000]
    assert WordCache(tokenizer(), "uint16").encode(texts).tolist() == whole(tokenizer(), texts)


def test_clearing_the_cache_changes_nothing(monkeypatch):
    monkeypatch.setattr(word_cache, "MAX_WORDS", 20)
    some = WordCache(tokenizer(), "uint16")
    for texts in ([t] for t in [*DIFFICULT, *documents()]):
        assert some.encode(texts).tolist() == whole(tokenizer(), texts)


def test_the_cache_is_bounded_in_bytes():
    """In text without spaces (Chinese, base64), a line is one word."""
    some = WordCache(tokenizer(), "uint16")
    texts = [f"{n} " + f"{n:x}" * 5_000 for n in range(30)]
    assert some.encode(texts).tolist() == whole(tokenizer(), texts)
    assert max(map(len, some._cache)) <= word_cache.MAX_LENGTH
    assert some.encode(texts).tolist() == whole(tokenizer(), texts)


def trained(**options) -> bytes:
    out = io.BytesIO()
    config = {
        "model_type": "bpe", "byte_fallback": True, "add_dummy_prefix": False, "vocab_size": 400,
        "remove_extra_whitespaces": False, "normalization_rule_name": "identity", "minloglevel": 2,
        **options,
    }  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*documents(), *["of the"] * 500]), model_writer=out, **config
    )
    return out.getvalue()


def test_models_trained_here_are_separable():
    assert is_separable(tokenizer().model)
    assert is_separable(trained())
    assert not is_separable(tokenizer(algorithm="unigram").model)
    assert not is_separable(tokenizer(normalization="nfkc").model)


@pytest.mark.parametrize(
    "options",
    [
        {"add_dummy_prefix": True},
        {"remove_extra_whitespaces": True},
        {"byte_fallback": False},
        {"treat_whitespace_as_suffix": True},
        {"split_by_whitespace": False},
        {"user_defined_symbols": ["of the"]},
        {"user_defined_symbols": ["\nand"]},
        {"normalization_rule_name": "nmt_nfkc_cf"},
    ],
)
def test_other_models_encode_whole_texts(options):
    model = trained(**options)
    assert not is_separable(model)
    t, texts = Tokenizer(model), documents()
    encoded = Encoder(model, "uint16")([text.encode() for text in texts])
    assert encoded.tolist() == whole(t, texts)
