"""`chinchilla design`: runs that reduce the uncertainty of N_opt at a larger budget."""

from dataclasses import asdict

from chinchilla import config
from chinchilla.commands.shared import fits_of, print_json
from chinchilla.commands.show import UNKNOWN_N, between, bill_text, print_records
from chinchilla.config import RatesConfig
from chinchilla.core.errors import Refusal
from chinchilla.core.terminal import print_message
from chinchilla.core.units import count
from chinchilla.decide.allocation import bill
from chinchilla.decide.decision import available_shapes
from chinchilla.decide.design import MIN_NARROWS, Design, propose, sizes_of
from chinchilla.fit.results import FitResults
from chinchilla.recommend.evaluate import local_law, recommendation


def design(command: config.DesignCommand) -> int:
    """Propose the next runs and print their cost and benefit."""
    fits = FitResults.load(fits_of(command.fits)[0])
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
    answer = recommendation(fits, command.budget_flops)
    law = local_law(fits, command.budget_flops) or parametric.law
    assert law is not None
    assert answer.N is not None
    assert answer.N_interval80 is not None
    proposal = propose(
        law,
        answer.N,
        answer.N_interval80,
        obs,
        command.budget_flops,
        sizes_of(obs, shapes),
        cost=fits.cost,
        n_runs=command.n_runs,
        spend=command.spend,
        ratios=(command.min_ratio, command.max_ratio),
    )
    if command.format == "json":
        cost = asdict(bill(proposal.steps[-1].spent, command.rates))
        return print_json({**asdict(proposal), "cost": cost})
    _print_design(proposal, command.rates)
    if len(proposal.steps) < command.n_runs:
        print_message(
            f"note: {len(proposal.steps)} of {command.n_runs} runs are listed; any other would cost more than is "
            f"left of the compute, or narrow the interval by less than {MIN_NARROWS:.2%}."
        )
    if obs.n_convention == "unknown":
        print_message(f"note: {UNKNOWN_N}")
    return 0


def _print_design(proposal: Design, rates: RatesConfig) -> None:
    """Print the proposed runs in order, with the interval after each, and their cost."""
    ratios, C = proposal.limits["tokens_per_param"], proposal.limits["C"]
    print_message(
        f"N_opt({proposal.C_star:.3g} FLOPs) = {count(proposal.N_opt)}, 80% interval "
        f"{between(proposal.interval80)}: a factor {proposal.width:.3g}."
    )
    records = [
        {
            **asdict(step.run),
            "order": order,
            "ratio": step.run.D / step.run.N,
            "narrows": f"{step.narrows:.1%}",
            "after": between(step.interval80),
            "factor": step.width,
        }
        for order, step in enumerate(proposal.steps, 1)
    ]
    print_records(
        f"next runs, each chosen given those above it, of {proposal.n_candidates} candidates at {ratios[0]:.3g} to "
        f"{ratios[1]:.3g} tokens per parameter and {C[0]:.3g} to {C[1]:.3g} FLOPs",
        records,
        {"run": "order", "shape": "shape", "N": "N", "D": "D", "D/N": "ratio", "C": "C",
         "narrows": "narrows", "80% after": "after", "factor": "factor"},
        dispensable=("D/N", "C", "factor", "narrows"),
    )  # fmt: skip
    print_message(
        "narrows: the reduction that each run adds to those above it, as a share of the logarithm of the "
        "interval's factor now."
    )
    runs = [(step.run.shape, step.run.D) for step in proposal.steps]
    if len(set(runs)) < len(runs):
        print_message("note: train a run that is listed twice with another seed.")
    last = proposal.steps[-1]
    print_message(
        f"Total: {bill_text(asdict(bill(last.spent, rates)), rates)}. The 80% interval is expected to narrow "
        f"from a factor {proposal.width:.3g} to {last.width:.3g} "
        f"({sum(s.narrows for s in proposal.steps):.0%} of its logarithm), with noise and misfit as in the "
        "runs so far. Fit again after each run."
    )
