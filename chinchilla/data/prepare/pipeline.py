"""`chinchilla data`: documents -> validation split -> tokenizer -> token shards -> manifest.

Everything is built in `data_dir/.chinchilla-work` and then moved into place, the manifest last, so a
folder with a manifest is complete. An interrupted preparation is resumed by the next call. The tokens
depend only on the documents and the settings, not on the order of files, the number of workers or
interruptions. (With corpus.max_documents the order determines which documents are read.)
"""

import dataclasses
import errno
import fcntl
import filecmp
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chinchilla.config import DataCommand
from chinchilla.core.errors import DataError, InputError, UnreachableError
from chinchilla.core.files.folders import register, unguard
from chinchilla.core.files.reading import JSON_MEMORY, RECORD_BYTES, inside, parse_json, read_text
from chinchilla.core.files.writing import (
    atomic_write,
    clean_leftovers,
    fsync_dir,
    make_dirs,
    open_log,
    remove,
    rename,
    writable_dir,
    write_text,
)
from chinchilla.data.corpus_files import find_files, refuse_source_folder
from chinchilla.data.data_card import CARD, write_card
from chinchilla.data.manifest import MANIFEST, Manifest, TokenizerInfo
from chinchilla.data.prepare import stages
from chinchilla.data.prepare.encode import dtype_of
from chinchilla.data.prepare.fingerprint import (
    FileRecord,
    changed_files,
    differences,
    file_record,
    resume_digest,
    settings_of,
    source_files,
)
from chinchilla.data.prepare.shuffle_dedup import split_of
from chinchilla.data.prepare.stages import TOKENIZER_FILE, Progress
from chinchilla.data.tokenizer import Tokenizer, TokenizerStats, tokenizer_stats

WORK, WORK_TOKENIZER = ".chinchilla-work", ".chinchilla-work-tokenizer"
LOCK = ".lock"
DIGEST = "digest"  # in the working folder: what is being prepared


def prepare(command: DataCommand, progress: Progress | None = None) -> Manifest:
    """Prepare a token folder, or return at once if it was prepared with the same settings.

    Args:
        command: what to read, how to tokenize it, and where to put it.
        progress: called with (stage, done, total) in bytes of text; for the stage `tokenizer`, done
            is 0, then 1. A total of 0 means that it is unknown.

    Returns:
        The folder's manifest; `already_prepared` is true if nothing had to be done.

    Raises:
        DataError: a corpus or tokenizer that cannot be used, or a damaged token folder.
        InputError: data_dir is not writable, in use, prepared with other settings, or has files of
            other origin that would be overwritten.
    """
    with _opened(command) as data_dir:
        work = data_dir / WORK
        # A manifest in the working folder: a call was interrupted while it moved the files.
        built = (work / MANIFEST).exists()
        if not built and (data_dir / MANIFEST).exists():
            _discard(work)
            return dataclasses.replace(_existing(command, data_dir), already_prepared=True)
        if not built:
            _refuse_other_files(command, data_dir)
            _build(command, work, progress or _no_progress)
        _install(work, data_dir)
        return _existing(command, data_dir)


def _existing(command: DataCommand, data_dir: Path) -> Manifest:
    """The manifest of a prepared folder, with the licences stated now.

    Raises:
        DataError: files are missing.
        InputError: it was prepared with other settings or from other text.
    """
    manifest = Manifest.load(data_dir)
    settings = {key: value for key, value in manifest.settings.items() if key != "files"}
    changed = differences(settings, settings_of(command))
    if changed := changed or changed_files(manifest.settings["files"], command):
        raise InputError(
            f"data_dir={data_dir} holds data prepared with other settings "
            f"({'; '.join(changed)}). Choose another data_dir."
        )
    manifest.check_sizes(data_dir)
    sources = [
        dataclasses.replace(source, licence=config.licence or source.licence)
        for source, config in zip(manifest.sources, command.corpus.each(), strict=True)
    ]
    if sources != manifest.sources:
        manifest = dataclasses.replace(manifest, sources=sources)
        write_card(data_dir, manifest)
        manifest.save(data_dir)
    return manifest


