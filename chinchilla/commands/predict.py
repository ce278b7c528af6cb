"""`chinchilla predict`: N, D and loss at a budget, with the costs of other choices."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chinchilla import config
from chinchilla.commands.shared import fits_of, print_json
from chinchilla.commands.show import (
    UNKNOWN_N,
    bill_text,
    print_recommendation,
    print_records,
)
from chinchilla.config import RatesConfig
from chinchilla.core.errors import InputError, Refusal
from chinchilla.core.terminal import print_message
from chinchilla.core.units import change, count, number
from chinchilla.decide import preregister
from chinchilla.decide.allocation import cheapest
from chinchilla.decide.decision import (
    FITTED,
    DecisionModel,
    available_shapes,
    for_budget,
    for_unique_tokens,
)
from chinchilla.decide.predictions import Prediction, predictions
from chinchilla.decide.warnings import fit_warnings
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import Observations
from chinchilla.recommend import Recommendation, recommendation
from chinchilla.recommend.evaluate import budget_for, default_budget

GOOD_SHAPE = 0.05  # extra compute up to which a shape counts as near the best size


def predict(command: config.PredictCommand) -> int:
    """Answer each budget by the fits and by published laws; optionally preregister the answer."""
    file = fits_of(command.fits)[0] if command.fits else None
    fits = FitResults.load(file) if file is not None else None
    model = DecisionModel.of(fits, command.law, repeats=bool(command.unique_tokens))
    budgets, target = list(command.budget_flops), None
    if command.target_loss and model is not None:
        C, interval = 0.0, None
        if fits is None or command.law:
            C = cheapest(model.law, command.target_loss).C
        else:
            C, interval = budget_for(fits, command.target_loss)
        target = {"L": command.target_loss, "C": C, "C_interval80": interval}
        budgets.append(C)
    elif fits is not None and not budgets:
        budgets = [default_budget(fits)]
    recommended = []
    if fits is not None and (fits.recommended is not None or not command.law):
        recommended = [recommendation(fits, C) for C in budgets]
    rows = predictions(budgets, fits, named="" if model is None else model.name)
    answer: dict[str, Any] = {
        "target": target,
        "recommended": recommended[0].to_dict() if recommended else None,
        "recommendations": [r.to_dict() for r in recommended],
        "predictions": [asdict(row) for row in rows],
        **_decisions(command, model, budgets, recommended),
    }
    answer["warnings"] = [] if fits is None else [asdict(one) for one in fit_warnings(fits)]
    if command.preregister:
        scored = [] if command.law else recommended  # a published law that is named decides alone
        record = preregister.preregister(fits, model, rows, scored, asdict(command), file)
        to = Path(command.preregister_file) if command.preregister_file else None
        folder = Path() if file is None else file.parent
        answer["preregistered"] = str(preregister.save(record, to, folder))
    if command.format == "json":
        return print_json(answer)
    _print_answer(budgets, rows, recommended, answer, command)
    return 0


def _decisions(
    command: config.PredictCommand,
    model: DecisionModel | None,
    budgets: list[float],
    recommended: Sequence[Recommendation],
) -> dict[str, Any]:
    """What the law implies for each budget and the unique tokens, for JSON.

    Raises:
        Refusal: a setting needs a law and there is none, or a budget nearer to the runs.
    """
    need_a_value = [k for k in ("inference_tokens", "unique_tokens") if getattr(command, k)]
    if model is None:
        if keys := ["target_loss"] * bool(command.target_loss) + need_a_value:
            raise Refusal(
                f"{', '.join(keys)} needs a loss law of N and D, and these fits have none: approach 3 was not "
                "fitted, or they were made from losses at minima alone. Fit approach 3, or give law=NAME of "
                "a published law."
            )
        return {"law": None, "decisions": []}
    if not command.law:
        too_far = {r.C for r in recommended if r.range_only}
        budgets = [C for C in budgets if C not in too_far]
        if too_far and not budgets and need_a_value:
            raise Refusal(
                f"{', '.join(need_a_value)} needs a value of N and D, and beyond 1,000 times the compute of "
                "the largest run these runs support a range only. Give a smaller budget, or law=NAME."
            )
    shapes = available_shapes(
        command.shapes, command.vocab_size, command.seq_len, command.kv_size, command.positions
    )
    rates, served = command.rates, command.inference_tokens
    decisions = [for_budget(model, C, shapes, rates, served) for C in budgets]
    answer: dict[str, Any] = {"law": model.to_dict(), "decisions": decisions}
    if command.unique_tokens:
        runs = None
        if command.repeated_runs:
            runs = _repeated_runs(Path(command.repeated_runs), model)
        answer["repeated"] = for_unique_tokens(model, budgets, command.unique_tokens, runs)
    return answer


def _repeated_runs(path: Path, model: DecisionModel) -> dict[str, Any]:
    """Columns N, D, L and unique_tokens of a table of runs that the law's conventions apply to."""
    runs = Observations.from_csv(path, key="repeated_runs", flop_convention="six_nd").finals()
    for name in ("n_convention", "loss_kind"):
        own, fitted = getattr(runs, name), model.conventions.get(name, "unknown")
        if "unknown" not in (own, fitted) and own != fitted:
            raise InputError(
                f"{path}: {name}={own}, and the fitted law's runs have {fitted}: they are not comparable. "
                "Give runs that are counted in the same way."
            )
    if unknown := [r for r, u in zip(runs.run_id, runs.unique_tokens, strict=True) if u != u]:
        raise InputError(
            f"{path}: unique_tokens is missing or empty for {len(unknown)} runs ({unknown[0]}, ...). Give "
            "the number of distinct tokens (D if nothing is repeated), or leave these runs out."
        )
    return {name: getattr(runs, name) for name in ("N", "D", "L", "unique_tokens")}


