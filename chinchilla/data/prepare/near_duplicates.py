"""Near-duplicate documents by MinHash (Broder 1997) and banding (Leskovec et al., chapter 3).

A document is the set of its word n-grams. Two documents are near duplicates if the Jaccard similarity
of these sets, estimated from their MinHash signatures, reaches the threshold. Candidate pairs agree in
all rows of a band; each is checked on the whole signatures. Near duplicates form groups (transitively),
and each group keeps one document: the first by source, then by key. The result therefore depends only
on the texts. Signatures come from `datasketch` with a fixed seed and permutation scheme.

Signatures and bands are kept on disk. Memory: one band, about 40 bytes per document (400 MB for ten
million documents).
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from chinchilla.config import NearConfig
from chinchilla.core.errors import InputError
from chinchilla.data.ngrams import WordHashes, combined_hash, ngram_hashes
from chinchilla.data.prepare.shuffle_dedup import Document, Dropped

RECALL = 0.99  # probability that a pair exactly at the threshold shares a band
MAX_BANDS = 64  # each is a file
SEED = 1
SCHEME = "affine32"  # datasketch's name of the permutation family
MAX_LEADERS = 100  # documents of one bucket that all others in it are compared with
_NGRAMS_PER_UPDATE = 1 << 14  # datasketch needs permutations x 4 bytes for each
_ROWS_PER_READ = 1 << 14  # signatures in memory at once
_EMPTY = np.uint32(0xFFFFFFFF)


def require_datasketch() -> Any:
    """Import the library.

    Raises:
        InputError: it is not installed.
    """
    try:
        import datasketch
    except ImportError:
        raise InputError(
            "dedup=near needs the package datasketch. Install it: pip install 'chinchilla-lab[near]', "
            "or use dedup=exact."
        ) from None
    return datasketch


def bands_of(near: NearConfig) -> tuple[int, int]:
    """Number of bands and rows per band: as many rows as still reach RECALL at the threshold."""
    for rows in range(near.permutations, 1, -1):
        bands = min(MAX_BANDS, near.permutations // rows)
        if 1 - (1 - near.threshold**rows) ** bands >= RECALL:
            return bands, rows
    return min(MAX_BANDS, near.permutations), 1


@dataclass(frozen=True)
class Signer:
    """Computes MinHash signatures; is sent to worker processes."""

    near: NearConfig

    @cached_property
    def _tools(self) -> tuple[Any, Any, WordHashes]:
        minhash = require_datasketch().MinHash
        first = minhash(self.near.permutations, seed=SEED, scheme=SCHEME)
        return minhash, first.permutations, WordHashes()

    def __call__(self, texts: list[bytes]) -> np.ndarray:
        """(texts, permutations) uint32; all _EMPTY for a text shorter than one n-gram."""
        minhash, permutations, hashes = self._tools
        out = np.empty((len(texts), self.near.permutations), np.uint32)
        for row, text in enumerate(texts):
            grams = ngram_hashes(hashes(text.decode("utf-8")), self.near.ngram)
            grams = np.unique(grams >> np.uint64(32))
            signature = minhash(
                len(out[row]), seed=SEED, scheme=SCHEME, permutations=permutations, hashfunc=int
            )
            for begin in range(0, len(grams), _NGRAMS_PER_UPDATE):
                signature.update_batch(grams[begin : begin + _NGRAMS_PER_UPDATE].tolist())
            out[row] = signature.hashvalues
        return out


def find_near_duplicates(
    signatures: Iterable[np.ndarray], sources: Iterable[int], near: NearConfig, folder: Path
) -> np.ndarray:
    """Decide which documents to leave out.

    Args:
        signatures: (documents, permutations) uint32 each, of all documents in key order.
        sources: source of each document; read after the last signature.
        near: threshold and permutations.
        folder: an empty folder for the signatures.

    Returns:
        (documents,) bool, True for documents to leave out.
    """
    n_bands, n_rows = bands_of(near)
    bands = [folder / f"band-{i:03d}" for i in range(n_bands)]
    with ExitStack() as stack:
        out = stack.enter_context(open(folder / "signatures", "wb"))
        band_files = [stack.enter_context(open(path, "wb")) for path in bands]
        for some in signatures:
            out.write(some.tobytes())
            for i, file in enumerate(band_files):
                columns = some[:, i * n_rows : (i + 1) * n_rows].T.astype(np.uint64)
                file.write(combined_hash(columns).tobytes())
    by_source = np.argsort(np.fromiter(sources, np.uint16), kind="stable")
    rank = np.empty(len(by_source), np.int64)
    rank[by_source] = np.arange(len(by_source))
    groups = _Groups(rank)
    with open(folder / "signatures", "rb") as stored:
        for path in bands:
            for members in _equal(np.fromfile(path, np.uint64)):
                _join_near(stored.fileno(), members, groups, near)
    return groups.parent != np.arange(len(rank))


def _join_near(file: int, members: np.ndarray, groups: "_Groups", near: NearConfig) -> None:
    """Join the near duplicates among documents that share a band.

    Each of the first MAX_LEADERS documents is compared with all after it.
    """
    members = members[np.argsort(groups.rank[members])]
    for place, leader in enumerate(members[:MAX_LEADERS].tolist()):
        roots = groups.roots(members[place:])
        others = members[place:][roots != roots[0]]
        if not len(others):
            return
        first = _read(file, [leader], near)
        if (first == _EMPTY).all():  # short documents share every band, and are left alone
            return
        for begin in range(0, len(others), _ROWS_PER_READ):
            some = others[begin : begin + _ROWS_PER_READ]
            similarity = (_read(file, some.tolist(), near) == first).mean(axis=1)
            for other in some[similarity >= near.threshold].tolist():
                groups.join(leader, other)


def _read(file: int, documents: list[int], near: NearConfig) -> np.ndarray:
    """(documents, permutations) uint32; not memory-mapped, as mapped pages count as memory in use."""
    width = 4 * near.permutations
    rows = b"".join(os.pread(file, width, width * each) for each in documents)
    return np.frombuffer(rows, np.uint32).reshape(len(documents), -1)


class NearDuplicates:
    """Filter of buckets that leaves out the documents found by `find_near_duplicates`."""

    def __init__(self, left_out: np.ndarray, bucket_sizes: np.ndarray) -> None:
        """`bucket_sizes`: (buckets,) number of distinct documents in each."""
        self._buckets = np.split(left_out, np.cumsum(bucket_sizes)[:-1])

    def __call__(
        self, bucket: int, documents: Iterable[Document], dropped: Dropped
    ) -> Iterator[Document]:
        """Yield the documents that stay; count `near_duplicate` by source."""
        for each in dropped:
            each["near_duplicate"] += 0
        for document, left_out in zip(documents, self._buckets[bucket], strict=True):
            if left_out:
                dropped[document[0]]["near_duplicate"] += 1
            else:
                yield document


class _Groups:
    """Disjoint sets of documents; the root of a set is its member of lowest rank."""

    def __init__(self, rank: np.ndarray) -> None:
        self.rank = rank
        self.parent = np.arange(len(rank))

    def roots(self, documents: np.ndarray) -> np.ndarray:
        above = self.parent[documents]
        while (above != self.parent[above]).any():
            above = self.parent[above]
        self.parent[documents] = above
        return above

    def join(self, one: int, other: int) -> None:
        a, b = self.roots(np.array([one, other]))
        if self.rank[a] > self.rank[b]:
            a, b = b, a
        self.parent[b] = a


def _equal(keys: np.ndarray) -> Iterator[np.ndarray]:
    """Indices of each value that occurs more than once."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]]) != 0)
    ends = np.append(starts[1:], len(keys))
    for i in np.flatnonzero(ends - starts > 1):
        yield order[starts[i] : ends[i]]
