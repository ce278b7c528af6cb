"""`chinchilla data`: documents -> held-out split -> tokenizer -> token shards -> manifest.

Everything is built inside `data_dir/.work` and renamed into place, the manifest last, so a folder
with a manifest is complete. A killed preparation is started over; the bytes that come out follow
from the documents and the settings alone, not from the order of files, the number of workers or
how often it was killed. (With corpus.max_documents the order decides which documents are read.)
"""

import dataclasses
import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from chinchilla.config import CorpusConfig, DataCommand, SourceConfig
from chinchilla.data.card import CARD, CARD_JSON, OVERLAPS, write_card
from chinchilla.data.corpus import read_documents
from chinchilla.data.encode import encode_batches, in_batches
from chinchilla.data.filters import gopher_rule
from chinchilla.data.manifest import MANIFEST, SPLITS, Manifest, Part, Source, Split, TokenizerInfo
from chinchilla.data.measure import SourceMeasure, measure
from chinchilla.data.mixture import whole_parts
from chinchilla.data.settings import (
    changed_files,
    corpus_record,
    differences,
    fingerprint,
    settings_of,
    source_files,
)
from chinchilla.data.shards import ShardWriter
from chinchilla.data.spool import Intake, Spool, split_position
from chinchilla.data.tokenizer import Tokenizer, train_tokenizer
from chinchilla.errors import DataError, InputError
from chinchilla.files import atomic_write, clean_leftovers, fsync_dir, writable_dir

TOKENIZER_FILE = "tokenizer.model"
WORK = ".work"
BYTES_PER_WORKER = 4 << 20  # less text than this does not pay for another process

Progress = Callable[[str, float, float], None]  # stage, done, total (0 = not known)


def prepare(command: DataCommand, progress: Progress | None = None) -> Manifest:
    """Prepare a token folder, or return at once if it is there with the same settings.

    Args:
        command: what to read, how to tokenise it, where to put it.
        progress: called with (stage, done, total): `read` and `tokenise` count bytes of text,
            `tokenizer` 0 and 1; a total of 0 is not known.

    Returns:
        The folder's manifest; `already_prepared` says whether anything was done.

    Raises:
        DataError: a corpus or tokenizer that cannot be used.
        InputError: data_dir not writable, in use, or prepared with other settings.
    """
    data_dir = writable_dir(Path(command.data_dir).expanduser(), "data_dir")
    progress = progress or (lambda stage, done, total: None)
    with _locked(data_dir), _disk_errors(data_dir):
        clean_leftovers(data_dir)  # of one that was killed, however late
        shutil.rmtree(data_dir / WORK, ignore_errors=True)
        if (data_dir / MANIFEST).exists():
            manifest = _already_prepared(command, data_dir)
            if manifest:
                if not ((data_dir / CARD).exists() and (data_dir / CARD_JSON).exists()):
                    write_card(data_dir, manifest)
                return manifest
        work = data_dir / WORK
        _clear(data_dir)
        work.mkdir()
        try:
            manifest = _build(command, work, progress)
            for file in [manifest.tokenizer.file, *_shard_files(manifest)]:
                os.replace(work / file, data_dir / file)
            fsync_dir(data_dir)
            write_card(data_dir, manifest)
            manifest.save(data_dir)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return manifest


