"""Fixtures for tests that train: a token folder, and one finished run that many tests compare with."""

from pathlib import Path

import pytest
from speeches import data_dir
from train_world import make_runtime, make_spec

from chinchilla.plan.records import RunResult, RunSpec
from chinchilla.train import train_run

__all__ = ["data_dir"]


@pytest.fixture(scope="session")
def spec(data_dir: Path) -> RunSpec:
    return make_spec(data_dir)


@pytest.fixture(scope="session")
def whole(
    spec: RunSpec, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunResult, Path]:
    """An uninterrupted run and its folder."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    return train_run(spec, run_dir, data_dir, make_runtime()), run_dir
