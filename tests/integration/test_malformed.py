"""Malformed input on the command line: exit code 2 (3 for a refusal), one line, no traceback.

YAML, tables of runs, plans, results, curves, token manifests, frontiers, predictions, and the files of
launchers and workers.
"""

import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sweep_fakes import edit_record
from test_poison import SPEC, make_data

from chinchilla.cli import main
from chinchilla.config import RuntimeConfig
from chinchilla.core.errors import InputError
from chinchilla.core.files.reading import sha256_file
from chinchilla.core.provenance import Code
from chinchilla.plan.plan_file import save_plan
from chinchilla.plan.records import Curve, RunResult
from chinchilla.sweep.run_files import save_runtime

SPECS = [replace(SPEC, seed=seed) for seed in (0, 1)]
RESULT = RunResult(
    spec=SPEC, status="finished", reason="", final_loss=3.0, final_loss_se=0.01, final_loss_steps=1,
    validation_loss={"validation": 3.1}, validation_tokens={"validation": 64}, bits_per_byte={}, n_params=SPEC.N,
    n_params_non_embedding=1, steps_done=20, flops_spent=SPEC.C, train_seconds=1.0,
    tokens_per_second=1.0, mfu=None, peak_memory_bytes=0, device="", versions={}, code=Code("0.1.0"),
    started_utc="", finished_utc="",
)  # fmt: skip
CSV = "run_id,budget_flops,C,N,D,L\na,6e18,6e18,1e8,1e10,3.0\nb,6e18,6e18,2e8,5e9,3.1\n"
CLAIM = {
    "fence": 1, "worker": "w", "host": "mars", "processes": "mars", "pid": 7, "pid_start": "1",
    "claimed_utc": "", "step": 0, "starts": 1, "released": False, "stalls": 0,
}  # fmt: skip
ATTEMPT = {"failure": "error", "reason": "it broke", "step": 3, "traceback": "...", "fence": 1}


@pytest.fixture
def valid_files(tmp_path: Path) -> Path:
    """Valid files: a sweep of two finished runs, a token folder, and a table of runs."""
    sweep_dir = tmp_path / "sweep"
    for spec in SPECS:
        run_dir = sweep_dir / "runs" / spec.run_id
        run_dir.mkdir(parents=True)
        loss = np.linspace(5, 3 + 0.1 * spec.seed, 20)
        curve = Curve(np.arange(20), loss, np.array([20]), np.array([3.1])).save(run_dir)
        replace(RESULT, spec=spec, final_loss=float(loss[-1]), **curve).save(run_dir)
    save_plan(SPECS, sweep_dir / "plan.jsonl")
    save_runtime(RuntimeConfig(device="cpu"), sweep_dir)
    make_data(tmp_path / "data")
    (tmp_path / "runs.csv").write_text(CSV)
    return tmp_path


def is_named(capsys: pytest.CaptureFixture[str], code: int) -> None:
    """The damaged run is named with its file, and no approach has an answer for the other."""
    out, err = capsys.readouterr()
    assert code in (2, 3), (code, out, err)
    assert "Traceback" not in out + err
    said = " ".join((out + err).split())
    assert re.search(rf"{SPEC.run_id}(/result.json|/curve.npz|: L=)", said), said


def names_the_line(capsys: pytest.CaptureFixture[str], n: int) -> None:
    """The line of the plan is named; its run only is not shown."""
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert f"plan.jsonl line {n}" in " ".join((out + err).split())


