"""`chinchilla predict` and `chinchilla score`: N, D and loss at a budget, compared with measured runs."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from chinchilla import config
from chinchilla.commands.predict_text import print_answer, print_recommendation
from chinchilla.commands.shared import print_json
from chinchilla.commands.show import new_table, print_table
from chinchilla.core.errors import InputError, Refusal
from chinchilla.core.units import count
from chinchilla.decide import preregister, warnings
from chinchilla.decide.decision import (
    FITTED,
    DecisionModel,
    available_shapes,
    for_budget,
    for_target,
    for_unique_tokens,
)
from chinchilla.decide.predictions import Prediction, omitted_text, predictions
from chinchilla.decide.preregister import Preregistration, Score
from chinchilla.fit.results import FILE, FitResults
from chinchilla.observations import read_table
from chinchilla.observations.table import Observations
from chinchilla.plan.records import RunResult
from chinchilla.recommend import Recommendation, recommendation
from chinchilla.recommend.evaluate import default_budget, local_law

NEEDS_A_LAW = ("law", "target_loss", "inference_tokens", "unique_tokens", "preregister")


def predict(command: config.PredictCommand) -> int:
    """Answer each budget by the fits and by published laws; optionally preregister the answer."""
    fits = FitResults.load(Path(command.frontier)) if command.frontier else None
    if fits is not None and fits.of_minima:
        return _predict_from_minima(command, fits)
    if not command.law:
        warnings.refuse_if_nothing_fitted(fits, command.frontier)

    # The recommended answer, and the answer of every approach and published law.
    budgets = list(command.budget_flops)
    if fits is not None and not budgets and not command.target_loss:
        budgets = [default_budget(fits)]
    recommended = []
    if fits is not None and fits.recommended is not None:
        recommended = [recommendation(fits, C, command.force) for C in budgets]
    model = DecisionModel.of(
        fits, command.law, command.flop_convention, repeats=bool(command.unique_tokens)
    )
    name = "" if model is None else model.name
    rows = predictions(budgets, fits, named=name)
    answer: dict[str, Any] = {
        "recommended": recommended[0].to_dict() if recommended else None,
        "recommendations": [r.to_dict() for r in recommended],
        "predictions": [asdict(row) for row in rows],
    }

    # Costs of departures, a target loss, limited data; then warnings.
    answer |= _decisions(command, model, _budgets_with_a_value(command, budgets, recommended))
    all_warnings = warnings.gather(fits, recommended, answer)
    all_warnings += [
        warnings.AnswerWarning("note", text, C) for C in budgets if (text := omitted_text(C, name))
    ]
    answer["warnings"] = [asdict(warning) for warning in all_warnings]
    if command.preregister:
        answer["preregistered"] = str(_preregister(command, fits, model, rows, recommended))
    if command.format == "json":
        return print_json(answer)
    print_answer(rows, recommended, answer, command.rates, command.detail)
    return 0


def _predict_from_minima(command: config.PredictCommand, fits: FitResults) -> int:
    """The recommended loss, and N and D if N is known, from losses at minima.

    Raises:
        Refusal: a setting needs a loss law of N and D.
    """
    if given := [name for name in NEEDS_A_LAW if getattr(command, name)]:
        raise Refusal(
            f"frontier={command.frontier} was made from losses at minima alone (minima=), and "
            f"{', '.join(given)} needs a loss law of N and D. Leave it out, or leave frontier out and give "
            "law=NAME."
        )
    budgets = command.budget_flops or [default_budget(fits)]
    recommended = [recommendation(fits, C, command.force) for C in budgets]
    if command.format == "json":
        rows = [r.to_dict() for r in recommended]
        return print_json({"recommended": rows[0], "recommendations": rows, "predictions": []})
    for r in recommended:
        print_recommendation(r)
    for note in fits.data["notes"]:
        print(f"note: {note}")
    return 0


def _budgets_with_a_value(
    command: config.PredictCommand, budgets: list[float], recommended: list[Recommendation]
) -> list[float]:
    """Budgets for which costs are computed: those whose answer is not only a range.

    Raises:
        Refusal: there are none, and a setting needs one.
    """
    far = set() if command.law else {r.C for r in recommended if r.range_only}
    near = [C for C in budgets if C not in far]
    for key in ("unique_tokens", "inference_tokens"):
        if far and not near and getattr(command, key):
            raise Refusal(
                f"{key} needs a value of N and D, and beyond 1,000 times the compute of the largest run "
                "these runs support a range only. Give a smaller budget, or law=NAME."
            )
    return near


def _decisions(
    command: config.PredictCommand, model: DecisionModel | None, budgets: list[float]
) -> dict[str, Any]:
    """What the law implies for each budget, the target loss and the unique tokens, for JSON.

    Raises:
        Refusal: a setting needs a law and there is none.
    """
    if model is None:
        for key in ("target_loss", "inference_tokens", "unique_tokens"):
            if getattr(command, key):
                raise Refusal(
                    f"{key} needs a loss law, and approach 3 was not fitted here. Fit it, or give law=NAME "
                    "of a published one."
                )
        return {"law": None, "decisions": []}
    shapes = available_shapes(
        command.shapes, command.vocab_size, command.seq_len, command.kv_size, command.positions
    )
    rates, served = command.rates, command.inference_tokens
    decisions = [for_budget(model, C, shapes, rates, served) for C in budgets]
    answer: dict[str, Any] = {"law": model.to_dict(), "decisions": decisions}
    if command.target_loss:
        answer["target"] = for_target(model, command.target_loss, rates, served)
        budgets = budgets or [answer["target"]["C"]]
    if command.unique_tokens:
        runs = None
        if command.repeated_runs:
            runs = _read_repeated_runs(Path(command.repeated_runs), model)
        answer["repeated"] = for_unique_tokens(model, budgets, command.unique_tokens, runs)
    return answer


def _read_repeated_runs(path: Path, model: DecisionModel) -> dict[str, Any]:
    """Columns N, D, L and unique_tokens of a CSV, under any name that a table of runs may use."""
    required = ("N", "D", "L", "unique_tokens")
    table = read_table.read_csv(path, "repeated_runs")
    if missing := [name for name in required if name not in table.columns]:
        raise InputError(
            f"{path}: no column {', '.join(missing)} (found {', '.join(table.header) or 'none'}). "
            "repeated_runs has the columns N,D,L,unique_tokens."
        )
    if not len(table):
        raise InputError(f"{path}: no runs, only a header.")
    for name, value in read_table.conventions_of(table, {}).items():
        fitted = model.conventions.get(name, "unknown")
        if name != "flop_convention" and "unknown" not in (value, fitted) and value != fitted:
            raise InputError(
                f"{path}: {name}={value}, and the fitted law's runs have {fitted}: they are not "
                "comparable. Give runs that are counted in the same way."
            )
    columns = {name: read_table.numbers(table, name) for name in required}
    empty = np.isnan(columns["unique_tokens"])
    if empty.any():
        raise InputError(
            f"{table.at(int(np.argmax(empty)))}: unique_tokens is empty. Give the number of distinct "
            "tokens (D if nothing is repeated), or leave the run out."
        )
    return columns


def _preregister(
    command: config.PredictCommand,
    fits: FitResults | None,
    model: DecisionModel | None,
    rows: list[Prediction],
    recommended: list[Recommendation],
) -> Path:
    """Write the prediction to its file."""
    path = Path(command.frontier)
    file = (path / FILE if path.is_dir() else path) if command.frontier else None
    law_name = "" if model is None else model.name
    if law_name == FITTED and fits is not None:  # the law for runs at other budgets
        law_name = "approach 3 (parametric)"
        if "parametric" not in fits.fitted:
            law_name = f"{FITTED} at {default_budget(fits):.3g} FLOPs"
    # If a published law is named, the runs are scored by it.
    by_recommendation = [] if fits is None or command.law else recommended
    record = preregister.preregister(
        rows,
        [(r, local_law(fits, r.C)) for r in by_recommendation if fits is not None],
        model,
        law_name,
        asdict(command),
        file,
        None if fits is None else fits.observations(),
    )
    to = Path(command.preregister_file) if command.preregister_file else None
    return preregister.save(record, to, Path() if file is None else file.parent)


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
