"""Output of `chinchilla data`, and of plans about their sources."""

import json

import pytest
import yaml
from data_corpora import documents, write_jsonl

from chinchilla.cli import main

WORDS = ["grid=demo", "recipe=demo", "out="]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A prepared corpus of two sources, described in a YAML file."""
    folder = tmp_path_factory.mktemp("world")
    for seed, name in enumerate(("common", "rare")):
        write_jsonl(folder / f"{name}.jsonl", documents(60 if name == "common" else 12, seed))
    (folder / "corpus").mkdir()
    (folder / "corpus" / "mine.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "mine",
                "sources": [
                    {
                        "name": name,
                        "weight": weight,
                        "format": "jsonl",
                        "paths": [str(folder / f"{name}.jsonl")],
                        "licence": "CC0",
                    }
                    for name, weight in (("rare", 1), ("common", 3))
                ],
            }
        )
    )
    assert main(words(folder)) == 0
    return folder


def words(folder):
    return [
        "data", "--config-dir", str(folder), "corpus=mine", "tokenizer.vocab_size=300",
        "validation_fraction=0.3", f"data_dir={folder / 'data'}",
    ]  # fmt: skip


def test_a_mixture_is_shown_source_by_source(world, capsys):
    assert main(words(world)) == 0
    out = capsys.readouterr().out
    common, rare = (
        next(line for line in out.splitlines() if f"│ {n} " in line) for n in ("common", "rare")
    )
    assert "75.00%" in common
    assert "CC0" in common
    assert "25.00%" in rare


def test_a_plan_shows_epochs_by_source_and_refuses_the_scarce_one(world, capsys):
    given = ["plan", *WORDS, f"data_dir={world / 'data'}"]
    assert main(given) == 2
    message = capsys.readouterr()
    assert message.out == ""
    assert "before source 'rare' repeats; epochs=1 allows" in message.err
    assert message.err.count("\n") == 1
    assert "beyond 40 epochs repeats have no value" in message.err
    assert main([*given, "epochs=1e9"]) == 0
    assert "│ rare " in capsys.readouterr().out


def test_a_plan_in_json_has_the_epochs_of_each_source(world, capsys):
    given = ["plan", *WORDS, f"data_dir={world / 'data'}", "epochs=1e9", "format=json"]
    assert main(given) == 0
    plan = json.loads(capsys.readouterr().out)
    longest = max(run["D"] for run in plan["runs"])
    common, rare = plan["sources"]
    assert (common["name"], rare["name"]) == ("common", "rare")
    assert common["drawn"] + rare["drawn"] == longest
    assert rare["epochs"] == pytest.approx(longest / 4 / rare["tokens"], rel=1e-3)


def test_a_dry_run_shows_the_sources(world, capsys):
    given = ["sweep", "grid=demo", "recipe=demo", f"data_dir={world / 'data'}", "epochs=1e9"]
    assert main([*given, "dry_run=true", f"sweep_dir={world / 'sweep'}"]) == 0
    assert "limit per source: epochs=1e+09" in capsys.readouterr().out
    assert main([*given, "dry_run=true", f"sweep_dir={world / 'sweep'}", "format=json"]) == 0
    assert [s["name"] for s in json.loads(capsys.readouterr().out)["sources"]] == ["common", "rare"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.vocab_size=100", "model.vocab_size=100 is below the tokenizer's"),
        ("runtime.device=cuda:99", "runtime.device=cuda:99: this machine has"),
        ("runtime.device=tpu", "runtime.device='tpu' cannot be used for training"),
    ],
)
def test_an_invalid_run_is_refused_before_anything_is_written(world, capsys, word, message):
    assert main([
        "train", "model.d_model=16", "model.kv_size=8", "model.n_layers=1", "model.seq_len=32",
        "recipe=demo", "recipe.batch_tokens=8192", "recipe.precision=fp32", "tokens=32768",
        "epochs=20", "cluster=debug", f"data_dir={world / 'data'}", f"out_dir={world / 'none'}", word,
    ]) == 2  # fmt: skip
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not list((world / "none").glob("*"))


@pytest.mark.slow
def test_a_run_records_what_it_repeated(world, capsys):
    assert main([
        "train", "model.d_model=16", "model.kv_size=8", "model.n_layers=1", "model.seq_len=32",
        "recipe=demo", "recipe.batch_tokens=8192", "recipe.precision=fp32", "tokens=32768",
        "epochs=20", "cluster=debug", "runtime.validation_tokens=256", "format=json",
        f"data_dir={world / 'data'}", f"out_dir={world / 'single'}",
    ]) == 0  # fmt: skip
    [path] = (world / "single").glob("runs/*/result.json")
    result = json.loads(path.read_text())
    assert result["epochs"]["rare"] > 1.2
    read = {"rare": 0.25 * 32_768, "common": 0.75 * 32_768}
    unique = sum(n / max(1, result["epochs"][name]) for name, n in read.items())
    assert result["unique_tokens"] == pytest.approx(unique)


def test_prepare_is_the_default_action(world, capsys):
    assert main(["data", "prepare", *words(world)[1:]]) == 0
    assert "data_id" in capsys.readouterr().out
    assert main(["data", "prepair", *words(world)[1:]]) == 2
    assert "choose one of prepare, tokenizer, overlap." in capsys.readouterr().err


def test_a_lossy_tokenizer_is_reported(world, tmp_path, capsys):
    given = [w for w in words(world) if not w.startswith("data_dir")]
    lossy = ["tokenizer.normalization=nfkc", f"data_dir={tmp_path / 'd'}"]
    assert main([*given, *lossy]) == 0
    assert "NOT lossless" in capsys.readouterr().out
    assert main(words(world)) == 0
    assert "NOT" not in capsys.readouterr().out


def test_the_tokenizer_action_trains_the_same_model_as_prepare(world, tmp_path, capsys):
    given = [w for w in words(world)[1:] if not w.startswith("data_dir")]
    assert main(["data", "tokenizer", *given, f"data_dir={tmp_path / 't'}", "format=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    prepared = json.loads((world / "data" / "manifest.json").read_text())
    assert found["sha256"] == prepared["tokenizer"]["sha256"]
    assert [s["source"] for s in found["sources"]] == ["common", "rare"]
    held_out = [s["splits"]["validation"] for s in prepared["sources"]]
    for measured, part in zip(found["sources"], held_out, strict=True):
        assert measured["bytes"] == part["bytes"]
        assert measured["tokens"] == part["tokens"] - part["documents"]
    assert sorted(p.name for p in (tmp_path / "t").iterdir()) == [".lock", "tokenizer.model"]


def test_a_given_tokenizer_is_measured_and_unchanged(world, tmp_path, capsys):
    model = world / "data" / "tokenizer.model"
    given = [word for word in words(world)[1:] if not word.startswith("tokenizer.")]
    given.append(f"tokenizer.model={model}")
    before = model.stat().st_mtime_ns
    assert main(["data", "tokenizer", *given]) == 0
    out = capsys.readouterr().out
    assert "pieces, lossless" in out
    assert model.stat().st_mtime_ns == before


def test_the_tokenizer_of_prepared_data_is_not_overwritten(world, capsys):
    assert main(["data", "tokenizer", *words(world)[1:]]) == 2
    assert "tokenizer.model exists and would be overwritten" in capsys.readouterr().err


def test_blank_files_and_duplicates_are_counted_and_printed(tmp_path, capsys):
    (tmp_path / "books").mkdir()
    for i, text in enumerate(["", " \n\n", *documents(40), documents(1)[0]]):
        (tmp_path / "books" / f"{i}.txt").write_text(text)
    data = ["data", "corpus=text", f"corpus.paths={tmp_path}/books", "tokenizer.vocab_size=300"]
    assert main([*data, "validation_fraction=0.2", f"data_dir={tmp_path}/d"]) == 0
    assert capsys.readouterr().out.endswith("Documents left out: 1 duplicate, 2 empty.\n")
    record = json.loads((tmp_path / "d" / "manifest.json").read_text())
    assert record["sources"][0]["dropped"] == {"duplicate": 1, "empty": 2, "not_unicode": 0}


def test_a_corpus_of_one_empty_file_is_refused_with_the_count(tmp_path, capsys):
    (tmp_path / "a.txt").touch()
    assert (
        main(["data", "corpus=text", f"corpus.paths={tmp_path}/a.txt", f"data_dir={tmp_path}/d"])
        == 2
    )
    assert "has no text: left out 1 empty in " in capsys.readouterr().err


@pytest.mark.parametrize(("name", "kind"), [("a.txt", "text"), ("b.jsonl.gz", "jsonl")])
def test_a_folder_in_place_of_an_action_is_answered_with_the_settings(tmp_path, capsys, name, kind):
    (tmp_path / name).touch()
    assert main(["data", str(tmp_path)]) == 2
    assert f"Give it as corpus={kind} corpus.paths={tmp_path}." in capsys.readouterr().err
