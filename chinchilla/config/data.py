"""What `chinchilla data` can be told: sources, filters, tokenizer."""

import re
from dataclasses import dataclass, field, fields

from chinchilla.config.checks import check_format, choice, countable, not_negative, positive, whole
from chinchilla.core.errors import InputError

ACTIONS = ("prepare", "tokenizer", "overlap")
MAX_NAME = 100  # bytes of a source's name; a file's has 255, of which a temporary one takes some
FORMATS = ("embedded", "text", "jsonl", "parquet", "hub")


@dataclass(kw_only=True)
class SourceConfig:
    """Documents of one kind: the embedded text, files, or a hub data set."""

    name: str = "custom"  # for people and files; recorded in the manifest
    format: str = "text"  # embedded, text, jsonl, parquet, hub
    paths: list[str] = field(default_factory=list)  # files or folders (text, jsonl, parquet)
    separator: str = (
        ""  # text: a line equal to this parts documents; blank = a blank line; empty = none
    )
    column: str = "text"  # field that holds the document (jsonl, parquet, hub)
    hub_name: str = ""  # data set on the hub, such as allenai/c4
    hub_config: str = ""  # its configuration, such as en
    hub_dir: str = ""  # the folder of it to read, such as python; empty = what it gives by itself
    hub_split: str = "train"  # its split
    hub_revision: str = ""  # commit or tag of the data set; empty = the newest, whatever that is
    max_documents: int = 0  # stop after so many; 0 = all
    weight: float = 1.0  # share of the training rows, relative to the other sources' weights
    build_command: str = ""  # the command that makes its files, for people who lack them
    licence: str = ""  # as its publisher states it; for the data card
    gopher: bool = False  # drop documents by the rules of Rae et al. 2021; made for English pages
    dedup_paragraphs: int = 0  # drop paragraphs of so many bytes that stood before; 0 = none

    def __post_init__(self) -> None:
        self.check(f"corpus.sources, {self.name}: ")
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise InputError(
                f"corpus.sources: name={self.name!r} must be one word, such as books: files are named by it."
            )
        if len(self.name.encode()) > MAX_NAME:
            raise InputError(
                f"corpus.sources: name={self.name[:20]}... has {len(self.name.encode())} bytes, and files "
                f"are named by it. Use at most {MAX_NAME}."
            )

    def check(self, key: str) -> None:
        """Refuse what cannot be read; `key` begins the names of knobs."""
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
    """What training reads: one source, or several in fixed shares of tokens."""

    sources: list[SourceConfig] = field(default_factory=list)  # several, each with a weight

    def __post_init__(self) -> None:
        if not self.sources:
            self.check("corpus.")
            return
        for knob in fields(SourceConfig):
            usual = [] if knob.name == "paths" else knob.default
            if knob.name != "name" and (given := getattr(self, knob.name)) != usual:
                where = "set it in each of corpus.sources"
                if self.format == "embedded":  # corpus=sotu, which nobody need have said
                    where = (
                        "begin with corpus=text, and make the embedded text one of corpus.sources"
                    )
                raise InputError(f"corpus.{knob.name}={given} is of a single source: {where}.")
        names = [source.name for source in self.sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(
                f"corpus.sources: two are called {twice[0]!r}. Give each its own name."
            )

    def each(self) -> list[SourceConfig]:
        """The sources by name, whatever order they were given in; a single one is the corpus."""
        return sorted(self.sources, key=lambda source: source.name) or [self]


@dataclass(kw_only=True)
class TokenizerConfig:
    """SentencePiece with byte fallback; lossless unless normalised."""

    vocab_size: int = 32_000  # pieces; the paper uses 32,000
    algorithm: str = "bpe"  # bpe or unigram
    train_mb: float = 100.0  # MB of text the tokenizer is trained on, drawn evenly over documents
    model: str = ""  # an existing SentencePiece .model to use instead of training one
    split_digits: bool = False  # each digit a piece of its own
    normalization: str = "identity"  # identity, or nfkc, which loses what it changes (section 4.1)

    def __post_init__(self) -> None:
        choice("tokenizer.normalization", self.normalization, ("identity", "nfkc"))
        choice("tokenizer.algorithm", self.algorithm, ("bpe", "unigram"))
        positive("tokenizer.train_mb", self.train_mb)
        if self.train_mb < 1e-3:
            raise InputError(
                f"tokenizer.train_mb={self.train_mb:g} is under a kilobyte (0.001), of which no tokenizer "
                "can be trained. Give megabytes, such as 100."
            )
        countable("tokenizer.vocab_size", self.vocab_size, bits=32)
        if self.vocab_size < 260:
            raise InputError(
                f"tokenizer.vocab_size={self.vocab_size} is below 260: 256 byte pieces and the control pieces come first."
            )


@dataclass(kw_only=True)
class NearConfig:
    """What counts as nearly the same text: sets of n-grams of words, by MinHash."""

    threshold: float = 0.8  # Jaccard similarity of two documents' n-grams from which they are near
    ngram: int = 5  # words in a row; shorter documents are left alone
    permutations: int = 128  # of MinHash; the similarity is known to about sqrt(.25 / permutations)

    def __post_init__(self) -> None:
        if not 0.3 <= self.threshold <= 1:
            raise InputError(
                f"near.threshold={self.threshold} is not in [0.3, 1]: documents that share less are "
                "hardly the same text."
            )
        positive("near.ngram", self.ngram)
        if not 16 <= self.permutations <= 1024:
            raise InputError(f"near.permutations={self.permutations} is not in [16, 1024].")


@dataclass(kw_only=True)
class DataCommand:
    """`chinchilla data`: documents -> tokenizer -> token shards.

    chinchilla data [prepare] corpus=...      documents to tokens, manifest and data card
    chinchilla data tokenizer corpus=...      train a tokenizer alone, or measure one
    chinchilla data overlap against=FILES     n-grams of evaluations in the training text
    """

    corpus: CorpusConfig
    action: str = "prepare"  # prepare, tokenizer, overlap
    against: list[str] = field(default_factory=list)  # overlap: evaluation files, an item a line
    ngram: int = 13  # overlap: words in a row
    column: str = "text"  # overlap: field of the evaluation files that holds an item's text
    dedup: str = "exact"  # exact: equal documents; near: also those nearly the same (MinHash)
    near: NearConfig = field(default_factory=NearConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data_dir: str = "data"  # folder for tokenizer, shards and manifest
    validation_fraction: float = 0.02  # share of documents held out, chosen by hash of their text
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
                "against is missing: give against=[FILE, ...], evaluations as .jsonl (column=text), "
                ".parquet, or plain text, to look for in the training text of data_dir."
            )
        not_negative("n_workers", self.n_workers)
        positive("shard_tokens", self.shard_tokens)
        countable("shard_tokens", self.shard_tokens)
        if not 0 < self.validation_fraction < 1:
            raise InputError(f"validation_fraction={self.validation_fraction} is not in (0, 1).")
