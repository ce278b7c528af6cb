"""Presets that read the hub, on folders laid out as their data sets are; and what they say when it fails.

`datasets` takes a folder of a data set's name before it asks the hub, so the code that runs is the code
that would.
"""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from data_corpora import decoded, documents
from huggingface_hub.errors import GatedRepoError

from chinchilla import cli
from chinchilla.config import SourceConfig
from chinchilla.config.command_line.words import choices, config_dir
from chinchilla.core.errors import DataError
from chinchilla.data.corpus import read_documents
from chinchilla.data.prepare.pipeline import prepare


def parquet(column: str):
    def write(path: Path, texts: list[str]) -> None:
        pq.write_table(pa.table({"id": list(range(len(texts))), column: texts}), path)

    return write


def json_lines(column: str):
    def write(path: Path, texts: list[str]) -> None:
        with gzip.open(path, "wt") as file:
            file.writelines(json.dumps({column: t, "url": "u"}) + "\n" for t in texts)

    return write


# data set -> (a file of the training split, its format, configuration -> files)
LAYOUTS = {
    "HuggingFaceFW/fineweb": (
        "sample/10BT/000_00000.parquet", parquet("text"), {"sample-10BT": "sample/10BT/*"}),
    "HuggingFaceFW/fineweb-edu": (
        "sample/10BT/000_00000.parquet", parquet("text"), {"sample-10BT": "sample/10BT/*"}),
    "sedthh/gutenberg_english": (
        "data/train-00000-of-00037-a.parquet", parquet("TEXT"), {}),
    "allenai/c4": (
        "en/c4-train.00000-of-01024.json.gz", json_lines("text"), {"en": "en/c4-train.*.json.gz"}),
    "vblagoje/cc_news": (
        "plain_text/train-00000-of-00005.parquet", parquet("text"),
        {"plain_text": "plain_text/train-*"}),
    "codeparrot/codeparrot-clean": (
        "file-000000000001.json.gz", json_lines("content"), {}),
    "bigcode/starcoderdata": (
        "{dir}/train-00000-of-00059.parquet", parquet("content"), {}),
    "wikimedia/wikipedia": (
        "20231101.en/train-00000-of-00041.parquet", parquet("text"),
        {"20231101.en": "20231101.en/train-*"}),
    "DKYoon/SlimPajama-6B": (
        "data/train-00000-of-00048-a.parquet", parquet("text"), {}),
}  # fmt: skip
PRESETS = [
    "c4", "fineweb_edu", "github_code", "massivetext_like", "slimpajama_6b", "wikipedia",
]  # fmt: skip


