"""`chinchilla fetch` and `chinchilla reproduce`: published points and the paper's tables from them."""

import dataclasses
import sys
from pathlib import Path

from chinchilla import config
from chinchilla.commands.shared import print_json, shell_word
from chinchilla.commands.show import print_table
from chinchilla.core.errors import Refusal
from chinchilla.core.files.writing import writable_dir, write_json, write_text
from chinchilla.core.terminal import print_lines, print_message, terminal_width
from chinchilla.observations.table import Observations


def fetch(command: config.FetchCommand) -> int:
    """Write published measurements as a CSV of runs; print their source and licence."""
    from chinchilla.observations import fetch as published

    published.fetch(Path(command.out), command.url, command.timeout_s)
    print_message(str(Observations.from_csv(Path(command.out))))
    print_message(f"source: {published.CITATION}")
    print_message(f"licence: {published.LICENCE}")
    print_message(
        f"wrote {command.out}; fit it with `chinchilla fit {shell_word(command.out)} out_dir=FOLDER`"
    )
    return 0


def reproduce(command: config.ReproduceCommand) -> int:
    """Print Tables 2, 3 and A3 from our fits, and why approach 3 differs from the paper's."""
    from chinchilla.report.reproduce import markdown, notes, reproduce, tables

    def read(key: str) -> Observations:
        path = Path(getattr(command, key))
        return Observations.from_csv(path, key=key, flop_convention=command.flop_convention)

    points = read("points")
    curves = read("curves") if command.curves else None
    found = reproduce(
        points,
        curves,
        drop_highest=command.drop_highest,
        n_bootstrap=command.n_bootstrap,
        seed=command.seed,
    )
    if not any(row.whose == "ours" for row in found.rows):
        reasons = " ".join(f"{name}: {reason}" for name, reason in found.refusals.items())
        raise Refusal(f"no approach could be fitted to {command.points}. {reasons}")
    text = markdown(found)
    if command.out_dir:
        folder = writable_dir(Path(command.out_dir), "out_dir")
        write_text(folder / "table2.md", text)
        write_json(folder / "table2.json", dataclasses.asdict(found))
    if command.format == "json":
        print_json(dataclasses.asdict(found))
        return 0
    if terminal_width(sys.stdout) is None:
        print_lines(text.rstrip("\n"))
    else:
        for table in tables(found):
            print_table(table)
        for note in notes(found):
            print_message(f"\n{note}")
    if command.out_dir:
        print_message(f"\nwrote {folder / 'table2.md'} and {folder / 'table2.json'}")
    return 0
