"""Token shards to batches. Each batch is a pure function of (seed, step).

The training tokens of each source are cut into rows of seq_len + 1 tokens at stride seq_len, so the
last token of a row is the first of the next. `mixture.py` determines which source row k of the stream
comes from. Each epoch of a source reads all of its rows once, in the order of a pseudorandom
permutation keyed by (seed, epoch, source), which is computed and not stored. A run of D tokens
therefore reads the first D tokens of one stream for any batch size and number of devices, and only
the step is needed to resume.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chinchilla.core.errors import DataError
from chinchilla.core.files.reading import sha256_file
from chinchilla.data.manifest import Manifest
from chinchilla.data.mixture import RowOrder
from chinchilla.data.shards import document_ends, map_tokens

BLOCK_ROWS = 16_384  # rows of the stream whose positions are computed together
_ROUNDS = 6


@dataclass(frozen=True)
class SourceUse:
    """The amount that a run reads from one source, with the columns of Table A1."""

    name: str
    share: float  # of the training tokens
    documents: int
    bytes: int  # of text
    tokens: int  # predicted in one epoch, in whole rows
    drawn: int  # tokens that the run reads

    @property
    def epochs(self) -> float:
        """Epochs of the source."""
        return self.drawn / self.tokens

    @property
    def unique(self) -> int:
        """Tokens read at least once."""
        return min(self.drawn, self.tokens)


class TokenData:
    """A prepared token folder, memory-mapped.

    Attributes:
        manifest: the contents of the folder.
        data_id: identifies the token stream.
        vocab_size: pieces of the tokenizer; every token is below it.
        n_train_tokens: tokens of the training split, eos included.
        sources: the sources, sorted by name.
        order: the source of each row.
    """

    def __init__(self, data_dir: Path, manifest: Manifest) -> None:
        self.data_dir = data_dir
        self.manifest = manifest
        self.data_id = manifest.data_id
        self.vocab_size = manifest.tokenizer.vocab_size
        self.n_train_tokens = manifest.splits["train"].tokens
        self.sources = manifest.sources
        self.order = RowOrder([source.rows for source in self.sources])
        self._blocks: dict[tuple[int, int, int], np.ndarray] = {}
        self._shards: dict[str, list[np.ndarray]] = {}
        self._starts: dict[str, np.ndarray] = {}  # first token of each shard
        self._begins: dict[str, np.ndarray] = {}  # first token of each source
        for name, split in manifest.splits.items():
            self._shards[name] = [
                map_tokens(data_dir / s.file, s, manifest.dtype) for s in split.shards
            ]
            self._starts[name] = np.cumsum([0] + [s.tokens for s in split.shards])
            self._begins[name] = np.cumsum([0] + [s.splits[name].tokens for s in self.sources])

    @classmethod
    def open(cls, data_dir: Path | str, verify: bool = False) -> "TokenData":
        """Open a folder written by `chinchilla data`.

        Args:
            data_dir: the token folder.
            verify: also read every shard and compare its SHA-256 (about 1 GB/s).

        Raises:
            DataError: not a token folder, or a shard does not match the manifest.
        """
        data_dir = Path(data_dir)
        manifest = Manifest.load(data_dir)
        manifest.check_sizes(data_dir)
        for shard in manifest.shards if verify else ():
            if sha256_file(data_dir / shard.file) != shard.sha256:
                raise DataError(
                    f"{data_dir / shard.file} has other contents than the manifest states. Move the "
                    "folder away, and prepare the data again (chinchilla data)."
                )
        return cls(data_dir, manifest)

    def bytes_per_token(self, split: str = "validation") -> float:
        """UTF-8 bytes of text per token, weighted by the shares of the sources.

        Bits per byte = nats per token / (bytes per token) / ln 2.
        """
        each = [s.rows * s.splits[split].bytes / s.splits[split].tokens for s in self.sources]
        return sum(each) / self.order.period

    def _source_rows(self, seq_len: int, split: str) -> np.ndarray:
        """(sources,) rows in one epoch of each source; DataError if a source has none."""
        rows = np.maximum(np.diff(self._begins[split]) - 1, 0) // seq_len
        if rows.all():
            return rows
        source = self.sources[int(np.argmin(rows))]
        remedy = "more text" if split == "train" else "the data with a larger validation_fraction"
        raise DataError(
            f"{self.data_dir}: the {split} split of source {source.name!r} has {source.splits[split].tokens} "
            f"tokens, fewer than one row of seq_len+1={seq_len + 1}. Prepare {remedy}, or choose a smaller "
            "seq_len."
        )

    def epoch_tokens(self, seq_len: int) -> int:
        """Training tokens, in whole rows of seq_len, that a run reads before any source repeats.

        Raises:
            DataError: a source without even one row.
        """
        rows = self._source_rows(seq_len, "train")
        return int((rows * self.order.period // self.order.parts).min()) * seq_len

    def scarcest(self, seq_len: int) -> str:
        """Name of the source that is the first to repeat."""
        rows = self._source_rows(seq_len, "train")
        return self.sources[int(np.argmin(rows / self.order.parts))].name

    def use(self, D: int, seq_len: int) -> list[SourceUse]:
        """The amount that a run of D tokens reads from each source.

        Args:
            D: training tokens, whole rows.
            seq_len: predicted tokens per row.
        """
        drawn = self.order.counts(D // seq_len)
        available = self._source_rows(seq_len, "train")
        return [
            SourceUse(
                name=source.name,
                share=source.rows / self.order.period,
                documents=source.splits["train"].documents,
                bytes=source.splits["train"].bytes,
                tokens=int(available[i]) * seq_len,
                drawn=int(drawn[i]) * seq_len,
            )
            for i, source in enumerate(self.sources)
        ]

    def batch(self, seed: int, step: int, rows: int, seq_len: int) -> np.ndarray:
        """Training rows [step*rows, (step+1)*rows) of the infinite stream of this seed.

        Args:
            seed: determines the order of rows.
            step: number of the batch, from 0.
            rows: rows per batch.
            seq_len: predicted tokens per row.

        Returns:
            (rows, seq_len + 1) int64 tokens: inputs [:, :-1], targets [:, 1:].
        """
        first = step * rows
        blocks = range(first // BLOCK_ROWS, (first + rows - 1) // BLOCK_ROWS + 1)
        begins = np.concatenate([self._block(seed, seq_len, block) for block in blocks])
        start = first - blocks[0] * BLOCK_ROWS
        batch = self._rows("train", begins[start : start + rows], seq_len)
        if batch.max() >= self.vocab_size:
            raise DataError(
                f"{self.data_dir} has token {batch.max()}, but its tokenizer has {self.vocab_size} pieces: "
                "a shard is damaged. Prepare the data again in another data_dir."
            )
        return batch.astype(np.int64)

    def _block(self, seed: int, seq_len: int, block: int) -> np.ndarray:
        """(BLOCK_ROWS,) position of the first token of each row from row block * BLOCK_ROWS on.

        A block is computed at once and cached: for batches of 32 rows, computing their positions
        separately would take longer than reading them.
        """
        key = (seed, seq_len, block)
        if key not in self._blocks:
            available = self._source_rows(seq_len, "train")
            numbers = block * BLOCK_ROWS + np.arange(BLOCK_ROWS, dtype=np.int64)
            sources, turns = self.order.locate(numbers)
            epochs, indices = np.divmod(turns, available[sources])
            begins = self._begins["train"][sources]
            for source, epoch in set(zip(sources.tolist(), epochs.tolist(), strict=True)):
                chosen = (sources == source) & (epochs == epoch)
                name = f"/{self.sources[source].name}" if len(self.sources) > 1 else ""
                permuted = permute(indices[chosen], int(available[source]), f"{seed}/{epoch}{name}")
                begins[chosen] += permuted * seq_len
            while len(self._blocks) >= 4:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[key] = begins
        return self._blocks[key]

    def validation_rows(self, n_tokens: int, seq_len: int) -> np.ndarray:
        """The validation rows, spread evenly over the split and the same for every run.

        Each source contributes its share of the rows. A source with too few rows repeats them, so
        that the mean over all rows is that of the mixture. The most plentiful source never repeats.

        Args:
            n_tokens: predicted tokens, rounded down to rows; at most one epoch of the most plentiful
                source.
            seq_len: predicted tokens per row.

        Returns:
            (rows, seq_len + 1) int64 tokens, rows >= 1.

        Raises:
            DataError: the validation split of a source is shorter than one row.
        """
        available = self._source_rows(seq_len, "validation")
        most = int((available * self.order.period // self.order.parts).max())
        each = self.order.counts(min(most, max(1, n_tokens // seq_len)))
        begins = [
            begin + np.arange(n) * n_available // n * seq_len
            for begin, n, n_available in zip(
                self._begins["validation"], each, available, strict=False
            )
            if n
        ]
        return self._rows("validation", np.concatenate(begins), seq_len).astype(np.int64)

    def tokens(self, split: str, begin: int, end: int) -> np.ndarray:
        """Tokens [begin, end) of a split."""
        starts, parts = self._starts[split], []
        for start, shard in zip(starts, self._shards[split], strict=False):
            if begin < start + len(shard) and end > start:
                parts.append(shard[max(0, begin - start) : max(0, end - start)])
        return np.concatenate(parts) if parts else np.zeros(0, np.uint16)

    def document_ends(self, split: str) -> np.ndarray:
        """(documents,) int64 number of tokens up to the end of each document, eos included."""
        shards, width = self.manifest.splits[split].shards, self.manifest.token_bytes
        ends = [document_ends(self.data_dir / shard.file, shard, width) for shard in shards]
        starts = self._starts[split]
        return np.concatenate([start + each for start, each in zip(starts, ends, strict=False)])

    def _rows(self, split: str, begins: np.ndarray, seq_len: int) -> np.ndarray:
        """(rows, seq_len + 1) tokens from the given positions, in the dtype of the shards."""
        starts, shards = self._starts[split], self._shards[split]
        numbers = np.searchsorted(starts, begins, side="right") - 1
        offsets = begins - starts[numbers]
        width = seq_len + 1
        rows = [
            shards[number][offset : offset + width]
            for number, offset in zip(numbers.tolist(), offsets.tolist(), strict=True)
        ]
        for i, row in enumerate(rows):
            if len(row) < width:  # the row continues in the next shard
                rows[i] = self.tokens(split, begins[i], begins[i] + width)
        return np.concatenate(rows).reshape(len(rows), width)


def permute(indices: np.ndarray, n: int, key: str) -> np.ndarray:
    """Images of `indices` under a pseudorandom permutation of range(n).

    A balanced Feistel network (Luby and Rackoff 1988) on the next even number of bits, applied
    repeatedly until the value is below n (cycle walking; fewer than 4 applications on average). It is a
    bijection for any round function, and nothing is stored.

    Args:
        indices: (k,) int64, each in [0, n).
        n: size of the range, above 0.
        key: selects the permutation.

    Returns:
        (k,) int64, distinct where `indices` are.
    """
    half = np.uint64(max(1, math.ceil((n - 1).bit_length() / 2)))
    mask = np.uint64((1 << int(half)) - 1)
    digest = hashlib.sha256(b"chinchilla rows\0" + key.encode()).digest()
    keys = [_mix(np.frombuffer(digest, "<u8") + np.uint64(i)) for i in range(_ROUNDS)]
    out = indices.astype(np.uint64)
    outside = np.arange(len(out))
    while len(outside):
        left, right = out[outside] >> half, out[outside] & mask
        for k in keys:
            left, right = right, left ^ (_mix(_mix(right + k[0]) ^ k[1]) & mask)
        out[outside] = (left << half) | right
        outside = outside[out[outside] >= n]
    return out.astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finalizer (Steele, Lea and Flood 2014): every input bit affects every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
