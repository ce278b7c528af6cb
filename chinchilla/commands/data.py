"""The commands around text: data; and what a plan says of the sources it would read."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chinchilla import config
from chinchilla.commands.shared import print_json
from chinchilla.commands.show import console, new_table, print_table
from chinchilla.core.files import writable_dir
from chinchilla.core.units import count
from chinchilla.plan.records import RunSpec

if TYPE_CHECKING:
    from chinchilla.data.dataset import SourceUse, TokenData
    from chinchilla.data.manifest import Manifest


def data(command: config.DataCommand) -> int:
    """Carry out the action asked for."""
    return ACTIONS[command.action](command)


def _tokenizer(command: config.DataCommand) -> int:
    """Train or load a tokenizer and say what it does to each source."""
    from chinchilla.data.prepare.pipeline import TOKENIZER_FILE, make_tokenizer
    from chinchilla.sweep.view.progress import stage_progress

    with stage_progress() as report:
        made, found = make_tokenizer(command, report if command.format == "text" else None)
    path = command.tokenizer.model or str(Path(command.data_dir) / TOKENIZER_FILE)
    if command.format == "json":
        return print_json({
            "model": path, "sha256": made.sha256, "vocab_size": made.vocab_size,
            "lossless": made.lossless,
            "sources": [
                dataclasses.asdict(m) | {"bytes_per_token": m.bytes_per_token, "fertility": m.fertility}
                for m in found
            ],
        })  # fmt: skip
    table = new_table(
        "on validation documents",
        ["source", "documents", "bytes", "bytes a token", "tokens a word", "not given back", "changed by NFKC"],
        left=("source",),
    )  # fmt: skip
    for m in found:
        table.add_row(
            m.source, f"{m.documents:,}", f"{m.bytes:,}", f"{m.bytes_per_token:.3f}",
            f"{m.fertility:.3f}", f"{m.changed:,}", f"{m.nfkc_changed:,}",
        )  # fmt: skip
    print_table(table)
    kept = "gives every text back" if made.lossless else "does NOT give every text back"
    print(f"{path}: {made.vocab_size:,} pieces, {kept}; sha256 {made.sha256[:12]}.")
    return 0


def _overlap(command: config.DataCommand) -> int:
    """Look for evaluations in the training text, and enter what was found into the data card."""
    from chinchilla.data.data_card import CARD, write_card
    from chinchilla.data.manifest import Manifest
    from chinchilla.data.overlap import check_evaluation, overlap, save_overlap
    from chinchilla.sweep.view.progress import stage_progress

    folder = Path(command.data_dir).expanduser()
    manifest = Manifest.load(folder)
    for given in command.against:
        check_evaluation(Path(given).expanduser())
    found = []
    with stage_progress() as report:
        for given in command.against:
            items, summary = overlap(
                folder, Path(given).expanduser(), command.ngram, command.column,
                report if command.format == "text" else None,
            )  # fmt: skip
            save_overlap(folder, Path(given), items, summary)
            found.append(summary)
    write_card(folder, manifest)
    if command.format == "json":
        return print_json({"data_dir": str(folder), "data_id": manifest.data_id, "overlap": found})
    for s in found:
        print(
            f"{s['path']}: of {s['items']:,} items {s['any']:,} share {s['ngram']} words in a row with the "
            f"training text, {s['half']:,} at least half of theirs, {s['all']:,} all; {s['too_short']:,} "
            "are shorter."
        )
    print(f"item by item in {folder}/overlap-*.json; entered into {folder / CARD}.")
    return 0


def _prepare(command: config.DataCommand) -> int:
    """Prepare a corpus and say what came of it."""
    from chinchilla.data.prepare.pipeline import prepare
    from chinchilla.sweep.view.progress import stage_progress

    folder = writable_dir(Path(command.data_dir).expanduser(), "data_dir")
    with stage_progress() as report:
        manifest = prepare(command, report if command.format == "text" else None)
    if command.format == "json":
        return print_json(
            {"data_dir": str(folder), "data_id": manifest.data_id, **dataclasses.asdict(manifest)}
        )
    if len(manifest.sources) > 1:
        _show_sources(manifest)
    train, held = manifest.splits["train"], manifest.splits["validation"]
    if manifest.already_prepared:
        print("already prepared, nothing to do:")
    print(
        f"{folder}: data_id {manifest.data_id}, {train.tokens:,} training tokens in {train.documents:,} documents, "
        f"{held.tokens:,} held out in {held.documents:,}; {manifest.tokenizer.vocab_size:,} pieces, "
        f"{train.bytes / train.tokens:.3f} bytes a token."
    )
    if not manifest.tokenizer.lossless:
        print(
            "This tokenizer does NOT give every text back: its bits per byte leave out what it loses, and "
            "do not compare with those of a lossless one."
        )
    return 0


def _show_sources(manifest: "Manifest") -> None:
    """A line for each source of a mixture."""
    table = new_table(
        "sources",
        ["source", "share", "documents", "dropped", "bytes", "tokens", "held out", "licence"],
        left=("source", "licence"),
    )
    rows = sum(source.rows for source in manifest.sources)
    for source in manifest.sources:
        train = source.splits["train"]
        table.add_row(
            source.name, f"{source.rows / rows:.2%}", f"{source.documents:,}",
            f"{sum(source.dropped.values()):,}", f"{train.bytes:,}", f"{train.tokens:,}",
            f"{source.splits['validation'].tokens:,}", source.licence or "not stated",
        )  # fmt: skip
    console().print(table)


def longest_use(specs: Sequence[RunSpec], tokens: "TokenData") -> "list[SourceUse]":
    """What the run with the most tokens takes from each source."""
    longest = max(specs, key=lambda spec: spec.D)
    return tokens.use(longest.D, longest.model.seq_len)


def use_record(use: "Sequence[SourceUse]") -> list[dict[str, Any]]:
    """Sources for JSON."""
    return [dataclasses.asdict(source) | {"epochs": source.epochs} for source in use]


def show_use(use: "Sequence[SourceUse]", epochs: float) -> None:
    """The sources of a plan as Table A1 gives those of MassiveText, one line each."""
    drawn = sum(source.drawn for source in use)
    table = new_table(
        f"what the longest run reads, {count(drawn)} tokens; epochs={epochs:g} allows no more of a source",
        ["source", "text", "documents", "share", "tokens", "epochs"],
        left=("source",),
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
