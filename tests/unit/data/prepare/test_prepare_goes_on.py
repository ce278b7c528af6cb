"""A preparation that was stopped goes on where it was, with the bytes it would have had."""

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
    """Ctrl-C at a chosen place."""


def stop_at(stage: str, share: float, seen: list[str] | None = None):
    """A progress that raises once so much of a stage is done."""

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


def same(found: dict[str, str], expected: dict[str, str]) -> bool:
    """But for the manifest, which has the paths and times of the text."""
    return found | {"manifest.json": ""} == expected | {"manifest.json": ""}


@pytest.mark.parametrize(
    ("stage", "share", "less"),
    [("read", 0.5, "read"), ("tokenizer", 1, "read"), ("tokenize", 0.5, "tokenize")],
)
def test_what_was_done_is_not_done_again(whole, tmp_path, stage, share, less):
    expected, all_steps = whole
    told = mixture(tmp_path, tmp_path / "d")
    with pytest.raises(Stopped):
        prepare(told, stop_at(stage, share))
    assert not (tmp_path / "d" / "manifest.json").exists()
    again: list[str] = []
    prepare(told, lambda stage, *_: again.append(stage))
    assert same(contents(tmp_path / "d"), expected)
    assert again.count(less) < 0.8 * all_steps[less]
    assert not (tmp_path / "d" / ".chinchilla-work").exists()


@pytest.mark.slow
def test_stopped_again_and_again_it_still_comes_to_its_end(whole, tmp_path):
    expected, _ = whole
    told, stops = mixture(tmp_path, tmp_path / "d"), 0
    while not (tmp_path / "d" / "manifest.json").exists():
        calls = iter(range(10**6))

        def progress(stage: str, done: float, total: float, calls=calls) -> None:
            if next(calls) == 40:
                raise Stopped

        try:
            prepare(told, progress)
        except Stopped:
            stops += 1
    assert stops >= 5
    assert same(contents(tmp_path / "d"), expected)


@pytest.mark.slow
def test_counts_of_what_was_left_out_are_those_of_one_go(tmp_path):
    made = []
    for stop in (False, True):
        folder = tmp_path / str(stop)
        folder.mkdir()
        told = mixture(folder, folder / "d")
        texts = [*documents(30, 0), *documents(30, 0)[:9], *documents(30, 1)[:4], "", ""]
        write_jsonl(folder / "a.jsonl", texts)
        if stop:
            for stage, share in (("read", 0.5), ("tokenize", 0.3), ("tokenize", 0.8)):
                with pytest.raises(Stopped):
                    prepare(told, stop_at(stage, share))
        made.append(prepare(told))
    assert made[0].sources == made[1].sources
    a, b = made[0].sources
    assert (a.dropped["duplicate"], a.dropped["empty"], b.dropped["in_other_source"]) == (9, 2, 4)


@pytest.mark.slow
def test_workers_may_be_others_and_settings_may_not(whole, tmp_path):
    expected, all_steps = whole
    told = mixture(tmp_path, tmp_path / "d")
    with pytest.raises(Stopped):
        prepare(told, stop_at("tokenize", 0.5))
    told.validation_fraction = 0.4
    with pytest.raises(Stopped):
        prepare(told, stop_at("tokenize", 0.5))
    told.validation_fraction = 0.3
    again: list[str] = []
    prepare(told, lambda stage, *_: again.append(stage))
    assert again.count("read") == all_steps["read"]  # begun anew
    assert same(contents(tmp_path / "d"), expected)


@pytest.mark.slow
def test_text_that_changed_in_between_is_read_anew(tmp_path):
    told = mixture(tmp_path, tmp_path / "d")
    with pytest.raises(Stopped):
        prepare(told, stop_at("tokenize", 0.5))
    write_jsonl(tmp_path / "a.jsonl", documents(31, 7))
    m = prepare(told)
    assert m.sources[0].documents == 31
    other = tmp_path / "other"
    other.mkdir()
    fresh = mixture(other, other / "d")
    write_jsonl(other / "a.jsonl", documents(31, 7))
    assert prepare(fresh).data_id == m.data_id


def test_a_stream_that_has_other_documents_now_is_read_anew(tmp_path, monkeypatch):
    """A hub data set has no file whose hash could be compared."""
    told = mixture(tmp_path, tmp_path / "d")
    with pytest.raises(Stopped):
        prepare(told, stop_at("read", 0.5))
    real = stages.read_documents
    monkeypatch.setattr(
        stages, "read_documents", lambda source: (f"New. {t}" for t in real(source))
    )
    m = prepare(told)
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
    told = mixture(tmp_path, tmp_path / "d")
    if given:
        prepare(mixture(tmp_path, tmp_path / "other"))
        shutil.copy(tmp_path / "other" / "tokenizer.model", tmp_path / "t.model")
        told = replace(told, tokenizer=TokenizerConfig(model=str(tmp_path / "t.model")))
    stop_at_move(monkeypatch, 4)  # after the cards, the tokenizer and a shard
    with pytest.raises(Stopped):
        prepare(told)
    monkeypatch.undo()
    model = (tmp_path / "d" / "tokenizer.model").read_bytes()
    (tmp_path / "t.model").unlink(missing_ok=True)
    here = TokenizerConfig(model=str(tmp_path / "d" / "tokenizer.model"))
    if given:
        assert prepare(replace(told, tokenizer=here)).tokenizer.algorithm == "given"
    else:  # as it would be without the interruption
        with pytest.raises(InputError, match=r"tokenizer.*now given.*another data_dir"):
            prepare(replace(told, tokenizer=here))
        assert prepare(told).already_prepared  # the refused call completed the installation
    assert (tmp_path / "d" / "tokenizer.model").read_bytes() == model


