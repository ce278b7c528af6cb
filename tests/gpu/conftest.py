"""GPU tests skip themselves without a CUDA device; a prepared token folder for them."""

from pathlib import Path

import pytest
import torch

from chinchilla.config import CorpusConfig, DataCommand, TokenizerConfig
from chinchilla.data.prepare import prepare


@pytest.fixture(autouse=True)
def _cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty speeches in 512 pieces."""
    folder = tmp_path_factory.mktemp("speeches")
    prepare(
        DataCommand(
            corpus=CorpusConfig(name="sotu", format="embedded", max_documents=40),
            tokenizer=TokenizerConfig(vocab_size=512),
            data_dir=str(folder),
            held_out_fraction=0.2,
            n_workers=1,
        )
    )
    return folder
