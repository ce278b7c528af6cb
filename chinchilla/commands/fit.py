"""`chinchilla fit`, `diagnose` and `report`: a trained sweep or a table of runs."""

import dataclasses
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from chinchilla import config
from chinchilla.api import restricted, with_ends_of_curves
from chinchilla.commands.progress import late_lines
from chinchilla.commands.shared import PLAN, SweepRuns, fits_of, shell_word, sweep_runs
from chinchilla.core.errors import InputError, nearest_path
from chinchilla.core.files.folders import register
from chinchilla.core.files.reading import (
    TEXT_BYTES,
    RefusedFile,
    open_regular,
    read_json,
    read_text,
    sha256_file,
)
from chinchilla.core.files.writing import pretty_json, writable_dir
from chinchilla.core.terminal import print_lines, print_message, terminal_width
from chinchilla.decide.preregister import fingerprints
from chinchilla.diagnose.verdicts import FILE as DIAGNOSTICS
from chinchilla.diagnose.verdicts import Diagnostics
from chinchilla.diagnose.verdicts import diagnose as run_diagnostics
from chinchilla.fit.results import FILE, SCHEMA, FitResults
from chinchilla.observations.read_table import read_csv
from chinchilla.observations.table import Observations
from chinchilla.plan.plan_file import read_plan
from chinchilla.plan.records import Curve, RunResult

_LOSS_OF_SWEEP = {"train": "final training loss, smoothed,", "validation": "final validation loss"}


def fit(command: config.FitCommand) -> int:
    """Fit the approaches, write frontier.json, and print Table 2 and the recommended answer."""
    out_dir = Path(command.out_dir) if command.out_dir else None
    if command.sweep_dir and out_dir is None:
        out_dir = Path(command.sweep_dir) / "fits"
        register(Path(command.sweep_dir))
    if out_dir is not None:
        _refuse_older_fits(out_dir / FILE)
    if command.minima:
        from chinchilla.recommend.minima import fit_minima

        table = read_csv(Path(command.minima), "minima", command.columns)
        fits = fit_minima(table, asdict(command))
    else:
        from chinchilla.recommend import fit_and_recommend

        with late_lines() as stage:
            stage("reading the runs")
            finals, curves = _runs(command)
        if out_dir is not None:
            writable_dir(out_dir, "out_dir")
        with late_lines() as stage:
            fits = fit_and_recommend(finals, curves, command, stage)
    has_answer = bool(fits.fitted or fits.of_minima)
    keep = out_dir is not None and not has_answer and (out_dir / FILE).exists()
    kept = f"No approach has an answer for these runs. The fits already in {out_dir} were kept; nothing was written."
    if out_dir is not None and not keep:
        writable_dir(out_dir, "out_dir")
        fits.save(out_dir / FILE if command.minima else out_dir)
    if command.format == "json":
        text = pretty_json(fits.to_dict()) + "\n"
        if out_dir is not None and not keep:
            text = read_text(out_dir / FILE)
        print_lines(text.rstrip("\n"))
        if keep:
            print_message(kept, file=sys.stderr)
    else:
        _print_fits(fits)
        if command.sweep_dir:
            print_message(f"loss={command.loss}: the {_LOSS_OF_SWEEP[command.loss]} was fitted.")
        if keep:
            print_message(kept)
            return 3
        if out_dir is not None:
            print_message(f"wrote {out_dir / FILE}")
        _print_default_answer(fits)
        where = command.sweep_dir if command.sweep_dir and not command.out_dir else command.out_dir
        if out_dir is None:
            print_message(
                "Nothing was written. Give out_dir=FOLDER to keep the fits, which predict, diagnose and report read."
            )
        elif fits.recommended is not None:
            print_message(
                f"For another budget: chinchilla predict {shell_word(where)} BUDGET_FLOPS"
            )
    return 0 if has_answer else 3


def _refuse_older_fits(path: Path) -> None:
    """Refuse to replace a frontier.json of another version."""
    if not path.exists():
        return
    try:
        open_regular(path).close()
    except RefusedFile as error:
        raise InputError(
            f"{path} cannot be replaced ({error.strerror}). Give another out_dir, or move it away."
        ) from None
    try:
        schema = read_json(path, "fits", TEXT_BYTES)["schema"]
    except (InputError, KeyError, TypeError):
        schema = "unknown"
    if schema != SCHEMA:
        raise InputError(
            f"{path} would be replaced, and it was written by another version (its schema is {schema}, this "
            f"version writes {SCHEMA}). Give another out_dir, or move that folder away."
        )


def _print_fits(fits: FitResults) -> None:
    """Print Table 2 and the notes, each note once with the approaches that share it."""
    from chinchilla.commands.show import show_table2

    if not fits.of_minima:
        show_table2(fits)
    for note in fits.data["notes"]:
        print_message(f"note: {note}")
    notes: dict[str, list[str]] = {}
    for approach, result in fits.fitted.items():
        for note in [*result.warnings, *result.refusals]:
            notes.setdefault(note, []).append(approach)
    for note, approaches in notes.items():
        print_message(f"note, {', '.join(approaches)}: {note}")


def _print_default_answer(fits: FitResults) -> None:
    """Print the recommended answer at ten times the largest budget."""
    from chinchilla.commands.show import print_recommendation
    from chinchilla.recommend.evaluate import default_budget, recommendation

    if fits.recommended is None:
        print_message("No approach has an answer for these runs.")
        return
    print_recommendation(recommendation(fits, default_budget(fits)))


