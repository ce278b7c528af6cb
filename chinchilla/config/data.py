"""Settings of `chinchilla data`: sources and tokenizer."""

import re
import shlex
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path

from chinchilla.config import checks
from chinchilla.config.setting import Config, setting
from chinchilla.core.errors import InputError

ACTIONS = ("prepare", "tokenizer", "overlap")
FORMATS = ("embedded", "text", "jsonl", "parquet", "hub")
COMPRESSIONS = ("", ".gz", ".xz", ".bz2", ".zst")
SUFFIXES = {  # of the files that are read in a folder
    "text": tuple(f".txt{end}" for end in COMPRESSIONS),
    "jsonl": tuple(f"{name}{end}" for name in (".jsonl", ".json") for end in COMPRESSIONS),
    "parquet": (".parquet",),
}
_USED = {  # settings of each format, beside those of all
    "embedded": (),
    "text": ("paths", "build_command", "separator"),
    "jsonl": ("paths", "build_command", "column"),
    "parquet": ("paths", "build_command", "column"),
    "hub": ("hub_name", "hub_config", "hub_dir", "hub_split", "hub_revision", "column"),
}
INT32, INT64 = 2**31 - 1, 2**63 - 1  # counted in files and libraries


@dataclass(kw_only=True)
class SourceConfig(Config):
    """Documents of one kind: the embedded text, files, or a hub data set."""

    name: str = setting("custom", "Name of the source in file names and the manifest.")
    format: str = setting("text", "Kind of source.", choices=FORMATS)
    paths: list[str] = setting(
        [], "Files, folders, or quoted patterns such as 'books/**/*.txt' (text, jsonl, parquet)."
    )
    separator: str = setting(
        "",
        "text: lines equal to this separate documents; blank = blank lines; empty = one document per file.",
    )
    column: str = setting("text", "Field that holds the document (jsonl, parquet, hub).")
    hub_name: str = setting(
        "", "Data set on the Hugging Face hub, such as allenai/c4, or a local copy of one."
    )
    hub_config: str = setting("", "Configuration of the data set, such as en.")
    hub_dir: str = setting(
        "", "Folder of the data set to read, such as python; empty = the default."
    )
    hub_split: str = setting("train", "Split of the data set.")
    hub_revision: str = setting("", "Commit or tag of the data set; empty = the newest.")
    max_documents: int = setting(
        0, "Read at most this many documents; 0 = all.", at_least=0, at_most=INT64
    )
    weight: float = setting(
        1.0, "Share of the training tokens, relative to the other sources.", above=0
    )
    build_command: str = setting("", "Command that creates the files; shown if they are missing.")
    licence: str = setting("", "As stated by the publisher; recorded in the data card.")

    def __post_init__(self) -> None:
        self.check_source(f"corpus.sources, {self.name}: ")
        if not re.fullmatch(r"[\w.-]{1,100}", self.name, re.ASCII):
            raise InputError(
                f"corpus.sources: name={self.name!r} is part of file names. Use one word of at most 100 "
                "letters and digits, such as books."
            )

    def check_source(self, prefix: str) -> None:
        """Check the settings of one source; `prefix` begins their names in messages."""
        self.check_values(prefix)
        given = {f.name: getattr(self, f.name) for f in fields(SourceConfig)}
        for each in fields(SourceConfig):
            used_by = [name for name, used in _USED.items() if each.name in used]
            default = [] if each.name == "paths" else each.default
            if used_by and self.format not in used_by and given[each.name] != default:
                raise InputError(self._no_effect(prefix, each.name, used_by))
        if self.format == "hub" and not self.hub_name:
            raise InputError(f"{prefix}format=hub needs {prefix}hub_name, such as allenai/c4.")
        if self.format == "hub" and self.hub_revision and Path(self.hub_name).is_dir():
            raise InputError(
                f"{prefix}hub_revision={self.hub_revision} has no effect with {prefix}hub_name={self.hub_name}, a local "
                "copy. Omit it, or give the name of the data set on the hub."
            )
        if self.format in ("text", "jsonl", "parquet") and not self.paths:
            raise InputError(
                f"{prefix}format={self.format} needs {prefix}paths=FILE_OR_FOLDER, several separated by commas."
            )

    def _no_effect(self, prefix: str, key: str, used_by: list[str]) -> str:
        """The error for a setting that the format does not use."""
        value = getattr(self, key)
        value = f"[{','.join(value)}]" if isinstance(value, list) else value
        if self.format == "embedded":
            return (
                f"{prefix}{key}={value} has no effect with corpus=sotu, the included text and the default. "
                f"Give corpus={_suggested(self.paths) or ' or corpus='.join(used_by)} as well."
            )
        return (
            f"{prefix}{key}={value} has no effect with {prefix}format={self.format}. Omit it, or use another "
            f"format: {', '.join(used_by)}."
        )


