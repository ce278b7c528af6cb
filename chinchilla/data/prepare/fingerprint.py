"""The settings and source files that determine the tokens of a folder.

They decide whether a folder already holds the requested data, and whether an unfinished preparation
can be resumed.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import chinchilla
from chinchilla.config import DataCommand
from chinchilla.core.errors import DataError
from chinchilla.core.files.reading import sha256_file
from chinchilla.data.corpus_files import corpus_files

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
        "validation_fraction": command.validation_fraction,
        "shard_tokens": command.shard_tokens,
    }


def resume_digest(command: DataCommand, files: list[FileRecord]) -> str:
    """Identifies what an unfinished preparation was of: version, settings and text."""
    texts = [[file.get("source"), file["sha256"]] for file in files]
    content = [chinchilla.__version__, settings_of(command), texts]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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


def file_record(
    source: str, path: Path, known: Mapping[tuple[str, int, int], str] | None = None
) -> FileRecord:
    """Size, modification time and hash of a source file.

    Args:
        source: its name; empty for a single source.
        path: the file.
        known: hashes of files that need not be read, by name, size and modification time.
    """
    try:
        stat = path.stat()
        identity = (str(path), stat.st_size, stat.st_mtime_ns)
        sha256 = (known or {}).get(identity) or sha256_file(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from None
    record = {"file": identity[0], "size": identity[1], "mtime_ns": identity[2], "sha256": sha256}
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


def changed_files(before: list[FileRecord], command: DataCommand) -> list[str]:
    """How the source files differ from the recorded ones; empty if their contents agree.

    Copied, renamed or touched files count as unchanged. The order matters only with max_documents,
    and in a copy of a hub data set.
    """
    known = {(f["file"], f["size"], f["mtime_ns"]): f["sha256"] for f in before}
    now = [file_record(source, path, known) for source, path in source_files(command)]
    if len(before) != len(now):
        return [f"{len(before)} source files, now {len(now)}"]
    old, new = ([(f.get("source", ""), f["sha256"]) for f in files] for files in (before, now))
    if any(source.max_documents or source.format == "hub" for source in command.corpus.each()):
        same = old == new
    else:
        same = sorted(old) == sorted(new)
    if same:
        return []
    known_texts = set(old)
    other = [f["file"] for f, text in zip(now, new, strict=True) if text not in known_texts]
    if other:
        return [f"{other[0]} has other contents or another source now"]
    return ["the source files are in another order now"]
