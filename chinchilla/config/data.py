"""Settings of `chinchilla data`: sources, filters and tokenizer."""

import re
from dataclasses import dataclass, field, fields

from chinchilla.config.checks import check_format, choice, countable, not_negative, positive, whole
from chinchilla.core.errors import InputError

ACTIONS = ("prepare", "tokenizer", "overlap")
MAX_NAME = 100  # bytes of a source's name, which is part of file names (at most 255 bytes)
FORMATS = ("embedded", "text", "jsonl", "parquet", "hub")


@dataclass(kw_only=True)
class SourceConfig:
    """Documents of one kind: the embedded text, files, or a hub data set."""

    name: str = "custom"  # used in file names and in the manifest
    format: str = "text"  # embedded, text, jsonl, parquet, hub
    paths: list[str] = field(default_factory=list)  # files or folders (text, jsonl, parquet)
    separator: str = ""  # text: line between documents; blank = a blank line; empty = none
    column: str = "text"  # field that holds the document (jsonl, parquet, hub)
    hub_name: str = ""  # data set on the hub, such as allenai/c4, or a folder with a copy of one
    hub_config: str = ""  # configuration of the data set, such as en
    hub_dir: str = ""  # folder of the data set to read, such as python; empty = the default
    hub_split: str = "train"  # split of the data set
    hub_revision: str = ""  # commit or tag of the data set; empty = the newest
    max_documents: int = 0  # read at most this many; 0 = all
    weight: float = 1.0  # share of the training tokens, relative to the other sources
    build_command: str = ""  # command that creates the files; shown if they are missing
    licence: str = ""  # as stated by the publisher; recorded in the data card
    gopher: bool = False  # drop documents that break the rules of Rae et al. 2021 (for English)
    dedup_paragraphs: int = 0  # drop repeated paragraphs of at least this many bytes; 0 = off

    def __post_init__(self) -> None:
        self.check(f"corpus.sources, {self.name}: ")
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise InputError(
                f"corpus.sources: name={self.name!r} must be one word, such as books, as it is part of file names."
            )
        if len(self.name.encode()) > MAX_NAME:
            raise InputError(
                f"corpus.sources: name={self.name[:20]}... has {len(self.name.encode())} bytes, and is part of "
                f"file names. Use at most {MAX_NAME}."
            )

    def check(self, key: str) -> None:
        """Check the settings; `key` is the prefix of their names in messages."""
        choice(f"{key}format", self.format, FORMATS)
        if self.format == "hub" and not self.hub_name:
            raise InputError(f"{key}format=hub needs {key}hub_name, such as allenai/c4.")
        if self.format in ("text", "jsonl", "parquet") and not self.paths:
            raise InputError(f"{key}format={self.format} needs {key}paths=[FILE_OR_FOLDER, ...].")
        positive(f"{key}weight", self.weight)
        for name in ("max_documents", "dedup_paragraphs"):
            whole(f"{key}{name}", getattr(self, name))
        countable(f"{key}max_documents", self.max_documents)


