"""A stand-in for Slurm, where a test asks for one."""

from pathlib import Path

import pytest
from slurm_fakes import FakeSlurm

from chinchilla.sweep.slurm import job_records, submit


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Its programs on PATH; doubtful submissions settle in a second."""
    made = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", made.path)
    for module in (submit, job_records):
        monkeypatch.setattr(module, "SETTLE_SECONDS", 1.0)
    return made
