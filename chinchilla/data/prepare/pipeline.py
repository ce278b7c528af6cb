"""`chinchilla data`: documents -> validation split -> tokenizer -> token shards -> manifest.

Everything is built in `data_dir/.chinchilla-work` and then moved into place, the manifest last, so a
folder with a manifest is complete. An interrupted preparation is resumed by the next call. The tokens
depend only on the documents and the settings, not on the order of files, the number of workers or
interruptions. (With corpus.max_documents the order determines which documents are read.)
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chinchilla.config import DataCommand, SourceConfig
from chinchilla.core.errors import DataError, InputError, UnreachableError
from chinchilla.core.files import atomic_write, clean_leftovers, writable_dir
from chinchilla.data.data_card import CARD, CARD_JSON, overlap_summaries, write_card
from chinchilla.data.manifest import (
    MANIFEST,
    SPLITS,
    Manifest,
    Source,
    SourceSplit,
    Split,
    TokenizerInfo,
)
from chinchilla.data.prepare.encode import dtype_of
from chinchilla.data.prepare.fingerprint import (
    FileRecord,
    changed_files,
    corpus_record,
    differences,
    file_record,
    resume_digest,
    settings_of,
    source_files,
)
from chinchilla.data.prepare.install import (
    TOKENIZER_FILE,
    install,
    refuse_foreign_files,
    refuse_other_tokenizer,
)
from chinchilla.data.prepare.near_duplicates import require_datasketch
from chinchilla.data.prepare.shuffle_dedup import split_of
from chinchilla.data.prepare.stages import Progress, ResumeState, Stages
from chinchilla.data.shards import ResumeError
from chinchilla.data.tokenizer import Tokenizer, TokenizerStats, tokenizer_stats

WORK, WORK_TOKENIZER = ".chinchilla-work", ".chinchilla-work-tokenizer"


def prepare(command: DataCommand, progress: Progress | None = None) -> Manifest:
    """Prepare a token folder, or return at once if it was prepared with the same settings.

    Args:
        command: what to read, how to tokenize it, and where to put it.
        progress: called with (stage, done, total) in bytes of text; for the stage `tokenizer`, done
            is 0, then 1. A total of 0 means that it is unknown.

    Returns:
        The folder's manifest; `already_prepared` is true if nothing had to be done.

    Raises:
        DataError: a corpus or tokenizer that cannot be used.
        InputError: data_dir is not writable, in use, prepared with other settings, or has files of
            other origin that would be overwritten.
    """
    data_dir = writable_dir(Path(command.data_dir).expanduser(), "data_dir")
    work = data_dir / WORK
    progress = progress or _no_progress
    if command.dedup == "near":
        require_datasketch()
    with _locked(data_dir), _disk_errors(data_dir):
        clean_leftovers(data_dir)
        interrupted = (work / MANIFEST).exists()  # an earlier call, after all was built
        if interrupted:
            install(work, data_dir)
        damaged = None
        if (data_dir / MANIFEST).exists():
            manifest = Manifest.load(data_dir)
            if _is_complete(command, data_dir, manifest):
                shutil.rmtree(work, ignore_errors=True)
                current = _with_current_licences(command, data_dir, manifest)
                return dataclasses.replace(current, already_prepared=not interrupted)
            damaged = manifest
        refuse_foreign_files(command, data_dir, damaged)
        manifest = _build(command, data_dir, damaged, progress)
        manifest.save(work)
        install(work, data_dir)
    return manifest


def _is_complete(command: DataCommand, data_dir: Path, manifest: Manifest) -> bool:
    """Whether all prepared files exist; InputError if they have other settings or texts."""
    settings = {k: v for k, v in manifest.settings.items() if k != "sources"}
    changed = differences(settings, settings_of(command))
    if not changed:
        sources = command.corpus.each()
        ordered = any(source.max_documents or source.format == "hub" for source in sources)
        changed = changed_files(manifest.settings["sources"], source_files(command), ordered)
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


def _with_current_licences(command: DataCommand, data_dir: Path, manifest: Manifest) -> Manifest:
    """Record licences that were given later; write the data card if it changed or is missing."""
    sources = [
        dataclasses.replace(source, licence=config.licence or source.licence)
        for source, config in zip(manifest.sources, command.corpus.each(), strict=True)
    ]
    current = dataclasses.replace(manifest, sources=sources)
    if current != manifest or not all((data_dir / name).exists() for name in (CARD, CARD_JSON)):
        write_card(data_dir, current, overlap_summaries(data_dir, current.data_id))
        current.save(data_dir)
    return current


def _build(
    command: DataCommand, data_dir: Path, damaged: Manifest | None, progress: Progress
) -> Manifest:
    """Build all files but the manifest in the working folder, resuming if possible."""
    work = data_dir / WORK
    files = [file_record(source, path) for source, path in source_files(command)]
    digest = resume_digest(command, files)
    state = ResumeState.load(work, digest)
    try:
        if state is not None:
            with contextlib.suppress(ResumeError):
                return _run_stages(command, data_dir, state, files, damaged, progress)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        return _run_stages(command, data_dir, ResumeState(digest), files, damaged, progress)
    except UnreachableError:
        raise  # a later call can resume
    except (DataError, OSError):  # resuming would fail again: free the disk space
        shutil.rmtree(work, ignore_errors=True)
        raise


def _run_stages(
    command: DataCommand,
    data_dir: Path,
    state: ResumeState,
    files: list[FileRecord],
    damaged: Manifest | None,
    progress: Progress,
) -> Manifest:
    work = data_dir / WORK
    stages = Stages(command, work, state, progress)
    with stages.buckets:
        stages.read()
        stages.filter()
        tokenizer = stages.tokenizer()
        if damaged is None or command.tokenizer.model:
            refuse_other_tokenizer(command.tokenizer, data_dir, tokenizer)
        splits = stages.encode(tokenizer)
    manifest = _manifest(command, stages, tokenizer, splits, files)
    same_tokens = damaged is not None and damaged.data_id == manifest.data_id
    write_card(work, manifest, overlap_summaries(data_dir, manifest.data_id) if same_tokens else [])
    return manifest


def _manifest(
    command: DataCommand,
    stages: Stages,
    tokenizer: Tokenizer,
    splits: dict[tuple[int, str], Split],
    files: list[FileRecord],
) -> Manifest:
    numbers = range(len(stages.sources))
    sources = []
    for number, config in enumerate(stages.sources):
        dropped, counts = dict(stages.dropped[number]), stages.buckets.state.sources[number]
        sources.append(
            Source(
                name=config.name,
                licence=config.licence,
                rows=stages.rows[number],
                documents=counts.read,
                bytes=counts.read_bytes,
                paragraphs=dropped.pop("paragraphs", 0),
                paragraph_bytes=dropped.pop("paragraph_bytes", 0),
                dropped=dropped,
                splits={
                    split: _source_split(config, split, splits[number, split]) for split in SPLITS
                },
            )
        )
    reasons = dict.fromkeys(reason for source in sources for reason in source.dropped)
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
        splits={split: _merged([splits[number, split] for number in numbers]) for split in SPLITS},
        dropped={
            reason: sum(source.dropped.get(reason, 0) for source in sources) for reason in reasons
        },
        settings={**settings_of(command), "sources": files},
        sources=sources,
    )


def _source_split(source: SourceConfig, name: str, split: Split) -> SourceSplit:
    """The size of a source in a split; DataError if it is empty."""
    if split.tokens == 0:
        raise DataError(
            f"source {source.name!r} has no {name} documents that are not in the sources before it "
            "(or consist of repeated paragraphs). Omit it, or give it more text."
        )
    return SourceSplit(split.documents, split.tokens, split.bytes)


def _merged(splits: list[Split]) -> Split:
    """Merge the splits of the sources into one, in the order of the sources."""
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


def make_tokenizer(
    command: DataCommand, progress: Progress | None = None
) -> tuple[Tokenizer, list[TokenizerStats]]:
    """Train the tokenizer as `prepare` does, or load the given one, and measure it by source.

    A model trained here is written to data_dir/tokenizer.model, where `prepare` reuses it if its
    settings give the same model.

    Raises:
        DataError: a corpus or tokenizer that cannot be used.
        InputError: data_dir is not writable, in use, or holds prepared data or another tokenizer.
    """
    data_dir = writable_dir(Path(command.data_dir).expanduser(), "data_dir")
    work, path = data_dir / WORK_TOKENIZER, data_dir / TOKENIZER_FILE
    progress = progress or _no_progress
    given = bool(command.tokenizer.model)
    if command.dedup == "near":
        require_datasketch()
    with _locked(data_dir), _disk_errors(data_dir):
        if (data_dir / MANIFEST).exists() and not given:
            raise InputError(
                f"data_dir={data_dir} holds data prepared with its own tokenizer. Choose another "
                f"data_dir, or measure that tokenizer: tokenizer.model={path}."
            )
        clean_leftovers(data_dir)
        if not given:
            refuse_other_tokenizer(command.tokenizer, data_dir)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            stages = Stages(command, work, ResumeState(""), progress)
            with stages.buckets as documents:
                stages.read()
                stages.filter()
                tokenizer = stages.tokenizer()
                if not given:
                    refuse_other_tokenizer(command.tokenizer, data_dir, tokenizer)
                progress("measure", 0, 1)
                validation = (
                    (source, text)
                    for source, key, text in documents
                    if split_of(key, command.validation_fraction) == "validation"
                )
                names = [source.name for source in stages.sources]
                stats = tokenizer_stats(tokenizer, validation, names)
                progress("measure", 1, 1)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        if not given and not path.exists():
            with atomic_write(path, "wb") as file:
                file.write(tokenizer.model)
    return tokenizer, stats


def _no_progress(stage: str, done: float, total: float) -> None:
    pass


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """Allow one preparation per folder; the lock is released when the process ends."""
    with open(data_dir / ".lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise InputError(
                    f"data_dir={data_dir} is being prepared by another process. "
                    "Wait for it, or choose another data_dir."
                ) from None
            # The file system has no locks: continue without.
        yield


@contextmanager
def _disk_errors(data_dir: Path) -> Iterator[None]:
    """Raise InputError if the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"data_dir={data_dir}: {error.strerror}. A preparation needs about 1.5 times the size "
            "of the text. Choose another data_dir."
        ) from None
