"""`chinchilla sync`, killed at any call that writes, can be repeated."""

import json
from pathlib import Path
from typing import Any

import pytest
from killed import survives
from sweep_fakes import make_result, make_specs, make_sweep

from chinchilla.cli import main
from chinchilla.plan.records import RunSpec
from chinchilla.sweep.run_files import run_dir_of
from chinchilla.tracking import mirror


def opened(run_dir: Path, spec: RunSpec, first_step: int) -> mirror.Tracker:
    """A tracker that keeps its lines in a file, of which it discards those from `first_step` on."""
    path = run_dir / "tensorboard" / "events.out.tfevents"
    path.parent.mkdir(exist_ok=True)
    lines = mirror.read_metrics(path)
    kept: list[dict[str, Any]] = [line for line in lines if line["step"] < first_step]

    def close(summary: dict[str, Any]) -> None:
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))

    return kept.append, close


@pytest.mark.parametrize("n_points", [4, pytest.param(0, marks=pytest.mark.slow)])
def test_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_points: int):
    """A damaged copy of one run is renamed and made anew from its metrics."""
    monkeypatch.setattr(mirror, "_open_tensorboard", opened)
    specs = make_specs(2)
    sweep = make_sweep(tmp_path / "template", specs)
    for spec in specs:
        run_dir = run_dir_of(sweep, spec)
        run_dir.mkdir(parents=True)
        make_result(spec).save(run_dir)
        (run_dir / "metrics.jsonl").write_text('{"step": 5}\ndamaged\n{"step": 10}\n')
    (run_dir / "tensorboard").write_text("not a folder")
    (run_dir / "synced.json").write_text('{"tensorboard": {"step": 10, "result": true}}')

    def sync(folder: Path) -> None:
        assert main(["sync", str(folder), "to=tensorboard"]) == 0
        for copy in folder.glob("runs/*/tensorboard/*"):
            assert copy.read_text() == '{"step": 5}\n{"step": 10}\n'

    survives(sweep, tmp_path, sync, n_points)
