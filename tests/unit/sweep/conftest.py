"""A fake Slurm, for tests that request it."""

from pathlib import Path

import pytest
from slurm_fakes import FakeSlurm

from chinchilla.sweep.slurm import queue


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Put its programs on PATH; wait at most one second for jobs of a doubtful submission."""
    made = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", made.path)
    monkeypatch.setattr(queue, "SETTLE_SECONDS", 1.0)
    return made
