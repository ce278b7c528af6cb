"""`chinchilla score`: a preregistered prediction compared with measured runs."""

from dataclasses import asdict, replace
from pathlib import Path

from chinchilla import config
from chinchilla.commands.shared import print_json
from chinchilla.commands.show import print_records
from chinchilla.core.errors import InputError
from chinchilla.core.terminal import print_message
from chinchilla.decide import preregister
from chinchilla.observations.table import Observations
from chinchilla.plan.records import RunResult

VERDICTS = {True: "inside", False: "OUTSIDE", None: "no interval"}


def score(command: config.ScoreCommand) -> int:
    """Verify a preregistered prediction and compare it with the measured runs."""
    record = preregister.load(Path(command.prediction))
    predicted = record.conventions.get("loss_kind", "unknown")
    finished_utc = ""
    if command.result:
        path = Path(command.result)
        result = RunResult.read(path / "result.json" if path.is_dir() else path)
        if result.status != "finished":
            raise InputError(
                f"result={path}: this run {result.status} ({result.reason}) and has no final loss. Give a "
                "finished run."
            )
        loss = command.loss or ("train" if predicted == "unknown" else predicted)
        obs = Observations.from_results([result], loss)
        finished_utc = result.finished_utc
    else:
        obs = Observations.from_csv(Path(command.observations))
        if command.loss:
            obs = replace(obs, loss_kind=command.loss)
    rows, notes = preregister.score(record, obs, finished_utc)
    if command.format == "json":
        about = {key: getattr(record, key) for key in ("made_utc", "sha256", "law_name")}
        return print_json({**about, "notes": notes, "runs": [asdict(row) for row in rows]})
    print_message(
        f"prediction of {record.made_utc}, SHA-256 {record.sha256[:16]}...: unchanged. {predicted} loss."
    )
    for by in dict.fromkeys(row.by for row in rows):
        group = [row for row in rows if row.by == by]
        level = f"{group[0].level}%"
        print_records(
            f"measured and predicted loss, by {by}",
            [
                {**asdict(row), "off": row.measured / row.predicted - 1, "verdict": VERDICTS[row.inside]}
                for row in group
            ],
            {"run": "run_id", "N": "N", "D": "D", "C": "C", "N/N_opt": "N_over_best",
             "predicted": "predicted", level: "interval", "measured": "measured", "off by": "off",
             "verdict": "verdict"},
            dispensable=("C", "D", "N/N_opt", "N", "off by", level),
        )  # fmt: skip
        if inside := [row.inside for row in group if row.inside is not None]:
            print_message(f"{sum(inside)} of {len(inside)} runs lie inside their {level} interval.")
    for note in notes:
        print_message(f"note: {note}")
    return 0
