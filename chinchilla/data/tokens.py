"""Token shards to batches, each batch a pure function of (seed, step).

The training tokens are cut into rows of seq_len + 1 at stride seq_len (a row's last token is the
next row's first). Each epoch reads every row once, in an order drawn for (seed, epoch) by a keyed
permutation that needs no memory. So a run with D tokens reads the first D tokens of one stream,
whatever its batch size or number of devices, and resuming needs only the step.
"""

import hashlib
import math
from pathlib import Path

import numpy as np

from chinchilla.data.manifest import Manifest
from chinchilla.errors import DataError
from chinchilla.files import sha256_file

_ROUNDS = 6


class TokenData:
    """A prepared token folder, memory-mapped.

    Attributes:
        manifest: what the folder states about itself.
        data_id: names the token stream.
        vocab_size: pieces of the tokenizer; every token is below it.
        n_train_tokens: tokens of the training split, eos included.
    """

    def __init__(self, data_dir: Path, manifest: Manifest) -> None:
        self.data_dir = data_dir
        self.manifest = manifest
        self.data_id = manifest.data_id
        self.vocab_size = manifest.tokenizer.vocab_size
        self.n_train_tokens = manifest.splits["train"].tokens
        dtype = np.dtype(manifest.dtype).newbyteorder("<")
        self._shards = {
            name: [np.memmap(data_dir / s.file, dtype, "r") for s in split.shards]
            for name, split in manifest.splits.items()
        }
        self._starts = {
            name: np.cumsum([0] + [s.tokens for s in split.shards])
            for name, split in manifest.splits.items()
        }

    @classmethod
    def open(cls, data_dir: Path | str, verify: bool = False) -> "TokenData":
        """Open what `chinchilla data` wrote.

        Args:
            data_dir: the token folder.
            verify: also read every shard and compare its SHA-256 (about 1 GB/s).

        Raises:
            InputError: no token folder; DataError: a shard that is not as the manifest states.
        """
        data_dir = Path(data_dir)
        manifest = Manifest.load(data_dir)
        manifest.check_sizes(data_dir)
        for split in manifest.splits.values() if verify else ():
            for shard in split.shards:
                if sha256_file(data_dir / shard.file) != shard.sha256:
                    raise DataError(
                        f"shard {data_dir / shard.file} has other contents than the manifest "
                        "states. Prepare the data again (chinchilla data)."
                    )
        return cls(data_dir, manifest)

    def bytes_per_token(self, split: str = "heldout") -> float:
        """UTF-8 bytes of text per token; bits per byte = nats per token / this / ln 2."""
        return self.manifest.splits[split].bytes / self.manifest.splits[split].tokens

    def n_rows(self, seq_len: int, split: str = "train") -> int:
        """Rows of seq_len predicted tokens that one epoch has."""
        return max(0, self.manifest.splits[split].tokens - 1) // seq_len

    def epoch_tokens(self, seq_len: int) -> int:
        """Training tokens that one pass predicts in rows of seq_len: whole rows only.

        Raises:
            DataError: not even one row.
        """
        if n_rows := self.n_rows(seq_len):
            return n_rows * seq_len
        raise DataError(
            f"{self.data_dir} has {self.n_train_tokens} training tokens, fewer than one row of "
            f"seq_len+1={seq_len + 1}. Prepare more text, or choose a smaller seq_len."
        )

    def batch(self, seed: int, step: int, rows: int, seq_len: int) -> np.ndarray:
        """Training rows [step*rows, (step+1)*rows) of the endless stream of this seed.

        Args:
            seed: chooses the order of rows.
            step: optimizer step, or any counter of batches, from 0.
            rows: rows in a batch.
            seq_len: tokens a row predicts.

        Returns:
            (rows, seq_len + 1) int64 tokens: inputs [:, :-1], targets [:, 1:].
        """
        n_rows = self.epoch_tokens(seq_len) // seq_len
        epochs, places = np.divmod(step * rows + np.arange(rows, dtype=np.int64), n_rows)
        index = np.empty(rows, np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            index[chosen] = permute(places[chosen], n_rows, f"{seed}/{epoch}")
        batch = self._rows("train", index, seq_len)
        if batch.max() >= self.vocab_size:
            raise DataError(
                f"{self.data_dir} holds token {batch.max()}, but its tokenizer has {self.vocab_size} "
                "pieces: a shard is damaged. Prepare the data again in another data_dir."
            )
        return batch

    def held_out(self, n_tokens: int, seq_len: int) -> np.ndarray:
        """The held-out rows every run is scored on: spread evenly, the same for everybody.

        Args:
            n_tokens: tokens to score, rounded down to rows; all there are, if there are fewer.
            seq_len: tokens a row predicts.

        Returns:
            (rows, seq_len + 1) int64 tokens, rows >= 1.

        Raises:
            DataError: the held-out split is shorter than one row.
        """
        available = self.n_rows(seq_len, "heldout")
        if available == 0:
            raise DataError(
                f"{self.data_dir} has {self.manifest.splits['heldout'].tokens} held-out tokens, "
                f"fewer than one row of seq_len+1={seq_len + 1}. Prepare the data with a larger "
                "held_out_fraction, or choose a smaller seq_len."
            )
        rows = min(available, max(1, n_tokens // seq_len))
        return self._rows("heldout", np.arange(rows) * available // rows, seq_len)

    def _rows(self, split: str, index: np.ndarray, seq_len: int) -> np.ndarray:
        """Rows by number; a row may run over the end of a shard."""
        out = np.empty((len(index), seq_len + 1), np.int64)
        starts, shards = self._starts[split], self._shards[split]
        for row, begin in zip(out, index * seq_len, strict=True):
            filled = 0
            shard = int(np.searchsorted(starts, begin, side="right")) - 1
            while filled <= seq_len:
                offset = begin + filled - starts[shard]
                part = shards[shard][offset : offset + seq_len + 1 - filled]
                row[filled : filled + len(part)] = part
                filled += len(part)
                shard += 1
        return out


def permute(places: np.ndarray, n: int, key: str) -> np.ndarray:
    """Image of `places` under the permutation of range(n) that `key` draws.

    A balanced Feistel network (Luby and Rackoff 1988) on the next even number of bits, walked along
    its cycle until it falls below n again: a bijection for any round function, under 4 rounds of
    walking on average, nothing stored.

    Args:
        places: (k,) int64, each in [0, n).
        n: size of the range, above 0.
        key: names the permutation.

    Returns:
        (k,) int64, distinct where `places` are.
    """
    half = np.uint64(max(1, math.ceil((n - 1).bit_length() / 2)))
    mask = np.uint64((1 << int(half)) - 1)
    digest = hashlib.sha256(b"chinchilla rows\0" + key.encode()).digest()
    keys = [_mix(np.frombuffer(digest, "<u8") + np.uint64(i)) for i in range(_ROUNDS)]
    out = places.astype(np.uint64)
    outside = np.arange(len(out))
    while len(outside):
        left, right = out[outside] >> half, out[outside] & mask
        for k in keys:
            left, right = right, left ^ (_mix(_mix(right + k[0]) ^ k[1]) & mask)
        out[outside] = (left << half) | right
        outside = outside[out[outside] >= n]
    return out.astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finalizer (Steele, Lea and Flood 2014): every input bit moves every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