def _check_length(files: list[FileRecord]) -> None:
    """Refuse, before any text is read, a list of source files with which a manifest could not be read."""
    try:
        parse_json(json.dumps(files, indent=2), JSON_MEMORY * 7 // 8)
    except ValueError as error:
        raise DataError(
            f"the text has {len(files):,} files, too many to record in {MANIFEST} ({error}). Combine files, for "
            "example as lines of JSON, and give corpus=jsonl."
        ) from None


def _digest_of(work: Path) -> str:
    """What an unfinished preparation was of; "" if that cannot be read."""
    try:
        return read_text(work / DIGEST, RECORD_BYTES)
    except (OSError, UnicodeDecodeError):
        return ""


def _build(command: DataCommand, work: Path, progress: Progress) -> None:
    """Build all files in the working folder, the manifest last, continuing a call that was interrupted."""
    files = [file_record(source, path) for source, path in source_files(command)]
    _check_length(files)
    digest = resume_digest(command, files)
    if _digest_of(work) != digest:
        remove(work, missing_ok=True)
        make_dirs(work)
        write_text(work / DIGEST, digest)
    try:
        documents = stages.read(command, work, progress)
        tokenizer = stages.make_tokenizer(command, documents, work, progress)
        sources = stages.encode(command, documents, tokenizer, work, progress)
        manifest = Manifest(
            corpus=command.corpus.name,
            tokenizer=TokenizerInfo(
                file=TOKENIZER_FILE,
                sha256=tokenizer.sha256,
                vocab_size=tokenizer.vocab_size,
                algorithm="given" if command.tokenizer.model else command.tokenizer.algorithm,
                eos_id=tokenizer.eos_id,
                lossless=tokenizer.lossless,
            ),
            dtype=dtype_of(tokenizer),
            sources=sources,
            settings={**settings_of(command), "files": files},
        )
        write_card(work, manifest)
        manifest.save(work)
    except UnreachableError:
        raise  # a later call can resume
    except (DataError, OSError):  # resuming would fail again: free the disk space
        _discard(work)
        raise


def _install(work: Path, data_dir: Path) -> None:
    """Move the files of the finished preparation in `work` to `data_dir`, and delete `work`.

    Raises:
        InputError: another file is in the way.
    """
    manifest = Manifest.load(work)
    waiting = []
    for name in (CARD, TOKENIZER_FILE, *(shard.file for shard in manifest.shards), MANIFEST):
        new, target = inside(work, name), data_dir / name
        moved = not new.exists()  # before an interruption
        if not moved and not (target.is_file() and filecmp.cmp(new, target, shallow=False)):
            waiting.append(name)
    if in_the_way := [name for name in waiting if os.path.lexists(data_dir / name)]:
        raise _refusal(data_dir, in_the_way)
    for name in waiting:
        if name == MANIFEST:
            fsync_dir(data_dir)
        rename(work / name, data_dir / name)
    fsync_dir(data_dir)
    _discard(work)


def _refuse_other_files(command: DataCommand, data_dir: Path) -> None:
    """Stop, before any text is read, if the folder has files that may be overwritten."""
    names = sorted(path.name for path in data_dir.iterdir())
    if foreign := [name for name in names if name == CARD or name.endswith(".bin")]:
        raise _refusal(data_dir, foreign)
    _refuse_other_tokenizer(command, data_dir)


def _refusal(data_dir: Path, names: list[str]) -> InputError:
    listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return InputError(
        f"data_dir={data_dir} has no {MANIFEST}, but files of other data, which may be overwritten: "
        f"{listed}. Move them away, or choose another data_dir."
    )


def _refuse_other_tokenizer(command: DataCommand, data_dir: Path) -> None:
    """Stop if the folder has a tokenizer, unless it is the one given."""
    existing, given = data_dir / TOKENIZER_FILE, Path(command.tokenizer.model).expanduser()
    both = existing.is_file() and given.is_file()
    if os.path.lexists(existing) and not (both and filecmp.cmp(existing, given, shallow=False)):
        raise InputError(
            f"{existing} exists and would be overwritten. Use it (tokenizer.model={existing}), move "
            "it away, or choose another data_dir."
        )


def make_tokenizer(
    command: DataCommand, progress: Progress | None = None
) -> tuple[Tokenizer, list[TokenizerStats]]:
    """Train the tokenizer as `prepare` does, or load the given one, and measure it by source.

    A model trained here is written to data_dir/tokenizer.model.

    Raises:
        DataError: a corpus or tokenizer that cannot be used.
        InputError: data_dir is not writable, in use, or has a tokenizer that is not the one given.
    """
    progress = progress or _no_progress
    with _opened(command) as data_dir:
        work = data_dir / WORK_TOKENIZER
        if not command.tokenizer.model:
            _refuse_other_tokenizer(command, data_dir)
        remove(work, missing_ok=True)
        make_dirs(work)
        try:
            documents = stages.read(command, work, progress)
            tokenizer = stages.make_tokenizer(command, documents, work, progress)
            progress("measure", 0, 1)
            validation = (
                (source, text)
                for source, key, text in documents
                if split_of(key, command.validation_fraction) == "validation"
            )
            names = [source.name for source in command.corpus.each()]
            stats = tokenizer_stats(tokenizer, validation, names)
            progress("measure", 1, 1)
        finally:
            _discard(work)
        if not command.tokenizer.model:
            with atomic_write(data_dir / TOKENIZER_FILE, "wb") as file:
                file.write(tokenizer.model)
    return tokenizer, stats


def _discard(work: Path) -> None:
    """Delete a working folder, if it exists and can be deleted."""
    with suppress(OSError):
        remove(work)


def _no_progress(stage: str, done: float, total: float) -> None:
    pass


@contextmanager
def _opened(command: DataCommand) -> Iterator[Path]:
    """The folder data_dir, locked. A call that fails and leaves no file in it removes what it created.

    Raises:
        DataError: a file or folder of the corpus, or the tokenizer given, cannot be read; or data_dir is
            a folder of the text.
        InputError: data_dir is not writable, or in use.
    """
    for source in command.corpus.each():
        find_files(source)
    if command.tokenizer.model:  # before the text is read
        Tokenizer.load(Path(command.tokenizer.model).expanduser())
    data_dir = Path(command.data_dir).expanduser()
    if not os.path.lexists(data_dir / MANIFEST):  # with one, nothing is written
        refuse_source_folder(data_dir, command.corpus.each())
    created = [path for path in (data_dir, *data_dir.parents) if not os.path.lexists(path)]
    unguard(data_dir)
    writable_dir(data_dir, "data_dir")
    register(data_dir)  # no links in it are followed when it is written to
    with _locked(data_dir), _disk_errors(data_dir):
        try:
            clean_leftovers(data_dir)
            yield data_dir
        except (InputError, OSError):
            if created and os.listdir(data_dir) == [LOCK]:
                remove(data_dir / LOCK)
                with suppress(OSError):  # not empty
                    for path in created:
                        path.rmdir()
            raise


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """Allow one preparation per folder; the lock is released when the process ends."""
    with open_log(data_dir / LOCK) as file:
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