def _suggested(paths: list[str]) -> str:
    """The format that all names of files have by their suffixes; empty if it is not clear."""
    found = {
        next((name for name, ends in SUFFIXES.items() if path.lower().endswith(ends)), "")
        for path in paths
    }
    return found.pop() if len(found) == 1 else ""


@dataclass(kw_only=True)
class CorpusConfig(SourceConfig):
    """The text to train on: one source, or several in fixed shares of tokens."""

    sources: list[SourceConfig] = setting([], "Several sources, each with a weight.")

    def __post_init__(self) -> None:
        if not self.sources:
            self.check_source("corpus.")
            if self.name == "sotu" and self.format != "embedded":
                raise InputError(
                    f"corpus.format={self.format} would record the name and licence of corpus=sotu, the default, "
                    f"for other text. Give corpus={self.format} instead."
                )
            return
        for each in fields(SourceConfig):
            default = [] if each.name == "paths" else each.default
            if each.name != "name" and (value := getattr(self, each.name)) != default:
                advice = "set it in each of corpus.sources"
                if self.format == "embedded":  # from corpus=sotu, which is the default
                    advice = "begin with corpus=text, and add the embedded text to corpus.sources"
                raise InputError(
                    f"corpus.{each.name}={value} applies to a single source: {advice}."
                )
        names = [source.name for source in self.sources]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(
                f"corpus.sources: two have the name {repeated[0]!r}. Give each its own name."
            )

    def each(self) -> list[SourceConfig]:
        """The sources sorted by name; the corpus itself if it has only one."""
        return sorted(self.sources, key=lambda source: source.name) or [self]


@dataclass(kw_only=True)
class TokenizerConfig(Config, prefix="tokenizer."):
    """SentencePiece with byte fallback; lossless unless normalization is nfkc."""

    vocab_size: int = setting(
        32_000,
        "Pieces, of which bytes and control pieces take 259; the paper uses 32,000.",
        at_least=260,
        at_most=INT32,
    )
    algorithm: str = setting("bpe", "Training algorithm.", choices=("bpe", "unigram"))
    train_mb: float = setting(
        100.0,
        "Text to train the tokenizer on, a random sample of documents.",
        unit="MB",
        at_least=1e-3,
    )
    model: str = setting("", "A SentencePiece .model file to use instead of training one.")
    split_digits: bool = setting(False, "Encode each digit as a separate piece.")
    normalization: str = setting(
        "identity",
        "Unicode normalization; nfkc is lossy (section 4.1).",
        choices=("identity", "nfkc"),
    )


def _check_action(key: str, value: str) -> None:
    """Refuse a file or folder in place of an action, with the settings that read it."""
    path = Path(value).expanduser()
    if value in ACTIONS or not path.exists():
        return
    files = islice(path.rglob("*"), 10_000) if path.is_dir() else [path]
    found = {_suggested([each.name]) for each in files} - {""}
    names = [name for name in SUFFIXES if name in found] or list(SUFFIXES)
    given = " or ".join(f"corpus={name} corpus.paths={shlex.quote(value)}" for name in names)
    raise InputError(f"{value} is text, not an action. Give it as {given}.")


@dataclass(kw_only=True)
class DataCommand(Config, words=("action", "against")):
    """`chinchilla data`: documents -> tokenizer -> token shards.

    chinchilla data corpus=...                tokenize a corpus; write shards, manifest and data card
    chinchilla data tokenizer corpus=...      train a tokenizer, or measure one
    chinchilla data overlap FILE ...          measure the overlap of evaluations with the training text
    """

    corpus: CorpusConfig
    action: str = setting("prepare", "Action to perform.", choices=ACTIONS, check=_check_action)
    against: list[str] = setting([], "overlap: evaluation files, one item per line.")
    ngram: int = setting(13, "overlap: words per n-gram.", above=0)
    column: str = setting(
        "text", "overlap: field of the evaluation files that holds an item's text."
    )
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data_dir: str = setting("data", "Folder for tokenizer, shards and manifest.")
    validation_fraction: float = setting(
        0.02,
        "Share of documents in the validation split, selected by hash of the text.",
        above=0,
        below=1,
    )
    shard_tokens: int = setting(
        100_000_000, "Tokens per shard file.", unit="tokens", above=0, at_most=INT64
    )
    n_workers: int = setting(0, "Tokenizing processes; 0 = one per core.", at_least=0)
    format: str = setting("text", "Output.", choices=checks.FORMATS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.action == "overlap" and not self.against:
            raise InputError(
                "against is missing: give against=FILE (several separated by commas), the evaluations to look up in the training "
                "text of data_dir, as .jsonl (column=text), .parquet or plain text."
            )
