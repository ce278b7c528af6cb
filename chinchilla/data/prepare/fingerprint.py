"""The settings and source files that determine the tokens of a folder.

They decide whether a folder already holds the requested data, and whether an unfinished preparation
can be resumed.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import chinchilla
from chinchilla.config import CorpusConfig, DataCommand
from chinchilla.core.errors import DataError
from chinchilla.core.files import sha256_file
from chinchilla.data.corpus import corpus_files

NOT_IN_TOKENS = ("name", "paths", "licence", "build_command")  # fields that change no token

FileRecord = dict[str, Any]  # source (if there are several), file, size, mtime_ns, sha256


def settings_of(command: DataCommand) -> dict[str, Any]:
    """The settings that determine the tokens."""
    corpus = dataclasses.asdict(command.corpus)
    for key in (*NOT_IN_TOKENS, "weight"):
        del corpus[key]
    corpus["sources"] = {
        source.name: {k: v for k, v in dataclasses.asdict(source).items() if k not in NOT_IN_TOKENS}
        for source in command.corpus.sources
    }
    # The bytes of a tokenizer given by the user are among the source files.
    given = {"model": "given"} if command.tokenizer.model else None
    return {
        "corpus": corpus,
        "tokenizer": given or dataclasses.asdict(command.tokenizer),
        "dedup": dataclasses.asdict(command.near) if command.dedup == "near" else command.dedup,
        "validation_fraction": command.validation_fraction,
        "shard_tokens": command.shard_tokens,
    }


def resume_digest(command: DataCommand, files: list[FileRecord]) -> str:
    """Identifies what an unfinished preparation was of: version, settings and text."""
    texts = [[file.get("source"), file["sha256"]] for file in files]
    content = [chinchilla.__version__, settings_of(command), texts]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def corpus_record(corpus: CorpusConfig) -> dict[str, Any]:
    """The corpus as recorded in the manifest, without local paths and licences."""
    record = dataclasses.asdict(corpus)
    for source in (record, *record["sources"]):
        del source["paths"], source["build_command"], source["licence"]
    return record if corpus.sources else {k: v for k, v in record.items() if k != "sources"}


def source_files(command: DataCommand) -> list[tuple[str, Path]]:
    """(source name, file) of every file that determines the tokens; no name for a single source."""
    files = [
        (source.name if command.corpus.sources else "", path)
        for source in command.corpus.each()
        for path in corpus_files(source)
    ]
    if command.tokenizer.model:
        files.append(("", Path(command.tokenizer.model).expanduser()))
    return files


def file_record(source: str, path: Path) -> FileRecord:
    """Size, modification time and hash of a source file."""
    try:
        stat = path.stat()
        record = {
            "file": str(path),
            "size": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
            "sha256": sha256_file(path),
        }
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from None
    return {"source": source, **record} if source else record


def differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """`key=value, now value` for each setting that differs."""
    changed: list[str] = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            changed += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            changed.append(f"{prefix}{key}={old}, now {new}")
    return changed


def changed_files(
    before: list[FileRecord], now: list[tuple[str, Path]], ordered: bool
) -> list[str]:
    """Differences between recorded and current source files; empty if their contents agree.

    Copied, renamed or touched files count as unchanged. Only files whose name, size or modification
    time differs are read.

    Args:
        before: records of the files that were prepared.
        now: source name and path of the current files.
        ordered: whether the order of the files determines which documents are read.
    """
    if len(before) != len(now):
        return [f"{len(before)} source files, now {len(now)}"]
    recorded = {(old["file"], old["size"], old["mtime_ns"]): old["sha256"] for old in before}

    def digest(path: Path) -> str:
        stat = path.stat()
        return recorded.get((str(path), stat.st_size, stat.st_mtime_ns)) or sha256_file(path)

    old_hashes = [(old.get("source", ""), old["sha256"]) for old in before]
    hashes = [(source, digest(path)) for source, path in now]
    if hashes == old_hashes or (not ordered and sorted(hashes) == sorted(old_hashes)):
        return []
    old_source = {sha256: source for source, sha256 in old_hashes}
    for (source, path), one in zip(now, hashes, strict=True):
        if one not in old_hashes and one[1] in old_source:
            return [f"{path} belonged to source {old_source[one[1]]!r}, now to {source!r}"]
    pairs = zip(now, hashes, old_hashes, strict=True)
    return [next(f"{path} has other contents now" for (_, path), one, old in pairs if one != old)]
