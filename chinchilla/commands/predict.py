"""The commands that use a fitted frontier: predict, design, score."""

import csv
import dataclasses
import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from chinchilla import config
from chinchilla.commands import fit_minima
from chinchilla.commands.shared import print_json
from chinchilla.core.errors import InputError, Refusal
from chinchilla.core.files import writable_dir, write_text
from chinchilla.decide.answer import (
    FITTED,
    DecisionModel,
    for_budget,
    for_target,
    for_unique_tokens,
    ground_needed,
    shapes_on_offer,
)
from chinchilla.fit.results import FILE, FitResults
from chinchilla.observations import read_table
from chinchilla.observations.table import Observations
from chinchilla.plan.records import RunResult
from chinchilla.recommend import Recommendation, recommendation
from chinchilla.recommend.evaluate import default_budget, local_law


def predict(command: config.PredictCommand) -> int:
    """How to spend each budget, by our fits and by the published laws; optionally written down."""
    from chinchilla.commands.show_answer import show_answer
    from chinchilla.decide import warnings
    from chinchilla.decide.predict import left_out, predictions

    fits = FitResults.load(Path(command.frontier)) if command.frontier else None
    if fits is not None and fits.of_minima:
        return fit_minima.predict(command, fits)
    if not command.law:
        warnings.refuse_if_nothing_fitted(fits, command.frontier)
    budgets = list(command.budget_flops)
    if fits is not None and not budgets and not command.target_loss:
        budgets = [default_budget(fits)]
    recommended = []
    if fits is not None and fits.recommended is not None:
        recommended = [recommendation(fits, C, command.force) for C in budgets]
    repeats = bool(command.unique_tokens)
    ground = DecisionModel.of(fits, command.law, command.flop_convention, repeats)
    asked = "" if ground is None else ground.name
    rows = predictions(budgets, fits, asked=asked)
    answer: dict[str, Any] = {
        "recommended": recommended[0].to_dict() if recommended else None,
        "recommendations": [r.to_dict() for r in recommended],
        "predictions": [asdict(row) for row in rows],
    }
    answer |= _decisions(command, ground, _near(command, budgets, recommended))
    said = warnings.gather(fits, recommended, answer)
    far = {C: text for C in budgets if (text := left_out(C, asked))}
    said += [warnings.Caveat("note", text, C) for C, text in far.items()]
    answer["warnings"] = [asdict(caveat) for caveat in said]
    if command.preregister:
        answer["preregistered"] = str(_preregister(command, fits, ground, rows, recommended))
    if command.format == "json":
        return print_json(answer)
    show_answer(rows, recommended, answer, command.rates, command.detail)
    return 0


def _near(
    command: config.PredictCommand, budgets: list[float], recommended: list[Recommendation]
) -> list[float]:
    """Budgets at which costs of departures mean something: all by a published law that was named.

    Raises:
        Refusal: none is left, and something that needs one was asked for.
    """
    far = set() if command.law else {r.C for r in recommended if r.range_only}
    near = [C for C in budgets if C not in far]
    for key in ("unique_tokens", "inference_tokens"):
        if far and not near and getattr(command, key):
            raise Refusal(
                f"{key} needs a value of N and D, and beyond 1,000 times the compute of the largest run "
                "these runs support a range only. Ask for a smaller budget, or give law=NAME."
            )
    return near


def _decisions(
    command: config.PredictCommand, ground: DecisionModel | None, budgets: list[float]
) -> dict[str, Any]:
    """What the law says to each question asked, ready for JSON."""
    if ground is None:
        for key in ("target_loss", "inference_tokens", "unique_tokens"):
            if getattr(command, key):
                ground_needed(ground, key)
        return {"law": None, "decisions": []}
    shapes = shapes_on_offer(
        command.shapes, command.vocab_size, command.seq_len, command.kv_size, command.positions
    )
    answer: dict[str, Any] = {
        "law": {
            "name": ground.name,
            **{name: getattr(ground.law, name) for name in ("E", "A", "B", "alpha", "beta")},
            "flops": "6*N*D"
            if ground.cost is None
            else "as the fitted runs count it, by its trend over sizes",
            "flop_convention_of_shapes": ground.flop_convention
            or ("six_nd" if ground.cost is None else "the fitted runs"),
            "n_convention_of_shapes": ground.n_convention,
            "n_convention_of_runs": ground.conventions.get("n_convention"),
        },
        "decisions": [
            for_budget(ground, C, shapes, command.rates, command.inference_tokens) for C in budgets
        ],
    }
    if command.target_loss:
        target = for_target(ground, command.target_loss, command.rates, command.inference_tokens)
        answer["target"] = target
        budgets = budgets or [target["C"]]
    if command.unique_tokens:
        runs = (
            _repeated_runs(Path(command.repeated_runs), ground) if command.repeated_runs else None
        )
        answer["repeated"] = for_unique_tokens(ground, budgets, command.unique_tokens, runs)
    return answer


def _repeated_runs(path: Path, ground: DecisionModel) -> dict[str, Any]:
    """Columns N, D, L and unique_tokens of a CSV, under the names that any table of runs may use."""
    wanted = ("N", "D", "L", "unique_tokens")
    table = read_table.read_csv(path, "repeated_runs")
    if missing := [name for name in wanted if name not in table.columns]:
        raise InputError(
            f"{path}: no column {', '.join(missing)} (found {', '.join(table.found) or 'none'}). "
            "repeated_runs has the columns N,D,L,unique_tokens."
        )
    if not len(table):
        raise InputError(f"{path}: no runs, only a header.")
    for name, ours in read_table.conventions_of(table, {}).items():
        theirs = ground.conventions.get(name, "unknown")
        if name != "flop_convention" and "unknown" not in (ours, theirs) and ours != theirs:
            raise InputError(
                f"{path}: {name}={ours}, and the fitted law's runs have {theirs}: the two do not compare."
            )
    columns = {name: read_table.numbers(table, name) for name in wanted}
    unsaid = np.isnan(columns["unique_tokens"])
    if unsaid.any():
        raise InputError(
            f"{table.at(int(np.argmax(unsaid)))}: unique_tokens is empty. Say how many of the tokens "
            "differ (D where nothing is repeated), or leave the run out."
        )
    return columns


