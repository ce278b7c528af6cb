"""`chinchilla data`: documents -> held-out split -> tokenizer -> token shards -> manifest.

Everything is built inside `data_dir/.work` and renamed into place, the manifest last, so a folder
with a manifest is complete. A killed preparation is started over; the bytes that come out follow
from the documents and the settings alone, not from the order of files, the number of workers or
how often it was killed. (With corpus.max_documents the order decides which documents are read.)
"""

import dataclasses
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chinchilla.config import DataCommand, TokenizerConfig
from chinchilla.data.corpus import corpus_files, read_documents
from chinchilla.data.encode import encode_batches, in_batches
from chinchilla.data.manifest import MANIFEST, Manifest, TokenizerInfo
from chinchilla.data.shards import ShardWriter
from chinchilla.data.spool import Spool, split_position
from chinchilla.data.tokenizer import Tokenizer, train_tokenizer
from chinchilla.errors import DataError, InputError
from chinchilla.files import atomic_write, fsync_dir, sha256_file, writable_dir

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
        if (data_dir / MANIFEST).exists():
            manifest = _already_prepared(command, data_dir)
            if manifest:
                return manifest
        work = data_dir / WORK
        _clear(data_dir)
        work.mkdir()
        try:
            manifest = _build(command, work, progress)
            for file in [manifest.tokenizer.file, *_shard_files(manifest)]:
                os.replace(work / file, data_dir / file)
            fsync_dir(data_dir)
            manifest.save(data_dir)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return manifest


def _build(command: DataCommand, work: Path, progress: Progress) -> Manifest:
    """All files but the manifest, in `work`."""
    sources = [_fingerprint(path) for path in _source_files(command)]
    with Spool(work / "documents") as spool:
        for text in read_documents(command.corpus):
            spool.add(text)
            progress("read", spool.bytes, 0.0)
        _check_split(spool, command.held_out_fraction)

        progress("tokenizer", 0, 1)
        tokenizer = _tokenizer(command.tokenizer, spool, command.held_out_fraction)
        with atomic_write(work / TOKENIZER_FILE, "wb") as file:
            file.write(tokenizer.model)
        progress("tokenizer", 1, 1)

        dtype = "uint16" if tokenizer.vocab_size <= 65_536 else "uint32"
        writers = {s: ShardWriter(work, s, command.shard_tokens) for s in ("train", "heldout")}
        documents = ((_split(key, command.held_out_fraction), text) for key, text in spool)
        done = 0
        n_workers = min(
            command.n_workers or os.cpu_count() or 1, spool.bytes // BYTES_PER_WORKER + 1
        )
        for batch, tokens in encode_batches(in_batches(documents), tokenizer, dtype, n_workers):
            writers[batch.split].add(tokens, len(batch.texts), batch.bytes)
            done += batch.bytes
            progress("tokenise", done, spool.bytes)
        splits = {name: writer.close() for name, writer in writers.items()}
        dropped = dict(spool.dropped)
    corpus = {k: v for k, v in dataclasses.asdict(command.corpus).items() if k != "paths"}
    return Manifest(
        corpus=corpus,
        tokenizer=TokenizerInfo(
            file=TOKENIZER_FILE,
            sha256=tokenizer.sha256,
            vocab_size=tokenizer.vocab_size,
            algorithm="given" if command.tokenizer.model else command.tokenizer.algorithm,
            eos_id=tokenizer.eos_id,
            lossless=tokenizer.lossless,
        ),
        dtype=dtype,
        splits=splits,
        dropped=dropped,
        settings={**_settings(command), "sources": sources},
    )


def _tokenizer(config: TokenizerConfig, spool: Spool, fraction: float) -> Tokenizer:
    if config.model:
        return Tokenizer.load(Path(config.model).expanduser())
    return train_tokenizer(
        _sample(spool, fraction, config.train_mb), config.vocab_size, config.algorithm
    )