def only_line(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """The only line on standard error."""
    out, err = capsys.readouterr()
    assert code in (2, 3), (code, out, err)
    assert "Traceback" not in out + err
    [line] = err.splitlines()
    assert line.startswith("chinchilla: ")
    assert len(line) < 3100
    return line


def edit(path: Path, *keys: str | int, to: Any = None, drop: bool = False) -> None:
    """Change one value of a JSON file."""
    value = json.loads(path.read_text())
    inner = value
    for key in keys[:-1]:
        inner = inner[key]
    if drop:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = to
    path.write_text(json.dumps(value))


def test_the_unchanged_files_are_accepted(valid_files: Path, capsys):
    """Otherwise the tests below would fail for another reason."""
    assert main(["status", f"sweep_dir={valid_files / 'sweep'}"]) == 0
    words = ["plan", "grid=demo", "recipe=demo", "epochs=400", "out="]
    assert main([*words, f"data_dir={valid_files / 'data'}"]) == 0
    assert "points outside of" not in capsys.readouterr().err
    assert main(["fit", f"sweep_dir={valid_files / 'sweep'}", "n_bootstrap=0"]) == 3  # two runs
    assert main(["worker", str(valid_files / "sweep"), f"data_dir={valid_files / 'data'}"]) == 0


# Settings; tests/unit/test_cli.py has those of the command line

NAMED_CHOICES = {
    "no YAML": "budgets: [1e12\nmodels: }",
    "a list": "- 1\n- 2\n",
    "one word": "budgets",
    "a number": "42",
    "text for a number": "budgets: many",
    "an unknown key": "budgts: [1e12]",
    "a tab": "budgets:\n\t- 1e12",
    "a key twice": "span: 2\nspan: 3\nbudgets: x",
    "a reference to itself": "name: ${grid.name}",
    "not UTF-8": b"name: \xff\xfe",
    "NUL bytes": bytes(64),
}


@pytest.mark.parametrize("text", NAMED_CHOICES.values(), ids=NAMED_CHOICES)
def test_invalid_yaml_choices(tmp_path: Path, capsys, text: str | bytes):
    (tmp_path / "grid").mkdir()
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "grid" / "bad.yaml").write_bytes(data)
    only_line(capsys, main(["plan", "--config-dir", str(tmp_path), "grid=bad", "out="]))


# Tables of runs

TABLES = {
    "empty": b"",
    "a header only": b"C,N,D,L\n",
    "no header": b"6e18,1e8,1e10,3.0\n",
    "a column missing": b"C,N,D\n6e18,1e8,1e10\n",
    "a column twice": b"C,N,D,L,L\n6e18,1e8,1e10,3,3\n",
    "text for a loss": b"C,N,D,L\n6e18,1e8,1e10,low\n",
    "no loss": b"C,N,D,L\n6e18,1e8,1e10,\n",
    "NaN": b"C,N,D,L\n6e18,1e8,1e10,nan\n",
    "infinity": b"C,N,D,L\n6e18,inf,1e10,3\n",
    "a negative loss": b"C,N,D,L\n6e18,1e8,1e10,-3\n",
    "no tokens": b"C,N,D,L\n6e18,1e8,0,3\n",
    "a row too long": b"C,N,D,L\n6e18,1e8,1e10,3,4\n",
    "a row too short": b"C,N,D,L\n6e18,1e8\n",
    "a quote left open": b'C,N,D,L\n6e18,1e8,1e10,"3\n',
    "one run twice": b"run_id,C,N,D,L\na,6e18,1e8,1e10,3\na,6e18,1e8,1e10,2.9\n",
    "a run without a name": b"run_id,C,N,D,L\n,6e18,1e8,1e10,3\n",
    "billions for parameters": b"C,N,D,L\n6e18,0.1,10,3\n",
    "two decimal marks": b"C;N;D;L\n6e18;1e8;1e10;3,1\n6e18;1e8;1e10;3.1\n",
    "UTF-16": "C,N,D,L\n".encode("utf-16"),
    "binary": bytes(range(256)),
    "JSON": b'{"C": 6e18}',
    "text for a budget": b"budget_flops,C,N,D,L\nmany,6e18,1e8,1e10,3\n",
}


@pytest.mark.parametrize("data", TABLES.values(), ids=TABLES)
def test_invalid_tables_of_runs(tmp_path: Path, capsys, data: bytes):
    path = tmp_path / "runs.csv"
    path.write_bytes(data)
    words = ["fit", f"observations={path}", f"out_dir={tmp_path / 'out'}", "n_bootstrap=0"]
    assert "runs.csv" in only_line(capsys, main(words))