def _runs(command: config.FitCommand) -> tuple[Observations, Observations | None]:
    """Final losses and curves (if any) of a sweep or of CSVs."""

    def read(key: str) -> Observations:
        obs = Observations.from_csv(
            Path(getattr(command, key)),
            key=key,
            columns=command.columns,
            duplicates=command.duplicates,
            flop_convention=command.flop_convention,
            n_convention=command.n_convention,
        )
        if obs.loss_kind == "unknown" and command.loss == "validation":
            obs = dataclasses.replace(obs, loss_kind="validation")
        return obs

    given_as = Path(command.observations)
    if not given_as.suffix and not given_as.exists():
        raise InputError(
            f"{given_as} does not exist.{nearest_path(given_as)} Give the folder of a sweep, or a CSV file of runs."
        )
    if command.sweep_dir:
        runs = sweep_runs(Path(command.sweep_dir))
        finals = Observations.from_results(runs.results, command.loss)
        finals = dataclasses.replace(finals, notes=(*finals.notes, *runs.notes))
        curves = _points_along(runs.results, runs.curves, command.loss)
    else:
        curves = read("curves") if command.curves else None
        given = read("observations") if command.observations else None
        finals = with_ends_of_curves(given, curves)
    return restricted(finals, curves, command.best, command.tokens_per_param)


def _points_along(
    results: list[RunResult], curve_of: dict[str, Curve], loss: str
) -> Observations | None:
    """All losses of the finished runs, for approach 1; None if there are no such runs.

    Runs with a cool-down are excluded: before it their learning rate has not decayed, and only their
    final losses are points of a law (Haegele et al. 2024).
    """
    done = [r for r in results if r.status == "finished" and r.spec.stable_phase is None]
    if not done:
        return None
    return Observations.from_curves(done, [curve_of[r.spec.run_id] for r in done], loss)


def diagnose(command: config.DiagnoseCommand) -> int:
    """Run every diagnostic on the fits of a folder, write diagnostics.json beside them, print them."""
    file, sweep_dir = fits_of(command.fits, command.sweep_dir)
    if sweep_dir is not None:
        register(sweep_dir)
    fits = FitResults.load(file)
    shapes = {}
    if sweep_dir is not None:
        specs, _ = read_plan(sweep_dir / PLAN)
        shapes = {spec.run_id: spec.model for spec in specs}
    diagnostics = run_diagnostics(
        fits.observations(),
        fits,
        C_star=command.budget_flops,
        n_bootstrap=command.n_bootstrap,
        seed=command.seed,
        shapes=shapes,
        frontier_sha256=sha256_file(file),
    )
    path = writable_dir(file.parent, "fits") / DIAGNOSTICS
    diagnostics.save(path)
    if command.format == "json":
        print_lines(read_text(path).rstrip("\n"))
    else:
        print_lines(diagnostics.text(terminal_width(sys.stdout)))
        print_message(f"wrote {path}")
    return 0


def report(command: config.ReportCommand) -> int:
    """Write report.html with its figures."""
    from chinchilla.recommend.evaluate import default_budget, headline, recommendation
    from chinchilla.report.page import write_report

    file, sweep_dir = fits_of(command.fits, command.sweep_dir)
    if sweep_dir is not None:
        register(sweep_dir)
    fits_dir = file.parent
    base = sweep_dir or fits_dir
    fits = FitResults.load(file)
    diagnostics = Diagnostics.beside(fits_dir)
    if diagnostics is None and (fits_dir / DIAGNOSTICS).exists():
        print_message(
            f"note: {fits_dir / DIAGNOSTICS} belongs to another frontier.json and is left out. Run "
            "`chinchilla diagnose` again."
        )
    runs = SweepRuns([], {}, {})
    finals = fits.observations()
    if sweep_dir is not None:
        runs = sweep_runs(sweep_dir)
        for note in runs.notes:
            print_message(f"note: {note}")
        loss = str(fits.command.get("loss", "train"))
        kind = loss if finals.loss_kind == "unknown" else finals.loss_kind
        fitted = finals.finals()
        fitted = fitted.where(~np.isin(fitted.run_id, [*runs.left_out]))
        in_sweep = Observations.from_results(runs.results, kind)
        _refuse_other_runs(fits_dir, sweep_dir, fitted, in_sweep)
    out_dir = writable_dir(Path(command.out_dir or base / "report"), "out_dir")
    page = write_report(
        out_dir,
        title=base.resolve().name,
        results=runs.results,
        curves=runs.curves,
        left_out=runs.notes,
        finals=finals,
        fits=fits,
        diagnostics=diagnostics,
    )
    print_message(f"wrote {page}")
    if fits.recommended is not None:
        print_message(headline(recommendation(fits, default_budget(fits))))
    return 0


def _refuse_other_runs(
    fits_dir: Path, sweep_dir: Path, fitted: Observations, sweep: Observations
) -> None:
    """Refuse fits of runs that are not finished runs of the sweep with the same N, D and loss."""
    in_sweep = set(fingerprints(sweep))
    other = [fingerprint not in in_sweep for fingerprint in fingerprints(fitted)]
    if any(other):
        first = fitted.run_id[int(np.argmax(other))]
        raise InputError(
            f"fits={fits_dir} was fitted to {len(fitted)} runs, and "
            f"{sum(other)} of them ({first}{', ...' if sum(other) > 1 else ''}) are not runs of "
            f"sweep_dir={sweep_dir} with the same N, D and final loss. Give the fits of this sweep, "
            "or run `chinchilla fit` on it again."
        )
