"""The data card of a token folder: sources, sizes, licences, what was left out, and overlaps.

`data_card.json` and `data_card.md` have the same content. It comes from the manifest and from the
`overlap-*.json` reports that `chinchilla data overlap` writes into the folder.
"""

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chinchilla.core.errors import DataError, InputError
from chinchilla.core.files import read_json, write_json, write_text
from chinchilla.core.json_codec import decode, field_names
from chinchilla.data.manifest import SPLITS, Manifest

CARD_JSON, CARD = "data_card.json", "data_card.md"
OVERLAPS = "overlap-*.json"
REASONS = {
    "duplicate": "exact duplicate",
    "in_other_source": "exact duplicate of a document in an earlier source",
    "near_duplicate": "near duplicate (MinHash)",
    "empty": "empty",
    "only_repeats": "every paragraph is a repeat",
    "not_unicode": "lone surrogates, which UTF-8 cannot encode",
}


@dataclass(frozen=True)
class _OverlapSummary:
    """The fields of an overlap report that the card shows."""

    file: str
    sha256: str
    data_id: str
    ngram: int
    items: int
    too_short: int
    any: int
    half: int
    all: int
    sources: dict[str, int]  # n-grams found, by source
    path: str = ""
    column: str = "text"


def write_card(folder: Path, manifest: Manifest, overlaps: list[dict[str, Any]]) -> None:
    """Write data_card.json and data_card.md into a folder.

    Args:
        folder: where to write.
        manifest: of the token folder.
        overlaps: summaries of its overlap reports (`overlap_summaries`).
    """
    card = card_record(manifest, overlaps)
    write_json(folder / CARD_JSON, card)
    write_text(folder / CARD, card_text(card))


def card_record(manifest: Manifest, overlaps: list[dict[str, Any]]) -> dict[str, Any]:
    """The content of data_card.json; sizes are numbers of documents and UTF-8 bytes."""
    sources = manifest.sources
    rows = sum(source.rows for source in sources)
    configs = manifest.corpus.get("sources") or [manifest.corpus]
    origin = {str(each.get("name", "corpus")): _origin(each) for each in configs}
    files = [
        file.get("source")
        for file in manifest.settings.get("sources", [])
        if not file["file"].endswith(".model")
    ]
    return {
        "name": manifest.corpus.get("name", "corpus"),
        "data_id": manifest.data_id,
        "validation_fraction": manifest.settings.get("validation_fraction"),
        "tokenizer": {
            key: getattr(manifest.tokenizer, key)
            for key in ("algorithm", "vocab_size", "lossless", "sha256")
        },
        "totals": {
            name: {"documents": split.documents, "bytes": split.bytes, "tokens": split.tokens}
            for name, split in manifest.splits.items()
        },
        "sources": [
            {
                "name": source.name,
                "from": origin.get(source.name, ""),
                "files": sum(name in (None, source.name) for name in files),
                "licence": source.licence,
                "share": source.rows / rows,
                "documents_in": source.documents,
                "bytes_in": source.bytes,
                "dropped": source.dropped,
                "paragraphs_dropped": source.paragraphs,
                "paragraph_bytes_dropped": source.paragraph_bytes,
                **{name: dataclasses.asdict(source.splits[name]) for name in SPLITS},
            }
            for source in sources
        ],
        "overlap": overlaps,
    }


def overlap_summaries(data_dir: Path, data_id: str) -> list[dict[str, Any]]:
    """Summaries of the overlap reports in a folder, without their items.

    Raises:
        DataError: a report is about other tokens.
    """
    summaries = []
    for path, report in overlap_reports(data_dir):
        if report["data_id"] != data_id:
            raise DataError(
                f"{path} is about data {report['data_id']}, the folder holds {data_id}. Delete the "
                "report, and run chinchilla data overlap again."
            )
        summaries.append({k: v for k, v in report.items() if k not in ("columns", "per_item")})
    return summaries