# Plans

PLANS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another schema": lambda s: s | {"schema": 99},
    "no schema": lambda s: {k: v for k, v in s.items() if k != "schema"},
    "a field missing": lambda s: {k: v for k, v in s.items() if k != "steps"},
    "a field too many": lambda s: s | {"stepz": 3},
    "a list": lambda s: [s],
    "a number": lambda s: 3,
    "null": lambda s: None,
    "text for steps": lambda s: s | {"steps": "20"},
    "half a step": lambda s: s | {"steps": 20.5},
    "no steps": lambda s: s | {"steps": 0},
    "a negative number of steps": lambda s: s | {"steps": -1},
    "too many steps": lambda s: s | {"steps": 10**30},
    "true for a count": lambda s: s | {"batch_tokens": True},
    "a negative budget": lambda s: s | {"budget_flops": -1.0},
    "an unknown convention": lambda s: s | {"flop_convention": "guess"},
    "an unknown precision": lambda s: s | {"precision": "fp8"},
    "no model": lambda s: s | {"model": None},
    "a list for a model": lambda s: s | {"model": [1, 2]},
    "a model of no width": lambda s: s | {"model": s["model"] | {"d_model": 0}},
    "a model of odd heads": lambda s: s | {"model": s["model"] | {"kv_size": 7}},
    "unknown positions": lambda s: s | {"model": s["model"] | {"positions": "none"}},
    "a number for a name": lambda s: s | {"sweep": 3},
}  # fmt: skip


@pytest.mark.parametrize("change", PLANS.values(), ids=PLANS)
@pytest.mark.slow
def test_invalid_plans(valid_files: Path, capsys, change):
    path = valid_files / "sweep" / "plan.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{json.dumps(change(json.loads(second)))}\n")
    assert main(["status", f"sweep_dir={valid_files / 'sweep'}"]) == 0
    names_the_line(capsys, 2)
    assert main(["fit", f"sweep_dir={valid_files / 'sweep'}"]) == 3  # one run is left
    names_the_line(capsys, 2)


@pytest.mark.parametrize("text", ["{", "[]x", '{"a": 1} {"b": 2}', "\x00", "NaN", "\ufeff{}"])
def test_plans_that_are_not_json(valid_files: Path, capsys, text: str):
    path = valid_files / "sweep" / "plan.jsonl"
    path.write_text(path.read_text() + text + "\n")
    assert main(["status", f"sweep_dir={valid_files / 'sweep'}"]) == 0
    names_the_line(capsys, 3)


# Results, curves and runtime settings

RESULTS: dict[str, dict[str, Any]] = {
    "text for a loss": {"final_loss": "low"},
    "a list for a loss": {"final_loss": [3.0]},
    "no loss": {"final_loss": None},
    "a negative loss": {"final_loss": -3.0},
    "an unknown status": {"status": "done"},
    "a number for a status": {"status": 1},
    "a list for validation losses": {"validation_loss": [3.1]},
    "text for a validation loss": {"validation_loss": {"validation": "low"}},
    "half a step": {"steps_done": 1.5},
    "null for a speed": {"tokens_per_second": None},
    "another schema": {"schema": 99},
    "no spec": {"spec": None},
    "text for a spec": {"spec": "c1e12"},
    "a spec of another schema": {"spec": SPEC.to_dict() | {"schema": 1}},
    "a spec of no steps": {"spec": SPEC.to_dict() | {"steps": 0}},
    "a field too many": {"extra": 1},
    "a number for a kind of failure": {"failure": 3},
}


@pytest.mark.parametrize("change", RESULTS.values(), ids=RESULTS)
def test_invalid_results(valid_files: Path, capsys, change: dict[str, Any]):
    path = valid_files / "sweep" / "runs" / SPEC.run_id / "result.json"
    edit_record(path, **change)
    is_named(capsys, main(["fit", f"sweep_dir={valid_files / 'sweep'}", "n_bootstrap=0"]))


