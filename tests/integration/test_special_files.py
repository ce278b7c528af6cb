"""FIFOs, devices, sockets, folders and broken links in the place of every file that a command reads.

No command waits or ends with a traceback. Where a file is needed, the message names it. Checkpoints:
tests/unit/train/test_checkpoint_hardened.py; YAML files of users: tests/unit/config/test_yaml_files.py.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from special_files import KINDS, at_most, put_special
from test_malformed import ATTEMPT, CLAIM, CSV, RESULT, SPECS
from test_poison import make_data

from chinchilla.cli import main
from chinchilla.config import RuntimeConfig
from chinchilla.fit.loss_law import named_law
from chinchilla.plan.plan_file import save_plan
from chinchilla.plan.records import Curve
from chinchilla.sweep.run_files import save_runtime

RUN_ID = SPECS[0].run_id
RUN = f"sweep/runs/{RUN_ID}"
TRAINING = f"sweep/runs/{SPECS[1].run_id}"  # has no result yet
TOKENS = "plan grid=demo recipe=demo epochs=400 data_dir=data out="
CORPUS = "data data_dir=new tokenizer.vocab_size=300 corpus"

NEEDED = [  # a file, and a command that cannot do without it
    ("sweep/plan.jsonl", "status sweep"),
    ("sweep/plan.jsonl", "fit sweep"),
    ("sweep/plan.jsonl", "worker sweep"),
    ("sweep/plan.jsonl", "sync sweep"),
    ("sweep/runtime.json", "worker sweep"),
    (f"{RUN}/result.json", "status sweep"),
    (f"{RUN}/result.json", "fit sweep"),
    (f"{RUN}/curve.npz", "fit sweep"),
    (f"{RUN}/attempts/1.json", f"logs sweep {RUN_ID}"),
    ("data/manifest.json", TOKENS),
    ("data/manifest.json", "data corpus=sotu data_dir=data"),
    ("data/train-00000.bin", TOKENS),
    ("data/tokenizer.model", TOKENS),
    ("runs.csv", "fit runs.csv"),
    ("runs.csv", "score prediction.json runs.csv"),
    ("prediction.json", "score prediction.json runs.csv"),
    ("text.txt", f"{CORPUS}=text corpus.paths=[text.txt]"),
    ("text.jsonl", f"{CORPUS}=jsonl corpus.paths=[text.jsonl]"),
    ("text.parquet", f"{CORPUS}=parquet corpus.paths=[text.parquet]"),
    ("tokenizer.model", f"{CORPUS}=text corpus.paths=[text.txt] tokenizer.model=tokenizer.model"),
    ("fits/frontier.json", "predict fits 1e22"),
    ("fits/frontier.json", "diagnose fits"),
    ("fits/observations.csv", "diagnose fits"),
]
OPTIONAL = [  # a file that is made again, or only adds to what a command shows
    ("sweep/runtime.json", "status sweep"),
    (f"{RUN}/curve.npz", "status sweep"),
    (f"{TRAINING}/claim-1.json", "status sweep"),
    (f"{TRAINING}/heartbeat", "status sweep"),
    (f"{TRAINING}/progress.json", "status sweep"),
    (f"{TRAINING}/attempts/1.json", "status sweep"),
    (f"{TRAINING}/error.txt", f"logs sweep {SPECS[1].run_id}"),
    (f"{TRAINING}/claim-1.json", f"logs sweep {SPECS[1].run_id}"),
    ("sweep/slurm/0123abcd/job.json", "status sweep"),
    ("sweep/slurm/0123abcd/answer.json", "logs sweep"),
    ("sweep/workers/w.log", "logs sweep"),
]
SOME_KINDS = [
    pytest.param(kind, marks=[] if kind in ("FIFO", "link to itself") else pytest.mark.slow)
    for kind in KINDS
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file that a command reads, in valid form."""
    root = tmp_path_factory.mktemp("world")
    sweep = root / "sweep"
    for spec in SPECS:
        run_dir = sweep / "runs" / spec.run_id
        (run_dir / "attempts").mkdir(parents=True)
        if spec == SPECS[0]:
            dataclasses.replace(RESULT, spec=spec).save(run_dir)
            Curve(np.arange(20), np.linspace(5, 3, 20)).save(run_dir)
        (run_dir / "claim-1.json").write_text(json.dumps(CLAIM))
        (run_dir / "heartbeat").touch()
        (run_dir / "progress.json").write_text('{"step": 3}')
        (run_dir / "attempts" / "1.json").write_text(json.dumps(ATTEMPT))
        (run_dir / "error.txt").write_text("it broke")
    save_plan(SPECS, sweep / "plan.jsonl")
    make_data(root / "data")
    save_runtime(RuntimeConfig(device="cpu"), sweep, root / "data")
    (sweep / "workers").mkdir()
    (sweep / "workers" / "w.log").write_text("worker w\n")
    (sweep / "slurm" / "0123abcd").mkdir(parents=True)
    (sweep / "slurm" / "0123abcd" / "job.json").write_text("{}")
    (sweep / "slurm" / "0123abcd" / "answer.json").write_text("{}")
    for name in ("text.txt", "text.jsonl", "text.parquet", "tokenizer.model"):
        (root / name).touch()
    (root / "runs.csv").write_text(CSV)
    N = np.repeat(np.geomspace(1e8, 1e10, 5), 4)
    D = N * np.tile([5, 10, 20, 40], 5)
    rows = (f"{6 * n * d},{n},{d},{law_loss(n, d)}\n" for n, d in zip(N, D, strict=True))
    (root / "fitted.csv").write_text("C,N,D,L\n" + "".join(rows))
    assert (
        main(["fit", str(root / "fitted.csv"), f"out_dir={root / 'fits'}", "n_bootstrap=20"]) == 0
    )
    prediction = ["preregister=true", f"preregister_file={root / 'prediction.json'}"]
    assert main(["predict", str(root / "fits"), "1e22", *prediction]) == 0
    return root


def law_loss(N: float, D: float) -> float:
    return float(named_law("hoffmann")(N, D))


def outcome(world: Path, tmp_path: Path, monkeypatch, capsys, name: str, kind: str, line: str):
    """The exit code and the output of a command with a special file in one place."""
    shutil.copytree(world, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    put_special(kind, Path(name))
    capsys.readouterr()
    with at_most(10):
        code = main(line.split())
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out + err


@pytest.mark.parametrize("kind", SOME_KINDS)
@pytest.mark.parametrize(("name", "line"), NEEDED)
def test_a_file_that_is_needed_is_named(world, tmp_path, monkeypatch, capsys, name, line, kind):
    code, text = outcome(world, tmp_path, monkeypatch, capsys, name, kind, line)
    shows = line.startswith(("status", "logs")) and name != "sweep/plan.jsonl"
    assert code == (0 if shows else 2), text
    assert Path(name).name in text


@pytest.mark.parametrize("kind", SOME_KINDS)
@pytest.mark.parametrize(("name", "line"), OPTIONAL)
def test_a_command_does_without_others(world, tmp_path, monkeypatch, capsys, name, line, kind):
    code, text = outcome(world, tmp_path, monkeypatch, capsys, name, kind, line)
    assert code == 0, text
