"""`chinchilla fetch` and `chinchilla reproduce`: published points and the paper's tables from them."""

import dataclasses
from pathlib import Path

from chinchilla import config
from chinchilla.commands.shared import print_json, shell_word
from chinchilla.core.errors import Refusal
from chinchilla.core.files import writable_dir, write_json, write_text
from chinchilla.observations.table import Observations


def fetch(command: config.FetchCommand) -> int:
    """Write published measurements as a CSV of runs; print their source and licence."""
    from chinchilla.observations import fetch as published

    published.fetch(Path(command.out), command.url, command.timeout_s)
    print(Observations.from_csv(Path(command.out)))
    print(f"source: {published.CITATION}")
    print(f"licence: {published.LICENCE}")
    print(
        f"wrote {command.out}; fit it with `chinchilla fit {shell_word(command.out)} out_dir=FOLDER`"
    )
    return 0


def reproduce(command: config.ReproduceCommand) -> int:
    """Print Tables 2, 3 and A3 from our fits, and why approach 3 differs from the paper's."""
    from chinchilla.report.reproduce import markdown, reproduce

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
    text = markdown(found)
    if command.out_dir:
        folder = writable_dir(Path(command.out_dir), "out_dir")
        write_text(folder / "table2.md", text)
        write_json(folder / "table2.json", dataclasses.asdict(found))
    if command.format == "json":
        print_json(dataclasses.asdict(found))
    else:
        print(text, end="")
        if command.out_dir:
            print(f"\nwrote {folder / 'table2.md'} and {folder / 'table2.json'}")
    if not any(row.whose == "ours" for row in found.rows):
        raise Refusal(f"no approach could be fitted to {command.points}: see the reasons above.")
    return 0
