"""`chinchilla data`, and the table of sources that `plan`, `sweep` and `train` print."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chinchilla import config
from chinchilla.commands.shared import print_json
from chinchilla.commands.show import new_table, print_table
from chinchilla.core.terminal import print_message
from chinchilla.core.units import count
from chinchilla.plan.records import RunSpec

if TYPE_CHECKING:
    from chinchilla.data.dataset import SourceUse, TokenData
    from chinchilla.data.manifest import Manifest


def data(command: config.DataCommand) -> int:
    """Run the action: prepare, tokenizer or overlap."""
    return ACTIONS[command.action](command)


def _show_files_left_out(command: config.DataCommand) -> None:
    """Print which files in the folders of the corpus are not read."""
    from chinchilla.data.corpus_files import find_files

    if command.format == "text":
        for source in command.corpus.each():
            if note := find_files(source).note():
                print_message(f"note, {source.name}: {note}")


def _tokenizer(command: config.DataCommand) -> int:
    """Train or load a tokenizer and print its statistics by source."""
    from chinchilla.commands.progress import stage_progress
    from chinchilla.data.prepare.pipeline import make_tokenizer
    from chinchilla.data.prepare.stages import TOKENIZER_FILE

    _show_files_left_out(command)
    with stage_progress() as report:
        tokenizer, stats = make_tokenizer(command, report if command.format == "text" else None)
    path = command.tokenizer.model or str(Path(command.data_dir) / TOKENIZER_FILE)
    if command.format == "json":
        return print_json({
            "model": path, "sha256": tokenizer.sha256, "vocab_size": tokenizer.vocab_size,
            "lossless": tokenizer.lossless,
            "sources": [
                dataclasses.asdict(s) | {"bytes_per_token": s.bytes_per_token, "fertility": s.fertility}
                for s in stats
            ],
        })  # fmt: skip
    table = new_table(
        "tokenizer statistics on validation documents",
        ["source", "documents", "bytes", "bytes/token", "tokens/word", "not restored", "changed by NFKC"],
        left=("source",),
    )  # fmt: skip
    for s in stats:
        table.add_row(
            s.source, f"{s.documents:,}", f"{s.bytes:,}", f"{s.bytes_per_token:.3f}",
            f"{s.fertility:.3f}", f"{s.changed:,}", f"{s.nfkc_changed:,}",
        )  # fmt: skip
    print_table(table)
    lossless = "lossless" if tokenizer.lossless else "NOT lossless"
    print_message(
        f"{path}: {tokenizer.vocab_size:,} pieces, {lossless}, sha256 {tokenizer.sha256[:12]}."
    )
    return 0


def _overlap(command: config.DataCommand) -> int:
    """Measure the overlap of evaluations with the training text, and add it to the data card."""
    from chinchilla.commands.progress import stage_progress
    from chinchilla.data.data_card import CARD, write_card
    from chinchilla.data.manifest import Manifest
    from chinchilla.data.overlap import check_evaluation, overlap, save_overlap

    folder = Path(command.data_dir).expanduser()
    manifest = Manifest.load(folder)
    files = [Path(name).expanduser() for name in command.against]
    for file in files:
        check_evaluation(file)
    summaries = []
    with stage_progress() as report:
        progress = report if command.format == "text" else None
        for file in files:
            found = overlap(folder, file, command.ngram, command.column, progress)
            save_overlap(folder, file, found)
            summaries.append({k: v for k, v in found.items() if k not in ("columns", "per_item")})
    write_card(folder, manifest)
    if command.format == "json":
        return print_json(
            {"data_dir": str(folder), "data_id": manifest.data_id, "overlap": summaries}
        )
    for s in summaries:
        print_message(
            f"{s['path']}: {s['items']:,} items; {s['any']:,} share a {s['ngram']}-gram of words with the "
            f"training text, {s['half']:,} at least half of their {s['ngram']}-grams, {s['all']:,} all. "
            f"{s['too_short']:,} items are shorter."
        )
    print_message(f"Counts by item: {folder}/overlap-*.json. Summary: {folder / CARD}.")
    return 0


def _prepare(command: config.DataCommand) -> int:
    """Prepare a token folder and print its contents."""
    from chinchilla.commands.progress import stage_progress
    from chinchilla.data.manifest import dropped_text
    from chinchilla.data.prepare.pipeline import prepare

    folder = Path(command.data_dir).expanduser()
    _show_files_left_out(command)
    with stage_progress() as report:
        manifest = prepare(command, report if command.format == "text" else None)
    if command.format == "json":
        totals = {
            name: {"documents": split.documents, "tokens": split.tokens, "bytes": split.bytes}
            for name, split in manifest.splits.items()
        }
        record = {"data_dir": str(folder), "data_id": manifest.data_id, "splits": totals}
        return print_json(record | dataclasses.asdict(manifest))
    if len(manifest.sources) > 1:
        _show_sources(manifest)
    train, validation = manifest.splits["train"], manifest.splits["validation"]
    if manifest.already_prepared:
        print_message("already prepared, nothing to do:")
    dropped = sum((Counter(source.dropped) for source in manifest.sources), Counter[str]())
    left_out = f" Documents left out: {dropped_text(dropped)}." if dropped else ""
    print_message(
        f"{folder}: data_id {manifest.data_id}. Training: {train.tokens:,} tokens in {train.documents:,} "
        f"documents; validation: {validation.tokens:,} tokens in {validation.documents:,} documents. "
        f"Tokenizer: {manifest.tokenizer.vocab_size:,} pieces, {train.bytes / train.tokens:.3f} bytes per token.{left_out}"
    )
    if not manifest.tokenizer.lossless:
        print_message(
            "This tokenizer is NOT lossless, so bits per byte are not comparable with those of a "
            "lossless one."
        )
    return 0


def _show_sources(manifest: "Manifest") -> None:
    """Print a table with one row per source."""
    table = new_table(
        "sources",
        ["source", "share", "documents", "dropped", "bytes", "tokens", "validation tokens", "licence"],
        left=("source", "licence"),
    )  # fmt: skip
    rows = sum(source.rows for source in manifest.sources)
    for source in manifest.sources:
        train = source.splits["train"]
        table.add_row(
            source.name, f"{source.rows / rows:.2%}", f"{source.documents:,}",
            f"{sum(source.dropped.values()):,}", f"{train.bytes:,}", f"{train.tokens:,}",
            f"{source.splits['validation'].tokens:,}", source.licence or "not stated",
        )  # fmt: skip
    print_table(table)


def longest_use(specs: Sequence[RunSpec], tokens: "TokenData") -> "list[SourceUse]":
    """The amounts that the run with the most tokens reads from each source."""
    longest = max(specs, key=lambda spec: spec.D)
    return tokens.use(longest.D, longest.model.seq_len)


def use_record(use: "Sequence[SourceUse]") -> list[dict[str, Any]]:
    """Sources and their epochs, for JSON output."""
    return [dataclasses.asdict(source) | {"epochs": source.epochs} for source in use]


def show_use(use: "Sequence[SourceUse]", epochs: float) -> None:
    """Print the sources of a plan with the columns of Table A1 of the paper; nothing without sources."""
    if not use:
        return
    drawn = sum(source.drawn for source in use)
    table = new_table(
        f"sources of the longest run, {count(drawn)} tokens; limit per source: epochs={epochs:g}",
        ["source", "size", "documents", "share", "tokens", "epochs"],
        left=("source",),
        dispensable=("documents", "size"),
    )
    for source in use:
        over = " !" if source.epochs > epochs else ""
        table.add_row(
            source.name,
            f"{source.bytes / 1e9:.3g} GB" if source.bytes >= 1e9 else f"{source.bytes / 1e6:.3g} MB",
            f"{source.documents:,}", f"{source.share:.2%}", count(source.tokens), f"{source.epochs:.3g}{over}",
        )  # fmt: skip
    print_table(table)


ACTIONS = {
    "prepare": _prepare,
    "tokenizer": _tokenizer,
    "overlap": _overlap,
}
