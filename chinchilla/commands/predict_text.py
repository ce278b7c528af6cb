"""Recommendations and the answers of `chinchilla predict` as text for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from chinchilla.commands.show import between, bill_text, new_table, percent, print_table
from chinchilla.config import RatesConfig
from chinchilla.core.units import count, number
from chinchilla.decide.decision import FITTED
from chinchilla.decide.predictions import OWN, Prediction
from chinchilla.recommend import Recommendation
from chinchilla.recommend.evaluate import headline

GOOD_SHAPE = 0.05  # extra compute up to which a shape counts as near the best size
METHODS = (
    "80% intervals of the single approaches: resampled lines (approaches 1 and 2) or resampled laws "
    "(approach 3). They exclude the error on held-out budgets, which the recommended answer includes."
)


def print_recommendation(r: Recommendation) -> None:
    """Print a recommendation and the reasons for it."""
    print()
    print(headline(r))
    for text in r.reasons:
        if text != r.disagreement:  # the headline begins with it
            print(f"reason: {text}")


def print_answer(
    rows: Sequence[Prediction],
    recommended: Sequence[Recommendation],
    answer: Mapping[str, Any],
    rates: RatesConfig,
    detail: bool,
) -> None:
    """Print the recommendation of each budget, its costs, and the other answers.

    Args:
        rows: predictions of every approach and published law at every budget.
        recommended: the recommended answer at each budget; empty if only published laws answer.
        answer: the record for JSON.
        rates: for the costs.
        detail: whether to print the long tables too.
    """
    law, decisions = answer["law"], {d["C"]: d for d in answer["decisions"]}
    by_budget = {r.C: r for r in recommended}
    warnings = answer["warnings"]  # printed once
    if target := answer["target"]:
        r = by_budget.get(target["C"])
        _print_target(target, law, r is not None and r.range_only)
    for C in dict.fromkeys([*by_budget, *(row.C for row in rows)]):
        r, decision = by_budget.get(C), decisions.get(C)
        range_only = r is not None and r.range_only
        if r is not None:
            print_recommendation(r)
        if decision is not None and law["name"] != FITTED:
            beyond = next((row.beyond for row in rows if (row.C, row.by) == (C, law["name"])), None)
            _print_published(decision, law, beyond)
        for warning in warnings:
            print(f"{'note' if warning['kind'] == 'note' else 'warning'}: {warning['text']}")
        warnings = []
        if range_only and decision is None:
            continue
        if decision is not None:
            _print_costs(decision, law, rates)
        own = [row for row in rows if row.C == C and row.own and not range_only]
        if own:
            _print_predictions("each approach of these runs by itself", own)
            if any(row.N_interval80 is not None for row in own):
                print(METHODS)
        if published := [row for row in rows if row.C == C and not row.own]:
            _print_predictions(
                "published lines and laws, up to 10x outside the compute of their runs (C = 6*N*D)",
                published,
            )
        if decision is not None and detail:
            _print_departures(decision, law)
    if decisions and not detail:
        print("detail=true also prints the cost of other sizes and shapes.")
    if law is None:
        print("No loss could be forecast. Give law=NAME for the costs of departures.")
    if "repeated" in answer:
        _print_repeated(answer["repeated"], law)
    if "preregistered" in answer:
        print(f"wrote {answer['preregistered']}. Commit or mail it before training.")


def _print_published(
    decision: Mapping[str, Any], law: Mapping[str, Any], beyond: float | None
) -> None:
    N, D = decision["N"], decision["D"]
    print()
    print(
        f"C = {decision['C']:.4g} FLOPs, by {law['name']} (C = {law['flops']}): N {count(N)}, D {count(D)} "
        f"tokens, {_ratio(D / N)} tokens per parameter, loss {decision['L']:.4f} nats/token."
    )
    if beyond is not None:
        end = "largest" if beyond > 1 else "smallest"
        print(f"warning: Extrapolation, {law['name']}: {number(beyond)}x the {end} C of its runs.")


def _ratio(x: float) -> str:
    return f"{x:,.0f}" if x >= 1000 else f"{x:.1f}" if x >= 1 else f"{x:.2g}"


def _print_predictions(title: str, rows: Sequence[Prediction]) -> None:
    """N_opt, D_opt and loss at one budget by source."""
    with_interval = any(row.N_interval80 is not None for row in rows)
    band = ("10-90%",) if with_interval else ()
    table = new_table(
        f"{title}: N in parameters, D in tokens, loss in nats per token",
        ("by", "N_opt", *band, "D_opt", *band, "D/N", "loss", *band, "C beyond the data, x"),
        left=("by",),
    )
    for row in rows:
        L_interval = (
            "" if row.L_interval80 is None else "-".join(f"{x:.4f}" for x in row.L_interval80)
        )
        bands = [between(row.N_interval80), between(row.D_interval80), L_interval]
        N_band, D_band, L_band = ([text] if with_interval else [] for text in bands)
        table.add_row(
            row.by.removeprefix(OWN), count(row.N), *N_band, count(row.D), *D_band, _ratio(row.D / row.N),
            "" if row.L is None else f"{row.L:.4f}", *L_band,
            "" if row.beyond is None else f"{row.beyond:.3g}",
        )  # fmt: skip
    print_table(table)


def _print_costs(decision: Mapping[str, Any], law: Mapping[str, Any], rates: RatesConfig) -> None:
    """The bill, the range of equally good sizes, the best shape, and the size for serving."""
    low, high = decision["N_within_1_percent"]
    print(f"Cost: {bill_text(decision['bill'], rates)}.")
    print(
        f"By {law['name']}, sizes from {count(low)} to {count(high)} need at most 1% more compute."
    )
    best = decision["best_shape"]
    excess, shape = best["excess"], f"{best['name']} on {count(best['D'])} tokens"
    if excess is None:
        text = (
            f"No available shape reaches the loss of the best size. The best shape, {shape}, stays "
            f"{best['extra_loss']:.3g} nats/token above it"
        )
    elif excess > GOOD_SHAPE:
        more = f"{number(1 + excess)}x the" if excess >= 9 else f"{100 * excess:.3g}% more"
        text = (
            f"No available shape is within {GOOD_SHAPE:.0%} of the compute. The best shape, {shape}, needs "
            f"{more} compute for the loss of the best size"
        )
    else:
        more = "under 0.1" if abs(excess) < 1e-3 else f"{100 * excess:.3g}"
        text = f"The best available shape is {shape}: {more}% more compute for the loss of the best size"
    if law["n_convention_of_runs"] == "unknown":
        text += " (with all its parameters: the runs do not state how they count N)"
    print(f"{text}.")
    if served := decision.get("inference"):
        _print_serving(served)
    elif "inference_refused" in decision:
        print(f"No size for serving: {decision['inference_refused']}")


def _print_serving(served: Mapping[str, Any]) -> None:
    best, plain = served["best"], served["trained_only"]
    print(
        f"Serving {count(served['inference_tokens'])} tokens at loss {best['L']:.4f} (2 N FLOPs per "
        f"token): N {count(best['N'])} on {count(best['D'])} tokens instead of {count(plain['N'])} on "
        f"{count(plain['D'])}; {served['total_flops']:.3g} FLOPs in total, {served['saving']:.1%} less."
    )


def _print_departures(decision: Mapping[str, Any], law: Mapping[str, Any]) -> None:
    """The long tables: other sizes, shapes."""
    for key, title, name in (
        ("misallocation", "other sizes", "N / N_opt"),
        ("shapes", "available shapes", "shape"),
    ):
        table = new_table(
            f"{title}, by {law['name']}: the loss for the same FLOPs, and the compute to reach the loss of "
            "the best size",
            (name, "N", "D, tokens", "D/N", "loss, nats/token", "extra loss, nats/token", "more compute, %"),
            left=("shape",),
        )  # fmt: skip
        for row in decision[key]:
            mark = " (best)" if row == decision["best_shape"] else ""
            table.add_row(
                row["name"] + mark, count(row["N"]), count(row["D"]), _ratio(row["D"] / row["N"]),
                f"{row['L']:.4f}", f"{row['extra_loss']:+.4f}", percent(row["excess"]),
            )  # fmt: skip
        print_table(table)


def _print_target(
    target: Mapping[str, Any], law: Mapping[str, Any] | None, range_only: bool
) -> None:
    """The budget that reaches a loss."""
    text = "" if range_only else f"{target['C']:.3g} FLOPs"
    if target["C_interval80"]:
        low, high = (x and f"{x:.3g}" for x in target["C_interval80"])
        ends = f"{low} FLOPs or more" if high is None else f"{low} to {high} FLOPs"
        interval = "not reached by the interval of the loss" if low is None else ends
        text = ", ".join(filter(None, [text, f"80% interval {interval}"]))
    print()
    name = FITTED if law is None else law["name"]
    print(f"Loss {target['L']:g} nats/token by {name}: {text}.")


def _print_repeated(answer: Mapping[str, Any], law: Mapping[str, Any]) -> None:
    """The best use of each budget with limited tokens."""
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
            f"R_D {d_low:.3g} to {d_high:.3g} and R_N {n_low:.3g} to {n_high:.3g} fit these runs equally "
            "well (within 1%)."
        )
    measured = answer["epochs_measured"]
    if any(row["epochs"] > measured for row in answer["budgets"]):
        print(
            f"note: this law was not measured beyond about {measured:.3g} epochs, where repeats can be "
            "harmful."
        )
