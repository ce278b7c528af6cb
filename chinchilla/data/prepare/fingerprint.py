"""What decides the bytes of a token folder, to tell whether a folder is the one asked for."""

import dataclasses
from pathlib import Path
from typing import Any

from chinchilla.config import CorpusConfig, DataCommand, SourceConfig
from chinchilla.core.errors import DataError
from chinchilla.core.files import sha256_file
from chinchilla.data.corpus import corpus_files


def settings_of(command: DataCommand) -> dict[str, Any]:
    """What decides the bytes of the folder; the corpus' name and the workers do not."""
    corpus = dataclasses.asdict(command.corpus)
    for key in (*_NOT_BYTES, "weight"):
        del corpus[key]
    corpus["sources"] = {
        source.name: {k: v for k, v in dataclasses.asdict(source).items() if k not in _NOT_BYTES}
        for source in command.corpus.sources
    }
    return {
        "corpus": corpus,
        "tokenizer": _of_tokenizer(dataclasses.asdict(command.tokenizer)),
        "dedup": dataclasses.asdict(command.near) if command.dedup == "near" else command.dedup,
        "validation_fraction": command.validation_fraction,
        "shard_tokens": command.shard_tokens,
    }


def _of_tokenizer(settings: dict[str, Any]) -> dict[str, Any]:
    """Of one that was given only that it was: its file is among the sources, and nothing is trained."""
    return {"model": "given"} if settings.get("model") else settings


_NOT_BYTES = ("name", "paths", "licence", "build_command")


def corpus_record(corpus: CorpusConfig) -> dict[str, Any]:
    """What the manifest says of where the documents come from."""
    told = dataclasses.asdict(corpus)
    for source in (told, *told["sources"]):
        del source["paths"], source["build_command"]
    return told if corpus.sources else {k: v for k, v in told.items() if k != "sources"}


def source_files(command: DataCommand) -> list[tuple[str, Path]]:
    """Each file that decides the folder's bytes, with its source's name if there are several."""
    files = [
        (source.name if command.corpus.sources else "", path)
        for source in command.corpus.each()
        for path in corpus_files(source)
    ]
    if command.tokenizer.model:
        files.append(("", Path(command.tokenizer.model).expanduser()))
    return files


def fingerprint(name: str, path: Path) -> dict[str, Any]:
    """A file as it was read: size, time, hash."""
    try:
        found = {"file": str(path), **_stat(path), "sha256": sha256_file(path)}
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from None
    return {"source": name, **found} if name else found


def _stat(path: Path) -> dict[str, int]:
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


_DEFAULTS = DataCommand(corpus=CorpusConfig(format="embedded"))


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """`key=value, now value` of each setting that differs; one newer than the folder had its default."""
    before = {**before, "tokenizer": _of_tokenizer(before.get("tokenizer", {}))}
    usual = settings_of(_DEFAULTS)
    source = dataclasses.asdict(SourceConfig(format="embedded"))
    usual["corpus"]["sources"] = dict.fromkeys(now["corpus"]["sources"], source)
    return _differences(before, now, usual)


def _differences(
    before: dict[str, Any], now: dict[str, Any], default: dict[str, Any], prefix: str = ""
) -> list[str]:
    found: list[str] = []
    for key in sorted(before.keys() | now.keys()):
        usual = default.get(key)
        old, new = before.get(key, usual), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = usual if isinstance(usual, dict) else {}
            found += _differences(old, new, inner, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}={old}, now {new}")
    return found


def changed_files(
    before: list[dict[str, Any]], now: list[tuple[str, Path]], ordered: bool
) -> list[str]:
    """Source files with other contents; one that was only copied, renamed or touched is the same.

    Args:
        before: fingerprints.
        now: source and file.
        ordered: whether the order of files decides what is read of them.
    """
    if len(before) != len(now):
        return [f"{len(before)} source files, now {len(now)}"]
    changed = _changed_pairs(before, now)
    if changed and not ordered:
        there = sorted((old.get("source", ""), old["sha256"]) for old in before)
        sizes = {(old.get("source", ""), old["size"]) for old in before}
        if all((name, path.stat().st_size) in sizes for name, path in now) and there == sorted(
            (name, sha256_file(path)) for name, path in now
        ):
            return []
    return changed


def _changed_pairs(before: list[dict[str, Any]], now: list[tuple[str, Path]]) -> list[str]:
    """The same, file by file in their order."""
    for old, (name, path) in zip(before, now, strict=True):
        if old.get("source", "") != name:
            return [f"{path} was of source {old.get('source')!r}, now of {name!r}"]
        stat = _stat(path)
        touched = (old["size"], old["mtime_ns"]) != (stat["size"], stat["mtime_ns"])
        if touched and (old["size"] != stat["size"] or old["sha256"] != sha256_file(path)):
            return [f"{path} has other contents now"]
    return []
