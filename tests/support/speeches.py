"""A prepared token folder, for the tests that train."""

from pathlib import Path

import pytest
import torch
from small_world import make_speeches

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve speeches in 400 pieces."""
    return make_speeches(tmp_path_factory.mktemp("speeches"))
