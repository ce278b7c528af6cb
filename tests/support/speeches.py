"""A fixture with a prepared token folder, for tests that train."""

from pathlib import Path

import pytest
import torch
from small_world import make_speeches

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve speeches with a vocabulary of 400."""
    return make_speeches(tmp_path_factory.mktemp("speeches"))
