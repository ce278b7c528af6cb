"""The data card: counts of documents, reasons, licences."""

from data_corpora import command, documents, write_jsonl

from chinchilla.config import CorpusConfig
from chinchilla.data.prepare.pipeline import prepare


def test_the_card_accounts_for_every_document(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [*documents(30), *documents(4), "", ""])
    with path.open("a") as f:
        f.write('{"text": "lone \\ud800 surrogate"}\n')
    config = command(tmp_path / "d", path)
    config.corpus.licence = "CC0 | see\nnotice"
    m = prepare(config)
    [source] = m.sources
    assert source.documents == 37
    kept = sum(split.documents for split in source.splits.values())
    assert kept + sum(source.dropped.values()) == 37
    text = (tmp_path / "d" / "data_card.md").read_text()
    assert m.data_id in text
    assert "| source | reason | number | note |\n| --- | --- | --: | --- |" in text
    assert "| custom | duplicate | 4 | exact duplicate |" in text
    assert r"CC0 \| see notice" in text  # the table is still valid
    assert str(tmp_path) not in text  # no local paths


def test_the_origin_of_a_hub_source_has_its_revision(tmp_path):
    from chinchilla.data.data_card import _origin

    hub = CorpusConfig(format="hub", hub_name="allenai/c4", hub_config="en")
    assert _origin(vars(hub)) == "hub: allenai/c4 en train @newest"
