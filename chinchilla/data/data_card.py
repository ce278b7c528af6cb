"""The data card of a token folder: sources, sizes, licences, what was left out, and overlaps.

`data_card.md` shows manifest.json and the `overlap-*.json` reports of `chinchilla data overlap`.
"""

import contextlib
from pathlib import Path
from typing import Any

from chinchilla.core.errors import InputError, clean
from chinchilla.core.files.reading import TEXT_BYTES, read_json
from chinchilla.core.files.writing import write_text
from chinchilla.data.manifest import Manifest

CARD = "data_card.md"
REASONS = {
    "duplicate": "exact duplicate",
    "in_other_source": "exact duplicate of a document in an earlier source",
    "empty": "empty",
    "not_unicode": "lone surrogates, which UTF-8 cannot encode",
}


def write_card(folder: Path, manifest: Manifest) -> None:
    """Write data_card.md into a folder, with the overlap reports that the folder has."""
    tokenizer = manifest.tokenizer
    lines = [
        f"# Data card: {manifest.corpus}",
        "",
        f"data_id `{manifest.data_id}`. Tokenizer: {tokenizer.algorithm}, {tokenizer.vocab_size:,} pieces, "
        f"{'' if tokenizer.lossless else 'not '}lossless (sha256 `{tokenizer.sha256[:12]}`).",
        "",
        *_table(
            ["split", "documents", "bytes", "tokens"],
            [
                [name, f"{split.documents:,}", f"{split.bytes:,}", f"{split.tokens:,}"]
                for name, split in manifest.splits.items()
            ],
            left=["split"],
        ),
        "",
        f"Validation split: a fraction of {manifest.settings['validation_fraction']:.3g} of the documents of "
        "every source, selected by hash of the text.",
        "",
        "## Sources",
        "",
        *_sources(manifest),
        "",
        "## Left out",
        "",
        *_left_out(manifest),
        "",
        "## Overlap with evaluations",
        "",
        *_overlaps(folder, manifest.data_id),
    ]
    write_text(folder / CARD, clean("\n".join(lines) + "\n", lines=True))


def _sources(manifest: Manifest) -> list[str]:
    corpus, all_rows = manifest.settings["corpus"], sum(s.rows for s in manifest.sources)
    rows = []
    for source in manifest.sources:
        train = source.splits["train"]
        rows.append([
            source.name, _origin(corpus["sources"].get(source.name, corpus)),
            source.licence or "not stated", f"{source.rows / all_rows:.2%}", f"{source.documents:,}",
            f"{source.bytes:,}", f"{sum(source.dropped.values()):,}", f"{train.tokens:,}",
            f"{train.bytes / train.tokens:.3f}",
        ])  # fmt: skip
    titles = ["source", "from", "licence", "share of tokens", "documents in", "bytes in", "dropped",
              "training tokens", "bytes per token"]  # fmt: skip
    return _table(titles, rows, left=["source", "from", "licence"])


def _origin(source: dict[str, Any]) -> str:
    """Where the documents come from, without local paths."""
    if source["format"] != "hub":
        return str(source["format"])
    where = [source["hub_name"], source["hub_config"], source["hub_split"]]
    return "hub: " + " ".join(x for x in where if x) + f" @{source['hub_revision'] or 'newest'}"


def _left_out(manifest: Manifest) -> list[str]:
    rows = [
        [source.name, reason, f"{n:,}", REASONS[reason]]
        for source in manifest.sources
        for reason, n in sorted(source.dropped.items())
        if n
    ] + [
        [source.name, f"files: {reason}", f"{n:,}", "not read"]
        for source in manifest.sources
        for reason, n in source.files_left_out.items()
    ]
    titles = ["source", "reason", "number", "note"]
    return _table(titles, rows, left=["source", "reason", "note"]) if rows else ["Nothing."]


def _overlaps(folder: Path, data_id: str) -> list[str]:
    rows = []
    for path in sorted(folder.glob("overlap-*.json")):
        # Other files may have such a name.
        with contextlib.suppress(InputError, AttributeError, KeyError, TypeError, ValueError):
            report = read_json(path, "overlap", TEXT_BYTES)
            if report["data_id"] == data_id:
                rows.append(_overlap_row(report))
    if not rows:
        return ["Not measured. Run `chinchilla data overlap against=FILES`."]
    titles = ["evaluation", "sha256", "n", "items", "shorter than n words", "any", "half", "all",
              "n-grams found by source"]  # fmt: skip
    return [
        "Number of items of which any, at least half, or all word n-grams occur in the training text.",
        "",
        *_table(titles, rows, left=["evaluation", "sha256", "n-grams found by source"]),
    ]


def _overlap_row(report: dict[str, Any]) -> list[str]:
    column = "" if report["column"] == "text" else f" ({report['column']})"
    by_source = ", ".join(f"{name} {n:,}" for name, n in report["sources"].items() if n)
    return [
        report["path"] + column, report["sha256"][:8], f"{report['ngram']}",
        *(f"{report[key]:,}" for key in ("items", "too_short", "any", "half", "all")),
        by_source or "none",
    ]  # fmt: skip


def _table(titles: list[str], rows: list[list[str]], left: list[str]) -> list[str]:
    """A Markdown table; columns that are not in `left` are right-aligned."""
    cells = [
        titles,
        ["---" if title in left else "--:" for title in titles],
        *([" ".join(x.split()).replace("|", "\\|") for x in row] for row in rows),
    ]
    return [f"| {' | '.join(row)} |" for row in cells]
