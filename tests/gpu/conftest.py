"""Skips GPU tests without a CUDA device, and prepares a token folder for them."""

from pathlib import Path

import pytest
import torch
from small_world import make_speeches


@pytest.fixture(autouse=True)
def _cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty speeches with a vocabulary of 512."""
    folder = tmp_path_factory.mktemp("speeches")
    return make_speeches(folder, 40, 512)
