"""The stages of a preparation: splits that are empty, the sample for the tokenizer."""

import pytest
from data_corpora import command, documents, write_jsonl

from chinchilla.core.errors import DataError
from chinchilla.data.prepare.pipeline import prepare
from chinchilla.data.prepare.shuffle_dedup import Documents, write_source
from chinchilla.data.prepare.stages import TrainingSample


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["only one"], "the corpus is one document"),
        (["same", "same", "same"], "the corpus is one document"),
        (["", ""], "the corpus has no text: left out 2 empty in .*a.jsonl"),
        (documents(3), "leaves the validation split of the 3 documents of the corpus empty"),
    ],
)
def test_corpus_that_cannot_be_split(tmp_path, texts, message):
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    with pytest.raises(DataError, match=message):
        prepare(command(tmp_path / "d", path, validation_fraction=0.001))


def test_the_suggested_fraction_works(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", documents(12))
    for fraction in (1e-9, 1 - 1e-9):  # the lowest position of these twelve is small
        with pytest.raises(DataError, match="Use validation_fraction=") as caught:
            prepare(command(tmp_path / "d", path, validation_fraction=fraction))
        suggested = float(str(caught.value).split("Use validation_fraction=")[1].split(",")[0])
        prepare(command(tmp_path / str(fraction), path, validation_fraction=suggested))


def test_the_tokenizer_is_trained_on_the_shares(tmp_path):
    """3 to 1 by weight, though both sources have as much text."""
    for letter in "ab":
        texts = (f"{letter * 99}{i:05d}" for i in range(2_000))
        assert list(write_source(texts, tmp_path / letter))
    sample = TrainingSample(Documents([tmp_path / "a", tmp_path / "b"]), 0.01, 0.08, [3, 1])
    text = "".join(sample)
    assert text.count("a") == pytest.approx(3 * text.count("b"), rel=0.02)
    assert len(text) == pytest.approx(80_000, rel=0.01)