def _sample(spool: Spool, fraction: float, train_mb: float) -> Iterator[str]:
    """Training documents in key order, which is a fixed shuffle, until train_mb are full.

    No document gives more than 1/64 of the sample, so that a few long ones do not fill it.
    """
    left = int(train_mb * 1e6)
    longest = max(10_000, left // 64)
    for key, text in spool:
        if left <= 0:
            return
        if _split(key, fraction) == "train":
            part = text[: min(longest, left)]
            left -= len(part)
            yield part.decode("utf-8", errors="ignore")  # a character may be cut at the end


def _split(key: bytes, fraction: float) -> str:
    return "heldout" if split_position(key) < fraction else "train"


def _check_split(spool: Spool, fraction: float) -> None:
    """Both splits need a document."""
    if spool.documents == 0:
        raise DataError(f"the corpus has no text: dropped {dict(spool.dropped)}.")
    if spool.lowest == spool.highest:
        raise DataError(
            "the corpus is one document, and the held-out split needs one of its own. "
            "Cut the text into several files, or part one with corpus.separator=blank."
        )
    if spool.lowest >= fraction or spool.highest < fraction:
        empty = "held-out" if spool.lowest >= fraction else "training"
        # A little above the lowest position, and so below the next unless they are very close.
        enough = min(spool.lowest * 1.001 + 1e-4, (spool.lowest + spool.highest) / 2)
        raise DataError(
            f"held_out_fraction={fraction:g} leaves the {empty} split of these "
            f"{spool.documents} documents empty. Use held_out_fraction={enough:.6g}, "
            "or more and shorter documents."
        )


def _settings(command: DataCommand) -> dict[str, Any]:
    """What decides the bytes of the folder; the corpus' name and the workers do not."""
    corpus = dataclasses.asdict(command.corpus)
    del corpus["name"], corpus["paths"]
    return {
        "corpus": corpus,
        "tokenizer": dataclasses.asdict(command.tokenizer),
        "held_out_fraction": command.held_out_fraction,
        "shard_tokens": command.shard_tokens,
    }


def _source_files(command: DataCommand) -> list[Path]:
    files = corpus_files(command.corpus)
    if command.tokenizer.model:
        files.append(Path(command.tokenizer.model).expanduser())
    return files


def _fingerprint(path: Path) -> dict[str, Any]:
    try:
        return {"file": str(path), **_stat(path), "sha256": sha256_file(path)}
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from None


def _stat(path: Path) -> dict[str, int]:
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _already_prepared(command: DataCommand, data_dir: Path) -> Manifest | None:
    """The manifest there, if it has these settings; None if its shards are damaged."""
    manifest = Manifest.load(data_dir)
    before = {k: v for k, v in manifest.settings.items() if k != "sources"}
    changed = _differences(before, _settings(command))
    if not changed:
        changed = _changed_files(manifest.settings["sources"], _source_files(command))
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


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """`key=value, now value` of each setting that differs."""
    found: list[str] = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}={old}, now {new}")
    return found


def _changed_files(before: list[dict[str, Any]], now: list[Path]) -> list[str]:
    """Source files with other contents; a file that was only copied or touched is the same."""
    if len(before) != len(now):
        return [f"{len(before)} source files, now {len(now)}"]
    for old, path in zip(before, now, strict=True):
        stat = _stat(path)
        touched = (old["size"], old["mtime_ns"]) != (stat["size"], stat["mtime_ns"])
        if touched and (old["size"] != stat["size"] or old["sha256"] != sha256_file(path)):
            return [f"{path} has other contents now"]
    return []


def _shard_files(manifest: Manifest) -> list[str]:
    return [shard.file for split in manifest.splits.values() for shard in split.shards]


def _clear(data_dir: Path) -> None:
    """Remove what an unfinished or damaged preparation left; nothing that is not ours.

    A tokenizer stays: it may be the person's, given as tokenizer.model.
    """
    (data_dir / MANIFEST).unlink(missing_ok=True)
    for pattern in ("train-?????.bin", "heldout-?????.bin"):
        for path in data_dir.glob(pattern):
            path.unlink()
    shutil.rmtree(data_dir / WORK, ignore_errors=True)


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
