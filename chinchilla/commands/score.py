"""`chinchilla score`: a preregistered prediction compared with measured runs."""

from dataclasses import asdict, replace
from pathlib import Path

from chinchilla import config
from chinchilla.commands.shared import print_json
from chinchilla.commands.show import print_records
from chinchilla.core.errors import InputError
from chinchilla.decide import preregister
from chinchilla.observations.table import Observations
from chinchilla.plan.records import RunResult

VERDICTS = {True: "inside", False: "OUTSIDE", None: "no interval"}


def score(command: config.ScoreCommand) -> int:
    """Verify a preregistered prediction and compare it with the measured runs."""
    record = preregister.load(Path(command.prediction))
    times = None
    if command.result:
        path = Path(command.result)
        result = RunResult.load(path if path.is_dir() else path.parent)
        if result.status != "finished":
            raise InputError(
                f"result={path}: this run {result.status} ({result.reason}) and has no final loss. Give a "
                "finished run."
            )
        known = record.loss_kind if record.loss_kind != "unknown" else "train"
        obs = Observations.from_results([result], command.loss or known)
        times = [(result.started_utc, result.finished_utc)]
    else:
        obs = Observations.from_csv(Path(command.observations))
        if command.loss:
            obs = replace(obs, loss_kind=command.loss)
    notes = preregister.refuse_known(record, obs, times)
    rows = preregister.score(record, obs)
    not_compared = preregister.not_compared(record, obs)
    if command.format == "json":
        about = {
            key: getattr(record, key) for key in ("made_utc", "sha256", "law_name", "loss_kind")
        }
        about |= {"verified": True, "not_compared": not_compared, "notes": notes}
        return print_json({**about, "runs": [asdict(row) for row in rows]})
    print(
        f"prediction of {record.made_utc}, SHA-256 {record.sha256[:16]}...: unchanged. "
        f"{record.loss_kind} loss."
    )
    for by in dict.fromkeys(row.by for row in rows):
        group = [row for row in rows if row.by == by]
        share, level = ("95%", "ci95") if group[0].interval80 is None else ("80%", "interval80")
        print_records(
            f"measured and predicted loss, by {by}",
            [{**asdict(row), "verdict": VERDICTS[row.inside]} for row in group],
            {"run": "run_id", "N": "N", "D": "D", "C": "C", "N/N_opt": "N_over_best",
             "predicted": "predicted", share: level, "measured": "measured", "off by": "percent",
             "verdict": "verdict"},
        )  # fmt: skip
        if inside := [row.inside for row in group if row.inside is not None]:
            print(f"{sum(inside)} of {len(inside)} runs lie inside their {share} interval.")
    if not_compared:
        notes.append(
            f"{', '.join(not_compared)} not compared: the prediction or the result does not state it."
        )
    for note in notes:
        print(f"note: {note}")
    return 0
