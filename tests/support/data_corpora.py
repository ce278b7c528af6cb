"""Small corpora for the tests of chinchilla.data."""

import json
import random
import struct
from pathlib import Path

import numpy as np

from chinchilla.config import CorpusConfig, DataCommand, TokenizerConfig
from chinchilla.data.manifest import Manifest
from chinchilla.data.tokenizer import Tokenizer

WORDS = (  # noqa: SIM905 (a list is longer to read)
    "the of and union state congress people law year peace war commerce treasury whereas honor "
    "duties revenue foreign powers harbors public lands treaty militia improvement citizens "
    "judgment bank measures subject present attention session territory department object"
).split()


def documents(n: int = 60, seed: int = 0) -> list[str]:
    """Distinct made-up documents of a few hundred bytes."""
    draw = random.Random(seed)
    return [
        f"Document {i}.\n\n" + " ".join(draw.choices(WORDS, k=draw.randrange(40, 120)))
        for i in range(n)
    ]


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    return path


def command(data_dir: Path, *paths: Path, **settings: object) -> DataCommand:
    """`chinchilla data` on JSON lines, with small settings."""
    return DataCommand(
        corpus=CorpusConfig(format="jsonl", paths=[str(p) for p in paths]),
        tokenizer=TokenizerConfig(vocab_size=300),
        data_dir=str(data_dir),
        **{"validation_fraction": 0.2, "shard_tokens": 1_000, **settings},
    )


def shard_tokens(path: Path, dtype: str = "uint16") -> np.ndarray:
    """The tokens of a shard, read with the counts in its header."""
    magic, version, width, tokens, _ = struct.unpack("<8sIIQQ", path.read_bytes()[:32])
    assert (magic, version, width) == (b"chintoks", 1, np.dtype(dtype).itemsize)
    return np.fromfile(path, np.dtype(dtype).newbyteorder("<"), tokens, offset=64)


def decoded(data_dir: Path, split: str) -> list[str]:
    """The documents of a split, decoded from its shards."""
    manifest = Manifest.load(data_dir)
    tokenizer = Tokenizer.load(data_dir / "tokenizer.model")
    shards = [data_dir / s.file for s in manifest.splits[split].shards]
    tokens = np.concatenate([shard_tokens(s, manifest.dtype) for s in shards])
    assert tokens[-1] == tokenizer.eos_id
    ends = np.flatnonzero(tokens == tokenizer.eos_id)
    return [tokenizer.decode(d.tolist()) for d in np.split(tokens, ends + 1)[:-1]]
