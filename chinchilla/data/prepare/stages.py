"""The stages of preparing, each of which goes on where it was stopped.

    read       documents into the spool
    near       which are nearly the same (dedup=near), and which paragraphs stood before
    tokenizer  trained on a sample, or the one given
    encode     documents into shards

Every CHECKPOINT_SECONDS what is there goes to the disk, and then into the state.
"""

import hashlib
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from chinchilla.config import CorpusConfig, DataCommand, SourceConfig
from chinchilla.core.errors import DataError
from chinchilla.core.files import atomic_write
from chinchilla.data.corpus import corpus_files, read_documents
from chinchilla.data.manifest import SPLITS, Split
from chinchilla.data.mixture import whole_parts
from chinchilla.data.prepare.encode import Encoder, dtype_of, in_batches, in_pool
from chinchilla.data.prepare.filters import gopher_rule
from chinchilla.data.prepare.near_duplicates import NearDuplicates, Signatures, Signer
from chinchilla.data.prepare.paragraphs import Repeats
from chinchilla.data.prepare.resume_state import Unfinished
from chinchilla.data.prepare.shuffle_dedup import (
    N_BUCKETS,
    Intake,
    NotAsWritten,
    Spool,
    document_key,
    split_position,
)
from chinchilla.data.shards import ShardWriter
from chinchilla.data.tokenizer import Tokenizer, train_tokenizer

TOKENIZER_FILE = "tokenizer.model"
BYTES_PER_WORKER = 4 << 20  # less text than this does not pay for another process
CHECKPOINT_SECONDS = 30.0
MODEST = 0.2  # validation_fraction that may be advised: it holds for every source

Progress = Callable[[str, float, float], None]  # stage, done, total (0 = not known)


