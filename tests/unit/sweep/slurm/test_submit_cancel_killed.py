"""`chinchilla cancel`, killed at any call that writes or starts a program, can be repeated."""

from pathlib import Path

import pytest
from killed import survives
from slurm_fakes import FakeSlurm, on_slurm
from sweep_fakes import make_specs

from chinchilla.cli import main
from chinchilla.sweep.launch import launch
from chinchilla.sweep.slurm import queue


@pytest.mark.parametrize("n_points", [4, pytest.param(0, marks=pytest.mark.slow)])
def test_cancel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_points: int):
    """Every job is cancelled, and `status` does not report it as one that never started."""
    template = tmp_path / "template"
    made = FakeSlurm(tmp_path / "killed" / "slurm-commands")
    monkeypatch.setenv("PATH", made.path)
    monkeypatch.setattr(queue, "SETTLE_SECONDS", 1.0)
    launch(on_slurm(gpus_per_node=0), make_specs(9), tmp_path / "killed", tmp_path)
    (tmp_path / "killed").rename(template)

    def cancel(folder: Path) -> None:
        assert main(["cancel", str(folder)]) == 0

    survives(template, tmp_path, cancel, n_points, changing="squeue.env|cancelled$")
