"""`chinchilla compare`: the fits of several corpora."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from chinchilla import config
from chinchilla.commands.shared import finished_results, print_json
from chinchilla.core.errors import InputError
from chinchilla.core.files import writable_dir, write_json
from chinchilla.decide.compare import NOT_REQUESTED, Side, summary
from chinchilla.decide.compare import compare as compare_sides
from chinchilla.fit.results import FILE, FitResults


def compare(command: config.CompareCommand) -> int:
    """Write compare.json and the figure, and print the tables."""
    from chinchilla.commands.show import print_table
    from chinchilla.report.comparison import save_figure_of, tables_of

    sides = _sides(command)
    comparison = compare_sides(sides)
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
    print(summary(comparison))
    for e in comparison.exponents:
        if e.a is None and e.refused != NOT_REQUESTED:
            print(f"note, {e.corpus}: {e.approach} refused: {e.refused}")
    if approach:
        for side in sides:
            for text in side.fits.fitted[approach].refusals:
                print(f"note, {side.name}: not used: {text}")
    for note in comparison.notes:
        print(f"note: {note}")
    print(f"wrote {out_dir / 'compare.json'}" + (f" and {figure}" if figure else ""))
    return code


def _sides(command: config.CompareCommand) -> list[Side]:
    """The fits and runs of each folder, in the given order.

    Raises:
        InputError: a folder is given twice, has no fits, or its runs are not those of the fits.
    """
    folders = [*command.sweep_dirs, *command.fits]
    places = [Path(f) / "fits" for f in command.sweep_dirs]
    places += [Path(f).parent if Path(f).name == FILE else Path(f) for f in command.fits]
    first: dict[Path, str] = {}
    for folder, place in zip(folders, places, strict=True):
        if place.resolve() in first:
            raise InputError(
                f"{folder} is the same as {first[place.resolve()]}: give two different folders."
            )
        first[place.resolve()] = folder
    names = command.names or [Path(f).resolve().name for f in folders]
    if len(set(names)) < len(names):
        names = folders
    n = len(command.sweep_dirs)
    return [
        _side(name, folder, place, is_sweep=i < n)
        for i, (name, folder, place) in enumerate(zip(names, folders, places, strict=True))
    ]


def _side(name: str, folder: str, place: Path, is_sweep: bool) -> Side:
    """Fits in `place`, their runs, and for a sweep the data and vocabulary of its results."""
    if not (place / FILE).exists():
        settings = f"observations=RUNS.csv out_dir={folder}"
        if is_sweep:
            settings = f"sweep_dir={folder} loss=validation"
        raise InputError(
            f"{folder} has no fits ({place / FILE}). Make them: chinchilla fit {settings}"
        )
    fits = FitResults.load(place)
    finals = fits.runs_beside(place).finals()
    fitted = set(finals.run_id.tolist())
    results = finished_results(Path(folder)) if is_sweep else []
    results = [r for r in results if r.spec.run_id in fitted]
    factors = [
        float(np.mean(list(r.bits_per_byte.values())) / np.mean(list(r.validation_loss.values())))
        for r in results
        if r.bits_per_byte and r.validation_loss
    ]
    return Side(
        name,
        folder,
        fits,
        finals,
        float(np.median(factors)) if factors else None,
        tuple(sorted({r.spec.data_id for r in results})),
        tuple(sorted({r.spec.model.vocab_size for r in results})),
    )
