"""Documents that are nearly the same, by MinHash (Broder 1997) and bands of it (Leskovec et al., ch. 3).

A document is the set of its n-grams of words; two are near where the Jaccard similarity of their sets,
as their signatures estimate it, reaches the threshold. Signatures come from `datasketch`, whose
permutations follow from a seed and a named scheme. Documents are numbered in key order, pairs are
looked for among those that agree in a whole band, every pair is checked on the signatures, and what
is near, also over others, is one group, of which one document stays: of the first source, and there
the first by key. So what stays follows from the texts alone.

Signatures and bands lie on disk. Memory: one band, about 40 bytes a document (400 MB for ten million).
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from chinchilla.config import NearConfig
from chinchilla.core.errors import InputError
from chinchilla.data.ngrams import WordHashes, joined, ngram_hashes
from chinchilla.data.prepare.shuffle_dedup import Document

RECALL = 0.99  # of pairs exactly at the threshold that share a band
MAX_BANDS = 64  # each is a file
SEED = 1
SCHEME = "affine32"  # datasketch's name of how permutations are drawn
MAX_LEADERS = 100  # documents of one bucket that all others in it are compared with
_SHINGLES = 1 << 14  # given to datasketch at once; it holds permutations x 4 bytes for each
_EMPTY = np.uint32(0xFFFFFFFF)
_ROWS = 1 << 14  # signatures in memory at once


def need_datasketch() -> Any:
    """The library.

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
    """Bands and the permutations in each: as many as still find RECALL of pairs at the threshold."""
    for rows in range(near.permutations, 1, -1):
        bands = min(MAX_BANDS, near.permutations // rows)
        if 1 - (1 - near.threshold**rows) ** bands >= RECALL:
            return bands, rows
    return min(MAX_BANDS, near.permutations), 1


@dataclass(frozen=True)
class Signer:
    """Texts to signatures; goes to worker processes."""

    near: NearConfig

    @cached_property
    def _tools(self) -> tuple[Any, Any, WordHashes]:
        minhash = need_datasketch().MinHash
        first = minhash(self.near.permutations, seed=SEED, scheme=SCHEME)
        return minhash, first.permutations, WordHashes()

    def __call__(self, texts: list[bytes]) -> np.ndarray:
        """(texts, permutations) uint32; of one shorter than an n-gram, nothing but _EMPTY."""
        minhash, permutations, hashes = self._tools
        out = np.empty((len(texts), self.near.permutations), np.uint32)
        for row, text in enumerate(texts):
            grams = ngram_hashes(hashes(text.decode("utf-8")), self.near.ngram)
            grams = np.unique(grams >> np.uint64(32))
            made = minhash(
                len(out[row]), seed=SEED, scheme=SCHEME, permutations=permutations, hashfunc=_itself
            )
            for begin in range(0, len(grams), _SHINGLES):
                made.update_batch(grams[begin : begin + _SHINGLES].tolist())
            out[row] = made.hashvalues
        return out


def _itself(value: int) -> int:
    return value


class Signatures:
    """Signatures of documents on disk, in the order in which they are added."""

    def __init__(self, folder: Path, near: NearConfig) -> None:
        folder.mkdir(exist_ok=True)
        self.near, self.folder = near, folder
        self.bands, self._band_rows = bands_of(near)
        names = ["sources", "signatures", *(f"band-{i:03d}" for i in range(self.bands))]
        self._files = {name: open(folder / name, "ab") for name in names}  # noqa: SIM115
        self._width = {"sources": 2, "signatures": 4 * near.permutations}

    def keep(self, documents: int) -> bool:
        """Forget all but the first so many documents; false if there are fewer."""
        for name, file in self._files.items():
            size = documents * self._width.get(name, 8)
            if os.fstat(file.fileno()).st_size < size:
                return False
            file.truncate(size)
        return True

    def add(self, sources: list[int], signatures: np.ndarray) -> None:
        """Keep documents' signatures, (documents, permutations) uint32, and what they are from."""
        n = self._band_rows
        self._files["sources"].write(np.array(sources, np.uint16).tobytes())
        self._files["signatures"].write(signatures.tobytes())
        for i in range(self.bands):
            columns = signatures[:, i * n : (i + 1) * n].T.astype(np.uint64)
            self._files[f"band-{i:03d}"].write(joined(columns).tobytes())

    def flush(self) -> None:
        """Everything to the disk."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def near_duplicates(self) -> np.ndarray:
        """(documents,) bool: which to leave out. Closes the files."""
        self.close()
        sources = np.fromfile(self.folder / "sources", np.uint16)
        rank = np.empty(len(sources), np.int64)
        rank[np.argsort(sources, kind="stable")] = np.arange(len(sources))
        groups = _Groups(rank)
        with open(self.folder / "signatures", "rb") as file:
            for i in range(self.bands):
                keys = np.fromfile(self.folder / f"band-{i:03d}", np.uint64)
                for members in _equal(keys):
                    self._join(file.fileno(), members, groups)
        return groups.parent != np.arange(len(sources))

    def _join(self, file: int, members: np.ndarray, groups: "_Groups") -> None:
        """Put together those of one bucket that are near, each compared with the first ones in it."""
        members = members[np.argsort(groups.rank[members])]
        for place, leader in enumerate(members[:MAX_LEADERS].tolist()):
            roots = groups.roots(members[place:])
            others = members[place:][roots != roots[0]]
            if (roots == roots[0]).all():
                return
            first = self._read(file, [leader])
            if (first == _EMPTY).all():  # short documents share every band, and are not judged
                return
            for begin in range(0, len(others), _ROWS):
                some = others[begin : begin + _ROWS]
                alike = (self._read(file, some.tolist()) == first).mean(axis=1)
                for other in some[alike >= self.near.threshold].tolist():
                    groups.join(leader, other)

    def _read(self, file: int, documents: list[int]) -> np.ndarray:
        """(documents, permutations) uint32; not mapped, as mapped pages count as memory in use."""
        width = self._width["signatures"]
        found = b"".join(os.pread(file, width, width * each) for each in documents)
        return np.frombuffer(found, np.uint32).reshape(len(documents), -1)


class NearDuplicates:
    """Leaves out what `Signatures` found; a filter of a spool."""

    def __init__(self, left_out: np.ndarray, documents: list[int]) -> None:
        """`documents`: how many distinct ones each bucket has."""
        self._begins = [0, *np.cumsum(documents).tolist()]
        self._left_out = left_out

    def __call__(
        self, bucket: int, documents: Iterable[Document], counts: list[Counter[str]]
    ) -> Iterator[Document]:
        """The documents of a bucket that stay; counts `near_duplicate` by source."""
        for each in counts:
            each["near_duplicate"] += 0
        for number, document in enumerate(documents, self._begins[bucket]):
            if self._left_out[number]:
                counts[document[0]]["near_duplicate"] += 1
            else:
                yield document


class _Groups:
    """Disjoint sets of documents, each named by its member of lowest rank."""

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
    """Places of each key that stands more than once."""
    order = np.argsort(keys, kind="stable")
    new = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]]) != 0)
    ends = np.append(new[1:], len(keys))
    for i in np.flatnonzero(ends - new > 1):
        yield order[new[i] : ends[i]]
