"""Plans and predictions as tables for a terminal."""

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from chinchilla.config import ClusterConfig, RatesConfig
from chinchilla.decide.answer import FITTED
from chinchilla.decide.design import Design
from chinchilla.decide.options import bill
from chinchilla.decide.predict import Prediction
from chinchilla.decide.preregister import Score
from chinchilla.fit.frontier import called
from chinchilla.plan import peak_memory_bytes, plan_cost
from chinchilla.records import RunSpec
from chinchilla.report.tables import count


def show_plan(
    specs: Sequence[RunSpec],
    cluster: ClusterConfig,
    done: Collection[str] = (),
    cost_line: bool = True,
) -> None:
    """Print a plan run by run, then what is left of it will cost, and by which assumptions.

    Args:
        specs: the whole plan.
        cluster: speed, price and memory of a device.
        done: run_ids that have their result.
        cost_line: whether to print the cost; a sweep has an estimate of its own.
    """
    left = [s for s in specs if s.run_id not in done]
    if not left:
        print(f"{specs[0].sweep}: all {len(specs)} runs have their results.")
        return
    table = Table(
        title=f"{specs[0].sweep}: {len(specs)} runs, C counted as {specs[0].flop_convention}",
        title_justify="left",
    )
    for name in (
        "budget",
        "N",
        "D, tokens",
        "D/N",
        "steps",
        "peak lr",
        "C, FLOPs",
        "memory",
        "time",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    speed = cluster.peak_flops * cluster.mfu
    too_big = []
    for i, s in enumerate(specs):
        memory = peak_memory_bytes(s, s.model.seq_len)
        if memory > cluster.memory_gb * 1e9:
            too_big.append(s)
        last = i + 1 == len(specs) or specs[i + 1].budget_flops != s.budget_flops
        table.add_row(
            "horizon" if s.budget_flops is None else f"{s.budget_flops:.3g}", count(s.N), count(s.D),
            f"{s.D / s.N:.1f}", f"{s.steps:,}", f"{s.peak_lr:.2e}", f"{s.C:.4g}", _bytes(memory),
            _duration(s.C / speed), end_section=last,
        )  # fmt: skip
    console().print(table)
    if cost_line:
        _show_cost(left, len(specs), cluster)
    if too_big:
        print(
            f"note: {len(too_big)} runs need more than {cluster.memory_gb:g} GB on one device "
            f"(largest N={count(max(s.N for s in too_big))}), even with one row a pass (fp32 weights, gradients and Adam state)."
        )


def _show_cost(left: Sequence[RunSpec], n: int, cluster: ClusterConfig) -> None:
    """What `left` of a plan's `n` runs cost, and by which assumptions."""
    workers = cluster.n_workers or (1 if cluster.kind == "debug" else os.cpu_count() or 1)
    cost = plan_cost(left, cluster, workers)
    hourly = cluster.price_per_device_hour
    share = f"{len(left)} of {n} runs are left; their " if len(left) < n else ""
    price = f", {cost.price:,.2f} at {hourly:g} an hour" if hourly else ""
    print(
        f"{share}cost: {cost.flops:.3g} FLOPs = {cost.device_hours:.3g} device-hours at "
        f"{cluster.peak_flops:.3g} FLOP/s x {cluster.mfu:.0%} MFU{price}; about "
        f"{_duration(cost.seconds)} on {workers} workers, longest run {_duration(cost.longest_run_seconds)}."
    )


OURS = "this data, "  # how predictions name the fits' own approaches
METHODS = (
    "Intervals: approaches 1 and 2 by their resampled lines, their loss with N and D held; "
    "approach 3 by resampled laws, each solved at this C."
)


def show_answer(
    rows: Sequence[Prediction], answer: Mapping[str, Any], rates: RatesConfig, detail: bool = False
) -> None:
    """Print what `chinchilla predict` found: a line to act on first, then who says what.

    Args:
        rows: predictions at every budget.
        answer: the record that is JSON otherwise.
        rates: what the bill stands on.
        detail: whether to print the long tables too.
    """
    law, decisions = answer["law"], {d["C"]: d for d in answer["decisions"]}
    for C in dict.fromkeys(row.C for row in rows):
        here = [row for row in rows if row.C == C]
        ours = [row for row in here if row.by.startswith(OURS)]
        decision = decisions.get(C)
        _show_lead(C, ours, decision, law)
        if decision is not None:
            _show_costs(decision, law, rates)
        if ours:
            _show_predictions("by these runs", ours)
            if any(row.N_p10 is not None for row in ours):
                print(METHODS)
        _show_predictions("by published lines and laws (C = 6*N*D)", here[len(ours) :])
        if decision is not None and detail:
            _show_departures(decision, law)
    if rows and law is not None and not detail:
        print(
            "detail=true prints what wrong sizes, shapes that can be built and over-training cost."
        )
    if law is None:
        print("No loss law: approach 3 was not fitted. Give law=NAME for what departures cost.")
    if "target" in answer:
        _show_target(answer["target"], law, rates)
    if "repeated" in answer:
        _show_repeated(answer["repeated"], law)
    if "preregistered" in answer:
        print(f"wrote {answer['preregistered']}: keep it (commit or mail it), then train.")


def _show_lead(
    C: float,
    ours: Sequence[Prediction],
    decision: Mapping[str, Any] | None,
    law: Mapping[str, Any] | None,
) -> None:
    """The line to act on: approach 3 of these runs, else their 2 or 1; and the law, if another."""
    print()
    if ours:
        order = ("parametric", "isoflop", "envelope")
        row = min(ours, key=lambda row: order.index(row.by.removeprefix(OURS)))
        N, D = _between(row.N_p10, row.N_p90), _between(row.D_p10, row.D_p90)
        L = "" if row.L_p10 is None else f"{row.L_p10:.4f}-{row.L_p90:.4f}"
        brackets = "; 10-90% in brackets" if N else "; no intervals"
        text = (
            f"C = {C:.4g} FLOPs, by these runs' {called(row.by.removeprefix(OURS))}: "
            f"N {count(row.N)}{_brackets(N)}, D {count(row.D)}{_brackets(D)} tokens, "
            f"{row.D / row.N:.1f} tokens per parameter"
        )
        text += "" if row.L is None else f", loss {row.L:.4f}{_brackets(L)}"
        print(f"{text}{brackets}.")
        if row.beyond is not None:
            end = "largest" if row.beyond > 1 else "smallest"
            print(f"That is {row.beyond:.3g} times the {end} C of these runs: no run here saw it.")
    if decision is not None and law is not None and not (ours and law["name"] == FITTED):
        print(
            f"C = {C:.4g} FLOPs, by {law['name']} (C = {law['flops']}): N {count(decision['N'])}, "
            f"D {count(decision['D'])} tokens, {decision['D'] / decision['N']:.1f} tokens per "
            f"parameter, loss {decision['L']:.4f} nats/token."
        )


def _brackets(text: str) -> str:
    return f" ({text})" if text else ""


def _show_predictions(title: str, rows: Sequence[Prediction]) -> None:
    """N_opt, D_opt and loss of one budget by source."""
    spread = any(row.N_p10 is not None for row in rows)
    bands = ("10-90%",) if spread else ()
    table = _table(
        f"{title}: the best N parameters and D tokens, loss in nats per token",
        ("by", "N_opt", *bands, "D_opt", *bands, "D/N", "loss", *bands, "C beyond the data, x"),
        left=("by",),
    )
    for row in rows:
        loss = "" if row.L is None else f"{row.L:.4f}"
        L_band = "" if row.L_p10 is None else f"{row.L_p10:.4f}-{row.L_p90:.4f}"
        cells = [row.by.removeprefix(OURS), count(row.N), _between(row.N_p10, row.N_p90), count(row.D),
                 _between(row.D_p10, row.D_p90), f"{row.D / row.N:.1f}", loss, L_band,
                 "" if row.beyond is None else f"{row.beyond:.3g}"]  # fmt: skip
        table.add_row(*(cell for i, cell in enumerate(cells) if spread or i not in (2, 4, 7)))
    _show(table)


def _show_costs(decision: Mapping[str, Any], law: Mapping[str, Any], rates: RatesConfig) -> None:
    """The bill, the sizes that are as good, the shape that can be built, and serving."""
    low, high = decision["N_within_1_percent"]
    print(f"Cost: {_bill(decision['bill'], rates)}.")
    text = f"If {law['name']} is right, sizes from {count(low)} to {count(high)} cost at most 1% more compute"
    if spread := decision["N_interval"]:
        text += f"; its resamples put N_opt at {count(spread['p10'])} to {count(spread['p90'])} (10-90%)"
    print(f"{text}.")
    print(f"The best shape on offer is {decision['best_shape']}.")
    if served := decision.get("inference"):
        _show_inference(served)
    elif "inference_refused" in decision:
        print(f"No size for serving: {decision['inference_refused']}")


def _show_departures(decision: Mapping[str, Any], law: Mapping[str, Any]) -> None:
    """The long tables: wrong sizes, shapes, over-training."""
    right = f"if {law['name']} is right"
    wrong = _table(
        f"{right}, a wrong size: what C then loses, and what it takes to reach the best size's loss",
        ("N / N_opt", "N", "extra loss, nats/token", "compute wasted, %", "more compute, %"),
    )
    for row in decision["misallocation"]:
        wrong.add_row(
            f"{row['factor']:.3g}", count(row["N"]), f"+{row['extra_loss']:.4f}",
            _percent(row["wasted"], "unknown"), _percent(row["excess"]),
        )  # fmt: skip
    _show(wrong)
    built = _table(
        f"{right}, sizes that can be built, D re-solved for the budget (FLOPs as {law['flop_convention_of_shapes']})",
        ("shape", "N", "D, tokens", "D/N", "loss, nats/token", "extra loss, nats/token", "more compute, %"),
        left=("shape",),
    )  # fmt: skip
    for row in decision["shapes"]:
        mark = " (best)" if row["name"] == decision["best_shape"] else ""
        built.add_row(
            row["name"] + mark, count(row["N"]), count(row["D"]), f"{row['D'] / row['N']:.1f}",
            f"{row['L']:.4f}", f"{row['extra_loss']:+.4f}", _percent(row["excess"]),
        )  # fmt: skip
    _show(built)
    over = _table(
        f"{right}, over-training: a smaller model on more tokens, same FLOPs",
        ("times D/N", "N", "D, tokens", "loss, nats/token", "extra loss, nats/token"),
    )
    for row in decision["overtraining"]:
        over.add_row(
            f"{row['times']:g}", count(row["N"]), count(row["D"]), f"{row['L']:.4f}",
            f"+{row['extra_loss']:.4f}",
        )  # fmt: skip
    _show(over)


def _show_inference(served: Mapping[str, Any]) -> None:
    best, plain = served["best"], served["trained_only"]
    print(
        f"Serving {count(served['inference_tokens'])} tokens at loss {best['L']:.4f} (2 N FLOPs a "
        f"served token): N {count(best['N'])} on {count(best['D'])} tokens instead of "
        f"{count(plain['N'])} on {count(plain['D'])}; {served['total_flops']:.3g} FLOPs in all, "
        f"{served['saving']:.1%} less."
    )


def _show_target(target: Mapping[str, Any], law: Mapping[str, Any], rates: RatesConfig) -> None:
    print(
        f"\nLoss {target['L']:g} nats/token by {law['name']} (E = {law['E']:.4f}): at least "
        f"{target['C']:.3g} FLOPs, N {count(target['N'])}, D {count(target['D'])}, "
        f"{target['D'] / target['N']:.1f} tokens per parameter."
    )
    if spread := target.get("C_interval"):
        p10, p90, low, high = (
            "never" if x is None else f"{x:.3g}"
            for x in (spread["p10"], spread["p90"], *spread["ci95"])
        )
        print(
            f"10-90%: {p10} to {p90} FLOPs, 95%: {low} to {high}; {target['resamples_that_reach_it']} of "
            f"{target['resamples']} resampled laws reach this loss at all."
        )
    print(f"Cost: {_bill(target['bill'], rates)}.")
    if target.get("inference"):
        _show_inference(target["inference"])


def _show_repeated(answer: Mapping[str, Any], law: Mapping[str, Any]) -> None:
    table = _table(
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
    _show(table)
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
        f"N_opt({design.C_star:.3g} FLOPs) = {count(design.N_opt)}, known to a factor "
        f"{design.width:.3g} (90th over 10th percentile, {design.source})."
    )
    table = _table(
        f"next runs, best first, of {design.n_candidates} candidates at {ratios[0]:.3g} to "
        f"{ratios[1]:.3g} tokens per parameter and {C[0]:.3g} to {C[1]:.3g} FLOPs",
        ("run", "shape", "N", "D, tokens", "D/N", "C, FLOPs", "device-hours", "factor after"),
        left=("shape",),
    )
    for k, step in enumerate(design.steps, 1):
        run = step.run
        table.add_row(
            str(k), run.shape, count(run.N), count(run.D), f"{run.D / run.N:.1f}", f"{run.C:.3g}",
            f"{bill(run.C, rates).device_hours:.3g}", f"{step.width:.3g}",
        )  # fmt: skip
    _show(table)
    total = asdict(bill(design.steps[-1].spent, rates))
    print(
        f"All together: {_bill(total, rates)}. The factor assumes the law's form and noise as in the "
        "runs so far; fit again after each."
    )


def show_scores(record: Mapping[str, Any], rows: Sequence[Score]) -> None:
    """Print each measured loss beside what was predicted for it."""
    print(
        f"prediction of {record['made_utc']}, SHA-256 {record['sha256'][:16]}...: unchanged. "
        f"By {record['law_name']}; {record['loss_kind']} loss."
    )
    table = _table(
        "measured beside predicted",
        ("run", "N", "D, tokens", "C, FLOPs", "N/N_opt", "predicted", "95%", "measured", "off by", "verdict"),
        left=("run", "verdict"),
    )  # fmt: skip
    for row in rows:
        between = "" if row.ci95 is None else f"{row.ci95[0]:.4f}-{row.ci95[1]:.4f}"
        verdict = {True: "inside", False: "OUTSIDE", None: "no interval"}[row.inside]
        table.add_row(
            row.run_id, count(row.N), count(row.D), f"{row.C:.3g}", f"{row.N_over_best:.2f}",
            f"{row.predicted:.4f}", between, f"{row.measured:.4f}", f"{row.difference:+.4f} ({row.percent:+.2f}%)", verdict,
        )  # fmt: skip
    _show(table)
    judged = [row.inside for row in rows if row.inside is not None]
    if judged:
        print(f"{sum(judged)} of {len(judged)} runs lie inside their 95% interval.")


def _bill(cost: Mapping[str, Any], rates: RatesConfig) -> str:
    """FLOPs as device-hours, money, energy and CO2, with the rates they stand on."""
    text = (
        f"{_number(cost['device_hours'])} device-hours at {rates.peak_flops:.3g} FLOP/s x "
        f"{rates.mfu:.0%} MFU"
    )
    if cost["price"] is not None:
        text += f", {_number(cost['price'])} at {rates.price_per_device_hour:g} an hour"
    if cost["energy_kwh"] is not None:
        text += (
            f", {_number(cost['energy_kwh'])} kWh at {rates.device_watts:g} W x PUE {rates.pue:g}"
        )
    if cost["co2_kg"] is not None:
        text += f", {_number(cost['co2_kg'])} kg CO2 at {rates.co2_grams_per_kwh:g} g/kWh"
    return text


def _number(x: float) -> str:
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def _percent(x: float | None, without: str = "never") -> str:
    """A share in percent; None is what no amount reaches."""
    return without if x is None else f"{100 * x:+.3g}"


def _show(table: Table) -> None:
    """A table under its title, which may be wider than the table."""
    title, table.title = table.title, None
    print(f"\n{title}")
    console().print(table)


def _table(title: str, columns: Sequence[str], left: Sequence[str] = ()) -> Table:
    """Numbers right, the columns in `left` left and wrapping."""
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(
            name,
            justify="left" if name in left else "right",
            no_wrap=name not in left,
            overflow="fold",
        )
    return table


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{count(low)}-{count(high)}"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _bytes(n: float) -> str:
    unit, size = next((u for u in (("TB", 1e12), ("GB", 1e9)) if n >= u[1]), ("MB", 1e6))
    return f"{n / size:.3g} {unit}"


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)