CURVES: dict[str, dict[str, Any]] = {
    "text": {"loss": np.array(["a"] * 20)},
    "two columns": {"loss": np.zeros((20, 2))},
    "complex numbers": {"loss": np.zeros(20, complex)},
    "of unequal length": {"loss": np.zeros(19)},
    "held out of unequal length": {"validation_loss": np.zeros(2)},
    "a loss that is not finite": {"loss": np.full(20, np.nan)},
    "a step before the first": {"step": np.arange(20) - 5},
}


@pytest.mark.parametrize("change", CURVES.values(), ids=CURVES)
def test_invalid_curves(valid_files: Path, capsys, change: dict[str, Any]):
    run_dir = valid_files / "sweep" / "runs" / SPEC.run_id
    arrays = dataclasses.asdict(Curve.load(run_dir)) | change
    np.savez(run_dir / "curve.npz", **arrays)
    edit_record(run_dir / "result.json", curve_sha256=sha256_file(run_dir / "curve.npz"))
    is_named(capsys, main(["fit", f"sweep_dir={valid_files / 'sweep'}", "n_bootstrap=0"]))


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 1}, {"device": 3}, {"micro_batch_tokens": "many"}, {"micro_batch_tokens": -1},
        {"checkpoint_minutes": 0}, {"checkpoint_minutes": None}, {"wandb": "maybe"}, {"new": 1},
        {"log_every_steps": 2.5},
    ],
    ids=str,
)  # fmt: skip
def test_invalid_runtime_settings(valid_files: Path, capsys, change: dict[str, Any]):
    path = valid_files / "sweep" / "runtime.json"
    edit_record(path, **change)
    code = main(["worker", str(valid_files / "sweep"), f"data_dir={valid_files / 'data'}"])
    assert "runtime.json" in only_line(capsys, code)


# Token manifests, also with a data_id that matches the change

SOURCE = ("sources", 0)
MANIFESTS: dict[str, tuple[tuple[str | int, ...], Any]] = {
    "another schema": (("schema",), 99),
    "a list for splits": ((*SOURCE, "splits"), []),
    "no validation split": ((*SOURCE, "splits"), {"train": None}),
    "no shards": ((*SOURCE, "splits", "train", "shards"), None),
    "text for tokens": ((*SOURCE, "splits", "train", "tokens"), "many"),
    "tokens that the shards do not have": ((*SOURCE, "splits", "train", "tokens"), 10**9),
    "a negative count": ((*SOURCE, "splits", "train", "tokens"), -1),
    "half a token": ((*SOURCE, "splits", "train", "tokens"), 4096.5),
    "no bytes": ((*SOURCE, "splits", "validation", "bytes"), 0),
    "a number for a shard's name": ((*SOURCE, "splits", "train", "shards", 0, "file"), 3),  # type: ignore
    "text for a shard's tokens": ((*SOURCE, "splits", "train", "shards", 0, "tokens"), "4096"),  # type: ignore
    "an absent shard": ((*SOURCE, "splits", "train", "shards", 0, "file"), "none.bin"),  # type: ignore
    "null for a tokenizer": (("tokenizer",), None),
    "a number for a tokenizer's file": (("tokenizer", "file"), 3),
    "text for a vocabulary": (("tokenizer", "vocab_size"), "300"),
    "no vocabulary": (("tokenizer", "vocab_size"), 0),
    "an unknown dtype": (("dtype",), "uint7"),
    "a list for a dtype": (("dtype",), ["uint16"]),
}


@pytest.mark.parametrize("rehash", [False, True], ids=["as it is", "with a data_id that agrees"])
@pytest.mark.parametrize(("keys", "value"), MANIFESTS.values(), ids=MANIFESTS)
@pytest.mark.slow
def test_invalid_token_manifests(valid_files: Path, capsys, keys, value, rehash: bool):
    path = valid_files / "data" / "manifest.json"
    edit(path, *keys, to=value)
    if rehash:
        update_data_id(path)
    words = ["plan", "grid=demo", f"data_dir={valid_files / 'data'}", "out="]
    line = only_line(capsys, main(words))
    assert str(valid_files / "data") in line


