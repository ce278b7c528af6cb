"""An interrupted preparation is resumed and gives the same bytes."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from data_corpora import documents, write_jsonl
from test_prepare_killed import contents, mixture

from chinchilla.config import SourceConfig, TokenizerConfig
from chinchilla.core.errors import InputError, UnreachableError
from chinchilla.data.prepare import install, stages
from chinchilla.data.prepare.pipeline import prepare
from chinchilla.data.prepare.shuffle_dedup import Buckets
from chinchilla.data.prepare.stages import ResumeState

KINDS = ("read", "tokenizer", "tokenize")


class Stopped(KeyboardInterrupt):
    """Ctrl-C at a chosen point."""


def stop_at(stage: str, share: float, seen: list[str] | None = None):
    """A progress callback that raises once a share of a stage is done."""

    def progress(name: str, done: float, total: float) -> None:
        if seen is not None:
            seen.append(name)
        if name == stage and done >= share * total:
            raise Stopped

    return progress


@pytest.fixture(autouse=True)
def every_step_is_saved(monkeypatch):
    monkeypatch.setattr(stages, "CHECKPOINT_SECONDS", 0.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    seen: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "CHECKPOINT_SECONDS", 0.0)
        prepare(mixture(folder, folder / "d"), lambda stage, *_: seen.append(stage))
    return contents(folder / "d"), {kind: seen.count(kind) for kind in KINDS}


def same(files: dict[str, str], expected: dict[str, str]) -> bool:
    """Equal except for the manifest, which has paths and times of the text."""
    return files | {"manifest.json": ""} == expected | {"manifest.json": ""}


@pytest.mark.parametrize(
    ("stage", "share", "less"),
    [("read", 0.5, "read"), ("tokenizer", 1, "read"), ("tokenize", 0.5, "tokenize")],
)
def test_resuming_does_not_repeat_finished_work(whole, tmp_path, stage, share, less):
    expected, all_steps = whole
    config = mixture(tmp_path, tmp_path / "d")
    with pytest.raises(Stopped):
        prepare(config, stop_at(stage, share))
    assert not (tmp_path / "d" / "manifest.json").exists()
    again: list[str] = []
    prepare(config, lambda stage, *_: again.append(stage))
    assert same(contents(tmp_path / "d"), expected)
    assert again.count(less) < 0.8 * all_steps[less]
    assert not (tmp_path / "d" / ".chinchilla-work").exists()


@pytest.mark.slow
def test_repeated_interruptions_still_make_progress(whole, tmp_path):
    expected, _ = whole
    config, stops = mixture(tmp_path, tmp_path / "d"), 0
    while not (tmp_path / "d" / "manifest.json").exists():
        calls = iter(range(10**6))

        def progress(stage: str, done: float, total: float, calls=calls) -> None:
            if next(calls) == 40:
                raise Stopped

        try:
            prepare(config, progress)
        except Stopped:
            stops += 1
    assert stops >= 5
    assert same(contents(tmp_path / "d"), expected)


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


def test_a_stream_with_other_documents_starts_over(tmp_path, monkeypatch):
    """A hub data set has no file whose hash can be compared."""
    config = mixture(tmp_path, tmp_path / "d")
    with pytest.raises(Stopped):
        prepare(config, stop_at("read", 0.5))
    real = stages.read_documents
    monkeypatch.setattr(
        stages, "read_documents", lambda source: (f"New. {t}" for t in real(source))
    )
    m = prepare(config)
    assert [s.documents for s in m.sources] == [30, 30]


def stop_at_move(monkeypatch, number: int) -> None:
    """Ctrl-C before the file of this number is moved into its place."""
    moves = iter(range(10**6))

    def replace(source: Path, target: Path) -> None:
        if next(moves) == number:
            raise Stopped
        os.replace(source, target)

    monkeypatch.setattr(install, "os", SimpleNamespace(**{**vars(os), "replace": replace}))


@pytest.mark.parametrize("given", [False, True])
def test_an_installed_tokenizer_may_be_given_after_an_interruption(tmp_path, monkeypatch, given):
    """The interrupted installation is completed first; the tokenizer keeps its bytes."""
    config = mixture(tmp_path, tmp_path / "d")
    if given:
        prepare(mixture(tmp_path, tmp_path / "other"))
        shutil.copy(tmp_path / "other" / "tokenizer.model", tmp_path / "t.model")
        config = replace(config, tokenizer=TokenizerConfig(model=str(tmp_path / "t.model")))
    stop_at_move(monkeypatch, 4)  # after the cards, the tokenizer and a shard
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


def test_an_unreachable_hub_loses_no_data(whole, tmp_path, monkeypatch):
    """Neither documents read before nor damaged data."""
    expected, _ = whole
    monkeypatch.setattr(stages, "CHECKPOINT_SECONDS", 0.0)
    real, config = stages.read_documents, mixture(tmp_path, tmp_path / "d")
    monkeypatch.setattr(stages, "read_documents", unreachable_after(real, 20))
    with pytest.raises(UnreachableError):
        prepare(config)
    assert (tmp_path / "d" / ".chinchilla-work" / "state.json").exists()
    monkeypatch.setattr(stages, "read_documents", real)
    prepare(config)
    assert same(contents(tmp_path / "d"), expected)
    (tmp_path / "d" / "tokenizer.model").unlink()
    before = contents(tmp_path / "d")
    monkeypatch.setattr(stages, "read_documents", unreachable_after(real, 0))
    with pytest.raises(UnreachableError):
        prepare(config)
    assert contents(tmp_path / "d") == before
    monkeypatch.setattr(stages, "read_documents", real)
    prepare(config)
    assert same(contents(tmp_path / "d"), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda work: (work / "state.json").write_text("{"),
        lambda work: (work / "state.json").write_text('{"digest": 1}'),
        lambda work: (work / "documents" / "064").write_bytes(b""),
        lambda work: shutil.rmtree(work / "documents"),
        lambda work: [p.write_bytes(p.read_bytes()[:70]) for p in work.glob("*.bin")],
        lambda work: [p.unlink() for p in work.glob("train-b-*.bin")],
    ],
)
def test_a_damaged_unfinished_preparation_starts_over(whole, tmp_path, damage):
    expected, _ = whole
    config = mixture(tmp_path, tmp_path / "d")
    with pytest.raises(Stopped):
        prepare(config, stop_at("tokenize", 0.9))
    damage(tmp_path / "d" / ".chinchilla-work")
    prepare(config)
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


def test_a_file_lost_during_an_interrupted_installation_is_prepared_again(
    whole, tmp_path, monkeypatch
):
    expected, _ = whole
    config = mixture(tmp_path, tmp_path / "d")
    stop_at_move(monkeypatch, 5)
    with pytest.raises(Stopped):
        prepare(config)
    monkeypatch.undo()
    for folder in (tmp_path / "d", tmp_path / "d" / ".chinchilla-work"):
        next(folder.glob("*.bin")).unlink()
    assert not prepare(config).already_prepared
    assert same(contents(tmp_path / "d"), expected)


def test_a_short_preparation_saves_no_state(tmp_path, monkeypatch):
    """The state is saved every 30 seconds."""
    monkeypatch.setattr(stages, "CHECKPOINT_SECONDS", 30.0)
    saved: list[Path] = []
    monkeypatch.setattr(ResumeState, "save", lambda self, work: saved.append(work))
    prepare(mixture(tmp_path, tmp_path / "d"))
    assert saved == []


def test_the_state_describes_only_flushed_data(tmp_path):
    """Lengths in the state are at most those of the files."""
    with Buckets(tmp_path / "s", 1) as buckets:
        buckets.add("one", 0)
        state = json.loads(json.dumps(buckets.sync().lengths))
        buckets.add("two", 0)
    sizes = [path.stat().st_size for path in sorted((tmp_path / "s").iterdir())]
    assert sum(state) < sum(sizes)
    assert all(a <= b for a, b in zip(state, sizes, strict=True))
