"""The stages of a preparation. Each continues where an interrupted run stopped.

    read        documents into buckets on disk
    filter      find near duplicates (dedup=near) and repeated paragraphs
    tokenizer   train one on a sample, or load the one given
    encode      documents into shards

Every CHECKPOINT_SECONDS of reading and encoding, everything so far is flushed to the disk and then
described in `state.json`. A resumed stage cuts off what was written after that, so its output is
identical to that of an uninterrupted run.
"""

import os
import shutil
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chinchilla.config import CorpusConfig, DataCommand, SourceConfig
from chinchilla.core.errors import DataError, InputError
from chinchilla.core.files import atomic_write, read_json, sha256_file, write_json
from chinchilla.core.json_codec import decode
from chinchilla.data.corpus import corpus_files, read_documents
from chinchilla.data.manifest import SPLITS, Split
from chinchilla.data.mixture import whole_parts
from chinchilla.data.prepare.encode import Encoder, dtype_of, in_batches, in_pool
from chinchilla.data.prepare.filters import RepeatedParagraphs, gopher_rule
from chinchilla.data.prepare.install import TOKENIZER_FILE
from chinchilla.data.prepare.near_duplicates import NearDuplicates, Signer, find_near_duplicates
from chinchilla.data.prepare.shuffle_dedup import (
    N_BUCKETS,
    Buckets,
    BucketState,
    Dropped,
    SourceCounts,
    document_key,
    split_of,
)
from chinchilla.data.shards import ResumeError, ShardWriter
from chinchilla.data.tokenizer import Tokenizer, train_tokenizer

STATE = "state.json"
BYTES_PER_WORKER = 4 << 20  # with less text than this, another process costs more than it saves
CHECKPOINT_SECONDS = 30.0
MAX_ADVISED_FRACTION = 0.2  # largest validation_fraction to suggest, as it applies to every source

Progress = Callable[[str, float, float], None]  # stage, done, total (0 = not known)


@dataclass
class ResumeState:
    """The part of an unfinished preparation that is safely on the disk.

    Attributes:
        digest: of the settings and source files (`resume_digest`).
        buckets: documents read.
        source, documents: the source being read and the number of its documents read; the number
            of sources once all are read.
        tokenizer: SHA-256 of the tokenizer, once there is one.
        encoded: number of buckets that are fully encoded.
        dropped: per source, what was left out of these buckets, by reason.
        written: `source/split` -> its shards.
    """

    digest: str
    buckets: BucketState = field(default_factory=BucketState)
    source: int = 0
    documents: int = 0
    tokenizer: str = ""
    encoded: int = 0
    dropped: list[dict[str, int]] = field(default_factory=list)
    written: dict[str, Split] = field(default_factory=dict)

    def save(self, work: Path) -> None:
        """Write state.json atomically."""
        write_json(work / STATE, asdict(self))

    @staticmethod
    def load(work: Path, digest: str) -> "ResumeState | None":
        """The state in a working folder; None if there is none, it is damaged or of other data."""
        try:
            state: ResumeState = decode(ResumeState, read_json(work / STATE, "state"), STATE)
        except InputError:
            return None
        return state if state.digest == digest else None


