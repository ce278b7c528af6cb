"""`manifest.json`: what a token folder holds. Written last, so a folder that has one is complete.

`data_id` names the token stream itself: it follows from the tokenizer and from the tokens of both
splits, and not from paths, times, the number of workers or the size of the shards.
"""

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chinchilla.core.errors import DataError, InputError
from chinchilla.core.files import inside, read_json, write_json
from chinchilla.core.json_codec import built

MANIFEST = "manifest.json"
SCHEMA = 2
SPLITS = ("train", "validation")
HEADER_BYTES = 64  # of a shard
MAX_ROWS = 1_000_000  # of a source in one period of the mixture


@dataclass(frozen=True)
class Shard:
    """One file of tokens (`shards.py`)."""

    file: str  # name inside the token folder
    tokens: int
    sha256: str  # of the whole file
    header: int = 0  # bytes before the tokens; none in folders of version 0.1.0
    documents: int = 0  # that end in it, where there is a header: their ends follow the tokens

    def size(self, width: int) -> int:
        """Bytes of the file, at so many bytes a token."""
        return self.header + width * self.tokens + 8 * self.documents


@dataclass(frozen=True)
class Split:
    """`train` or `validation`: documents one after the other, source after source, each closed by eos."""

    documents: int
    tokens: int  # eos tokens included
    bytes: int  # of the text in UTF-8, eos not counted
    sha256: str  # of the token stream over all shards; of several sources', over their hashes
    shards: list[Shard]


@dataclass(frozen=True)
class Part:
    """What one source has in a split."""

    documents: int
    tokens: int  # eos tokens included
    bytes: int  # of the text in UTF-8, eos not counted


@dataclass(frozen=True)
class Source:
    """One source of a corpus: a run of documents in every split, sources in the order of names."""

    name: str
    licence: str  # as given; empty = not stated
    rows: int  # of the mixture's rows, of so many as all sources have together
    documents: int  # as they came in
    bytes: int  # of the text as it came in, where it is text
    dropped: dict[str, int]  # documents left out, by reason
    splits: dict[str, Part]  # train, validation
    paragraphs: int = 0  # left out of documents because they stood before
    paragraph_bytes: int = 0


@dataclass(frozen=True)
class TokenizerInfo:
    """The tokenizer that made the tokens."""

    file: str  # SentencePiece model inside the token folder
    sha256: str
    vocab_size: int  # pieces
    algorithm: str  # bpe, unigram, or given (a model the person brought)
    eos_id: int  # closes every document
    lossless: bool  # decode(encode(text)) == text on a probe of difficult text


