"""Settings of a corpus that have no effect with its format are refused."""

import pytest

from chinchilla.config import SourceConfig
from chinchilla.config.command_line.compose import compose
from chinchilla.core.errors import InputError


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("corpus.paths=[a.jsonl.zst,b.JSON]", r"=\[a.jsonl.zst,b.JSON\] has no effect with corpus=sotu.*"
         r"default. Give corpus=jsonl as well"),
        ("corpus.paths=[books/*.txt]", "Give corpus=text as well"),
        ("corpus.paths=[books/]", "Give corpus=text or corpus=jsonl or corpus=parquet as well"),
        ("corpus.paths=[a.txt,a.parquet]", "Give corpus=text or corpus=jsonl or corpus=parquet"),
        ("corpus.hub_name=a/b", "Give corpus=hub as well"),
        ("corpus.separator=blank", "Give corpus=text as well"),
        ("corpus.format=text corpus.paths=[a]", "Give corpus=text instead"),
        ("corpus=text corpus.paths=[a] corpus.column=body", "Omit it, or use another format: jsonl"),
        ("corpus=jsonl corpus.paths=[a] corpus.separator=x", "another format: text"),
        ("corpus=c4 corpus.paths=[a]", r"paths=\[a\] has no effect with corpus.format=hub"),
        ("corpus=parquet corpus.paths=[a] corpus.hub_split=test", "another format: hub"),
        ("corpus=hub corpus.hub_name=/tmp corpus.hub_revision=v1", r"hub_revision=v1 has no effect with corp.*=/tmp"),
    ],
)  # fmt: skip
def test_a_setting_without_effect_is_refused(words, message):
    with pytest.raises(InputError, match=message):
        compose("data", words.split())


def test_it_is_refused_in_one_of_several_sources():
    with pytest.raises(InputError, match=r"corpus.sources, a: column=body has no effect"):
        SourceConfig(name="a", format="text", paths=["x"], column="body")


def test_a_data_set_of_the_hub_is_named_with_the_command():
    config = compose("data", ["corpus=hub", "corpus.hub_name=a/b", "corpus.column=body"])
    assert (config.corpus.format, config.corpus.name, config.corpus.licence) == ("hub", "hub", "")
