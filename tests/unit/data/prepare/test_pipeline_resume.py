"""An interrupted preparation is resumed and gives the same bytes."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from data_corpora import documents, write_jsonl
from test_pipeline_killed import contents, mixture

from chinchilla.config import SourceConfig, TokenizerConfig
from chinchilla.core.errors import InputError, UnreachableError
from chinchilla.core.files.writing import rename
from chinchilla.data.prepare import pipeline, stages
from chinchilla.data.prepare.pipeline import prepare

KINDS = ("read", "tokenizer", "tokenize")


class Stopped(KeyboardInterrupt):
    """Ctrl-C at a chosen point."""


def stop_at(stage: str, share: float):
    """A progress callback that raises once a share of a stage is done."""

    def progress(name: str, done: float, total: float) -> None:
        if name == stage and done >= share * total:
            raise Stopped

    return progress


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    seen: list[str] = []
    prepare(mixture(folder, folder / "d"), lambda stage, *_: seen.append(stage))
    return contents(folder / "d"), {kind: seen.count(kind) for kind in KINDS}


def same(files: dict[str, str], expected: dict[str, str]) -> bool:
    """Equal except for the manifest, which has paths and times of the text."""
    return files | {"manifest.json": ""} == expected | {"manifest.json": ""}


@pytest.mark.parametrize(
    ("stage", "share", "repeated"),
    [
        ("read", 0.6, {"read": 30, "tokenizer": 2}),  # in the second of two sources
        ("tokenizer", 1, {"read": 0, "tokenizer": 2}),
        ("tokenize", 0.5, {"read": 0, "tokenizer": 0}),
    ],
)
def test_resuming_does_not_repeat_finished_work(whole, tmp_path, stage, share, repeated):
    expected, all_steps = whole
    assert (all_steps["read"], all_steps["tokenizer"]) == (60, 2)
    config = mixture(tmp_path, tmp_path / "d")
    with pytest.raises(Stopped):
        prepare(config, stop_at(stage, share))
    assert not (tmp_path / "d" / "manifest.json").exists()
    again: list[str] = []
    prepare(config, lambda stage, *_: again.append(stage))
    assert same(contents(tmp_path / "d"), expected)
    assert {kind: again.count(kind) for kind in repeated} == repeated
    assert not (tmp_path / "d" / ".chinchilla-work").exists()


@pytest.mark.slow
def test_counts_of_dropped_documents_survive_interruptions(tmp_path):
    made = []
    for stop in (False, True):
        folder = tmp_path / str(stop)
        folder.mkdir()
        config = mixture(folder, folder / "d")
        texts = [*documents(30, 0), *documents(30, 0)[:9], *documents(30, 1)[:4], "", ""]
        write_jsonl(folder / "a.jsonl", texts)
        if stop:
            for stage, share in (("read", 0.5), ("tokenize", 0.3), ("tokenize", 0.8)):
                with pytest.raises(Stopped):
                    prepare(config, stop_at(stage, share))
        made.append(prepare(config))
    assert made[0].sources == made[1].sources
    a, b = made[0].sources
    assert (a.dropped["duplicate"], a.dropped["empty"], b.dropped["in_other_source"]) == (9, 2, 4)


@pytest.mark.slow
def test_changed_settings_start_over(whole, tmp_path):
    expected, all_steps = whole
    config = mixture(tmp_path, tmp_path / "d")
    with pytest.raises(Stopped):
        prepare(config, stop_at("tokenize", 0.5))
    config.validation_fraction = 0.4
    with pytest.raises(Stopped):
        prepare(config, stop_at("tokenize", 0.5))
    config.validation_fraction = 0.3
    again: list[str] = []
    prepare(config, lambda stage, *_: again.append(stage))
    assert again.count("read") == all_steps["read"]  # started over
    assert same(contents(tmp_path / "d"), expected)


@pytest.mark.slow
def test_changed_text_starts_over(tmp_path):
    config = mixture(tmp_path, tmp_path / "d")
    with pytest.raises(Stopped):
        prepare(config, stop_at("tokenize", 0.5))
    write_jsonl(tmp_path / "a.jsonl", documents(31, 7))
    m = prepare(config)
    assert m.sources[0].documents == 31
    other = tmp_path / "other"
    other.mkdir()
    fresh = mixture(other, other / "d")
    write_jsonl(other / "a.jsonl", documents(31, 7))
    assert prepare(fresh).data_id == m.data_id


def stop_at_move(monkeypatch, number: int) -> None:
    """Ctrl-C before the file of this number is moved into its place."""
    moves = iter(range(10**6))

    def move(source: Path, target: Path) -> None:
        if next(moves) == number:
            raise Stopped
        rename(source, target)

    monkeypatch.setattr(pipeline, "rename", move)


@pytest.mark.parametrize("given", [False, True])
def test_an_installed_tokenizer_may_be_given_after_an_interruption(tmp_path, monkeypatch, given):
    """The interrupted installation is completed first; the tokenizer keeps its bytes."""
    config = mixture(tmp_path, tmp_path / "d")
    if given:
        prepare(mixture(tmp_path, tmp_path / "other"))
        shutil.copy(tmp_path / "other" / "tokenizer.model", tmp_path / "t.model")
        config = replace(config, tokenizer=TokenizerConfig(model=str(tmp_path / "t.model")))
    stop_at_move(monkeypatch, 3)  # after the card, the tokenizer and a shard
    with pytest.raises(Stopped):
        prepare(config)
    monkeypatch.undo()
    model = (tmp_path / "d" / "tokenizer.model").read_bytes()
    (tmp_path / "t.model").unlink(missing_ok=True)
    here = TokenizerConfig(model=str(tmp_path / "d" / "tokenizer.model"))
    if given:
        assert prepare(replace(config, tokenizer=here)).tokenizer.algorithm == "given"
    else:  # as without the interruption
        with pytest.raises(InputError, match=r"tokenizer.*now given.*another data_dir"):
            prepare(replace(config, tokenizer=here))
        assert prepare(config).already_prepared  # the refused call completed the installation
    assert (tmp_path / "d" / "tokenizer.model").read_bytes() == model


def unreachable_after(real: Callable[..., Iterator[str]], n: int):
    """A source that fails after `n` documents, as a hub would."""

    def read(source: SourceConfig) -> Iterator[str]:
        for k, text in enumerate(real(source)):
            if k == n:
                raise UnreachableError("hub data set x cannot be read: Server disconnected.")
            yield text

    return read


def test_an_unreachable_hub_loses_no_finished_source(whole, tmp_path, monkeypatch):
    expected, _ = whole
    real, config = stages.read_documents, mixture(tmp_path, tmp_path / "d")
    monkeypatch.setattr(
        stages,
        "read_documents",
        lambda source: (unreachable_after(real, 20) if source.name == "b" else real)(source),
    )
    with pytest.raises(UnreachableError):
        prepare(config)
    assert [p.name for p in (tmp_path / "d" / ".chinchilla-work").glob("source-?")] == ["source-0"]
    monkeypatch.setattr(stages, "read_documents", real)
    prepare(config)
    assert same(contents(tmp_path / "d"), expected)


@pytest.mark.parametrize("text", ["another digest", None])
def test_an_unfinished_preparation_of_other_data_starts_over(whole, tmp_path, text):
    expected, all_steps = whole
    config = mixture(tmp_path, tmp_path / "d")
    with pytest.raises(Stopped):
        prepare(config, stop_at("tokenize", 0.9))
    digest = tmp_path / "d" / ".chinchilla-work" / "digest"
    digest.unlink() if text is None else digest.write_text(text)
    again: list[str] = []
    prepare(config, lambda stage, *_: again.append(stage))
    assert again.count("read") == all_steps["read"]
    assert same(contents(tmp_path / "d"), expected)


@pytest.mark.parametrize("number", range(7))
def test_an_interrupted_installation_is_completed(whole, tmp_path, monkeypatch, number):
    expected, _ = whole
    config = mixture(tmp_path, tmp_path / "d")
    stop_at_move(monkeypatch, number)
    with pytest.raises(Stopped):
        prepare(config)
    assert not (tmp_path / "d" / "manifest.json").exists()
    assert len([p for p in (tmp_path / "d").iterdir() if p.name in expected]) == number
    monkeypatch.undo()
    again: list[str] = []
    assert not prepare(config, lambda stage, *_: again.append(stage)).already_prepared
    assert same(contents(tmp_path / "d"), expected)
    assert again == []


def test_an_interrupted_installation_overwrites_nothing(whole, tmp_path, monkeypatch):
    """A file that appeared at the place of one not yet moved stops it, and stays."""
    expected, _ = whole
    config = mixture(tmp_path, tmp_path / "d")
    stop_at_move(monkeypatch, 4)
    with pytest.raises(Stopped):
        prepare(config)
    monkeypatch.undo()
    name = next(n for n in expected if n.startswith("train-b-"))
    (tmp_path / "d" / name).write_bytes(b"mine")
    before = contents(tmp_path / "d")
    with pytest.raises(InputError, match=rf"overwritten.*{name}.*another data_dir"):
        prepare(config)
    assert contents(tmp_path / "d") == before
    (tmp_path / "d" / name).unlink()
    prepare(config)
    assert same(contents(tmp_path / "d"), expected)


def test_an_unfinished_installation_moves_no_file_from_outside(tmp_path, monkeypatch):
    config = mixture(tmp_path, tmp_path / "d")
    stop_at_move(monkeypatch, 0)
    with pytest.raises(Stopped):
        prepare(config)
    monkeypatch.undo()
    manifest = tmp_path / "d" / ".chinchilla-work" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("train-a-00000.bin", "../../mine.bin"))
    (tmp_path / "mine.bin").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"mine.bin points outside of"):
        prepare(config)
    assert (tmp_path / "mine.bin").read_bytes() == b"mine"
