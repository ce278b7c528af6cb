"""`chinchilla data`: documents -> validation split -> tokenizer -> token shards -> manifest.

Everything is built inside `data_dir/.chinchilla-work` and renamed into place, the manifest last, so a folder
with a manifest is complete. A preparation that was killed or interrupted goes on where it was; the
bytes that come out follow from the documents and the settings alone, not from the order of files, the
number of workers or how often it was killed. (With corpus.max_documents the order decides which
documents are read.)
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chinchilla.config import DataCommand, SourceConfig
from chinchilla.core.errors import DataError, InputError, UnreachableError
from chinchilla.core.files import atomic_write, clean_leftovers, fsync_dir, writable_dir
from chinchilla.data.data_card import CARD, CARD_JSON, write_card
from chinchilla.data.manifest import MANIFEST, SPLITS, Manifest, Part, Source, Split, TokenizerInfo
from chinchilla.data.mixture import whole_parts
from chinchilla.data.prepare.encode import dtype_of
from chinchilla.data.prepare.fingerprint import (
    changed_files,
    corpus_record,
    differences,
    fingerprint,
    settings_of,
    source_files,
)
from chinchilla.data.prepare.near_duplicates import need_datasketch
from chinchilla.data.prepare.ownership import (
    Placed,
    finish_removing,
    given_here,
    make_room,
    refuse_another_model,
    refuse_another_size,
    refuse_others,
)
from chinchilla.data.prepare.resume_state import Unfinished, digest_of
from chinchilla.data.prepare.shuffle_dedup import NotAsWritten
from chinchilla.data.prepare.stages import TOKENIZER_FILE, Progress, Stages, split_of
from chinchilla.data.prepare.tokenizer_stats import SourceMeasure, measure
from chinchilla.data.tokenizer import Tokenizer

WORK, WORK_TOKENIZER = ".chinchilla-work", ".chinchilla-work-tokenizer"

Files = list[dict[str, Any]]  # fingerprints of the text


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
    if command.dedup == "near":
        need_datasketch()
    with _locked(data_dir), _disk_errors(data_dir):
        clean_leftovers(data_dir)  # of one that was killed, however late
        work, damaged, given = data_dir / WORK, Placed(), given_here(command, data_dir)
        if (data_dir / MANIFEST).exists():
            manifest = Manifest.load(data_dir)
            if _already_prepared(command, data_dir, manifest):
                told = _as_told_now(command, manifest)
                cards = (data_dir / CARD).exists() and (data_dir / CARD_JSON).exists()
                if told != manifest or not cards:
                    write_card(data_dir, told)
                    told.save(data_dir)
                shutil.rmtree(work, ignore_errors=True)
                return dataclasses.replace(told, already_prepared=True)
            damaged = Placed.of(manifest, tokenizer=not command.tokenizer.model).without(given)
            if Placed.load(work).data_id:  # left by the preparation that this manifest ended
                shutil.rmtree(work)
        else:
            finish_removing(data_dir, work, given)
        ours = Placed.load(work).without(given)
        refuse_others(command, data_dir, damaged if damaged.files else ours)
        files = [fingerprint(name, path) for name, path in source_files(command)]
        manifest = _made(command, data_dir, ours, damaged, files, progress)
        ours.remove_reports(data_dir, keep=manifest.data_id)
        there = damaged if damaged.files else Placed(ours.data_id)
        refuse_others(command, data_dir, there)  # that came in the meantime
        if damaged.files:
            make_room(damaged, data_dir, work, manifest.data_id)
        model = data_dir / manifest.tokenizer.file
        ours = Placed.of(manifest, tokenizer=not model.exists())
        ours.save(work)
        for file in ours.files:
            if file not in (CARD, CARD_JSON):
                os.replace(work / file, data_dir / file)
        fsync_dir(data_dir)
        write_card(data_dir, manifest)
        manifest.save(data_dir)
        shutil.rmtree(work, ignore_errors=True)
    return manifest


def _made(
    command: DataCommand,
    data_dir: Path,
    ours: Placed,
    damaged: Placed,
    files: Files,
    progress: Progress,
) -> Manifest:
    """Go on with what was left unfinished, if it is of the same text and settings; else begin.

    Damaged data stays where it is.
    """
    work = data_dir / WORK
    asked = digest_of(command, files)
    state = Unfinished.load(work, asked)
    try:
        if state is not None:
            ours.take_back(data_dir, work)
            with contextlib.suppress(NotAsWritten):
                return _build(command, data_dir, state, damaged, files, progress)
        ours.remove(data_dir, keep=ours.data_id)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        if ours.data_id:
            Placed(ours.data_id).save(work)
        return _build(command, data_dir, Unfinished(asked), damaged, files, progress)
    except UnreachableError:
        raise
    except (DataError, OSError):  # what would stop the next time too keeps no room on the disk
        shutil.rmtree(work, ignore_errors=True)
        if ours.data_id:
            Placed(ours.data_id).save(work)
        raise


def _build(
    command: DataCommand,
    data_dir: Path,
    state: Unfinished,
    damaged: Placed,
    files: Files,
    progress: Progress,
) -> Manifest:
    """All files but the manifest, in the working folder."""
    work, sources = data_dir / WORK, command.corpus.each()
    rows = whole_parts([source.weight for source in sources])
    stages = Stages(command, work, state, progress)
    with stages.spool as spool:
        stages.read()
        stages.leave_out()
        tokenizer = stages.tokenizer(work / TOKENIZER_FILE, data_dir / TOKENIZER_FILE)
        if TOKENIZER_FILE not in damaged.files:
            refuse_another_model(data_dir / TOKENIZER_FILE, tokenizer.model)
        written = stages.encode(tokenizer)
        left_out = [spool.dropped(number) for number in range(len(sources))]
        intake = spool.intake
    by_source = []
    for number, source in enumerate(sources):
        dropped = dict(left_out[number])
        by_source.append(
            Source(
                name=source.name,
                licence=source.licence,
                rows=rows[number],
                documents=intake[number].read,
                bytes=intake[number].read_bytes,
                paragraphs=dropped.pop("paragraphs", 0),
                paragraph_bytes=dropped.pop("paragraph_bytes", 0),
                dropped=dropped,
                splits={split: _part(source, split, written[number, split]) for split in SPLITS},
            )
        )
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
        dtype=dtype_of(tokenizer),
        splits={
            split: _together([written[number, split] for number in range(len(sources))])
            for split in SPLITS
        },
        dropped={
            reason: sum(source.dropped.get(reason, 0) for source in by_source)
            for reason in dict.fromkeys(key for source in by_source for key in source.dropped)
        },
        settings={**settings_of(command), "sources": files},
        sources=by_source,
    )


def _as_told_now(command: DataCommand, manifest: Manifest) -> Manifest:
    """The manifest with the licences that are given now; they decide no byte."""
    before, record = manifest.corpus, corpus_record(command.corpus)
    pairs = [
        (record, before),
        *zip(record.get("sources", []), before.get("sources", []), strict=False),
    ]
    for now, then in pairs:
        now["licence"] = now["licence"] or then.get("licence", "")
    sources = [
        dataclasses.replace(there, licence=source.licence or there.licence)
        for there, source in zip(manifest.sources, command.corpus.each(), strict=False)
    ]
    record["name"] = before.get("name", record["name"])
    return dataclasses.replace(manifest, corpus=record, sources=sources)


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
    sources, fraction = command.corpus.each(), command.validation_fraction
    if command.dedup == "near":
        need_datasketch()
    with _locked(data_dir), _disk_errors(data_dir):
        if (data_dir / MANIFEST).exists() and not command.tokenizer.model:
            raise InputError(
                f"data_dir={data_dir} holds data prepared with a tokenizer of its own. Choose another "
                f"data_dir, or measure that one: tokenizer.model={data_dir / TOKENIZER_FILE}."
            )
        clean_leftovers(data_dir)
        if not command.tokenizer.model:
            refuse_another_size(command, data_dir / TOKENIZER_FILE)
        work = data_dir / WORK_TOKENIZER
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            stages = Stages(command, work, Unfinished(""), progress)
            with stages.spool as spool:
                stages.read()
                stages.leave_out()
                tokenizer = stages.tokenizer()
                if not command.tokenizer.model:
                    refuse_another_model(data_dir / TOKENIZER_FILE, tokenizer.model)
                progress("measure", 0, 1)
                held_out = ((n, t) for n, key, t in spool if split_of(key, fraction) != "train")
                found = measure(tokenizer, held_out, [source.name for source in sources])
                progress("measure", 1, 1)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        if not (command.tokenizer.model or (data_dir / TOKENIZER_FILE).exists()):
            with atomic_write(data_dir / TOKENIZER_FILE, "wb") as file:
                file.write(tokenizer.model)
    return tokenizer, found


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


def _already_prepared(command: DataCommand, data_dir: Path, manifest: Manifest) -> bool:
    """Whether the data there is whole; data of other settings is refused."""
    before = {k: v for k, v in manifest.settings.items() if k != "sources"}
    changed = differences(before, settings_of(command))
    if not changed:
        sources = command.corpus.each()
        ordered = any(source.max_documents or source.format == "hub" for source in sources)
        recorded = manifest.settings["sources"]
        files = source_files(command)
        if not recorded:  # as it was of a hub data set that lies in a folder
            files = [] if all(source.format == "hub" for source in sources) else files
        changed = changed_files(recorded, files, ordered)
    if changed:
        raise InputError(
            f"data_dir={data_dir} holds data prepared with other settings "
            f"({'; '.join(changed)}). Choose another data_dir."
        )
    try:
        manifest.check_sizes(data_dir)
    except DataError:
        return False
    return True


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """One preparation per folder; the lock goes with the process, however that ends."""
    with open(data_dir / ".lock", "a") as file:
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
