"""`chinchilla predict`: N, D and loss at a budget, and what departures from them cost."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from chinchilla import config
from chinchilla.commands.predict_text import print_answer, print_recommendation
from chinchilla.commands.shared import print_json
from chinchilla.core.errors import InputError, Refusal
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
from chinchilla.fit.results import FILE, FitResults
from chinchilla.observations import read_table
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
        None if fits is None else fits.runs_beside(path),
    )
    to = Path(command.preregister_file) if command.preregister_file else None
    return preregister.save(record, to, Path() if file is None else file.parent)
