"""`manifest.json`: the contents of a token folder. It is written last: a folder with one is complete.

`data_id` identifies the token stream. It depends on the tokenizer, the tokens of both splits and the
shares of the sources; it does not depend on paths, times, the number of workers or the shard size.
"""

import dataclasses
import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from chinchilla.core.errors import DataError, InputError
from chinchilla.core.files.json_codec import decode
from chinchilla.core.files.reading import TEXT_BYTES, inside, read_json
from chinchilla.core.files.writing import write_json

MANIFEST = "manifest.json"
SCHEMA = 4
DATA_ID_VERSION = 2  # part of every data_id; changes only if the meaning of the tokens changes
SPLITS = ("train", "validation")
HEADER_BYTES = 64  # of a shard
MAX_ROWS = 1_000_000  # of a source in one period of the mixture


@dataclass(frozen=True)
class Shard:
    """One file of tokens; `shards.py` describes its format."""

    file: str  # name inside the token folder
    tokens: int
    sha256: str  # of the whole file
    documents: int  # that end in this file

    def size(self, token_bytes: int) -> int:
        """Size of the file in bytes."""
        return HEADER_BYTES + token_bytes * self.tokens + 8 * self.documents


@dataclass(frozen=True)
class Split:
    """The training or validation documents of one source or of all, each followed by eos."""

    documents: int
    tokens: int  # eos tokens included
    bytes: int  # of the text in UTF-8, eos not counted
    sha256: str  # of the token stream over all shards; of several sources, of their hashes
    shards: list[Shard]


@dataclass(frozen=True)
class Source:
    """One source of a corpus; sources are sorted by name."""

    name: str
    licence: str  # as stated by the user; empty = not stated
    rows: int  # of this source in one period of the mixture
    documents: int  # read, before anything was left out
    bytes: int  # of the documents read that are valid Unicode
    dropped: dict[str, int]  # documents left out, by reason
    splits: dict[str, Split]  # train, validation
    files_left_out: dict[str, int] = field(default_factory=dict)  # in the folders read, by reason


@dataclass(frozen=True)
class TokenizerInfo:
    """The tokenizer that produced the tokens."""

    file: str  # SentencePiece model inside the token folder
    sha256: str
    vocab_size: int  # pieces
    algorithm: str  # bpe or unigram if trained here, given for tokenizer.model
    eos_id: int  # ends every document
    lossless: bool  # decode(encode(text)) == text on a probe of difficult text


