"""The file format of shards."""

import shutil

import numpy as np
import pytest
from data_corpora import shard_tokens

from chinchilla.core.errors import DataError
from chinchilla.data.dataset import TokenData
from chinchilla.data.shards import ShardWriter, document_ends, map_tokens


def test_tokens_and_ends_of_documents_are_read_back(tmp_path):
    """A document may continue in the next shard; batches need not end with shards."""
    tokens = np.arange(1, 26) % 7  # 0 ends a document
    writer = ShardWriter(tmp_path, "train", 10, "uint16", eos=0)
    for part in np.split(tokens, [3, 14, 14, 20]):
        writer.add(part, 0, 0)
    shards = writer.close().shards
    assert [(s.tokens, s.documents) for s in shards] == [(10, 1), (10, 1), (5, 1)]
    read = [map_tokens(tmp_path / s.file, s, "uint16") for s in shards]
    assert np.concatenate(read).tolist() == tokens.tolist()
    assert all(
        np.array_equal(a, shard_tokens(tmp_path / s.file))
        for a, s in zip(read, shards, strict=True)
    )
    ends = [document_ends(tmp_path / s.file, s, 2).tolist() for s in shards]
    assert ends == [[7], [4], [1]]


@pytest.mark.parametrize("at", [0, 8, 12, 16, 24])
def test_a_shard_with_a_wrong_header_is_named(tmp_path, token_dir, at):
    """Magic, version, bytes per token, tokens and documents are checked."""
    shutil.copytree(token_dir, tmp_path / "d")
    path = tmp_path / "d" / "train-00001.bin"
    whole = bytearray(path.read_bytes())
    whole[at] ^= 1
    path.write_bytes(whole)
    with pytest.raises(
        DataError, match=r"train-00001.bin does not begin with the header of a shard of 1000"
    ):
        TokenData.open(tmp_path / "d")
