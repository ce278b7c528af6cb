"""`chinchilla compare`: the fits of several corpora."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from chinchilla import config
from chinchilla.commands.shared import fits_of, print_json, sweep_runs
from chinchilla.core.errors import InputError
from chinchilla.core.files.writing import writable_dir, write_json
from chinchilla.core.terminal import print_message
from chinchilla.decide.compare import NOT_REQUESTED, Side, summary
from chinchilla.decide.compare import compare as compare_sides
from chinchilla.fit.results import FitResults


def compare(command: config.CompareCommand) -> int:
    """Print the tables, and write compare.json and the figure to out_dir."""
    from chinchilla.commands.show import print_table
    from chinchilla.report.comparison import save_figure_of, tables_of

    sides = _sides(command)
    comparison = compare_sides(sides)
    figure = None
    if command.out_dir:
        out_dir = writable_dir(Path(command.out_dir), "out_dir")
        write_json(out_dir / "compare.json", asdict(comparison))
        figure = save_figure_of(sides, out_dir / "figures")
    approach = comparison.approach
    code = 0 if approach else 3
    if command.format == "json":
        print_json(asdict(comparison))
        return code
    for table in tables_of(comparison).values():
        if table.rows:
            print_table(table)
    print_message(summary(comparison))
    notes = [
        f"note, {e.corpus}: {e.approach} refused: {e.refused}"
        for e in comparison.exponents
        if e.refused not in ("", NOT_REQUESTED)
    ]
    if approach:
        for side in sides:
            notes += [
                f"note, {side.name}: not used: {text}"
                for text in side.fits.fitted[approach].refusals
            ]
    for note in [*notes, *(f"note: {text}" for text in comparison.notes)]:
        print_message(note)
    if command.out_dir:
        print_message(f"wrote {out_dir / 'compare.json'}" + (f" and {figure}" if figure else ""))
    else:
        print_message("Nothing was written. Give out_dir=FOLDER for compare.json and the figure.")
    return code


def _sides(command: config.CompareCommand) -> list[Side]:
    """The corpora in the given order.

    Raises:
        InputError: a folder is given twice, has no fits, or its runs are not those of the fits.
    """
    folders = command.fits
    places = [fits_of(folder) for folder in folders]
    if len({file.resolve() for file, _ in places}) < len(places):
        raise InputError(f"{', '.join(folders)}: two are the same. Give different folders.")
    names = command.names or [(sweep or file.parent).resolve().name for file, sweep in places]
    if len(set(names)) < len(names):
        names = folders
    sides = []
    for name, folder, (file, sweep_dir) in zip(names, folders, places, strict=True):
        fits = FitResults.load(file)
        finals = fits.observations().finals()
        results = [] if sweep_dir is None else sweep_runs(sweep_dir, with_curves=False).results
        results = [r for r in results if r.spec.run_id in finals.run_id]
        factors = [
            np.mean([*r.bits_per_byte.values()]) / np.mean([*r.validation_loss.values()])
            for r in results
            if r.bits_per_byte and r.validation_loss
        ]
        sides.append(
            Side(
                name,
                folder,
                fits,
                finals,
                float(np.median(factors)) if factors else None,
                tuple(sorted({r.spec.data_id for r in results})),
                tuple(sorted({r.spec.model.vocab_size for r in results})),
            )
        )
    return sides