def _build(command: DataCommand, work: Path, progress: Progress) -> Manifest:
    """All files but the manifest, in `work`."""
    sources = command.corpus.each()
    files = [fingerprint(name, path) for name, path in source_files(command)]
    rows = whole_parts([source.weight for source in sources])
    with Spool(work / "documents", len(sources)) as spool:
        _read(command, spool, progress)
        tokenizer = _tokenizer(command, spool, progress)
        with atomic_write(work / TOKENIZER_FILE, "wb") as file:
            file.write(tokenizer.model)

        dtype = "uint16" if tokenizer.vocab_size <= 65_536 else "uint32"
        names = [f"-{source.name}" if len(sources) > 1 else "" for source in sources]
        writers = {
            (number, split): ShardWriter(work, f"{split}{name}", command.shard_tokens)
            for number, name in enumerate(names)
            for split in SPLITS
        }
        documents = (
            (number, _split(key, command.held_out_fraction), text) for number, key, text in spool
        )
        done = 0
        n_workers = min(
            command.n_workers or os.cpu_count() or 1, spool.bytes // BYTES_PER_WORKER + 1
        )
        for batch, tokens in encode_batches(in_batches(documents), tokenizer, dtype, n_workers):
            writers[batch.source, batch.split].add(tokens, len(batch.texts), batch.bytes)
            done += batch.bytes
            progress("tokenise", done, spool.bytes)
        written = {which: writer.close() for which, writer in writers.items()}
        intake = spool.intake
    by_source = [
        Source(
            name=source.name,
            licence=source.licence,
            rows=rows[number],
            documents=intake[number].read,
            bytes=intake[number].read_bytes,
            dropped=dict(intake[number].dropped),
            paragraphs=intake[number].paragraphs,
            paragraph_bytes=intake[number].paragraph_bytes,
            splits={split: _part(source, split, written[number, split]) for split in SPLITS},
        )
        for number, source in enumerate(sources)
    ]
    return Manifest(
        corpus=corpus_record(command.corpus),
        tokenizer=TokenizerInfo(
            file=TOKENIZER_FILE,
            sha256=tokenizer.sha256,
            vocab_size=tokenizer.vocab_size,
            algorithm="given" if command.tokenizer.model else command.tokenizer.algorithm,
            eos_id=tokenizer.eos_id,
            lossless=tokenizer.lossless,
        ),
        dtype=dtype,
        splits={
            split: _together([written[number, split] for number in range(len(sources))])
            for split in SPLITS
        },
        dropped=dict(sum((x.dropped for x in intake), start=_no_drops(intake))),
        settings={**settings_of(command), "sources": files},
        sources=by_source,
    )


def make_tokenizer(
    command: DataCommand, progress: Progress | None = None
) -> tuple[Tokenizer, list[SourceMeasure]]:
    """Train the tokenizer that `prepare` would, or load the one given, and measure it by source.

    A model trained here is left in data_dir as tokenizer.model; one that was given stays where it is.

    Raises:
        DataError: a corpus or tokenizer that cannot be used.
        InputError: data_dir not writable, in use, or with prepared data.
    """
    data_dir = writable_dir(Path(command.data_dir).expanduser(), "data_dir")
    progress = progress or (lambda stage, done, total: None)
    sources, fraction = command.corpus.each(), command.held_out_fraction
    with _locked(data_dir), _disk_errors(data_dir):
        if (data_dir / MANIFEST).exists() and not command.tokenizer.model:
            raise InputError(
                f"data_dir={data_dir} holds data prepared with a tokenizer of its own. Choose another "
                f"data_dir, or measure that one: tokenizer.model={data_dir / TOKENIZER_FILE}."
            )
        clean_leftovers(data_dir)
        work = data_dir / WORK
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            with Spool(work / "documents", len(sources)) as spool:
                _read(command, spool, progress)
                tokenizer = _tokenizer(command, spool, progress)
                progress("measure", 0, 1)
                held_out = ((n, text) for n, key, text in spool if _split(key, fraction) != "train")
                found = measure(tokenizer, held_out, [source.name for source in sources])
                progress("measure", 1, 1)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        if not command.tokenizer.model:
            with atomic_write(data_dir / TOKENIZER_FILE, "wb") as file:
                file.write(tokenizer.model)
    return tokenizer, found


def _read(command: DataCommand, spool: Spool, progress: Progress) -> None:
    """All documents of all sources."""
    sources = command.corpus.each()
    for number, source in enumerate(sources):
        for text in read_documents(source):
            spool.add(text, number, gopher_rule(text) if source.gopher else "")
            progress("read", spool.bytes, 0.0)
        _check_split(source, spool.intake[number], command.held_out_fraction)
    spool.drop_paragraphs([source.dedup_paragraphs for source in sources])


def _no_drops(intake: list[Intake]) -> Counter[str]:
    """Zero for every reason; adding counters alone would lose those."""
    none: Counter[str] = Counter()
    none.update({reason: 0 for each in intake for reason in each.dropped})
    return none


def _part(source: SourceConfig, split: str, written: Split) -> Part:
    """A source's share of a split; none of them may be empty."""
    if written.tokens == 0:
        raise DataError(
            f"source {source.name!r} has no {split} documents that are not in the sources before it"
            " (or in paragraphs that stood before). Leave it out, or give it more text."
        )
    return Part(written.documents, written.tokens, written.bytes)


def _together(splits: list[Split]) -> Split:
    """One split out of its sources', one after the other."""
    if len(splits) == 1:
        return splits[0]
    hashes = "".join(split.sha256 for split in splits)
    return Split(
        documents=sum(split.documents for split in splits),
        tokens=sum(split.tokens for split in splits),
        bytes=sum(split.bytes for split in splits),
        sha256=hashlib.sha256(hashes.encode()).hexdigest(),
        shards=[shard for split in splits for shard in split.shards],
    )