class Stages:
    """One preparation in a working folder."""

    def __init__(
        self, command: DataCommand, work: Path, state: Unfinished, progress: Progress
    ) -> None:
        self.command, self.work, self.state, self.progress = command, work, state, progress
        self.sources = command.corpus.each()
        self.rows = whole_parts([source.weight for source in self.sources])
        told = state.spool if state.spool.intake else None
        self.spool = Spool(work / "documents", len(self.sources), told)
        self._at = state.source, state.documents  # where reading is
        self._saved = time.monotonic()

    def _due(self) -> bool:
        return time.monotonic() - self._saved >= CHECKPOINT_SECONDS

    def _save(self) -> None:
        if self._at != (self.state.source, self.state.documents):
            self.state.spool = self.spool.sync()
            self.state.source, self.state.documents = self._at
        self.state.save(self.work)
        self._saved = time.monotonic()

    def _n_workers(self) -> int:
        wanted = self.command.n_workers or os.cpu_count() or 1
        return min(wanted, self.spool.bytes // BYTES_PER_WORKER + 1)

    def read(self) -> None:
        """All documents of all sources."""
        spool, state = self.spool, self.state
        total = _size_of(self.sources)
        for number in range(state.source, len(self.sources)):
            source = self.sources[number]
            texts = read_documents(source)
            if number == state.source and state.documents:
                self._pass_over(texts)
            for given, text in enumerate(texts, spool.intake[number].read + 1):
                spool.add(text, number, gopher_rule(text) if source.gopher else "")
                self.progress("read", sum(each.read_bytes for each in spool.intake), total)
                self._at = number, given
                if self._due():
                    self._save()
            _check_split(source, spool.intake[number], self.command.validation_fraction)
        self._at = len(self.sources), 0

    def _pass_over(self, texts: Iterator[str]) -> None:
        """Read up to where the source was stopped; the document there must be the one it was."""
        last, done = "", 0
        for _ in range(self.state.documents):
            last = next(texts, "")
            done += len(last)
            self.progress("pass over what was read", done, self.spool.bytes)
        if document_key(last.encode("utf-8", "surrogatepass")).hex() != self.spool.state.last:
            raise NotAsWritten("the documents are other ones now.")

    def leave_out(self) -> None:
        """Find near duplicates, then repeated paragraphs among what stays."""
        if self.command.dedup == "near":
            self.spool.filters.append(self._near())
        shortest = [source.dedup_paragraphs for source in self.sources]
        if any(shortest):
            buckets = (self.spool.bucket(number) for number in range(N_BUCKETS))
            self.spool.filters.append(Repeats(buckets, shortest))

    def _near(self) -> NearDuplicates:
        found = self.work / "near.npy"
        distinct = self.state.distinct
        if len(distinct) < N_BUCKETS or not found.exists():
            signatures = Signatures(self.work / "near", self.command.near)
            if not signatures.keep(sum(distinct)):
                raise NotAsWritten("signatures are missing.")
            self._sign(signatures)
            left_out = signatures.near_duplicates()
            with atomic_write(found, "wb") as file:
                np.save(file, left_out, allow_pickle=False)
            self._save()
            shutil.rmtree(self.work / "near")
        return NearDuplicates(np.load(found, allow_pickle=False), distinct)

    def _sign(self, signatures: Signatures) -> None:
        """Signatures of all documents of the buckets that have none yet."""
        came: deque[int] = deque()  # source of each document on its way
        sizes: dict[int, int] = {}

        def documents() -> Iterator[Any]:
            for number in range(len(self.state.distinct), N_BUCKETS):
                bucket = self.spool.bucket(number)
                sizes[number] = len(bucket)
                for source, _, text in bucket:
                    came.append(source)
                    yield (0, "sign"), text
                if number + 1 == N_BUCKETS or self._due():
                    yield number + 1

        done = 0
        work = Signer(self.command.near)
        for batch, made in in_pool(in_batches(documents()), work, self._n_workers()):
            signatures.add([came.popleft() for _ in batch.texts], made)
            done += batch.bytes
            self.progress("near duplicates", done, self.spool.bytes)
            if batch.mark:
                begun = len(self.state.distinct)
                self.state.distinct += [sizes[i] for i in range(begun, batch.mark)]
                if self._due():
                    signatures.flush()
                    self._save()

    def tokenizer(self, *before: Path) -> Tokenizer:
        """The tokenizer given; one that `before` holds, if it was made here; or one trained now.

        Trained on training documents in key order, which is a fixed shuffle, sources in their shares.
        """
        config = self.command.tokenizer
        if config.model:
            return Tokenizer.load(Path(config.model).expanduser())
        for path in before:
            if path.is_file() and _sha256(path) == self.state.tokenizer:
                return Tokenizer.load(path)
        self.progress("tokenizer", 0, 1)
        sample = sample_of(self.spool, self.command.validation_fraction, config.train_mb, self.rows)
        made = train_tokenizer(
            sample, config.vocab_size, config.algorithm, config.split_digits, config.normalization
        )
        self.progress("tokenizer", 1, 1)
        return made

    def encode(self, tokenizer: Tokenizer) -> dict[tuple[int, str], Split]:
        """All documents into shards: (source, split) -> what is in them."""
        with atomic_write(self.work / TOKENIZER_FILE, "wb") as file:
            file.write(tokenizer.model)
        dtype = dtype_of(tokenizer)
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
        state, spool = self.state, self.spool
        if state.tokenizer == tokenizer.sha256:
            for number, counts in enumerate(state.left_out):
                spool.left_out[number] = [Counter(each) for each in counts]
            for (number, split), writer in writers.items():
                if f"{number}/{split}" in state.written:
                    writer.resume(state.written[f"{number}/{split}"])
        else:
            state.tokenizer, state.left_out, state.written = tokenizer.sha256, [], {}
        done = sum(writer.bytes for writer in writers.values())
        encoder = Encoder(tokenizer.model, dtype)
        batches = in_batches(self._in_splits(len(state.left_out)))
        for batch, tokens in in_pool(batches, encoder, self._n_workers()):
            if batch.texts:
                writers[batch.kind].add(tokens, len(batch.texts), batch.bytes)
            done += batch.bytes
            self.progress("tokenise", done, spool.bytes)
            if batch.mark:
                state.written = {f"{n}/{split}": w.sync() for (n, split), w in writers.items()}
                state.left_out = [
                    [dict(each) for each in counts] for counts in spool.left_out[: batch.mark]
                ]
                self._save()
        return {which: writer.close() for which, writer in writers.items()}

    def _in_splits(self, first: int) -> Iterator[Any]:
        """Documents with their source and split, and after each bucket how many are through."""
        fraction = self.command.validation_fraction
        for number in range(first, N_BUCKETS):
            for source, key, text in self.spool.bucket(number):
                yield (source, split_of(key, fraction)), text
            if self._due():  # a mark cuts batches short
                yield number + 1


def _size_of(sources: list[SourceConfig]) -> float:
    """Bytes of all files, which is a little more than their text; 0 where that says nothing of it."""
    files = [path for source in sources for path in corpus_files(source)]
    plain = all(path.suffix in (".txt", ".json", ".jsonl") for path in files)
    if not plain or any(source.max_documents or not corpus_files(source) for source in sources):
        return 0.0
    return float(sum(path.stat().st_size for path in files))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def split_of(key: bytes, fraction: float) -> str:
    """train or validation, by the document's key."""
    return "validation" if split_position(key) < fraction else "train"


def sample_of(spool: Spool, fraction: float, train_mb: float, rows: list[int]) -> Iterator[str]:
    """Training documents in key order until train_mb are full.

    Each source fills its share. No document gives more than 1/64 of that, so that a few long ones
    do not fill it.
    """
    left = [int(train_mb * 1e6 * part / sum(rows)) for part in rows]
    longest = [max(10_000, n // 64) for n in left]
    for source, key, text in spool:
        if max(left) <= 0:
            return
        if left[source] > 0 and split_of(key, fraction) == "train":
            part = text[: min(longest[source], left[source])]
            left[source] -= len(part)
            yield part.decode("utf-8", errors="ignore")  # a character may be cut at the end


def _check_split(source: SourceConfig, intake: Intake, fraction: float) -> None:
    """Both splits need a document of every source."""
    what = "the corpus" if isinstance(source, CorpusConfig) else f"source {source.name!r}"
    if intake.documents == 0:
        dropped = {"duplicate": 0, **intake.dropped}
        raise DataError(f"{what} has no text: dropped {dropped}.")
    if intake.lowest == intake.highest:
        raise DataError(
            f"{what} is one document, and the validation split needs one of its own. "
            "Cut the text into several files, or part one with corpus.separator=blank."
        )
    if intake.lowest >= fraction or intake.highest < fraction:
        empty = "validation" if intake.lowest >= fraction else "training"
        # A little above the lowest position, and so below the next unless they are very close.
        enough = min(intake.lowest * 1.001 + 1e-4, (intake.lowest + intake.highest) / 2)
        advice = (
            f"Use validation_fraction={enough:.6g}, or more and shorter documents."
            if enough <= max(MODEST, fraction)
            else "Give it more or shorter documents, put it into another source, or leave it out."
        )
        raise DataError(
            f"validation_fraction={fraction:g} leaves the {empty} split of the "
            f"{intake.documents} documents of {what} empty. {advice}"
        )
