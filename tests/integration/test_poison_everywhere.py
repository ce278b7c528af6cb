"""Every payload in every file: none is executed, each required file is refused by name.

Advisory files (progress, attempts, claims, metrics) are ignored instead, because they may also be
damaged by accident. tests/integration/test_poison.py tests each reader with payloads made for it.
"""

import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_poison import CANARY, SPEC, Evil, make_data, npy, npz, pickled

from chinchilla.config import FitCommand, RuntimeConfig
from chinchilla.core.errors import InputError
from chinchilla.core.files.reading import read_json
from chinchilla.data.dataset import TokenData
from chinchilla.diagnose.verdicts import Diagnostics
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import Observations
from chinchilla.plan.plan_file import load_plan
from chinchilla.plan.records import Curve, RunResult, RunSpec
from chinchilla.sweep.claims import acquire, latest_claim
from chinchilla.sweep.failures import read_attempts
from chinchilla.sweep.run_files import load_runtime, read_progress


def archive(names: list[str]) -> Callable[[Path], bytes]:
    """A zip whose members would be unpacked to other folders."""

    def make(folder: Path) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as z:
            for name in names:
                z.writestr(name.format(canary=folder / CANARY), b"x")
        return out.getvalue()

    return make


def tar_with_a_link(folder: Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        link = tarfile.TarInfo("state.json")
        link.type, link.linkname = tarfile.SYMTYPE, str(folder / CANARY)
        tar.addfile(link)
    return out.getvalue()


def torch_like(folder: Path) -> bytes:
    """A zip with data.pkl, as written by torch.save."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        z.writestr("archive/data.pkl", pickled(folder))
        z.writestr("archive/version", b"3\n")
    return out.getvalue()


def npz_of_objects(folder: Path) -> bytes:
    path = folder / "objects.npz"
    evil = npy(np.array([Evil(folder)], dtype=object))
    npz(path, {f"{k}.npy": evil for k in ("step", "loss", "validation_step", "validation_loss")})
    return path.read_bytes()


def safetensors(header: bytes, size: int | None = None) -> bytes:
    return (len(header) if size is None else size).to_bytes(8, "little") + header + bytes(16)


def text(words: str) -> Callable[[Path], bytes]:
    return lambda folder: words.replace("CANARY", str(folder / CANARY)).encode()


PAYLOADS: dict[str, Callable[[Path], bytes]] = {
    "pickle": pickled,
    "pickle in ASCII": lambda f: pickle.dumps(Evil(f), protocol=0),
    "torch.save": torch_like,
    "npy of objects": lambda f: npy(np.array([Evil(f)], dtype=object)),
    "npz of objects": npz_of_objects,
    "zip-slip": archive(["../../{canary}", "{canary}", "..\\executed"]),
    "tar with a link": tar_with_a_link,
    "yaml tag": text("!!python/object/apply:os.system ['touch CANARY']"),
    "yaml bomb": text("a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: [*c,*c]\n"),
    "_target_": text('{"_target_": "os.system", "command": "touch CANARY"}'),
    "py/reduce": text('{"py/reduce": [{"py/function": "os.system"}, ["touch CANARY"]]}'),
    "__class__": text('{"__class__": "subprocess.Popen", "args": ["touch", "CANARY"]}'),
    "interpolation": text('{"schema": "${os.system:touch CANARY}"}'),
    "python": text("__import__('os').system('touch CANARY')"),
    "shell": text("$(touch CANARY) `touch CANARY`; touch CANARY\n"),
    "formula": text("=cmd|'/C touch CANARY'!A0,=1+1\n"),
    "xml entities": text('<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>'),
    "deep JSON": lambda f: b"[" * 200_000,
    "deep object": lambda f: b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "wide JSON": lambda f: b"[" + b"0," * 500_000 + b"0]",
    "huge int": lambda f: b'{"schema": 1' + b"0" * 6_000 + b"}",
    "huge key": lambda f: b'{"' + b"k" * 1_000_000 + b'": 1}',
    "NaN": text('{"schema": NaN, "step": Infinity, "steps": -Infinity}'),
    "infinite by size": text('{"schema": 1e999, "step": 1e999}'),
    "surrogate": text('{"schema": "\\ud800", "step": "\\udfff"}'),
    "NUL bytes": lambda f: bytes(4096),
    "not UTF-8": lambda f: b"\xff\xfe{\x00}\x00",
    "safetensors, header of 2^63": lambda f: safetensors(b"{}", 1 << 63),
    "safetensors, objects": lambda f: safetensors(
        b'{"a": {"dtype": "O", "shape": [1], "data_offsets": [0, 8]}}'
    ),
    "safetensors, outside": lambda f: safetensors(
        b'{"a": {"dtype": "F32", "shape": [99999999999], "data_offsets": [0, 399999999996]}}'
    ),
    "safetensors, metadata": lambda f: safetensors(b'{"__metadata__": {"_target_": "os.system"}}'),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_canary(tmp_path: Path):
    yield
    assert not list(tmp_path.rglob(CANARY))


def test_there_are_enough_payloads():
    assert len(PAYLOADS) >= 15


# Required files: name, and reader of its folder


def frontier(folder: Path) -> object:
    return FitResults.load(folder / "frontier.json")


def observations(folder: Path) -> object:
    return Observations.from_csv(folder / "runs.csv")


def diagnostics(folder: Path) -> object:
    return Diagnostics.load(folder / "diagnostics.json")


REFUSING: dict[str, Callable[[Path], object]] = {
    "plan.jsonl": lambda folder: load_plan(folder / "plan.jsonl"),
    "runtime.json": load_runtime,
    "result.json": RunResult.load,
    "curve.npz": Curve.load,
    "spec.json": lambda folder: RunSpec.from_dict(
        read_json(folder / "spec.json", "run spec"), str(folder / "spec.json")
    ),
    "manifest.json": TokenData.open,
    "frontier.json": frontier,
    "diagnostics.json": diagnostics,
    "runs.csv": observations,
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize("file", REFUSING)
def test_payloads_in_required_files_are_refused_by_name(tmp_path: Path, file: str, payload):
    folder = tmp_path / "world"
    folder.mkdir()
    if file == "manifest.json":
        make_data(folder)
    (folder / file).write_bytes(payload(tmp_path))
    with pytest.raises(InputError) as refused:
        REFUSING[file](folder)
    message = str(refused.value)
    assert file in message
    assert len(message) < 1500


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize("file", ["train-00000.bin", "validation-00000.bin", "tokenizer.model"])
def test_payloads_in_token_files_are_refused_by_name(tmp_path: Path, file: str, payload):
    """Shards are verified by their hashes, the tokenizer by SentencePiece."""
    from chinchilla.data.tokenizer import Tokenizer

    make_data(tmp_path / "data")
    (tmp_path / "data" / file).write_bytes(payload(tmp_path))

    def read() -> None:
        if file == "tokenizer.model":
            Tokenizer.load(tmp_path / "data" / file)
        TokenData.open(tmp_path / "data", verify=True)

    with pytest.raises(InputError, match=file):
        read()


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_payloads_in_checkpoints_are_skipped_by_name(tmp_path: Path, payload):
    """In each file, with a manifest that matches it."""
    import torch

    from chinchilla.core.files.reading import sha256_file
    from chinchilla.train import checkpoint
    from chinchilla.train.checkpoint import files as checkpoint_files

    made = checkpoint.Checkpoint(
        5, {"a": torch.zeros(2)}, {"b": torch.zeros(2)}, {"train_seconds": 0.0, "evaluations": []}
    )
    for file in (*checkpoint_files.FILES, checkpoint_files.MANIFEST):
        folder = tmp_path / file
        path = checkpoint.save_checkpoint(folder, SPEC, made)
        (path / file).write_bytes(payload(tmp_path))
        if file != checkpoint_files.MANIFEST:
            digests = {name: sha256_file(path / name) for name in checkpoint_files.FILES}
            body = {"schema": checkpoint_files.SCHEMA, "files": digests}
            (path / checkpoint_files.MANIFEST).write_text(checkpoint_files.manifest_text(body))
        got, lines = checkpoint.load_checkpoint(folder, SPEC)
        assert got is None
        assert str(path) in lines[0]


# Advisory files


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_payloads_in_advisory_files_are_ignored(tmp_path: Path, payload, caplog):
    run_dir = tmp_path / "run"
    (run_dir / "attempts").mkdir(parents=True)
    for file in ("claim-1.json", "heartbeat", "progress.json", "attempts/1.json"):
        (run_dir / file).write_bytes(payload(tmp_path))
        os.utime(run_dir / file, (0, 0))
    assert not {"step", "steps", "loss", "tokens_per_second"} & set(read_progress(run_dir))
    [attempt] = read_attempts(run_dir)
    assert (attempt.failure, attempt.reason) == ("error", "its record is damaged")
    held = latest_claim(run_dir)
    assert held is not None
    assert held.damaged
    claim = acquire(run_dir, "w")
    assert claim is not None
    claim.release()
    assert "claim-1.json was damaged" in caplog.text


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_payloads_in_metrics_are_ignored(tmp_path: Path, payload):
    from chinchilla.tracking.metrics_writer import MetricsWriter

    first = json.dumps({"step": 5, "loss": 1.0})
    (tmp_path / "metrics.jsonl").write_bytes(first.encode() + b"\n" + payload(tmp_path))
    book = MetricsWriter(tmp_path, SPEC, RuntimeConfig(device="cpu"), 10)
    book.write(step=15, loss=0.5)
    book.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [5, 15]


# Links and folders in place of files


@pytest.mark.parametrize("file", REFUSING)
@pytest.mark.parametrize("kind", ["a folder", "a dangling link", "a link to itself"])
def test_folders_and_links_in_place_of_files_are_refused_by_name(
    tmp_path: Path, file: str, kind: str
):
    folder = tmp_path / "world"
    folder.mkdir()
    if file == "manifest.json":
        make_data(folder)
        (folder / file).unlink()
    if kind == "a folder":
        (folder / file).mkdir()
    else:
        (folder / file).symlink_to(folder / (file if kind == "a link to itself" else "nowhere"))
    with pytest.raises(InputError) as refused:
        REFUSING[file](folder)
    assert file in str(refused.value)


def test_fit_commands_contain_only_plain_values():
    """Commands receive dataclasses of plain values, without callables."""
    assert not any(callable(value) for value in vars(FitCommand(sweep_dir="x")).values())
