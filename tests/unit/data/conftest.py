"""A prepared token folder, shared by the tests of chinchilla.data."""

from pathlib import Path

import pytest
from data_corpora import command, documents, write_jsonl

from chinchilla.data.prepare.pipeline import prepare


@pytest.fixture(scope="session")
def token_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty documents in shards of 1,000 tokens, so that rows run over shard ends."""
    folder = tmp_path_factory.mktemp("tokens")
    prepare(command(folder / "data", write_jsonl(folder / "corpus.jsonl", documents())))
    return folder / "data"