def update_data_id(path: Path) -> None:
    """Recompute the data_id of a changed manifest, if possible."""
    from chinchilla.core.files.json_codec import decode
    from chinchilla.data.manifest import Manifest

    record = json.loads(path.read_text())
    del record["data_id"]
    try:
        data_id = decode(Manifest, record, "").data_id
    except (InputError, TypeError, AttributeError, KeyError):
        return
    path.write_text(json.dumps({"data_id": data_id, **record}))


# Frontiers and predictions

JSONS = [
    "[]",
    "{}",
    "3",
    "null",
    '"text"',
    "{",
    '{"schema": 1}',
    '{"schema": "1", "approaches": 1}',
]


@pytest.mark.parametrize("text", JSONS)
def test_invalid_frontiers(tmp_path: Path, capsys, text: str):
    (tmp_path / "frontier.json").write_text(text)
    words = ["predict", "budget_flops=1e20", f"fits={tmp_path}"]
    assert "frontier.json" in only_line(capsys, main(words))


@pytest.mark.parametrize("text", JSONS)
def test_invalid_predictions(valid_files: Path, capsys, text: str):
    (valid_files / "p.json").write_text(text)
    run_dir = valid_files / "sweep" / "runs" / SPEC.run_id
    words = ["score", f"prediction={valid_files / 'p.json'}", f"result={run_dir}"]
    assert "p.json" in only_line(capsys, main(words))


# Files of workers: a damaged one is ignored

LEDGER = {
    "claim-1.json": [
        CLAIM | {"pid": -1}, CLAIM | {"pid": 0}, CLAIM | {"pid": 10**30}, CLAIM | {"pid": "7"},
        CLAIM | {"fence": 2}, CLAIM | {"step": None}, CLAIM | {"starts": 1.5}, CLAIM | {"new": 1},
        CLAIM | {"released": "no"}, CLAIM | {"stalls": True}, {}, [], 3, None, "text",
    ],
    "progress.json": [
        {"step": "3"}, {"step": 10**400}, {"step": -5}, {"step": True}, {"loss": "low"},
        {"tokens_per_second": [1]}, {"micro_batch_tokens": "x"}, {"steps": {}}, [], 3, None, "text",
    ],
    "attempts/1.json": [
        ATTEMPT | {"reason": 3}, ATTEMPT | {"failure": None}, ATTEMPT | {"fence": "1"},
        ATTEMPT | {"micro_batch_tokens": 1e9}, ATTEMPT | {"new": 1}, [], 3, None, "text",
    ],
}  # fmt: skip
LEDGER_CASES = [(file, value) for file, values in LEDGER.items() for value in values]


@pytest.mark.parametrize(("file", "value"), LEDGER_CASES, ids=lambda x: str(x)[:40])
@pytest.mark.slow
def test_invalid_files_of_workers_are_ignored(valid_files: Path, capsys, file: str, value: Any):
    run_dir = valid_files / "sweep" / "runs" / SPEC.run_id
    (run_dir / "result.json").unlink()
    (run_dir / "attempts").mkdir()
    (run_dir / file).write_text(json.dumps(value))
    assert main(["status", f"sweep_dir={valid_files / 'sweep'}", "format=json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    [row] = [r for r in json.loads(out)["rows"] if r["run_id"] == SPEC.run_id]
    assert row["state"] in ("waiting", "running")


@pytest.mark.parametrize("file", ["claim-1.json", "progress.json", "attempts", "attempts/1.json"])
def test_folders_in_place_of_files_of_workers_are_ignored(valid_files: Path, capsys, file: str):
    run_dir = valid_files / "sweep" / "runs" / SPEC.run_id
    (run_dir / "result.json").unlink()
    if file == "attempts":
        (run_dir / file).write_text("")
    else:
        (run_dir / file).mkdir(parents=True)
    assert main(["status", f"sweep_dir={valid_files / 'sweep'}"]) == 0
    assert capsys.readouterr().err == ""
