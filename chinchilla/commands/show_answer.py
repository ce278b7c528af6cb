"""Predictions, proposed runs and scores as lines and tables for a terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from chinchilla.commands.show import between, bill_text, new_table, percent, print_table
from chinchilla.config import RatesConfig
from chinchilla.core.units import count, number
from chinchilla.decide.allocation import bill
from chinchilla.decide.answer import FITTED
from chinchilla.decide.design import Design
from chinchilla.decide.predict import OURS, Prediction
from chinchilla.decide.preregister import Score
from chinchilla.fit.results import FitResults
from chinchilla.recommend.evaluate import Recommendation, default_budget, headline, recommendation

NEAR = 0.05  # more compute than this, and a shape is not near the best size
METHODS = (
    "Intervals: approaches 1 and 2 by their resampled lines; approach 3 by resampled laws, each solved at "
    "this C. These do not include the uncertainty of the choice or errors on held-out budgets."
)


def show_recommended(fits: FitResults) -> None:
    """Print the recommended answer at ten times the largest budget, and the reasons for it."""
    if fits.recommended is None:
        print("No approach has an answer for these runs.")
        return
    _show_recommendation(recommendation(fits, default_budget(fits)))
    print("Ask for another budget with `chinchilla predict frontier=... budget_flops=...`.")


def _show_recommendation(r: Recommendation) -> None:
    print()
    print(headline(r))
    for text in r.reasons:
        if text != r.disagreement:  # the headline begins with it
            print(f"reason: {text}")


def show_answer(
    rows: Sequence[Prediction],
    recommended: Sequence[Recommendation],
    answer: Mapping[str, Any],
    rates: RatesConfig,
    detail: bool = False,
) -> None:
    """Print what `chinchilla predict` found: the recommendation first, then what it was chosen from.

    Args:
        rows: predictions of every approach and published law at every budget.
        recommended: the recommended answer at each budget; none where only published laws answer.
        answer: the record that is JSON otherwise.
        rates: what the bill is computed with.
        detail: whether to print the long tables too.
    """
    law, decisions = answer["law"], {d["C"]: d for d in answer["decisions"]}
    best = {r.C: r for r in recommended}
    general = [x for x in answer["warnings"] if x["C"] is None]  # said once
    for C in dict.fromkeys([*best, *(row.C for row in rows)]):
        here = [row for row in rows if row.C == C]
        ours = [row for row in here if row.ours]
        published = here[len(ours) :]
        if C in best and best[C].range_only:
            ours = []
        decision = decisions.get(C)
        if C in best:
            _show_recommendation(best[C])
        if decision is not None and law is not None and law["name"] != FITTED:
            _show_published(C, decision, law)
        _show_warnings([x for x in answer["warnings"] if x["C"] == C] + general)
        general = []
        if C in best and best[C].range_only and decision is None:
            continue
        if decision is not None:
            _show_costs(decision, law, rates)
        if ours:
            _show_predictions("by these runs, each approach by itself", ours)
            if any(row.N_p10 is not None for row in ours):
                print(METHODS)
        if published:
            _show_predictions("by published lines and laws (C = 6*N*D)", published)
        if decision is not None and detail:
            _show_departures(decision, law)
    if decisions and not detail:
        print(
            "detail=true prints what wrong sizes, shapes that can be built and over-training cost."
        )
    if law is None:
        print("No loss could be forecast. Give law=NAME for what departures cost.")
    if "target" in answer:
        _show_target(answer["target"], law, rates)
        at = answer["target"]["C"]
        _show_warnings([x for x in answer["warnings"] if x["C"] == at] + general)
    if "repeated" in answer:
        _show_repeated(answer["repeated"], law)
    if "preregistered" in answer:
        print(f"wrote {answer['preregistered']}: keep it (commit or mail it), then train.")


def _show_published(C: float, decision: Mapping[str, Any], law: Mapping[str, Any]) -> None:
    """What a published law that was asked for says."""
    print()
    print(
        f"C = {C:.4g} FLOPs, by {law['name']} (C = {law['flops']}): N {count(decision['N'])}, "
        f"D {count(decision['D'])} tokens, {_ratio(decision['D'] / decision['N'])} tokens per "
        f"parameter, loss {decision['L']:.4f} nats/token."
    )


def _show_warnings(warnings: Sequence[Mapping[str, Any]]) -> None:
    for one in warnings:
        print(f"{'note' if one['kind'] == 'note' else 'warning'}: {one['text']}")


def _ratio(x: float) -> str:
    return f"{x:,.0f}" if x >= 1000 else f"{x:.1f}" if x >= 1 else f"{x:.2g}"


def _show_predictions(title: str, rows: Sequence[Prediction]) -> None:
    """N_opt, D_opt and loss of one budget by source."""
    spread = any(row.N_p10 is not None for row in rows)
    bands = ("10-90%",) if spread else ()
    table = new_table(
        f"{title}: the best N parameters and D tokens, loss in nats per token",
        ("by", "N_opt", *bands, "D_opt", *bands, "D/N", "loss", *bands, "C beyond the data, x"),
        left=("by",),
    )
    for row in rows:
        loss = "" if row.L is None else f"{row.L:.4f}"
        L_band = "" if row.L_p10 is None else f"{row.L_p10:.4f}-{row.L_p90:.4f}"
        cells = [row.by.removeprefix(OURS), count(row.N), between(row.N_p10, row.N_p90), count(row.D),
                 between(row.D_p10, row.D_p90), _ratio(row.D / row.N), loss, L_band,
                 "" if row.beyond is None else f"{row.beyond:.3g}"]  # fmt: skip
        table.add_row(*(cell for i, cell in enumerate(cells) if spread or i not in (2, 4, 7)))
    print_table(table)


def _show_costs(decision: Mapping[str, Any], law: Mapping[str, Any], rates: RatesConfig) -> None:
    """The bill, the sizes that are as good, the shape that can be built, and serving."""
    low, high = decision["N_within_1_percent"]
    print(f"Cost: {bill_text(decision['bill'], rates)}.")
    print(
        f"If {law['name']} is right, sizes from {count(low)} to {count(high)} cost at most 1% more compute."
    )
    _show_best_shape(decision, law)
    if served := decision.get("inference"):
        _show_inference(served)
    elif "inference_refused" in decision:
        print(f"No size for serving: {decision['inference_refused']}")


def _show_best_shape(decision: Mapping[str, Any], law: Mapping[str, Any]) -> None:
    """The shape that can be built, what the budget trains it on, and what it costs."""
    best = next(row for row in decision["shapes"] if row["name"] == decision["best_shape"])
    more, D = best["excess"], count(best["D"])
    if more is None:
        text = (
            f"No shape on offer reaches the best size's loss: {best['name']}, on {D} tokens, stays "
            f"{best['extra_loss']:.3g} nats/token above it"
        )
    elif more > NEAR:
        text = (
            f"No shape on offer is within {NEAR:.0%} of the compute: the best, {best['name']} on {D} "
            f"tokens, needs {_more(more)} for the best size's loss"
        )
    else:
        text = (
            f"The best shape on offer is {best['name']}, on {D} tokens: "
            f"{'under 0.1' if abs(more) < 1e-3 else f'{100 * more:.3g}'}% more compute for the best size's loss"
        )
    if law["n_convention_of_runs"] == "unknown":
        text += " (all its parameters counted: the runs do not say how they count N)"
    print(f"{text}.")


def _more(excess: float) -> str:
    return f"{number(1 + excess)} times as much" if excess >= 9 else f"{100 * excess:.3g}% more"


def _show_departures(decision: Mapping[str, Any], law: Mapping[str, Any]) -> None:
    """The long tables: wrong sizes, shapes, over-training."""
    right = f"if {law['name']} is right"
    wrong = new_table(
        f"{right}, a wrong size: what C then loses, and what it takes to reach the best size's loss",
        ("N / N_opt", "N", "extra loss, nats/token", "compute wasted, %", "more compute, %"),
    )
    for row in decision["misallocation"]:
        wrong.add_row(
            f"{row['factor']:.3g}", count(row["N"]), f"+{row['extra_loss']:.4f}",
            percent(row["wasted"], "unknown"), percent(row["excess"]),
        )  # fmt: skip
    print_table(wrong)
    built = new_table(
        f"{right}, sizes that can be built, D re-solved for the budget (FLOPs as {law['flop_convention_of_shapes']})",
        ("shape", "N", "D, tokens", "D/N", "loss, nats/token", "extra loss, nats/token", "more compute, %"),
        left=("shape",),
    )  # fmt: skip
    for row in decision["shapes"]:
        mark = " (best)" if row["name"] == decision["best_shape"] else ""
        built.add_row(
            row["name"] + mark, count(row["N"]), count(row["D"]), _ratio(row["D"] / row["N"]),
            f"{row['L']:.4f}", f"{row['extra_loss']:+.4f}", percent(row["excess"]),
        )  # fmt: skip
    print_table(built)
    over = new_table(
        f"{right}, over-training: a smaller model on more tokens, same FLOPs",
        ("times D/N", "N", "D, tokens", "loss, nats/token", "extra loss, nats/token"),
    )
    for row in decision["overtraining"]:
        over.add_row(
            f"{row['times']:g}", count(row["N"]), count(row["D"]), f"{row['L']:.4f}",
            f"+{row['extra_loss']:.4f}",
        )  # fmt: skip
    print_table(over)


def _show_inference(served: Mapping[str, Any]) -> None:
    best, plain = served["best"], served["trained_only"]
    print(
        f"Serving {count(served['inference_tokens'])} tokens at loss {best['L']:.4f} (2 N FLOPs a "
        f"served token): N {count(best['N'])} on {count(best['D'])} tokens instead of "
        f"{count(plain['N'])} on {count(plain['D'])}; {served['total_flops']:.3g} FLOPs in all, "
        f"{served['saving']:.1%} less."
    )


def _show_target(target: Mapping[str, Any], law: Mapping[str, Any], rates: RatesConfig) -> None:
    if target["range_only"]:
        print(
            f"\nLoss {target['L']:g} nats/token by {law['name']}: {_costs(target['C_interval80'])} (80%), "
            "over 1,000x beyond the data. The runs do not support more than this range."
        )
        return
    print(
        f"\nLoss {target['L']:g} nats/token by {law['name']}: at least "
        f"{target['C']:.3g} FLOPs, N {count(target['N'])}, D {count(target['D'])}, "
        f"{_ratio(target['D'] / target['N'])} tokens per parameter."
    )
    if target["C_interval80"]:
        print(f"80% interval of the cost: {_costs(target['C_interval80'])}.")
    print(f"Cost: {bill_text(target['bill'], rates)}.")
    if target.get("inference"):
        _show_inference(target["inference"])


def _costs(interval: Sequence[float | None]) -> str:
    low, high = interval
    if low is None:
        return "no amount of FLOPs"
    return f"{low:.3g} FLOPs or more" if high is None else f"{low:.3g} to {high:.3g} FLOPs"


def _show_repeated(answer: Mapping[str, Any], law: Mapping[str, Any]) -> None:
    table = new_table(
        f"{count(answer['unique_tokens'])} unique tokens, by {law['name']} with R_D "
        f"{answer['R_D']:.3g}, R_N {answer['R_N']:.3g} {answer['source']} (C = 6*N*D)",
        ("C, FLOPs", "N", "D, tokens", "epochs", "loss, nats/token", "one epoch only", "unlimited data"),
    )  # fmt: skip
    for row in answer["budgets"]:
        best = row["best"]
        table.add_row(
            f"{best['C']:.3g}", count(best["N"]), count(best["D"]), f"{row['epochs']:.3g}",
            f"{best['L']:.4f}", f"{row['single_epoch']['L']:.4f}", f"{row['unlimited_loss']:.4f}",
        )  # fmt: skip
    print_table(table)
    if certificate := answer["certificate"]:
        (d_low, d_high), (n_low, n_high) = certificate["R_D_range"], certificate["R_N_range"]
        print(
            f"These runs fit within 1% as well with R_D {d_low:.3g} to {d_high:.3g} and R_N "
            f"{n_low:.3g} to {n_high:.3g}."
        )
    measured = answer["epochs_measured"]
    if any(row["epochs"] > measured for row in answer["budgets"]):
        print(
            f"note: beyond about {measured:.3g} epochs this law was not measured; there repeats have "
            "been seen to harm, which it cannot say."
        )


def show_design(design: Design, rates: RatesConfig) -> None:
    """Print the proposed runs in order: what each costs and how far the interval then narrows."""
    ratios, C = design.limits["tokens_per_param"], design.limits["C"]
    print(
        f"N_opt({design.C_star:.3g} FLOPs) = {count(design.N_opt)}, 80% interval "
        f"{between(*design.interval80)}: a factor {design.width:.3g} (90th over 10th percentile, "
        f"{design.source})."
    )
    price = ("price",) if rates.price_per_device_hour else ()
    table = new_table(
        f"next runs, best first, of {design.n_candidates} candidates at {ratios[0]:.3g} to "
        f"{ratios[1]:.3g} tokens per parameter and {C[0]:.3g} to {C[1]:.3g} FLOPs",
        ("run", "shape", "N", "D, tokens", "D/N", "C, FLOPs", "device-hours", *price,
         "narrows", "80% after", "factor"),
        left=("shape",),
    )  # fmt: skip
    for k, step in enumerate(design.steps, 1):
        run, cost = step.run, bill(step.run.C, rates)
        table.add_row(
            str(k), run.shape, count(run.N), count(run.D), f"{run.D / run.N:.1f}", f"{run.C:.3g}",
            f"{cost.device_hours:.3g}", *([f"{cost.price:,.4g}"] if price else []),
            f"{step.narrows:.1%}", between(*step.interval80), f"{step.width:.3g}",
        )  # fmt: skip
    print_table(table)
    places = [(step.run.shape, step.run.D) for step in design.steps]
    if len(set(places)) < len(places):
        print("A run that stands here twice is meant with another seed, not twice the same.")
    if design.n_convention == "unknown":
        print("Shapes count all their parameters: the runs do not say how they count N.")
    last = design.steps[-1]
    print(
        f"All together: {bill_text(asdict(bill(last.spent, rates)), rates)}, to narrow the 80% interval "
        f"from a factor {design.width:.3g} to {last.width:.3g} ({sum(s.narrows for s in design.steps):.0%} of "
        "its logarithm). Expected, with noise and misfit as in the runs so far: fit again after each run."
    )


def show_scores(record: Mapping[str, Any], rows: Sequence[Score]) -> None:
    """Print each measured loss beside what was predicted for it, a table for each that predicted."""
    print(
        f"prediction of {record['made_utc']}, SHA-256 {record['sha256'][:16]}...: unchanged. "
        f"{record['loss_kind']} loss."
    )
    for by in dict.fromkeys(row.by for row in rows):
        _show_scores_by(by, [row for row in rows if row.by == by])
    for level in ("80%", "95%"):
        judged = [row.inside for row in rows if row.inside is not None and _level(row) == level]
        if judged:
            print(f"{sum(judged)} of {len(judged)} runs lie inside their {level} interval.")


def _show_scores_by(by: str, rows: Sequence[Score]) -> None:
    level = _level(rows[0])
    table = new_table(
        f"measured beside predicted by {by}",
        ("run", "N", "D, tokens", "C, FLOPs", "N/N_opt", "predicted", level, "measured", "off by", "verdict"),
        left=("run", "verdict"),
    )  # fmt: skip
    for row in rows:
        interval = row.interval80 or row.ci95
        spread = "" if interval is None else f"{interval[0]:.4f}-{interval[1]:.4f}"
        verdict = {True: "inside", False: "OUTSIDE", None: "no interval"}[row.inside]
        table.add_row(
            row.run_id, count(row.N), count(row.D), f"{row.C:.3g}", f"{row.N_over_best:.2f}",
            f"{row.predicted:.4f}", spread, f"{row.measured:.4f}", f"{row.difference:+.4f} ({row.percent:+.2f}%)", verdict,
        )  # fmt: skip
    print_table(table)


def _level(row: Score) -> str:
    return "95%" if row.interval80 is None else "80%"