@dataclass(kw_only=True)
class CorpusConfig(SourceConfig):
    """The text to train on: one source, or several in fixed shares of tokens."""

    sources: list[SourceConfig] = field(default_factory=list)  # several sources, with weights

    def __post_init__(self) -> None:
        if not self.sources:
            self.check("corpus.")
            return
        for setting in fields(SourceConfig):
            default = [] if setting.name == "paths" else setting.default
            if setting.name != "name" and (value := getattr(self, setting.name)) != default:
                advice = "set it in each of corpus.sources"
                if self.format == "embedded":  # from corpus=sotu, which is the default
                    advice = "begin with corpus=text, and add the embedded text to corpus.sources"
                raise InputError(
                    f"corpus.{setting.name}={value} applies to a single source: {advice}."
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
class TokenizerConfig:
    """SentencePiece with byte fallback; lossless unless normalization is nfkc."""

    vocab_size: int = 32_000  # pieces; the paper uses 32,000
    algorithm: str = "bpe"  # bpe or unigram
    train_mb: float = 100.0  # MB of training text for the tokenizer, a random sample
    model: str = ""  # a SentencePiece .model file to use instead of training one
    split_digits: bool = False  # encode each digit as a separate piece
    normalization: str = "identity"  # identity, or nfkc, which is lossy (section 4.1)

    def __post_init__(self) -> None:
        choice("tokenizer.normalization", self.normalization, ("identity", "nfkc"))
        choice("tokenizer.algorithm", self.algorithm, ("bpe", "unigram"))
        positive("tokenizer.train_mb", self.train_mb)
        if self.train_mb < 1e-3:
            raise InputError(
                f"tokenizer.train_mb={self.train_mb:g} is under a kilobyte (0.001), too little to train a "
                "tokenizer. Give megabytes, such as 100."
            )
        countable("tokenizer.vocab_size", self.vocab_size, bits=32)
        if self.vocab_size < 260:
            raise InputError(
                f"tokenizer.vocab_size={self.vocab_size} is below 260: bytes and control pieces alone take 259. Give 260 or more."
            )


@dataclass(kw_only=True)
class NearConfig:
    """Near duplicates: MinHash of word n-grams."""

    threshold: float = (
        0.8  # Jaccard similarity of word n-grams that makes documents near duplicates
    )
    ngram: int = 5  # words per n-gram; shorter documents are never near duplicates
    permutations: int = (
        128  # of MinHash; standard error of the similarity at most sqrt(.25 / permutations)
    )

    def __post_init__(self) -> None:
        if not 0.3 <= self.threshold <= 1:
            raise InputError(
                f"near.threshold={self.threshold} is not in [0.3, 1]: less similar documents are not "
                "near duplicates."
            )
        positive("near.ngram", self.ngram)
        if not 16 <= self.permutations <= 1024:
            raise InputError(f"near.permutations={self.permutations} is not in [16, 1024].")


@dataclass(kw_only=True)
class DataCommand:
    """`chinchilla data`: documents -> tokenizer -> token shards.

    chinchilla data [prepare] corpus=...      tokenize a corpus; write shards, manifest and data card
    chinchilla data tokenizer corpus=...      train a tokenizer, or measure one
    chinchilla data overlap against=FILES     measure the overlap of evaluations with the training text
    """

    corpus: CorpusConfig
    action: str = "prepare"  # prepare, tokenizer, overlap
    against: list[str] = field(default_factory=list)  # overlap: evaluation files, one item per line
    ngram: int = 13  # overlap: words per n-gram
    column: str = "text"  # overlap: field of the evaluation files that holds the text of an item
    dedup: str = "exact"  # exact: drop equal documents; near: also near duplicates (MinHash)
    near: NearConfig = field(default_factory=NearConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data_dir: str = "data"  # folder for tokenizer, shards and manifest
    validation_fraction: float = (
        0.02  # share of documents in the validation split, selected by hash of the text
    )
    shard_tokens: int = 100_000_000  # tokens per shard file
    n_workers: int = 0  # tokenizing processes; 0 = one per core
    format: str = "text"  # text or json

    def __post_init__(self) -> None:
        check_format(self.format)
        choice("action", self.action, ACTIONS)
        choice("dedup", self.dedup, ("exact", "near"))
        positive("ngram", self.ngram)
        if self.action == "overlap" and not self.against:
            raise InputError(
                "against is missing: give against=[FILE, ...], the evaluations to look up in the training "
                "text of data_dir, as .jsonl (column=text), .parquet or plain text."
            )
        not_negative("n_workers", self.n_workers)
        positive("shard_tokens", self.shard_tokens)
        countable("shard_tokens", self.shard_tokens)
        if not 0 < self.validation_fraction < 1:
            raise InputError(f"validation_fraction={self.validation_fraction} is not in (0, 1).")