def _tokenizer(command: DataCommand, spool: Spool, progress: Progress) -> Tokenizer:
    """The tokenizer given, or one trained on the sources in their shares."""
    config = command.tokenizer
    if config.model:
        return Tokenizer.load(Path(config.model).expanduser())
    progress("tokenizer", 0, 1)
    rows = whole_parts([source.weight for source in command.corpus.each()])
    sample = _sample(spool, command.held_out_fraction, config.train_mb, rows)
    tokenizer = train_tokenizer(
        sample, config.vocab_size, config.algorithm, config.split_digits, config.normalization
    )
    progress("tokenizer", 1, 1)
    return tokenizer


def _sample(spool: Spool, fraction: float, train_mb: float, rows: list[int]) -> Iterator[str]:
    """Training documents in key order, which is a fixed shuffle, until train_mb are full.

    Each source fills its share. No document gives more than 1/64 of that, so that a few long ones
    do not fill it.
    """
    left = [int(train_mb * 1e6 * part / sum(rows)) for part in rows]
    longest = [max(10_000, n // 64) for n in left]
    for source, key, text in spool:
        if max(left) <= 0:
            return
        if left[source] > 0 and _split(key, fraction) == "train":
            part = text[: min(longest[source], left[source])]
            left[source] -= len(part)
            yield part.decode("utf-8", errors="ignore")  # a character may be cut at the end


def _split(key: bytes, fraction: float) -> str:
    return "heldout" if split_position(key) < fraction else "train"


def _check_split(source: SourceConfig, intake: Intake, fraction: float) -> None:
    """Both splits need a document of every source."""
    what = "the corpus" if isinstance(source, CorpusConfig) else f"source {source.name!r}"
    if intake.documents == 0:
        raise DataError(f"{what} has no text: dropped {dict(intake.dropped)}.")
    if intake.lowest == intake.highest:
        raise DataError(
            f"{what} is one document, and the held-out split needs one of its own. "
            "Cut the text into several files, or part one with corpus.separator=blank."
        )
    if intake.lowest >= fraction or intake.highest < fraction:
        empty = "held-out" if intake.lowest >= fraction else "training"
        # A little above the lowest position, and so below the next unless they are very close.
        enough = min(intake.lowest * 1.001 + 1e-4, (intake.lowest + intake.highest) / 2)
        raise DataError(
            f"held_out_fraction={fraction:g} leaves the {empty} split of the "
            f"{intake.documents} documents of {what} empty. Use held_out_fraction={enough:.6g}, "
            "or more and shorter documents."
        )


def _already_prepared(command: DataCommand, data_dir: Path) -> Manifest | None:
    """The manifest there, if it has these settings; None if its shards are damaged."""
    manifest = Manifest.load(data_dir)
    before = {k: v for k, v in manifest.settings.items() if k != "sources"}
    changed = differences(before, settings_of(command))
    if not changed:
        changed = changed_files(manifest.settings["sources"], source_files(command))
    if changed:
        raise InputError(
            f"data_dir={data_dir} holds data prepared with other settings "
            f"({'; '.join(changed)}). Choose another data_dir."
        )
    try:
        manifest.check_sizes(data_dir)
    except DataError:
        return None
    return dataclasses.replace(manifest, already_prepared=True)


def _shard_files(manifest: Manifest) -> list[str]:
    return [shard.file for split in manifest.splits.values() for shard in split.shards]


def _clear(data_dir: Path) -> None:
    """Remove what an unfinished or damaged preparation left; nothing that is not ours.

    A tokenizer stays: it may be the person's, given as tokenizer.model.
    """
    for name in (MANIFEST, CARD, CARD_JSON):
        (data_dir / name).unlink(missing_ok=True)
    for path in data_dir.glob(OVERLAPS):  # of other tokens
        path.unlink()
    for path in data_dir.glob("*.bin"):
        if re.fullmatch(r"(train|heldout)(-[\w.-]+)?-\d{5,}\.bin", path.name):
            path.unlink()


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """One preparation per folder; the lock goes with the process, however that ends."""
    with open(data_dir / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise InputError(
                    f"data_dir={data_dir} is being prepared by another process. "
                    "Wait for it, or choose another data_dir."
                ) from None
            # A file system without locks: go on, as one process usually is alone.
        yield


@contextmanager
def _disk_errors(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"data_dir={data_dir}: {error.strerror}. Preparing needs about 1.5 times the size "
            "of the text. Choose another data_dir."
        ) from None