@dataclass(frozen=True)
class Manifest:
    """A prepared token folder."""

    corpus: str  # its name
    tokenizer: TokenizerInfo
    dtype: str  # uint16 or uint32
    sources: list[Source]
    settings: dict[str, Any]  # settings that determine the tokens, and the source files
    schema: int = SCHEMA
    already_prepared: bool = field(default=False, compare=False)  # not saved

    @cached_property
    def splits(self) -> dict[str, Split]:
        """Train and validation of all sources together, in the order of the sources."""
        return {name: _merged([source.splits[name] for source in self.sources]) for name in SPLITS}

    @property
    def data_id(self) -> str:
        """16 hexadecimal digits that identify the token stream."""
        content = {
            "schema": DATA_ID_VERSION,
            "dtype": self.dtype,
            "tokenizer": [
                self.tokenizer.sha256,
                self.tokenizer.vocab_size,
                self.tokenizer.eos_id,
            ],
            "splits": {
                name: [split.documents, split.tokens, split.bytes, split.sha256]
                for name, split in self.splits.items()
            },
        }
        if len(self.sources) > 1:
            content["sources"] = [
                [source.name, source.rows, *(source.splits[name].tokens for name in SPLITS)]
                for source in self.sources
            ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def token_bytes(self) -> int:
        """Bytes of one token in the shards."""
        return 2 if self.dtype == "uint16" else 4

    @property
    def shards(self) -> list[Shard]:
        """All shards."""
        return [shard for split in self.splits.values() for shard in split.shards]

    def save(self, data_dir: Path) -> None:
        """Write manifest.json atomically."""
        record = dataclasses.asdict(self)
        del record["already_prepared"]
        write_json(data_dir / MANIFEST, {"data_id": self.data_id, **record})

    @staticmethod
    def load(data_dir: Path) -> "Manifest":
        """Read a folder's manifest.json.

        Raises:
            DataError: there is no manifest, it cannot be read, has another schema, or was edited.
        """
        path = data_dir / MANIFEST
        if not os.path.exists(path):  # Path.exists raises in a folder without search permission
            raise DataError(
                f"data_dir={data_dir} holds no prepared tokens (no {MANIFEST}).{_advice(data_dir)}"
            )
        advice = "Prepare the data in another data_dir."
        try:
            record = read_json(path, "data_dir", TEXT_BYTES)
        except InputError as error:
            raise DataError(str(error)) from None
        if isinstance(record, dict) and record.get("schema", SCHEMA) != SCHEMA:
            raise DataError(
                f"{path} has schema {record['schema']}, this version reads {SCHEMA}. {advice}"
            )
        try:
            stated_id = record.pop("data_id")
            manifest: Manifest = decode(Manifest, record, str(path))
            agrees = manifest.data_id == stated_id
        except (KeyError, AttributeError, TypeError, InputError) as error:
            raise DataError(f"{path} is not a token manifest ({error}). {advice}") from None
        if manifest.dtype not in ("uint16", "uint32"):
            raise DataError(f"{path} has dtype {manifest.dtype!r}, not uint16 or uint32. {advice}")
        if not agrees or not manifest._is_consistent():
            raise DataError(f"{path} was changed after it was written. {advice}")
        return manifest

    def _is_consistent(self) -> bool:
        """Whether a preparation can have written these values."""
        splits = [split for source in self.sources for split in source.splits.values()]
        return (
            bool(self.sources)
            and self.tokenizer.vocab_size > 0
            and all(0 < source.rows <= MAX_ROWS for source in self.sources)
            and all(0 < split.tokens == sum(s.tokens for s in split.shards) for split in splits)
            and all(split.bytes > 0 for split in splits)
        )

    def check_sizes(self, data_dir: Path) -> None:
        """Check that every file is there with the size that it was written with.

        Raises:
            DataError: a file is missing or has another size; the message names it.
            InputError: a file name points outside of the folder.
        """
        sizes: dict[str, int | None] = {s.file: s.size(self.token_bytes) for s in self.shards}
        for name, expected in {**sizes, self.tokenizer.file: None}.items():
            path = inside(data_dir, name)
            size = path.stat().st_size if path.is_file() else None
            if size is None or expected not in (None, size):
                problem = f"has {size} bytes, not {expected}"
                if size is None:
                    there = os.path.exists(path)
                    problem = "is not a regular file" if there else "is missing"
                raise DataError(
                    f"{path} {problem}. Move the folder away, and prepare the data again (chinchilla data)."
                )


def dropped_text(dropped: Mapping[str, int]) -> str:
    """`2 empty, 1 duplicate`: documents left out, by reason; "" if none."""
    return ", ".join(f"{n:,} {reason.replace('_', ' ')}" for reason, n in dropped.items() if n)


def _advice(data_dir: Path) -> str:
    """How to obtain tokens; a folder with other files is not suggested, but its token folders are."""
    try:
        names = [each for each in os.listdir(data_dir) if not each.startswith(".")]
    except OSError:
        names = []
    if not names:
        return f" Prepare them first: chinchilla data corpus=sotu {shlex.quote(f'data_dir={data_dir}')}"
    near = [str(data_dir / n) for n in sorted(names) if os.path.isfile(data_dir / n / MANIFEST)]
    found = f" Token folders in it: {', '.join(near[:4])}." if near else ""
    return f"{found} Prepare tokens with: chinchilla data corpus=... data_dir=ANOTHER_FOLDER"


def _merged(splits: list[Split]) -> Split:
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