def lay_out(source: SourceConfig, seed: int) -> list[str]:
    """A data set's folder in the current one, as the hub has it."""
    file, write, configs = LAYOUTS[source.hub_name]
    folder = Path(source.hub_name)
    path = folder / file.format(dir=source.hub_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = documents(30, seed)
    write(path, texts)
    config = [
        {"config_name": name, "data_files": [{"split": "train", "path": files}]}
        for name, files in configs.items()
    ]
    if config:
        (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': config})}---\n")
    return texts


@pytest.mark.parametrize("preset", PRESETS)
def test_a_hub_preset_reads_its_data_sets_as_the_hub_lays_them_out(tmp_path, monkeypatch, preset):
    monkeypatch.chdir(tmp_path)
    config = cli.compose("data", [
        f"corpus={preset}", "tokenizer.vocab_size=300", "validation_fraction=0.2",
        "n_workers=1", f"data_dir={tmp_path / 'd'}",
    ])  # fmt: skip
    texts = {s.name: lay_out(s, i) for i, s in enumerate(config.corpus.each())}
    m = prepare(config)
    assert {s.name: s.documents for s in m.sources} == dict.fromkeys(texts, 30)
    read = decoded(tmp_path / "d", "train") + decoded(tmp_path / "d", "validation")
    assert set(read) <= {t for each in texts.values() for t in each}
    assert all(s.licence for s in m.sources)


def test_every_hub_preset_is_tested():
    hub = []
    for name in choices("corpus"):
        path = config_dir() / "corpus" / f"{name}.yaml"
        config = yaml.safe_load(path.read_text())
        if any(each.get("format") == "hub" for each in config.get("sources", [config])):
            hub.append(name)
    assert hub == [*PRESETS[:3], "hub", *PRESETS[3:]]  # of the last, the user names the data set


def test_massivetext_like_has_the_shares_of_table_a1(tmp_path, monkeypatch):
    config = cli.compose("data", ["corpus=massivetext_like"])
    shares = {s.name: s.weight for s in config.corpus.sources}
    assert shares == {
        "web": 0.45, "books": 0.30, "c4": 0.10, "news": 0.10, "github": 0.04, "wikipedia": 0.01,
    }  # fmt: skip


def refused(monkeypatch=None, error: Exception | None = None, **settings: object) -> str:
    """The error message of a hub source."""
    if monkeypatch and error:
        import datasets

        def fails(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(datasets, "load_dataset", fails)
    given = {"hub_name": "allenai/c4", "hub_config": "en", **settings}
    with pytest.raises(DataError) as caught:
        list(read_documents(SourceConfig(format="hub", **given)))
    message = str(caught.value)
    assert message.startswith(f"hub data set {given['hub_name']}")
    assert "\n" not in message
    assert len(message) < 600
    return message


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"hub_config": "fr"}, "Set corpus.hub_config"),
        ({"hub_split": "tset"}, "Set corpus.hub_split"),
        ({"column": "content"}, "no column 'content'. Found: text, url. Set corpus.column"),
        ({"hub_config": "", "hub_dir": "klingon"}, "Set corpus.hub_dir"),
    ],
)
def test_a_changed_schema_is_reported(tmp_path, monkeypatch, settings, expected):
    monkeypatch.chdir(tmp_path)
    lay_out(SourceConfig(format="hub", hub_name="allenai/c4"), 0)
    assert expected in refused(**settings)


def test_a_data_set_with_a_script_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x" / "script").mkdir(parents=True)
    (tmp_path / "x" / "script" / "script.py").write_text("raise SystemExit('ran')")
    assert "Choose a data set that consists of data files" in refused(
        hub_name="x/script", hub_config=""
    )


def gated() -> Exception:
    error = GatedRepoError.__new__(GatedRepoError)
    Exception.__init__(error, "403 Client Error. Access to dataset x is restricted.")
    return error


def dataset_not_found(message: str) -> Exception:
    from datasets.exceptions import DatasetNotFoundError

    return DatasetNotFoundError(message)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionError("Couldn't reach 'allenai/c4' on the Hub (timed out)"), "use corpus=sotu"),
        (TimeoutError("read timed out"), "use corpus=sotu"),
        (gated(), "https://huggingface.co/datasets/allenai/c4. Then log in: hf auth login"),
        (
            dataset_not_found("Dataset 'allenai/c4' is a gated dataset on the Hub."),
            "terms must be accepted",
        ),
        (
            dataset_not_found("Dataset 'allenai/c4' doesn't exist on the Hub."),
            "Check corpus.hub_name",
        ),
        (RuntimeError(""), "RuntimeError"),
    ],
)
def test_offline_gated_and_missing_data_sets_have_advice(monkeypatch, error, expected):
    assert expected in refused(monkeypatch, error)


def test_an_error_in_the_middle_names_the_row(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lay_out(SourceConfig(format="hub", hub_name="allenai/c4"), 0)
    with gzip.open("allenai/c4/en/c4-train.00000-of-01024.json.gz", "at") as file:
        file.write('{"text": 3, "url": "u"}\n')
    assert "row" in refused()


def test_a_local_copy_of_a_data_set(tmp_path, monkeypatch):
    """hub_name may be a folder, for machines without a network."""
    monkeypatch.chdir(tmp_path)
    texts = lay_out(SourceConfig(format="hub", hub_name="allenai/c4"), 0)
    monkeypatch.chdir("/")
    mirror = SourceConfig(format="hub", hub_name=str(tmp_path / "allenai/c4"), hub_config="en")
    assert list(read_documents(mirror)) == texts


def test_the_compact_corpus_names_its_build_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", "corpus=debian_compact", f"data_dir={tmp_path / 'd'}"]) == 2
    message = capsys.readouterr().err
    assert (
        "books.jsonl does not exist. Create it with: python scripts/corpora/debian_compact.py"
        in message
    )
    assert message.count("\n") == 1