# ------------------------------------------------------------------ the answer as text


def _print_answer(
    budgets: Sequence[float],
    rows: Sequence[Prediction],
    recommended: Sequence[Recommendation],
    answer: Mapping[str, Any],
    command: config.PredictCommand,
) -> None:
    """Print the recommendation of each budget, its costs and the other answers."""
    law, decisions = answer["law"], {d["C"]: d for d in answer["decisions"]}
    by_budget = {r.C: r for r in recommended}
    if target := answer["target"]:
        r = by_budget.get(target["C"])
        _print_target(target, law["name"], r is not None and r.range_only)
    for C in budgets:
        r, decision = by_budget.get(C), decisions.get(C)
        if r is not None:
            print_recommendation(r)
        if decision is not None and law["name"] != FITTED:
            print_message(
                f"\nC = {C:.4g} FLOPs, by {law['name']} (C = {law['flops']}): {_sizes(decision)}, "
                f"loss {decision['L']:.4f} nats/token."
            )
            beyond = next((row.beyond for row in rows if (row.C, row.by) == (C, law["name"])), None)
            if beyond is not None:
                end = "largest" if beyond > 1 else "smallest"
                print_message(
                    f"warning: Extrapolation: {number(beyond)}x the {end} C of that law's runs."
                )
        if decision is not None:
            _print_costs(decision, law, command.rates)
        elif r is not None and r.range_only:
            continue
        _print_predictions(
            [row for row in rows if row.C == C and not (row.own and r is not None and r.range_only)]
        )
        if decision is not None and command.detail:
            _print_departures(decision, law)
    if law is None:
        print_message("No loss could be forecast. Give law=NAME for the costs of departures.")
    elif decisions and not command.detail:
        print_message("detail=true also prints the cost of other sizes and of shapes.")
    if "repeated" in answer:
        _print_repeated(answer["repeated"], law)
    for warning in answer["warnings"]:
        print_message(f"{'note' if warning['kind'] == 'note' else 'warning'}: {warning['text']}")
    if "preregistered" in answer:
        print_message(f"wrote {answer['preregistered']}. Commit or mail it before training.")


def _sizes(place: Mapping[str, Any]) -> str:
    N, D = place["N"], place["D"]
    return f"N {count(N)}, D {count(D)} tokens, {D / N:,.3g} tokens per parameter"


def _print_predictions(rows: Sequence[Prediction]) -> None:
    """Print N_opt, D_opt and loss at one budget, by the approaches alone and by published laws."""
    columns = {"by": "by", "N": "N", "D": "D", "D/N": "ratio", "loss": "L"}
    columns["C beyond the data, x"] = "beyond"
    intervals = {"N, 80%": "N_interval80", "D, 80%": "D_interval80", "loss, 80%": "L_interval80"}
    for own, caption in (
        (True, "each approach of these runs by itself, with the 80% intervals of that fit alone"),
        (
            False,
            "published lines and laws, up to 10x outside the compute of their runs (C = 6*N*D)",
        ),
    ):
        records = [{**asdict(row), "ratio": row.D / row.N} for row in rows if row.own == own]
        if records:
            print_records(
                caption,
                records,
                columns | intervals if own else columns,
                dispensable=("C beyond the data, x", "D, 80%", "loss, 80%", "D/N", "N, 80%"),
            )


