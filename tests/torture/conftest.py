"""The worlds of tests/unit/train and tests/unit/sweep, for runs that are killed and damaged."""

import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).resolve().parents[1] / "unit"
sys.path += [str(UNIT / "train"), str(UNIT / "sweep")]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve speeches in 400 pieces."""
    from torture_runs import make_data

    return make_data(tmp_path_factory.mktemp("speeches"))
