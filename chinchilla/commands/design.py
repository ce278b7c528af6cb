"""`chinchilla design`: the next runs that narrow N_opt at a larger budget."""

import csv
import io
from dataclasses import asdict
from pathlib import Path

from chinchilla import config
from chinchilla.commands.shared import print_json
from chinchilla.commands.show import between, bill_text, new_table, print_table
from chinchilla.config import RatesConfig
from chinchilla.core.errors import Refusal
from chinchilla.core.files import writable_dir, write_text
from chinchilla.core.units import count
from chinchilla.decide.allocation import bill
from chinchilla.decide.decision import available_shapes
from chinchilla.decide.design import Design, propose, sizes_of
from chinchilla.fit.results import FitResults
from chinchilla.recommend.evaluate import local_law, recommendation

COLUMNS = (
    "order", "shape", "N", "D", "C", "tokens_per_param", "narrows", "p10", "p90", "width_after"
)  # fmt: skip


def design(command: config.DesignCommand) -> int:
    """Propose the next runs, print their cost and benefit, and write design.csv."""
    path = Path(command.frontier)
    fits = FitResults.load(path)
    obs = fits.observations()
    parametric = fits.fitted.get("parametric")
    if parametric is None:
        refused = fits.refused.get("parametric")
        reason = refused.reason if refused else "not requested"
        raise Refusal(
            f"design needs approach 3, and it was not fitted here ({reason.rstrip('.')})."
        )
    shapes = available_shapes(
        command.shapes, command.vocab_size, command.seq_len, command.kv_size, command.positions
    )
    law = local_law(fits, command.budget_flops)
    proposal = propose(
        parametric,
        obs,
        command.budget_flops,
        sizes_of(obs, fits.cost, shapes),
        cost=fits.cost,
        n_runs=command.n_runs,
        spend=command.spend,
        ratios=(command.min_ratio, command.max_ratio),
        recommended=None if law is None else (recommendation(fits, command.budget_flops), law),
    )
    folder = command.out_dir or (path if path.is_dir() else path.parent)
    file = writable_dir(Path(folder), "out_dir") / "design.csv"
    write_text(file, _csv(proposal))
    if command.format == "json":
        cost = asdict(bill(proposal.steps[-1].spent, command.rates))
        return print_json({**asdict(proposal), "cost": cost, "file": str(file)})
    _print_design(proposal, command.rates)
    print(f"wrote {file}")
    return 0


def _csv(proposal: Design) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for k, step in enumerate(proposal.steps, 1):
        run = step.run
        writer.writerow(
            (k, run.shape, run.N, run.D, run.C, run.D / run.N, step.narrows, *step.interval80, step.width)
        )  # fmt: skip
    return out.getvalue()


def _print_design(proposal: Design, rates: RatesConfig) -> None:
    """Print the proposed runs in order, with their cost and the interval after each."""
    ratios, C = proposal.limits["tokens_per_param"], proposal.limits["C"]
    print(
        f"N_opt({proposal.C_star:.3g} FLOPs) = {count(proposal.N_opt)}, 80% interval "
        f"{between(*proposal.interval80)}: a factor {proposal.width:.3g} ({proposal.source})."
    )
    price = ("price",) if rates.price_per_device_hour else ()
    table = new_table(
        f"next runs, the most useful first, of {proposal.n_candidates} candidates at {ratios[0]:.3g} to "
        f"{ratios[1]:.3g} tokens per parameter and {C[0]:.3g} to {C[1]:.3g} FLOPs",
        ("run", "shape", "N", "D, tokens", "D/N", "C, FLOPs", "device-hours", *price,
         "narrows", "80% after", "factor"),
        left=("shape",),
    )  # fmt: skip
    for k, step in enumerate(proposal.steps, 1):
        run, cost = step.run, bill(step.run.C, rates)
        table.add_row(
            str(k), run.shape, count(run.N), count(run.D), f"{run.D / run.N:.1f}", f"{run.C:.3g}",
            f"{cost.device_hours:.3g}", *([f"{cost.price:,.4g}"] if price else []),
            f"{step.narrows:.1%}", between(*step.interval80), f"{step.width:.3g}",
        )  # fmt: skip
    print_table(table)
    runs = [(step.run.shape, step.run.D) for step in proposal.steps]
    if len(set(runs)) < len(runs):
        print("Train a run that is listed twice with another seed.")
    if proposal.n_convention == "unknown":
        print("Shapes count all their parameters: the runs do not state how they count N.")
    last = proposal.steps[-1]
    print(
        f"Total: {bill_text(asdict(bill(last.spent, rates)), rates)}. The 80% interval is expected to narrow "
        f"from a factor {proposal.width:.3g} to {last.width:.3g} "
        f"({sum(s.narrows for s in proposal.steps):.0%} of its logarithm), with noise and misfit as in the "
        "runs so far. Fit again after each run."
    )