def _print_costs(decision: Mapping[str, Any], law: Mapping[str, Any], rates: RatesConfig) -> None:
    """Print the bill, the range of equally good sizes, the best shape, and the size for serving."""
    low, high = decision["N_within_1_percent"]
    print_message(f"Cost: {bill_text(decision['bill'], rates)}.")
    print_message(
        f"By {law['name']}, sizes from {count(low)} to {count(high)} need at most 1% more compute."
    )
    best = decision["best_shape"]
    excess, gap = best["excess"], "its loss stays above that of the best size at any compute"
    if excess is not None:
        gap = f"{change(excess)} compute for the loss of the best size"
    print_message(f"Best available shape: {best['name']} on {count(best['D'])} tokens ({gap}).")
    if excess is None or excess > GOOD_SHAPE:
        print_message(
            f"note: no available shape is within {GOOD_SHAPE:.0%} of the compute of the best size. Give "
            "others with shapes=."
        )
    if law["n_convention_of_runs"] == "unknown":
        print_message(f"note: {UNKNOWN_N}")
    if served := decision.get("inference"):
        _print_serving(served)
    elif "inference_refused" in decision:
        print_message(f"No size for serving: {decision['inference_refused']}")


def _print_serving(served: Mapping[str, Any]) -> None:
    best, plain = served["best"], served["trained_only"]
    print_message(
        f"Serving {count(served['inference_tokens'])} tokens at loss {best['L']:.4f} (2 N FLOPs per "
        f"token): N {count(best['N'])} on {count(best['D'])} tokens instead of {count(plain['N'])} on "
        f"{count(plain['D'])}; {served['total_flops']:.3g} FLOPs in total, {served['saving']:.1%} less."
    )


def _print_departures(decision: Mapping[str, Any], law: Mapping[str, Any]) -> None:
    """Print the tables of other sizes and of shapes."""
    for key, name, what in (
        ("misallocation", "N / N_opt", "other sizes"),
        ("shapes", "shape", "available shapes"),
    ):
        print_records(
            f"{what}, by {law['name']}: the loss for the same FLOPs, and the compute to reach the loss of the "
            "best size",
            [{**row, "ratio": row["D"] / row["N"]} for row in decision[key]],
            {name: "name", "N": "N", "D": "D", "D/N": "ratio", "loss": "L", "extra loss": "extra_loss",
             "compute": "excess"},
            dispensable=("D/N", "D", "loss"),
        )  # fmt: skip


def _print_target(target: Mapping[str, Any], law: str, range_only: bool) -> None:
    """Print the budget that reaches a loss."""
    texts = [] if range_only else [f"{target['C']:.3g} FLOPs"]
    if target["C_interval80"]:
        low, high = target["C_interval80"]
        end = " FLOPs or more" if high is None else f" to {high:.3g} FLOPs"
        ends = "not reached by the interval of the loss" if low is None else f"{low:.3g}{end}"
        texts.append(f"80% interval {ends}")
    print_message(f"\nLoss {target['L']:g} nats/token by {law}: {', '.join(texts)}.")


def _print_repeated(answer: Mapping[str, Any], law: Mapping[str, Any]) -> None:
    """Print the best use of each budget with limited tokens, if its epochs lie in the measured range."""
    limit, unique = answer["epochs_measured"], answer["unique_tokens"]
    rows = []
    for row in answer["budgets"]:
        best = {**row["best"], "epochs": f"{row['epochs']:.3g}"}
        if row["epochs"] > limit:
            best |= {"N": None, "D": None, "L": None, "epochs": f"over {limit:.3g}"}
        rows.append(best | {"once": row["single_epoch"]["L"], "unlimited": row["unlimited_loss"]})
    print_records(
        f"{count(unique)} unique tokens, by {law['name']} with R_D {answer['R_D']:.3g}, R_N "
        f"{answer['R_N']:.3g} {answer['source']} (C = 6*N*D)",
        rows,
        {"C": "C", "N": "N", "D": "D", "epochs": "epochs", "loss": "L", "one epoch only": "once",
         "unlimited data": "unlimited"},
    )  # fmt: skip
    if certificate := answer["certificate"]:
        (d_low, d_high), (n_low, n_high) = certificate["R_D_range"], certificate["R_N_range"]
        print_message(
            f"R_D {d_low:.3g} to {d_high:.3g} and R_N {n_low:.3g} to {n_high:.3g} fit these runs equally "
            "well (within 1%)."
        )
    if any(row["epochs"] > limit for row in answer["budgets"]):
        print_message(
            f"note: the effect of repeats was not measured beyond about {limit:.3g} epochs, so no answer is "
            f"given there. Plan for at most {count(limit * unique)} tokens ({limit:.3g} epochs), or add text."
        )
