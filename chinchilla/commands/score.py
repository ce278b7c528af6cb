"""`chinchilla score`: compare a preregistered prediction with measured runs."""

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from chinchilla import config
from chinchilla.commands.shared import print_json
from chinchilla.commands.show import new_table, print_table
from chinchilla.core.errors import InputError
from chinchilla.core.units import count
from chinchilla.decide import preregister
from chinchilla.decide.preregister import Preregistration, Score
from chinchilla.observations.table import Observations
from chinchilla.plan.records import RunResult


def score(command: config.ScoreCommand) -> int:
    """Verify a preregistered prediction and compare it with the measured runs."""
    record = preregister.load(Path(command.prediction))
    loss = command.loss or (record.loss_kind if record.loss_kind != "unknown" else "train")
    times = None
    if command.result:
        result = _read_result(Path(command.result))
        obs = Observations.from_results([result], loss)
        times = [(result.started_utc, result.finished_utc)]
    else:
        obs = Observations.from_csv(Path(command.observations))
        if command.loss:
            obs = dataclasses.replace(obs, loss_kind=command.loss)
    notes = preregister.refuse_known(record, obs, times)
    rows = preregister.score(record, obs)
    not_compared = preregister.not_compared(record, obs)
    if command.format == "json":
        about = {
            key: getattr(record, key) for key in ("made_utc", "sha256", "law_name", "loss_kind")
        }
        about |= {"verified": True, "not_compared": not_compared, "notes": notes}
        return print_json({**about, "runs": [asdict(row) for row in rows]})
    _print_scores(record, rows)
    if not_compared:
        notes.append(
            f"{', '.join(not_compared)} not compared: the prediction or the result does not state it."
        )
    for note in notes:
        print(f"note: {note}")
    return 0


def _read_result(path: Path) -> RunResult:
    """The finished run of a result.json, or of the folder that contains it."""
    run_dir = path if path.is_dir() else path.parent
    if not path.is_dir() and path.name != "result.json":
        raise InputError(
            f"result={path}: give a run's result.json, or the folder that contains it."
        )
    result = RunResult.load(run_dir)
    if result.status != "finished":
        raise InputError(
            f"result={path}: this run {result.status} ({result.reason}) and has no final loss."
        )
    return result


def _print_scores(record: Preregistration, rows: Sequence[Score]) -> None:
    """Print measured and predicted losses, one table for each source of predictions."""
    print(
        f"prediction of {record.made_utc}, SHA-256 {record.sha256[:16]}...: unchanged. "
        f"{record.loss_kind} loss."
    )
    for by in dict.fromkeys(row.by for row in rows):
        group = [row for row in rows if row.by == by]
        table = new_table(
            f"measured and predicted loss, by {by}",
            ("run", "N", "D, tokens", "C, FLOPs", "N/N_opt", "predicted", _level(group[0]), "measured", "off by", "verdict"),
            left=("run", "verdict"),
        )  # fmt: skip
        for row in group:
            interval = row.interval80 or row.ci95
            table.add_row(
                row.run_id, count(row.N), count(row.D), f"{row.C:.3g}", f"{row.N_over_best:.2f}",
                f"{row.predicted:.4f}",
                "" if interval is None else f"{interval[0]:.4f}-{interval[1]:.4f}",
                f"{row.measured:.4f}", f"{row.difference:+.4f} ({row.percent:+.2f}%)",
                {True: "inside", False: "OUTSIDE", None: "no interval"}[row.inside],
            )  # fmt: skip
        print_table(table)
    for level in ("80%", "95%"):
        inside = [row.inside for row in rows if row.inside is not None and _level(row) == level]
        if inside:
            print(f"{sum(inside)} of {len(inside)} runs lie inside their {level} interval.")


def _level(row: Score) -> str:
    return "95%" if row.interval80 is None else "80%"
