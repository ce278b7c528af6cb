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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from chinchilla.config import SourceConfig
from chinchilla.config.data import SUFFIXES
from chinchilla.core.errors import DataError
from chinchilla.core.files.reading import sha256_file
from chinchilla.core.files.writing import write_json
from chinchilla.data.corpus import read_documents
from chinchilla.data.corpus_files import refuse_lfs_pointers
from chinchilla.data.dataset import TokenData
from chinchilla.data.tokenizer import Tokenizer

SCHEMA = 1
_WORD = re.compile(r"\w+")
_STEP = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplication is invertible
_MAX_CACHED_WORDS = 1_000_000

Progress = Callable[[str, float, float], None]


class WordHashes:
    """64-bit hashes of words, the same on every machine; hashes of words seen before are cached.

    A word is a run of letters and digits in lower case, so texts that differ only in case, punctuation
    or line breaks have the same hashes.
    """

    def __init__(self) -> None:
        self._cache: dict[str, int] = {}

    def __call__(self, text: str) -> np.ndarray:
        """(words,) uint64 hash of each word of a text, in order."""
        words = _WORD.findall(text.lower())
        if len(self._cache) > _MAX_CACHED_WORDS:
            self._cache.clear()
        cache = self._cache
        for word in set(words).difference(cache):
            digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            cache[word] = int.from_bytes(digest, "little")
        return np.fromiter(map(cache.__getitem__, words), np.uint64, len(words))


def ngram_hashes(words: np.ndarray, n: int) -> np.ndarray:
    """Hash of every word n-gram, a polynomial modulo 2^64.

    Args:
        words: (words,) uint64 hashes of the words.
        n: words per n-gram.

    Returns:
        (words - n + 1,) uint64; empty for fewer than n words.
    """
    hashes = np.zeros(max(0, len(words) - n + 1), np.uint64)
    for i in range(n if len(hashes) else 0):
        hashes = hashes * _STEP + words[i : i + len(hashes)]
    return hashes


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
) -> dict[str, Any]:
    """Look up every n-gram of an evaluation file in the training split of a token folder.

    Args:
        data_dir: token folder.
        file: .jsonl (also compressed): one item per line, its text in `column`; .parquet: one item per
            row; any other file is one item of plain text.
        n: words per n-gram.
        column: field that holds the text.
        progress: called with ("overlap", bytes of text done, bytes in all).

    Returns:
        The report: `per_item` has [number of the item from 1, distinct n-grams, those found] in the
        order of the file; the other keys are totals. An item shorter than n words has no n-grams.

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
        nothing = f"corpus 'against' has no documents in {file}."
        message = str(error).replace(nothing, f"{file} has no text.")
        raise DataError(message.replace("Set corpus.column.", "Set column=.")) from None
    if not items:
        raise DataError(f"{file} has no text.")
    ngrams = np.unique(np.concatenate(items))
    if not len(ngrams):
        raise DataError(f"{file} has no item of {n} words. Give a smaller ngram=.")
    found = np.zeros((len(data.sources), len(ngrams)), bool)  # whether a source has an n-gram
    done = 0
    for number in range(len(data.sources)):
        for text in documents_of(data, tokenizer, number):
            of_document = ngram_hashes(hashes(text), n)
            index = np.minimum(np.searchsorted(ngrams, of_document), len(ngrams) - 1)
            found[number, index[ngrams[index] == of_document]] = True
            done += len(text.encode("utf-8", "surrogatepass"))
            if progress:
                progress("overlap", done, data.manifest.splits["train"].bytes)
    in_any = np.asarray(found.any(axis=0))
    per_item = [
        [number, len(item), int(in_any[np.searchsorted(ngrams, item)].sum())]
        for number, item in enumerate(items, 1)
    ]
    shares = np.array([hits / distinct for _, distinct, hits in per_item if distinct])
    by_source = zip(data.sources, found.sum(axis=1), strict=True)
    return {
        "schema": SCHEMA,
        "path": "/".join(file.absolute().parts[-2:]),  # several may be called test.jsonl
        "sha256": sha256_file(file),
        "column": column,
        "data_id": data.data_id,
        "ngram": n,
        "items": len(items),
        "too_short": len(items) - len(shares),
        "any": int((shares > 0).sum()),
        "half": int((shares >= 0.5).sum()),
        "all": int((shares == 1).sum()),
        "ngrams": len(ngrams),
        "ngrams_found": int(in_any.sum()),
        "sources": {source.name: int(k) for source, k in by_source},
        "columns": ["item", "ngrams", "found"],
        "per_item": per_item,
    }


def check_evaluation(file: Path) -> None:
    """Check that an evaluation is a regular file with contents, before any search begins.

    Raises:
        DataError: it is a folder, a pipe or a Git LFS pointer, or does not exist.
    """
    if not file.is_file():
        problem = "is not a regular file" if file.exists() else "does not exist"
        problem = "is a folder" if file.is_dir() else problem
        raise DataError(
            f"against: {file} {problem}. Give evaluation files: against=FILE, several separated by commas."
        )
    refuse_lfs_pointers([file])


def _texts(file: Path, column: str) -> Iterator[str]:
    kinds = [kind for kind, ends in SUFFIXES.items() if file.name.lower().endswith(ends)]
    source = SourceConfig(name="against", format=(kinds or ["text"])[0], paths=[str(file)])
    if source.format != "text":
        source.column = column
        return read_documents(source)
    return filter(None, read_documents(source))  # an empty file is no item


def save_overlap(data_dir: Path, file: Path, report: dict[str, Any]) -> None:
    """Write the report, overlap-NAME-COLUMN-NGRAM-HASH.json, into the token folder.

    HASH depends on the contents of the evaluation, `column` and `ngram`, so reports of different
    evaluations with the same name do not collide, and repeating a measurement replaces its report.
    """
    identity = [report["sha256"], report["column"], report["ngram"]]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    parts = [file.name[:100], report["column"][:30], f"{report['ngram']}", digest]
    name = re.sub(r"[^\w.-]", "_", "-".join(parts), flags=re.ASCII)
    write_json(data_dir / f"overlap-{name}.json", report)