def overlap_reports(data_dir: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Path and content of the overlap reports in a folder; other files of such names are ignored."""
    reports = []
    for path in sorted(data_dir.glob(OVERLAPS)):
        with contextlib.suppress(InputError):
            report = read_json(path, "overlap")
            if isinstance(report, dict):
                shown = report.keys() & field_names(_OverlapSummary)[0].keys()
                decode(_OverlapSummary, {key: report[key] for key in shown}, str(path))
                reports.append((path, report))
    return reports


def _origin(source: dict[str, Any]) -> str:
    """Where the documents come from, without local paths."""
    if source.get("format") != "hub":
        return str(source.get("format", ""))
    where = [source.get("hub_name"), source.get("hub_config"), source.get("hub_split")]
    return "hub: " + " ".join(x for x in where if x) + f" @{source.get('hub_revision') or 'newest'}"


def card_text(card: dict[str, Any]) -> str:
    """The content of data_card.md."""
    tokenizer, fraction = card["tokenizer"], card["validation_fraction"]
    lines = [
        f"# Data card: {card['name']}",
        "",
        f"data_id `{card['data_id']}`. Tokenizer: {tokenizer['algorithm']}, "
        f"{tokenizer['vocab_size']:,} pieces, {'' if tokenizer['lossless'] else 'not '}lossless "
        f"(sha256 `{tokenizer['sha256'][:12]}`).",
        "",
        *_table(
            ["split", "documents", "bytes", "tokens"],
            [
                [name, f"{split['documents']:,}", f"{split['bytes']:,}", f"{split['tokens']:,}"]
                for name, split in card["totals"].items()
            ],
            n_left=1,
        ),
        "",
        f"Validation split: a fraction of {fraction:.3g} of the documents of every source, selected by "
        "hash of the text."
        if fraction
        else "",
        "",
        "## Sources",
        "",
        *_table(
            ["source", "from", "licence", "share of tokens", "documents in", "bytes in", "dropped",
             "training tokens", "bytes per token"],
            [
                [
                    s["name"], s["from"], s["licence"] or "not stated", f"{s['share']:.2%}",
                    f"{s['documents_in']:,}", f"{s['bytes_in']:,}", f"{sum(s['dropped'].values()):,}",
                    f"{s['train']['tokens']:,}", f"{s['train']['bytes'] / s['train']['tokens']:.3f}",
                ]
                for s in card["sources"]
            ],
            n_left=3,
        ),
        "",
        "## Left out",
        "",
        *_left_out(card["sources"]),
        "",
        "## Overlap with evaluations",
        "",
        *_overlaps(card["overlap"]),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _left_out(sources: list[dict[str, Any]]) -> list[str]:
    rows = []
    for source in sources:
        for reason, n in sorted(source["dropped"].items()):
            gopher = "rule of Rae et al. 2021, A.1.1" if reason.startswith("gopher") else ""
            if n:
                rows.append([source["name"], reason, f"{n:,}", REASONS.get(reason, gopher)])
        if n := source["paragraphs_dropped"]:
            note = f"{source['paragraph_bytes_dropped']:,} bytes of repeated paragraphs"
            rows.append([source["name"], "paragraphs", f"{n:,} paragraphs", note])
    if not rows:
        return ["Nothing."]
    return _table(["source", "reason", "documents", "note"], rows, n_left=2)


def _overlaps(overlaps: list[dict[str, Any]]) -> list[str]:
    if not overlaps:
        return ["Not measured. Run `chinchilla data overlap against=FILES`."]
    rows = []
    for each in overlaps:
        column = each.get("column", "text")
        by_source = ", ".join(f"{name} {n:,}" for name, n in each["sources"].items() if n)
        rows.append([
            each.get("path", each["file"]) + (f" ({column})" if column != "text" else ""),
            each["sha256"][:8], f"{each['ngram']}",
            *(f"{each[key]:,}" for key in ("items", "too_short", "any", "half", "all")),
            by_source or "none",
        ])  # fmt: skip
    titles = ["evaluation", "sha256", "n", "items", "shorter than n words", "any", "half", "all"]
    return [
        "Number of items of which any, at least half, or all word n-grams occur in the training text.",
        "",
        *_table([*titles, "n-grams found by source"], rows, n_left=2),
    ]


def _table(titles: list[str], rows: list[list[str]], n_left: int) -> list[str]:
    """A Markdown table whose first `n_left` columns are left-aligned."""
    rule = ["---"] * n_left + ["--:"] * (len(titles) - n_left)
    cells = [
        titles,
        rule,
        *([" ".join(x.split()).replace("|", "\\|") for x in row] for row in rows),
    ]
    return [f"| {' | '.join(row)} |" for row in cells]
