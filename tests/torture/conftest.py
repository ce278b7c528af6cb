"""The worlds of tests/unit/train and tests/unit/sweep, for runs that are killed and damaged."""

import sys
from pathlib import Path

import pytest
from small_world import make_speeches

UNIT = Path(__file__).resolve().parents[1] / "unit"
sys.path += [str(UNIT / "train"), str(UNIT / "sweep")]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve speeches in 400 pieces."""
    return make_speeches(tmp_path_factory.mktemp("speeches"))


@pytest.fixture(autouse=True)
def _processes_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is started here imports from these folders; nothing started later does."""
    from run import ENVIRONMENT

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
