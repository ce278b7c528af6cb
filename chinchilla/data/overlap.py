"""Overlap of an evaluation with the training text: shared word n-grams, by hash, streamed.

The paper warns of train/test leakage (section 4.2.1) without measuring it. This is the check of GPT-3
(Brown et al. 2020, appendix C): n-grams of 13 words in lower case without punctuation. The n-grams of
the evaluation are held as sorted 64-bit hashes, and the training documents are decoded from the shards
one at a time, so memory depends on the evaluation alone. The probability of a false match is about
(n-grams of the evaluation) x (training words) / 2^64.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chinchilla.config import SourceConfig
from chinchilla.core.errors import DataError
from chinchilla.core.files import sha256_file, write_json
from chinchilla.data.corpus import SUFFIXES, read_documents
from chinchilla.data.dataset import TokenData
from chinchilla.data.manifest import Manifest
from chinchilla.data.ngrams import WordHashes, ngram_hashes
from chinchilla.data.tokenizer import Tokenizer

SCHEMA = 1

Progress = Callable[[str, float, float], None]


@dataclass(frozen=True)
class ItemOverlap:
    """The overlap of one item of an evaluation: a line of JSON, a row, or a text file."""

    item: int  # number in the file, from 1
    ngrams: int  # distinct n-grams; 0 if the item is shorter than one
    found: int  # of these, in the training text
    sources: dict[str, int]  # of these, in each source that has any


def documents_of(data: TokenData, tokenizer: Tokenizer, source: int) -> Iterator[str]:
    """Decode the training documents of one source from its shards."""
    last = np.cumsum([each.splits["train"].documents for each in data.sources])[source]
    first = last - data.sources[source].splits["train"].documents
    ends = data.document_ends("train")
    begin = int(ends[first - 1]) if first else 0
    for end in ends[first:last].tolist():
        yield tokenizer.decode(data.tokens("train", begin, end - 1).tolist())
        begin = end


def overlap(
    data_dir: Path, file: Path, n: int, column: str, progress: Progress | None = None
) -> tuple[list[ItemOverlap], dict[str, Any]]:
    """Look up every n-gram of an evaluation file in the training split of a token folder.

    Args:
        data_dir: token folder.
        file: .jsonl (also .gz, .xz): one item per line, its text in `column`; .parquet: one item per
            row; any other file is one item of plain text.
        n: words per n-gram.
        column: field that holds the text.
        progress: called with ("overlap", bytes of text done, bytes in all).

    Returns:
        The items in the order of the file, and a summary for the data card.

    Raises:
        DataError: a file cannot be read, no item has n words, or the tokenizer in the folder is not
            the one that produced the tokens.
    """
    data = TokenData.open(data_dir)
    model = data_dir / data.manifest.tokenizer.file
    tokenizer = Tokenizer.load(model)
    if tokenizer.sha256 != data.manifest.tokenizer.sha256:
        raise DataError(
            f"{model} is not the tokenizer that produced the tokens in this folder. Restore that one, or "
            "prepare the data again (chinchilla data)."
        )
    hashes = WordHashes()
    try:
        items = [np.unique(ngram_hashes(hashes(text), n)) for text in _texts(file, column)]
    except DataError as error:  # the reader of corpora names settings of the corpus
        message = str(error).replace("corpus 'against' has no documents", f"{file} has no text")
        raise DataError(message.replace("Set corpus.column.", "Set column=.")) from None
    ngrams = np.unique(np.concatenate(items))
    if not len(ngrams):
        raise DataError(f"{file} has no item of {n} words. Give a smaller ngram=.")
    found = np.zeros((len(data.sources), len(ngrams)), bool)
    done = 0
    for number in range(len(data.sources)):
        for text in documents_of(data, tokenizer, number):
            of_document = ngram_hashes(hashes(text), n)
            index = np.minimum(np.searchsorted(ngrams, of_document), len(ngrams) - 1)
            found[number, index[ngrams[index] == of_document]] = True
            done += len(text.encode("utf-8", "surrogatepass"))
            if progress:
                progress("overlap", done, data.manifest.splits["train"].bytes)
    return _summary(file, n, column, items, ngrams, found, data.manifest)


def check_evaluation(file: Path) -> None:
    """Check that an evaluation is a regular file, before any search begins.

    Raises:
        DataError: it is a folder or a pipe, or does not exist.
    """
    if not file.is_file():
        problem = "is not a regular file" if file.exists() else "does not exist"
        problem = "is a folder" if file.is_dir() else problem
        raise DataError(f"against: {file} {problem}. Give evaluation files: against=[FILE, ...].")


def _texts(file: Path, column: str) -> Iterable[str]:
    kinds = [kind for kind, ends in SUFFIXES.items() if file.name.endswith(ends)]
    return read_documents(
        SourceConfig(
            name="against", format=(kinds or ["text"])[0], paths=[str(file)], column=column
        )
    )


def _summary(
    file: Path,
    n: int,
    column: str,
    ngrams_by_item: list[np.ndarray],
    ngrams: np.ndarray,
    found: np.ndarray,
    manifest: Manifest,
) -> tuple[list[ItemOverlap], dict[str, Any]]:
    """Items and summary; found: (sources, ngrams) whether an n-gram occurs in a source."""
    names = [source.name for source in manifest.sources]
    items = []
    for number, of_item in enumerate(ngrams_by_item, 1):
        hits = found[:, np.searchsorted(ngrams, of_item)]  # (sources, n-grams of the item)
        by_source = {name: int(k) for name, k in zip(names, hits.sum(axis=1), strict=True) if k}
        items.append(ItemOverlap(number, len(of_item), int(hits.any(axis=0).sum()), by_source))
    long_enough = [item for item in items if item.ngrams]
    shares = np.array([item.found / item.ngrams for item in long_enough])
    return items, {
        "schema": SCHEMA,
        "file": file.name,
        "path": "/".join(file.absolute().parts[-2:]),  # several may be called test.jsonl
        "sha256": sha256_file(file),
        "column": column,
        "data_id": manifest.data_id,
        "ngram": n,
        "items": len(items),
        "too_short": len(items) - len(long_enough),
        "any": int((shares > 0).sum()),
        "half": int((shares >= 0.5).sum()),
        "all": int((shares == 1).sum()),
        "ngrams": len(ngrams),
        "ngrams_found": int(found.any(axis=0).sum()),
        "sources": {name: int(k) for name, k in zip(names, found.sum(axis=1), strict=True)},
    }


def save_overlap(
    data_dir: Path, file: Path, items: list[ItemOverlap], summary: dict[str, Any]
) -> Path:
    """Write the report, overlap-NAME-COLUMN-NGRAM-HASH.json, into the token folder.

    HASH depends on the contents of the evaluation, `column` and `ngram`, so reports of different
    evaluations with the same name do not collide, and repeating a measurement replaces its report.

    Returns:
        The file written.
    """
    identity = [summary["sha256"], summary["column"], summary["ngram"]]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    parts = [file.name[:100], summary["column"][:30], f"{summary['ngram']}", digest]
    name = re.sub(r"[^\w.-]", "_", "-".join(parts), flags=re.ASCII)
    path = data_dir / f"overlap-{name}.json"
    per_item = [[i.item, i.ngrams, i.found] for i in items]
    write_json(path, {**summary, "columns": ["item", "ngrams", "found"], "per_item": per_item})
    return path