def unreachable_after(real: Callable[..., Iterator[str]], n: int):
    """A source that fails after `n` documents as a hub does."""

    def read(source: SourceConfig) -> Iterator[str]:
        for k, text in enumerate(real(source)):
            if k == n:
                raise UnreachableError("hub data set x cannot be read: Server disconnected.")
            yield text

    return read


def test_a_hub_that_does_not_answer_costs_nothing(whole, tmp_path, monkeypatch):
    """Neither what was read before, nor what there is of damaged data."""
    expected, _ = whole
    monkeypatch.setattr(stages, "CHECKPOINT_SECONDS", 0.0)
    real, told = stages.read_documents, mixture(tmp_path, tmp_path / "d")
    monkeypatch.setattr(stages, "read_documents", unreachable_after(real, 20))
    with pytest.raises(UnreachableError):
        prepare(told)
    assert (tmp_path / "d" / ".chinchilla-work" / "state.json").exists()
    monkeypatch.setattr(stages, "read_documents", real)
    prepare(told)
    assert same(contents(tmp_path / "d"), expected)
    (tmp_path / "d" / "tokenizer.model").unlink()
    before = contents(tmp_path / "d")
    monkeypatch.setattr(stages, "read_documents", unreachable_after(real, 0))
    with pytest.raises(UnreachableError):
        prepare(told)
    assert contents(tmp_path / "d") == before
    monkeypatch.setattr(stages, "read_documents", real)
    prepare(told)
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
def test_damage_to_what_was_unfinished_costs_only_time(whole, tmp_path, damage):
    expected, _ = whole
    told = mixture(tmp_path, tmp_path / "d")
    with pytest.raises(Stopped):
        prepare(told, stop_at("tokenize", 0.9))
    damage(tmp_path / "d" / ".chinchilla-work")
    prepare(told)
    assert same(contents(tmp_path / "d"), expected)


@pytest.mark.parametrize("number", range(7))
def test_an_interrupted_installation_is_completed(whole, tmp_path, monkeypatch, number):
    expected, _ = whole
    told = mixture(tmp_path, tmp_path / "d")
    stop_at_move(monkeypatch, number)
    with pytest.raises(Stopped):
        prepare(told)
    assert not (tmp_path / "d" / "manifest.json").exists()
    assert len([p for p in (tmp_path / "d").iterdir() if p.name in expected]) == number
    monkeypatch.undo()
    again: list[str] = []
    assert not prepare(told, lambda stage, *_: again.append(stage)).already_prepared
    assert same(contents(tmp_path / "d"), expected)
    assert again == []


def test_an_interrupted_installation_overwrites_nothing(whole, tmp_path, monkeypatch):
    """A file that appeared at the place of one not yet moved stops it, and stays."""
    expected, _ = whole
    told = mixture(tmp_path, tmp_path / "d")
    stop_at_move(monkeypatch, 4)
    with pytest.raises(Stopped):
        prepare(told)
    monkeypatch.undo()
    name = next(n for n in expected if n.startswith("train-b-"))
    (tmp_path / "d" / name).write_bytes(b"mine")
    before = contents(tmp_path / "d")
    with pytest.raises(InputError, match=rf"overwritten.*{name}.*another data_dir"):
        prepare(told)
    assert contents(tmp_path / "d") == before
    (tmp_path / "d" / name).unlink()
    prepare(told)
    assert same(contents(tmp_path / "d"), expected)


def test_a_file_lost_during_an_interrupted_installation_is_prepared_again(
    whole, tmp_path, monkeypatch
):
    expected, _ = whole
    told = mixture(tmp_path, tmp_path / "d")
    stop_at_move(monkeypatch, 5)
    with pytest.raises(Stopped):
        prepare(told)
    monkeypatch.undo()
    for folder in (tmp_path / "d", tmp_path / "d" / ".chinchilla-work"):
        next(folder.glob("*.bin")).unlink()
    assert not prepare(told).already_prepared
    assert same(contents(tmp_path / "d"), expected)


def test_reading_saves_only_now_and_then(tmp_path, monkeypatch):
    """By default a state every 30 seconds; a small corpus has none."""
    monkeypatch.setattr(stages, "CHECKPOINT_SECONDS", 30.0)
    saved: list[Path] = []
    monkeypatch.setattr(ResumeState, "save", lambda self, work: saved.append(work))
    prepare(mixture(tmp_path, tmp_path / "d"))
    assert saved == []


def test_the_state_says_no_more_than_is_on_the_disk(tmp_path):
    """Lengths in the state are those of the files, whatever came after."""
    with Buckets(tmp_path / "s", 1) as buckets:
        buckets.add("one", 0)
        state = json.loads(json.dumps(buckets.sync().lengths))
        buckets.add("two", 0)
    sizes = [path.stat().st_size for path in sorted((tmp_path / "s").iterdir())]
    assert sum(state) < sum(sizes)
    assert all(a <= b for a, b in zip(state, sizes, strict=True))