@dataclass(frozen=True)
class Manifest:
    """A prepared token folder."""

    corpus: dict[str, Any]  # name, format and hub fields, for people
    tokenizer: TokenizerInfo
    dtype: str  # uint16 or uint32
    splits: dict[str, Split]  # train, validation
    dropped: dict[str, int]  # documents left out: duplicate, empty, not_unicode
    settings: dict[str, Any]  # what was asked, with the source files' fingerprints
    sources: list[Source] = field(default_factory=list)  # none in folders of version 0.1.0
    schema: int = SCHEMA
    already_prepared: bool = field(default=False, compare=False)  # not saved

    @property
    def data_id(self) -> str:
        """16 hexadecimal digits that name the token stream."""
        content = {
            "schema": self.schema,
            "dtype": self.dtype,
            "tokenizer": [
                self.tokenizer.sha256,
                self.tokenizer.vocab_size,
                self.tokenizer.eos_id,
            ],
            "splits": {
                name: [split.documents, split.tokens, split.bytes, split.sha256]
                for name, split in sorted(self.splits.items())
            },
        }
        if len(self.sources) > 1:
            content["sources"] = [
                [source.name, source.rows, *(source.splits[name].tokens for name in SPLITS)]
                for source in self.sources
            ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def all_sources(self) -> list[Source]:
        """The sources; of a folder whose manifest names none, the whole of it as one."""
        if self.sources:
            return self.sources
        parts = {
            name: Part(split.documents, split.tokens, split.bytes)
            for name, split in self.splits.items()
        }
        documents = sum(self.dropped.values()) + sum(part.documents for part in parts.values())
        n_bytes = sum(part.bytes for part in parts.values())
        name = str(self.corpus.get("name", "corpus"))
        return [
            Source(
                name,
                str(self.corpus.get("licence", "")),
                1,
                documents,
                n_bytes,
                self.dropped,
                parts,
            )
        ]

    def save(self, data_dir: Path) -> None:
        """Write the folder's manifest.json in one step."""
        record = dataclasses.asdict(self)
        del record["already_prepared"]
        write_json(data_dir / MANIFEST, {"data_id": self.data_id, **record})

    @staticmethod
    def load(data_dir: Path) -> "Manifest":
        """Read a folder's manifest.json.

        Raises:
            DataError: no manifest there that can be read, not one of ours, or changed by hand.
        """
        path = data_dir / MANIFEST
        if not os.path.exists(path):  # Path.exists raises where the folder may not be entered
            raise DataError(
                f"data_dir={data_dir} holds no prepared tokens (no {MANIFEST}). "
                f"Make them first: chinchilla data corpus=sotu data_dir={data_dir}"
            )
        try:
            record = read_json(path, "data_dir")
        except InputError as error:
            raise DataError(str(error)) from None
        again = "Prepare the data in another data_dir."
        if isinstance(record, dict) and record.get("schema", SCHEMA) != SCHEMA:
            raise DataError(
                f"{path} has schema {record['schema']}, this version reads {SCHEMA}. {again}"
            )
        try:
            stated_id = record.pop("data_id")
            manifest: Manifest = built(Manifest, record, str(path))
        except (KeyError, AttributeError, TypeError, InputError) as error:
            raise DataError(f"{path} is not a token manifest ({error}). {again}") from None
        held = [set(manifest.splits), *(set(source.splits) for source in manifest.sources)]
        if any(set(SPLITS) - names for names in held) or manifest.data_id != stated_id:
            raise DataError(f"{path} was changed after it was written. {again}")
        for name, split in manifest.splits.items():
            if split.bytes < 1 or split.tokens != sum(shard.tokens for shard in split.shards):
                raise DataError(f"{path}: the counts of {name} do not agree. {again}")
            parts = [source.splits[name] for source in manifest.sources if name in SPLITS]
            if parts and split.tokens != sum(part.tokens for part in parts):
                raise DataError(f"{path}: the counts of {name} by source do not agree. {again}")
        if any(
            not 0 < source.rows <= MAX_ROWS or min(p.tokens for p in source.splits.values()) < 1
            for source in manifest.sources
        ):
            raise DataError(f"{path} states a source without rows or tokens. {again}")
        shards = [shard for split in manifest.splits.values() for shard in split.shards]
        if any(
            (s.header, s.documents) != (0, 0) and (s.header != HEADER_BYTES or s.documents < 0)
            for s in shards
        ):
            raise DataError(f"{path} states a shard that begins as none of ours does. {again}")
        if manifest.dtype not in ("uint16", "uint32"):
            raise DataError(
                f"{path} states tokens of dtype {manifest.dtype!r}; uint16 and uint32 are read. "
                "Prepare the data in another data_dir."
            )
        return manifest

    def check_sizes(self, data_dir: Path) -> None:
        """Prove that every file is there, inside the folder, with the size it was written with.

        Raises:
            DataError: naming the first file that is not; InputError: one that leads out.
        """
        width = 2 if self.dtype == "uint16" else 4
        for split in self.splits.values():
            for shard in split.shards:
                path, expected = inside(data_dir, shard.file), shard.size(width)
                size = path.stat().st_size if path.is_file() else None
                if size != expected:
                    found = "is missing" if size is None else f"has {size} bytes"
                    raise DataError(
                        f"shard {path} {found}; the manifest states {expected} bytes. "
                        "Prepare the data again (chinchilla data)."
                    )
        if not inside(data_dir, self.tokenizer.file).is_file():
            raise DataError(
                f"tokenizer {data_dir / self.tokenizer.file} is missing. "
                "Prepare the data again (chinchilla data)."
            )