def _preregister(
    command: config.PredictCommand,
    fits: FitResults | None,
    ground: DecisionModel | None,
    rows: list,
    recommended: list[Recommendation],
) -> Path:
    from chinchilla.decide import preregister

    path = Path(command.frontier)
    file = (path / FILE if path.is_dir() else path) if command.frontier else None
    record = preregister.record_of(
        rows,
        None if ground is None else ground.law,
        _law_name(fits, ground),
        None if ground is None else ground.resampled,
        None if ground is None else ground.cost,
        file,
        {} if ground is None else ground.conventions,
        asdict(command),
        None if fits is None else fits.runs_beside(path),
        # A published law that was named is what the runs are to be held against.
        [] if fits is None or command.law else [(r, local_law(fits, r.C)) for r in recommended],
    )
    to = Path(command.preregister_file) if command.preregister_file else None
    folder = Path() if file is None else file.parent
    return preregister.save(record, to, folder)


def _law_name(fits: FitResults | None, ground: DecisionModel | None) -> str:
    """Where the one law of a prediction comes from, for runs at other budgets than those asked for."""
    if ground is None or ground.name != FITTED or fits is None:
        return "" if ground is None else ground.name
    if "parametric" in fits.fitted:
        return "approach 3 (parametric)"
    return f"{FITTED} at {default_budget(fits):.3g} FLOPs"


def design(command: config.DesignCommand) -> int:
    """Propose the next runs, print what each is worth, write design.csv."""
    from chinchilla.commands.show_answer import show_design
    from chinchilla.decide.allocation import bill
    from chinchilla.decide.design import propose, sizes_of

    fits = FitResults.load(Path(command.frontier))
    fits.need_runs(command.frontier)
    parametric = fits.fitted.get("parametric")
    if parametric is None:
        why = fits.refused["parametric"].reason if "parametric" in fits.refused else "not asked for"
        raise Refusal(f"design needs approach 3, and it was not fitted here ({why}).")
    path = Path(command.frontier)
    obs = fits.runs_beside(path)
    shapes = shapes_on_offer(
        command.shapes, command.vocab_size, command.seq_len, command.kv_size, command.positions
    )
    law = local_law(fits, command.budget_flops)
    answer = None if law is None else (recommendation(fits, command.budget_flops), law)
    found = propose(
        parametric,
        obs,
        command.budget_flops,
        sizes_of(obs, fits.cost, shapes),
        cost=fits.cost,
        n_runs=command.n_runs,
        spend=command.spend,
        ratios=(command.min_ratio, command.max_ratio),
        recommended=answer,
    )
    out_dir = writable_dir(
        Path(command.out_dir or (path if path.is_dir() else path.parent)), "out_dir"
    )
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        (
            "order",
            "shape",
            "N",
            "D",
            "C",
            "tokens_per_param",
            "narrows",
            "p10",
            "p90",
            "width_after",
        )
    )
    for k, step in enumerate(found.steps, 1):
        run = step.run
        writer.writerow(
            (k, run.shape, run.N, run.D, run.C, run.D / run.N, step.narrows, *step.interval80, step.width)
        )  # fmt: skip
    write_text(out_dir / "design.csv", out.getvalue())
    if command.format == "json":
        cost = asdict(bill(found.steps[-1].spent, command.rates))
        return print_json({**asdict(found), "cost": cost, "file": str(out_dir / "design.csv")})
    show_design(found, command.rates)
    print(f"wrote {out_dir / 'design.csv'}")
    return 0


def score(command: config.ScoreCommand) -> int:
    """Verify a preregistered prediction and set it beside what was measured."""
    from chinchilla.commands.show_answer import show_scores
    from chinchilla.decide import preregister

    record = preregister.load(Path(command.prediction))
    predicted = record["loss_kind"]
    loss = command.loss or (predicted if predicted != "unknown" else "train")
    times = None
    if command.result:
        result = _result_of(Path(command.result))
        obs = Observations.from_results([result], loss)
        times = [(result.started_utc, result.finished_utc)]
    else:
        obs = Observations.from_csv(Path(command.observations))
        if command.loss:
            obs = dataclasses.replace(obs, loss_kind=command.loss)
    notes = preregister.refuse_known(record, obs, times)
    rows = preregister.score(record, obs)
    unsaid = preregister.unsaid(record, obs)
    if command.format == "json":
        about = {key: record[key] for key in ("made_utc", "sha256", "law_name", "loss_kind")}
        about |= {"verified": True, "not_compared": unsaid, "notes": notes}
        return print_json({**about, "runs": [asdict(row) for row in rows]})
    show_scores(record, rows)
    for note in notes:
        print(f"note: {note}")
    if unsaid:
        print(f"note: {', '.join(unsaid)} not compared: prediction or result does not say.")
    return 0


def _result_of(path: Path) -> RunResult:
    """The finished run of a result.json, or of the folder that holds it."""
    run_dir = path if path.is_dir() else path.parent
    if not path.is_dir() and path.name != "result.json":
        raise InputError(f"result={path}: give a run's result.json, or the folder that holds it.")
    result = RunResult.load(run_dir)
    if result.status != "finished":
        raise InputError(
            f"result={path}: this run {result.status} ({result.reason}); it has no final loss."
        )
    return result
