"""Requests that a prepared folder satisfies, and that it does not."""

from dataclasses import replace
from pathlib import Path

import pytest
from data_corpora import command, documents, write_jsonl

from chinchilla.cli import main
from chinchilla.config import CorpusConfig, DataCommand, TokenizerConfig
from chinchilla.core.errors import InputError
from chinchilla.data.prepare.pipeline import prepare


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    texts = documents(60)
    return write_jsonl(tmp_path / "a.jsonl", texts[:30]), write_jsonl(
        tmp_path / "b.jsonl", texts[30:]
    )


def test_reordered_and_renamed_files_are_the_same_data(two, tmp_path: Path):
    first = prepare(command(tmp_path / "d", *two))
    again = prepare(command(tmp_path / "d", *two[::-1]))
    assert (again.already_prepared, again.data_id) == (True, first.data_id)
    two[0].rename(tmp_path / "c.jsonl")
    assert prepare(command(tmp_path / "d", two[1], tmp_path / "c.jsonl")).already_prepared
    write_jsonl(tmp_path / "c.jsonl", documents(30, seed=5))
    with pytest.raises(InputError, match="other contents"):
        prepare(command(tmp_path / "d", two[1], tmp_path / "c.jsonl"))


def test_the_order_of_files_matters_with_max_documents(two, tmp_path: Path):
    def some(*paths: Path) -> DataCommand:
        config = command(tmp_path / "d", *paths)
        return replace(config, corpus=replace(config.corpus, max_documents=20))

    prepare(some(*two))
    assert prepare(some(*two)).already_prepared
    with pytest.raises(InputError, match="source files are in another order now"):
        prepare(some(*two[::-1]))


def test_a_given_tokenizer_is_compared_by_its_bytes(two, tmp_path: Path, monkeypatch):
    prepare(command(tmp_path / "made", *two))
    monkeypatch.chdir(tmp_path)

    def given(model: str, **more: object) -> DataCommand:
        config = command(tmp_path / "d", *two)
        return replace(config, tokenizer=TokenizerConfig(model=model, **more))

    prepare(given("made/tokenizer.model"))
    assert prepare(given(f"{tmp_path}/made/tokenizer.model", vocab_size=500)).already_prepared
    prepare(replace(command(tmp_path / "other", *two), tokenizer=TokenizerConfig(vocab_size=310)))
    with pytest.raises(InputError, match="other contents"):
        prepare(given("other/tokenizer.model"))


def test_changes_of_a_local_hub_data_set_are_found(tmp_path: Path):
    (tmp_path / "hub").mkdir()
    write_jsonl(tmp_path / "hub" / "a.jsonl", documents(30))
    corpus = CorpusConfig(format="hub", hub_name=str(tmp_path / "hub"))
    config = replace(command(tmp_path / "d", tmp_path), corpus=corpus)
    prepare(config)
    assert prepare(config).already_prepared
    (tmp_path / "hub" / ".cache").mkdir()
    (tmp_path / "hub" / ".cache" / "a.jsonl.metadata").write_text("1764340000")
    assert prepare(config).already_prepared, "what a download leaves beside the files is not read"
    write_jsonl(tmp_path / "hub" / "a.jsonl", documents(31))
    with pytest.raises(InputError, match="other contents"):
        prepare(config)


def test_a_folder_in_the_home_directory(two, tmp_path: Path, monkeypatch, capsys):
    """The shell does not expand the ~ in data_dir=~/d."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    words = ["corpus=jsonl", "corpus.paths=[a.jsonl,b.jsonl]", "tokenizer.vocab_size=300"]
    assert main(["data", *words, "data_dir=~/d"]) == 0
    assert (tmp_path / "home" / "d" / "manifest.json").exists()
    assert not (tmp_path / "~").exists()
    assert main(["data", "overlap", "data_dir=~/d", "against=[~/../a.jsonl,b.jsonl]"]) == 0
    assert "b.jsonl: 30 items" in capsys.readouterr().out


def test_a_licence_may_be_given_later(two, tmp_path: Path, capsys):
    words = ["data", "corpus=jsonl", f"corpus.paths=[{two[0]}]", "tokenizer.vocab_size=300"]
    words += [f"data_dir={tmp_path / 'd'}"]
    assert main(words) == 0
    assert "already prepared" not in capsys.readouterr().out
    assert "CC0" not in (tmp_path / "d" / "data_card.md").read_text()
    assert main([*words, "corpus.licence=CC0"]) == 0
    assert "already prepared" in capsys.readouterr().out
    assert "CC0" in (tmp_path / "d" / "data_card.md").read_text()
    assert main([*words, "corpus.licence=CC0", "format=json"]) == 0
    assert main([*words, "format=json"]) == 0
    assert capsys.readouterr().out.count('"licence": "CC0"') == 2
