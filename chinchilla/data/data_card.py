"""The data card beside a manifest: what came in, what was dropped and why, sizes, licences, overlap.

`data_card.json` and `data_card.md` say the same, the first for programs. Both follow from the
manifest, and from the `overlap-*.json` files that `chinchilla data overlap` leaves in the folder.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chinchilla.core.errors import DataError, InputError
from chinchilla.core.files import read_json, write_json, write_text
from chinchilla.core.json_codec import built, fields_of
from chinchilla.data.manifest import SPLITS, Manifest

CARD_JSON, CARD = "data_card.json", "data_card.md"
OVERLAPS = "overlap-*.json"
WHY = {
    "duplicate": "the same text again",
    "in_other_source": "the same text in a source before it",
    "near_duplicate": "nearly the same text as one that stays (MinHash)",
    "empty": "no text",
    "only_repeats": "every paragraph of it stood before",
    "not_unicode": "lone surrogates, which UTF-8 cannot hold",
}

_RULE = "a rule of Rae et al. 2021, A.1"


@dataclass(frozen=True)
class _Overlap:
    """What the card shows of an `overlap-*.json`; that has more."""

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


def write_card(data_dir: Path, manifest: Manifest) -> None:
    """Write both files anew."""
    card = card_record(data_dir, manifest)
    write_json(data_dir / CARD_JSON, card)
    write_text(data_dir / CARD, card_text(card))


def card_record(data_dir: Path, manifest: Manifest) -> dict[str, Any]:
    """The card for programs; sources by name, counts of documents and UTF-8 bytes."""
    sources = manifest.all_sources()
    rows = sum(source.rows for source in sources)
    told = manifest.corpus.get("sources") or [manifest.corpus]
    origin = {str(each.get("name", "corpus")): _origin(each) for each in told}
    files = manifest.settings.get("sources", [])
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
                "files": sum(
                    file.get("source", source.name) == source.name
                    and not file["file"].endswith(".model")
                    for file in files
                ),
                "licence": source.licence,
                "share": source.rows / rows,
                "documents_in": source.documents,
                "bytes_in": source.bytes,
                "dropped": source.dropped,
                "paragraphs_dropped": source.paragraphs,
                "paragraph_bytes_dropped": source.paragraph_bytes,
                **{
                    name: {
                        "documents": source.splits[name].documents,
                        "bytes": source.splits[name].bytes,
                        "tokens": source.splits[name].tokens,
                    }
                    for name in SPLITS
                },
            }
            for source in sources
        ],
        "overlap": _overlaps(data_dir, manifest.data_id),
    }


def _overlaps(data_dir: Path, data_id: str) -> list[dict[str, Any]]:
    """Summaries of what was measured on these tokens."""
    found = []
    for path, told in overlap_files(data_dir):
        if told["data_id"] != data_id:
            raise DataError(
                f"{path} is no overlap with the data beside it. Delete it, and measure again."
            )
        found.append({k: v for k, v in told.items() if k not in ("columns", "per_item")})
    return found


def overlap_files(data_dir: Path) -> list[tuple[Path, dict[str, Any]]]:
    """What `data overlap` left in a folder; other files that are called so are not ours."""
    found = []
    for path in sorted(data_dir.glob(OVERLAPS)):
        with contextlib.suppress(InputError):
            told = read_json(path, "overlap")
            if isinstance(told, dict):
                shown = {key: told[key] for key in told.keys() & fields_of(_Overlap)[0].keys()}
                built(_Overlap, shown, str(path))
                found.append((path, told))
    return found


def _origin(source: dict[str, Any]) -> str:
    """Where the documents come from, without anybody's paths."""
    if source.get("format") != "hub":
        return str(source.get("format", ""))
    where = [source.get("hub_name"), source.get("hub_config"), source.get("hub_split")]
    return "hub: " + " ".join(x for x in where if x) + f" @{source.get('hub_revision') or 'newest'}"


def card_text(card: dict[str, Any]) -> str:
    """The card for people, in Markdown."""
    tokenizer, totals = card["tokenizer"], card["totals"]
    kept = "gives every text back" if tokenizer["lossless"] else "does not give every text back"
    lines = [
        f"# Data card: {card['name']}",
        "",
        f"data_id `{card['data_id']}`. Tokenizer: {tokenizer['algorithm']}, "
        f"{tokenizer['vocab_size']:,} pieces, {kept} (sha256 `{tokenizer['sha256'][:12]}`).",
        "",
        "| split | documents | bytes | tokens |",
        "|---|--:|--:|--:|",
        *(
            f"| {name} | {split['documents']:,} | {split['bytes']:,} | {split['tokens']:,} |"
            for name, split in totals.items()
        ),
        "",
        f"Held out: {card['validation_fraction']:.3g} of the documents of every source, by hash of the text."
        if card["validation_fraction"]
        else "",
        "",
        "## Sources",
        "",
        "| source | from | licence | share of tokens | documents in | bytes in | dropped | training tokens | bytes a token |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|",
        *(
            f"| {_cell(s['name'])} | {_cell(s['from'])} | {_cell(s['licence']) or 'not stated'} "
            f"| {s['share']:.2%} | {s['documents_in']:,} | {s['bytes_in']:,} "
            f"| {sum(s['dropped'].values()):,} | {s['train']['tokens']:,} "
            f"| {s['train']['bytes'] / s['train']['tokens']:.3f} |"
            for s in card["sources"]
        ),
        "",
        "## Dropped",
        "",
        *_dropped(card["sources"]),
        "",
        "## Overlap with evaluations",
        "",
        *_overlap(card["overlap"]),
    ]
    return "\n".join(lines) + "\n"


def _dropped(sources: list[dict[str, Any]]) -> list[str]:
    rows = [
        f"| {_cell(s['name'])} | {reason} | {n:,} | {WHY.get(reason, _RULE if reason.startswith('gopher') else '')} |"
        for s in sources
        for reason, n in sorted(s["dropped"].items())
        if n
    ]
    rows += [
        f"| {_cell(s['name'])} | paragraphs | {s['paragraphs_dropped']:,} paragraphs | "
        f"{s['paragraph_bytes_dropped']:,} bytes that stood before |"
        for s in sources
        if s["paragraphs_dropped"]
    ]
    return (
        ["| source | reason | documents | |", "|---|---|--:|---|", *rows] if rows else ["Nothing."]
    )


def _overlap(found: list[dict[str, Any]]) -> list[str]:
    if not found:
        return ["Not measured. `chinchilla data overlap against=FILES` does."]
    return [
        "Items with n-grams of words that also stand in the training text (any, half of them, all).",
        "",
        "| evaluation | sha256 | words in a row | items | shorter | any | half | all | by source |",
        "|---|---|--:|--:|--:|--:|--:|--:|---|",
        *(
            f"| {_cell(_evaluation(each))} | {_cell(each['sha256'][:8])} | {each['ngram']} | {each['items']:,} | {each['too_short']:,} "
            f"| {each['any']:,} | {each['half']:,} | {each['all']:,} "
            f"| {_cell(', '.join(f'{k} {v:,}' for k, v in each['sources'].items() if v)) or 'none'} |"
            for each in found
        ),
    ]


def _evaluation(found: dict[str, Any]) -> str:
    """The end of a path, and the column where it is not the usual one."""
    column = found.get("column", "text")
    return found.get("path", found["file"]) + (f" ({column})" if column != "text" else "")


def _cell(text: str) -> str:
    """Text that leaves a Markdown table whole."""
    return " ".join(str(text).split()).replace("|", "\\|")
