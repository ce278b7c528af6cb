"""The stages of a preparation, and their results in the working folder.

    read        documents of each source      -> source-0/, source-1/, ...
    tokenizer   trained on a sample, or given -> tokenizer.model
    encode      documents                     -> shards (*.bin)

A result gets its name once it is complete, and is not made again: an interrupted preparation continues
with the source or stage that it was in.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from chinchilla.config import CorpusConfig, DataCommand, SourceConfig
from chinchilla.core.errors import DataError
from chinchilla.core.files.writing import atomic_write
from chinchilla.data.corpus import read_documents
from chinchilla.data.corpus_files import corpus_files, find_files
from chinchilla.data.manifest import SPLITS, Source, dropped_text
from chinchilla.data.mixture import whole_parts
from chinchilla.data.prepare.encode import Encoder, dtype_of, in_batches, in_pool
from chinchilla.data.prepare.shuffle_dedup import (
    N_BUCKETS,
    Documents,
    SourceCounts,
    split_of,
    write_source,
)
from chinchilla.data.shards import ShardWriter
from chinchilla.data.tokenizer import Tokenizer, train_tokenizer

TOKENIZER_FILE = "tokenizer.model"
BYTES_PER_WORKER = 4 << 20  # with less text than this, another process costs more than it saves

Progress = Callable[[str, float, float], None]  # stage, done, total (0 = not known)


def read(command: DataCommand, work: Path, progress: Progress) -> Documents:
    """Read all documents of all sources to disk.

    Raises:
        DataError: a source cannot be read, or has no documents for a split.
    """
    sources = command.corpus.each()
    folders = [work / f"source-{number}" for number in range(len(sources))]
    total, before = _text_bytes(sources), 0
    for source, folder in zip(sources, folders, strict=True):
        done = 0
        for done in write_source(read_documents(source), folder):
            progress("read", before + done, total)
        [counts] = Documents([folder]).counts
        _check_splits(source, counts, command.validation_fraction)
        before += counts.read_bytes
    return Documents(folders)


def _text_bytes(sources: list[SourceConfig]) -> float:
    """Size of all files, about that of their text; 0 if the files do not determine it."""
    total = 0
    for source in sources:
        files = corpus_files(source)
        plain = all(path.suffix in (".txt", ".json", ".jsonl") for path in files)
        if source.max_documents or not files or not plain:
            return 0.0
        total += sum(path.stat().st_size for path in files)
    return float(total)


def _check_splits(source: SourceConfig, counts: SourceCounts, fraction: float) -> None:
    """Check that the source has a document in each split."""
    name = "the corpus" if isinstance(source, CorpusConfig) else f"source {source.name!r}"
    if counts.written == 0:
        where = f" in {', '.join(source.paths[:4])}" if source.paths else ""
        raise DataError(
            f"{name} has no text: left out {dropped_text(counts.dropped)}{where}. Give files with text."
        )
    if counts.lowest == counts.highest:
        raise DataError(
            f"{name} is one document, and both the training and the validation split need one. "
            "Cut the text into several files, or set corpus.separator=blank."
        )
    if not counts.lowest < fraction <= counts.highest:
        empty = "validation" if counts.lowest >= fraction else "training"
        # Slightly above the lowest position, and below the next unless they are very close.
        enough = min(counts.lowest * 1.001 + 1e-4, (counts.lowest + counts.highest) / 2)
        raise DataError(
            f"validation_fraction={fraction:g} leaves the {empty} split of the {counts.written} "
            f"documents of {name} empty. Use validation_fraction={enough:.6g}, or give it more or "
            "shorter documents."
        )


def make_tokenizer(
    command: DataCommand, documents: Documents, work: Path, progress: Progress
) -> Tokenizer:
    """The tokenizer given, the one of an interrupted preparation, or one trained now.

    Raises:
        DataError: the tokenizer given cannot be used, or the text does not suffice to train one.
    """
    config, path = command.tokenizer, work / TOKENIZER_FILE
    if config.model:
        tokenizer = Tokenizer.load(Path(config.model).expanduser())
    elif path.exists():
        return Tokenizer.load(path)
    else:
        progress("tokenizer", 0, 1)
        rows = whole_parts([source.weight for source in command.corpus.each()])
        tokenizer = train_tokenizer(
            TrainingSample(documents, command.validation_fraction, config.train_mb, rows),
            config.vocab_size,
            config.algorithm,
            config.split_digits,
            config.normalization,
        )
        progress("tokenizer", 1, 1)
    with atomic_write(path, "wb") as file:
        file.write(tokenizer.model)
    return tokenizer


@dataclass(frozen=True)
class TrainingSample:
    """Training documents in key order, up to `train_mb` MB in all, sources in their shares of `rows`.

    A document contributes at most 1/64 of its source's share, so that long ones do not dominate.
    """

    documents: Documents
    validation_fraction: float
    train_mb: float
    rows: list[int]

    def __iter__(self) -> Iterator[str]:
        left = [int(self.train_mb * 1e6 * part / sum(self.rows)) for part in self.rows]
        longest = [max(10_000, n // 64) for n in left]
        for source, key, text in self.documents:
            if max(left) <= 0:
                return
            if left[source] > 0 and split_of(key, self.validation_fraction) == "train":
                part = text[: min(longest[source], left[source])]
                left[source] -= len(part)
                yield part.decode("utf-8", errors="ignore")  # the cut may be inside a character


def encode(
    command: DataCommand,
    documents: Documents,
    tokenizer: Tokenizer,
    work: Path,
    progress: Progress,
) -> list[Source]:
    """Encode all documents into shards.

    Raises:
        DataError: all documents of a source in one split are also in sources before it.
        InputError: a worker process was killed.
    """
    configs, dtype = command.corpus.each(), dtype_of(tokenizer)
    writers = {
        (number, split): ShardWriter(
            work,
            f"{split}-{config.name}" if len(configs) > 1 else split,
            command.shard_tokens,
            dtype,
            tokenizer.eos_id,
        )
        for number, config in enumerate(configs)
        for split in SPLITS
    }
    dropped = [Counter({"duplicate": 0, **counts.dropped}) for counts in documents.counts]

    def by_split() -> Iterator[tuple[tuple[int, str], bytes]]:
        for bucket in range(N_BUCKETS):
            distinct, repeated = documents.read(bucket)
            for total, each in zip(dropped, repeated, strict=True):
                total.update(each)
            for source, key, text in distinct:
                yield (source, split_of(key, command.validation_fraction)), text

    n_workers = command.n_workers or os.cpu_count() or 1
    n_workers = min(n_workers, documents.bytes // BYTES_PER_WORKER + 1)
    done = 0
    for batch, tokens in in_pool(
        in_batches(by_split()), Encoder(tokenizer.model, dtype), n_workers
    ):
        writers[batch.kind].add(tokens, len(batch.texts), batch.bytes)
        done += batch.bytes
        progress("tokenize", done, documents.bytes)
    for (number, split), writer in writers.items():
        if writer.tokens == 0:
            raise DataError(
                f"source {configs[number].name!r} has no {split} documents that are not in the sources "
                "before it. Omit it, or give it more text."
            )
    return [
        Source(
            name=config.name,
            licence=config.licence,
            rows=rows,
            documents=counts.read,
            bytes=counts.read_bytes,
            dropped=dict(dropped[number]),
            files_left_out={k: len(v) for k, v in sorted(find_files(config).left_out.items())},
            splits={split: writers[number, split].close() for split in SPLITS},
        )
        for number, (config, rows, counts) in enumerate(
            zip(configs, whole_parts([c.weight for c in configs]), documents.counts, strict=True)
        )
    ]