class Stages:
    """One preparation in a working folder. Call the stages in order, inside `with stages.buckets`.

    Attributes:
        buckets: the documents.
        dropped: per source, everything that was left out, by reason; complete after `encode`.
    """

    def __init__(
        self, command: DataCommand, work: Path, state: ResumeState, progress: Progress
    ) -> None:
        self.command, self.work, self.state, self.progress = command, work, state, progress
        self.sources = command.corpus.each()
        self.rows = whole_parts([source.weight for source in self.sources])
        before = state.buckets if state.buckets.sources else None
        self.buckets = Buckets(work / "documents", len(self.sources), before)
        self.dropped: Dropped = []
        self._position = state.source, state.documents  # of reading
        self._saved = time.monotonic()

    def _save_due(self) -> bool:
        return time.monotonic() - self._saved >= CHECKPOINT_SECONDS

    def _save(self) -> None:
        if self._position != (self.state.source, self.state.documents):
            self.state.buckets = self.buckets.sync()
            self.state.source, self.state.documents = self._position
        self.state.save(self.work)
        self._saved = time.monotonic()

    def _n_workers(self) -> int:
        n_workers = self.command.n_workers or os.cpu_count() or 1
        return min(n_workers, self.buckets.state.bytes // BYTES_PER_WORKER + 1)

    def read(self) -> None:
        """Read all documents of all sources into the buckets."""
        counts = self.buckets.state.sources
        total = _text_bytes(self.sources)
        for number in range(self.state.source, len(self.sources)):
            source = self.sources[number]
            texts = read_documents(source)
            if number == self.state.source and self.state.documents:
                self._skip_documents(texts)
            for n_read, text in enumerate(texts, counts[number].read + 1):
                self.buckets.add(text, number, gopher_rule(text) if source.gopher else "")
                self.progress("read", sum(each.read_bytes for each in counts), total)
                self._position = number, n_read
                if self._save_due():
                    self._save()
            _check_splits(source, counts[number], self.command.validation_fraction)
        self._position = len(self.sources), 0

    def _skip_documents(self, texts: Iterator[str]) -> None:
        """Skip the documents read before the interruption; the last one must be unchanged."""
        last, done = "", 0
        for _ in range(self.state.documents):
            last = next(texts, "")
            done += len(last)
            self.progress("skip documents already read", done, self.buckets.state.bytes)
        key = document_key(last.encode("utf-8", "surrogatepass")).hex()
        if key != self.buckets.state.last_key:
            raise ResumeError("the documents have changed.")

    def filter(self) -> None:
        """Find near duplicates, then repeated paragraphs in the documents that remain."""
        if self.command.dedup == "near":
            self.buckets.filters.append(self._near_duplicates())
        min_bytes = [source.dedup_paragraphs for source in self.sources]
        if any(min_bytes):
            documents = (self.buckets.read(number) for number in range(N_BUCKETS))
            self.buckets.filters.append(RepeatedParagraphs(documents, min_bytes))

    def _near_duplicates(self) -> NearDuplicates:
        """Find near duplicates, or load the result of an interrupted run."""
        path = self.work / "near.npz"
        if not path.exists():
            self._save()  # the result is valid only for the documents in this state
            sources, bucket_sizes = array("H"), []

            def documents() -> Iterator[tuple[tuple[int, str], bytes]]:
                for number in range(N_BUCKETS):
                    bucket = self.buckets.read(number)
                    bucket_sizes.append(len(bucket))
                    for source, _, text in bucket:
                        sources.append(source)
                        yield (0, ""), text

            def signatures() -> Iterator[np.ndarray]:
                done = 0
                signer = Signer(self.command.near)
                for batch, rows in in_pool(in_batches(documents()), signer, self._n_workers()):
                    yield rows
                    done += batch.bytes
                    self.progress("near duplicates", done, self.buckets.state.bytes)

            (folder := self.work / "near").mkdir(exist_ok=True)
            left_out = find_near_duplicates(signatures(), sources, self.command.near, folder)
            with atomic_write(path, "wb") as file:
                np.savez(file, left_out=left_out, bucket_sizes=bucket_sizes)
            shutil.rmtree(folder)
        with np.load(path, allow_pickle=False) as result:
            return NearDuplicates(result["left_out"], result["bucket_sizes"])

    def tokenizer(self) -> Tokenizer:
        """The tokenizer given, the one of an interrupted run, or one trained now.

        It is trained on training documents in key order (a fixed shuffle), sources in their shares.
        """
        config, path = self.command.tokenizer, self.work / TOKENIZER_FILE
        if config.model:
            tokenizer = Tokenizer.load(Path(config.model).expanduser())
        elif path.is_file() and sha256_file(path) == self.state.tokenizer:
            tokenizer = Tokenizer.load(path)
        else:
            self.progress("tokenizer", 0, 1)
            fraction = self.command.validation_fraction
            sample = training_sample(self.buckets, fraction, config.train_mb, self.rows)
            tokenizer = train_tokenizer(
                sample,
                config.vocab_size,
                config.algorithm,
                config.split_digits,
                config.normalization,
            )
            self.progress("tokenizer", 1, 1)
        with atomic_write(path, "wb") as file:
            file.write(tokenizer.model)
        return tokenizer

    def encode(self, tokenizer: Tokenizer) -> dict[tuple[int, str], Split]:
        """Encode all documents into shards; returns (source, split) -> its shards."""
        state, dtype = self.state, dtype_of(tokenizer)
        writers = {
            (number, split): ShardWriter(
                self.work,
                f"{split}-{source.name}" if len(self.sources) > 1 else split,
                self.command.shard_tokens,
                dtype,
                tokenizer.eos_id,
            )
            for number, source in enumerate(self.sources)
            for split in SPLITS
        }
        if state.tokenizer == tokenizer.sha256 and state.written:
            self.dropped = [Counter(each) for each in state.dropped]
            for (number, split), writer in writers.items():
                writer.resume(state.written[f"{number}/{split}"])
        else:
            state.tokenizer, state.encoded, state.written = tokenizer.sha256, 0, {}
            self.dropped = [
                Counter({"duplicate": 0, **counts.dropped}) for counts in self.buckets.state.sources
            ]
        done = sum(writer.bytes for writer in writers.values())
        batches = in_batches(self._documents_by_split(state.encoded))
        for batch, tokens in in_pool(batches, Encoder(tokenizer.model, dtype), self._n_workers()):
            if batch.texts:
                writers[batch.kind].add(tokens, len(batch.texts), batch.bytes)
            done += batch.bytes
            self.progress("tokenize", done, self.buckets.state.bytes)
            if batch.mark:
                state.encoded, state.dropped = batch.mark.buckets, batch.mark.dropped
                state.written = {f"{n}/{split}": w.sync() for (n, split), w in writers.items()}
                self._save()
        return {kind: writer.close() for kind, writer in writers.items()}

    def _documents_by_split(self, first: int) -> Iterator[Any]:
        """((source, split), text) of all documents from a bucket on, with a mark when a save is due."""
        for number in range(first, N_BUCKETS):
            for source, key, text in self.buckets.read(number, self.dropped):
                yield (source, split_of(key, self.command.validation_fraction)), text
            if self._save_due():
                yield _Mark(number + 1, [dict(each) for each in self.dropped])


@dataclass(frozen=True)
class _Mark:
    """The state to save once all documents before it are encoded."""

    buckets: int
    dropped: list[dict[str, int]]


def _text_bytes(sources: list[SourceConfig]) -> float:
    """Size of all files, about that of their text; 0 if the files do not determine it."""
    files = [path for source in sources for path in corpus_files(source)]
    plain = all(path.suffix in (".txt", ".json", ".jsonl") for path in files)
    if not plain or any(source.max_documents or not corpus_files(source) for source in sources):
        return 0.0
    return float(sum(path.stat().st_size for path in files))


def training_sample(
    buckets: Buckets, validation_fraction: float, train_mb: float, rows: list[int]
) -> Iterator[str]:
    """Training documents in key order, up to `train_mb` MB in all, sources in their shares.

    A document contributes at most 1/64 of its source's share, so that long ones do not dominate.
    """
    left = [int(train_mb * 1e6 * part / sum(rows)) for part in rows]
    longest = [max(10_000, n // 64) for n in left]
    for source, key, text in buckets:
        if max(left) <= 0:
            return
        if left[source] > 0 and split_of(key, validation_fraction) == "train":
            part = text[: min(longest[source], left[source])]
            left[source] -= len(part)
            yield part.decode("utf-8", errors="ignore")  # the cut may be inside a character


def _check_splits(source: SourceConfig, counts: SourceCounts, fraction: float) -> None:
    """Check that the source has a document in each split."""
    name = "the corpus" if isinstance(source, CorpusConfig) else f"source {source.name!r}"
    if counts.documents == 0:
        raise DataError(f"{name} has no text: dropped { ({'duplicate': 0, **counts.dropped}) }.")
    if counts.lowest == counts.highest:
        raise DataError(
            f"{name} is one document, and both the training and the validation split need one. "
            "Cut the text into several files, or set corpus.separator=blank."
        )
    if counts.lowest >= fraction or counts.highest < fraction:
        empty = "validation" if counts.lowest >= fraction else "training"
        # Slightly above the lowest position, and below the next unless they are very close.
        enough = min(counts.lowest * 1.001 + 1e-4, (counts.lowest + counts.highest) / 2)
        advice = (
            f"Use validation_fraction={enough:.6g}, or more and shorter documents."
            if enough <= max(MAX_ADVISED_FRACTION, fraction)
            else "Give it more or shorter documents, merge it into another source, or omit it."
        )
        raise DataError(
            f"validation_fraction={fraction:g} leaves the {empty} split of the "
            f"{counts.documents} documents of {name} empty. {advice}"
        )
