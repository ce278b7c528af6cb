"""How much of an evaluation stands in the training text: n-grams of words, hashed, streamed.

The paper warns of train/test leakage (section 4.2.1) and measures none. This is the check of GPT-3
(Brown et al. 2020, appendix C): words in lower case without punctuation, 13 in a row. The
evaluation's n-grams are held as sorted 64-bit hashes; training documents are decoded from the shards
and go past once, so memory follows from the evaluation alone. Two different n-grams share a hash with
a chance of about evaluation n-grams x training words / 2^64.
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
class Item:
    """One item of an evaluation: a line of JSON, or a file of text."""

    item: int  # from 1, as they stand in the file
    ngrams: int  # distinct; 0 when the item is shorter than one
    found: int  # of them in the training text
    sources: dict[str, int]  # source -> how many of them are in it


def documents_of(data: TokenData, tokenizer: Tokenizer, source: int) -> Iterator[str]:
    """The training documents of one source, decoded from its shards."""
    last = np.cumsum([each.splits["train"].documents for each in data.sources])[source]
    first = last - data.sources[source].splits["train"].documents
    ends = data.document_ends("train")
    begin = int(ends[first - 1]) if first else 0
    for end in ends[first:last].tolist():
        yield tokenizer.decode(data.tokens("train", begin, end - 1).tolist())
        begin = end


def overlap(
    data_dir: Path, file: Path, n: int, column: str, progress: Progress | None = None
) -> tuple[list[Item], dict[str, Any]]:
    """Look for every n-gram of an evaluation file in the training split of a token folder.

    Args:
        data_dir: token folder.
        file: .jsonl (also .gz, .xz): an item a line, its text in `column`; .parquet: an item a row;
            else one item, the file's text.
        n: words in a row.
        column: field that holds the text.
        progress: called with (`overlap`, tokens done, tokens there are).

    Returns:
        Items in the order of the file, and a summary for the data card.

    Raises:
        DataError: a file that cannot be read, no item as long as n words, or a tokenizer that did not
            make the tokens.
    """
    data = TokenData.open(data_dir)
    model = data_dir / data.manifest.tokenizer.file
    tokenizer = Tokenizer.load(model)
    if tokenizer.sha256 != data.manifest.tokenizer.sha256:  # the tokens would say something else
        raise DataError(
            f"{model} is not the tokenizer that made the tokens beside it. Put that one back, or prepare "
            "the data again (chinchilla data)."
        )
    hashes = WordHashes()
    try:
        items = [np.unique(ngram_hashes(hashes(text), n)) for text in _texts(file, column)]
    except DataError as error:  # the corpus' reader names the corpus' keys
        said = str(error).replace("corpus 'against' has no documents", f"{file} has no text")
        raise DataError(said.replace("Set corpus.column.", "Set column=.")) from None
    wanted = np.unique(np.concatenate(items))
    if not len(wanted):
        raise DataError(f"{file} has no item of {n} words. Give a smaller ngram=.")
    found = np.zeros((len(data.sources), len(wanted)), bool)
    done = 0
    for number in range(len(data.sources)):
        for text in documents_of(data, tokenizer, number):
            mine = ngram_hashes(hashes(text), n)
            place = np.minimum(np.searchsorted(wanted, mine), len(wanted) - 1)
            found[number, place[wanted[place] == mine]] = True
            done += len(text.encode("utf-8", "surrogatepass"))
            if progress:
                progress("overlap", done, data.manifest.splits["train"].bytes)
    return _summary(file, n, column, items, wanted, found, data.manifest)


def check_evaluation(file: Path) -> None:
    """Refuse what is no file, before any is searched for.

    Raises:
        DataError: a folder, a pipe, or nothing there.
    """
    if not file.is_file():
        what = "is no regular file" if file.exists() else "does not exist"
        what = "is a folder" if file.is_dir() else what
        raise DataError(f"against: {file} {what}. Give evaluation files: against=[FILE, ...].")


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
    grams: list[np.ndarray],
    wanted: np.ndarray,
    found: np.ndarray,
    m: Manifest,
) -> tuple[list[Item], dict[str, Any]]:
    names = [source.name for source in m.all_sources()]
    items = []
    for number, mine in enumerate(grams, 1):
        hits = found[:, np.searchsorted(wanted, mine)]  # (sources, ngrams of the item)
        each = {name: int(k) for name, k in zip(names, hits.sum(axis=1), strict=True) if k}
        items.append(Item(number, len(mine), int(hits.any(axis=0).sum()), each))
    judged = [item for item in items if item.ngrams]
    shares = np.array([item.found / item.ngrams for item in judged])
    return items, {
        "schema": SCHEMA,
        "file": file.name,
        "path": "/".join(file.absolute().parts[-2:]),  # two evaluations may be called test.jsonl
        "sha256": sha256_file(file),
        "column": column,
        "data_id": m.data_id,
        "ngram": n,
        "items": len(items),
        "too_short": len(items) - len(judged),
        "any": int((shares > 0).sum()),
        "half": int((shares >= 0.5).sum()),
        "all": int((shares == 1).sum()),
        "ngrams": len(wanted),
        "ngrams_found": int(found.any(axis=0).sum()),
        "sources": {name: int(k) for name, k in zip(names, found.sum(axis=1), strict=True)},
    }


def save_overlap(data_dir: Path, file: Path, items: list[Item], summary: dict[str, Any]) -> Path:
    """Write overlap-NAME-COLUMN-NGRAM-HASH.json into the token folder: the summary with every item.

    HASH is of what was asked (contents of the evaluation, column, ngram): the rest is for people, and
    two evaluations may have one name, two columns one spelling in ASCII.

    Returns:
        The file written; the same measured again takes its place.
    """
    asked = [summary["sha256"], summary["column"], summary["ngram"]]
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]
    parts = [file.name[:100], summary["column"][:30], f"{summary['ngram']}", digest]
    name = re.sub(r"[^\w.-]", "_", "-".join(parts), flags=re.ASCII)
    path = data_dir / f"overlap-{name}.json"
    per_item = [[i.item, i.ngrams, i.found] for i in items]
    write_json(path, {**summary, "columns": ["item", "ngrams", "found"], "per_item": per_item})
    return path
