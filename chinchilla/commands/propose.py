"""`chinchilla plan hours=...`: propose a grid for the compute, the text and the cluster at hand."""

import dataclasses
import functools
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chinchilla import config
from chinchilla.commands.plan import open_tokens
from chinchilla.commands.shared import print_json, shell_word
from chinchilla.commands.show import print_table
from chinchilla.config.checks import require_name
from chinchilla.config.command_line.compose import compose
from chinchilla.config.command_line.words import choices
from chinchilla.core.errors import InputError
from chinchilla.core.files.writing import write_text
from chinchilla.core.table import Table, cell
from chinchilla.core.terminal import print_lines, print_message
from chinchilla.core.units import count, device_hours, duration, number
from chinchilla.decide.power import Power, expected_precision
from chinchilla.plan.cost import plan_cost
from chinchilla.plan.grid import plan_grid
from chinchilla.plan.propose import propose_grid
from chinchilla.plan.records import RunSpec

RECIPE = "step_law"  # unless another is chosen: batch and rate suit budgets of any size
SPENT = 0.8  # share of the compute below which the text, not the compute, limits the grid
KEPT = (  # settings of a proposed grid that its YAML file contains
    "name", "budgets", "models", "kv_size", "seq_len", "sizes_per_budget", "span", "min_sizes",
    "min_steps", "horizon_models", "horizon_tokens_per_param",
)  # fmt: skip


def propose(command: config.PlanCommand) -> int:
    """Print a grid for the given compute, its cost and its expected precision; write it if asked.

    Raises:
        InputError: `save` exists or is not FOLDER/grid/NAME.yaml.
        Refusal: fewer than three budgets can be trained.
    """
    default, grid = _defaults(), command.grid
    # That of the default grid is the paper's; with data it is the tokenizer's.
    given = grid.vocab_size if grid.vocab_size != default.grid.vocab_size else 0
    name = _grid_name(command.save)
    tokens = open_tokens(command.data_dir, "grid.vocab_size", given) if command.data_dir else None
    vocab_size = given or (tokens.vocab_size if tokens else default.grid.vocab_size)
    chosen = command.recipe != default.recipe
    recipe = command.recipe if chosen else compose("plan", [f"recipe={RECIPE}"]).recipe
    total = total_flops(command)
    # Rows are at most 2,048 tokens long; with shorter rows slightly more tokens can be used.
    available = command.epochs * tokens.epoch_tokens(2048) if tokens else math.inf
    grid = propose_grid(
        total,
        recipe,
        vocab_size=vocab_size,
        available_tokens=available,
        epochs=command.epochs,
        name=name,
    )
    specs = plan_grid(
        grid,
        recipe,
        vocab_size=vocab_size,
        data_id=tokens.data_id if tokens else "none",
        precision="bf16",
    )
    power = expected_precision(specs)
    if command.save:
        _save(grid, Path(command.save), total)
    if command.format == "json":
        return print_json(
            {
                "total_flops": total,
                "grid": dataclasses.asdict(grid),
                "recipe": dataclasses.asdict(recipe),
                "cost": dataclasses.asdict(plan_cost(specs, command.cluster, command.gpus)),
                "expected_precision": dataclasses.asdict(power),
                "runs": [s.run_id for s in specs],
            }
        )
    _show(command, total, specs, power, available)
    words = "" if chosen else f" recipe={RECIPE}"
    data = f" {shlex.quote(f'data_dir={command.data_dir}')}" if command.data_dir else ""
    if given:
        data += f" grid.vocab_size={given}"
    if command.epochs != 1:
        data += f" epochs={command.epochs:g}"
    if command.save:
        option = _cluster_option(command.cluster)
        words += f" cluster={option}" if option else ""
        kept = ["recipe"] if chosen else []
        kept += ["cluster"] if option is None else []
        same = f" with the same {' and '.join(kept)}" if kept else ""
        print_message(f"wrote {command.save}. Next{same}:")
        print_lines(f"  chinchilla sweep {shell_word(command.save)}{words}{data}")
    else:
        print_message("Give save=FOLDER/grid/NAME.yaml to write this grid.")
    return 0


@functools.cache
def _defaults() -> config.PlanCommand:
    default: config.PlanCommand = compose("plan", [])
    return default


def _cluster_option(cluster: config.ClusterConfig) -> str | None:
    """The named option with these values, empty for the default; None if values were given beside it."""
    if cluster == _defaults().cluster:
        return ""
    for name in choices("cluster"):
        if compose("plan", [f"cluster={name}"]).cluster == cluster:
            return name
    return None


def total_flops(command: config.PlanCommand) -> float:
    """Training FLOPs of all runs together, from hours, price or total_flops."""
    cluster = command.cluster
    hours = command.gpus * command.hours
    if command.price:
        if not cluster.price_per_device_hour:
            raise InputError(
                "price= needs the price of a device. Give cluster.price_per_device_hour=PRICE."
            )
        hours = command.price / cluster.price_per_device_hour
    return command.total_flops or hours * 3600 * cluster.peak_flops * cluster.mfu


def _grid_name(save: str) -> str:
    """The name of the grid, from FOLDER/grid/NAME.yaml."""
    if not save:
        return "proposed"
    path = Path(save)
    if path.parent.name != "grid" or path.suffix != ".yaml" or len(path.parts) < 3:
        raise InputError(
            f"save={save} must have the form FOLDER/grid/NAME.yaml, which is also that of grid=, so that the "
            "sweep finds it."
        )
    if path.exists():
        raise InputError(f"save={save} exists and would be overwritten. Give another name.")
    require_name("save", path.stem)
    return path.stem


def _save(grid: config.GridConfig, path: Path, total: float) -> None:
    """Write the grid as a named option."""
    import yaml

    values = {key: getattr(grid, key) for key in KEPT}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=100)
    write_text(path, f"# Proposed by `chinchilla plan` for {total:.3g} FLOPs.\n{text}")


def _show(
    command: config.PlanCommand,
    total: float,
    specs: Sequence[RunSpec],
    power: Power,
    available_tokens: float,
) -> None:
    cluster = command.cluster
    rate = cluster.peak_flops * cluster.mfu
    spent = sum(s.C for s in specs)
    print_message(
        f"Compute: {total:.3g} FLOPs ({device_hours(total / rate / 3600)} at {cluster.mfu:.0%} of "
        f"{cluster.peak_flops:.3g} FLOP/s). The proposed {len(specs)} runs spend {_share(spent / total)} of it."
    )
    if math.isfinite(available_tokens) and spent < SPENT * total:
        print_message(
            f"The text limits the largest budget: {count(available_tokens)} tokens may be read. More text, or "
            f"epochs={2 * command.epochs:g}, allows larger ones."
        )
    table = Table(
        ["budget, FLOPs", "runs", "N", "D, tokens", "steps", "device-hours"],
        caption="Proposed grid",
    )
    budgets = sorted({s.budget_flops for s in specs if s.budget_flops})
    for budget in [*budgets, None]:
        group = [s for s in specs if s.budget_flops == budget]
        table.add_row(
            f"{budget:.2g}" if budget else "several lengths",
            str(len(group)),
            _range([s.N for s in group], count),
            _range([s.D for s in group], count),
            _range([s.steps for s in group], lambda x: f"{x:,.0f}"),
            cell(sum(s.C for s in group) / rate / 3600, number),
        )
    print_table(table)
    longest = max(s.C for s in specs) / rate
    print_message(
        f"recipe={specs[0].recipe}: rows of {specs[0].model.seq_len:,} tokens, batch {_range([s.batch_tokens for s in specs], count)} tokens, "
        f"peak learning rate {_range([s.peak_lr for s in specs], lambda x: f'{x:.2g}')}. "
        f"The longest run takes {duration(longest)} on one device."
    )
    N_low, _, N_high = (x / power.true_N_opt - 1 for x in power.N_opt)
    print_message(
        f"Expected precision: of {power.n_sweeps} sweeps simulated with the loss law {power.law} and noise of "
        f"{power.noise:.1%} of the loss, 80% estimate a between {power.a[0]:.3f} and {power.a[2]:.3f} "
        f"(true: {power.true_a:.3f}), and N_opt at {power.C:.2g} FLOPs with an error between {N_low:+z.0%} and "
        f"{N_high:+z.0%}. Real runs also depart from the law, so that the reported intervals will be wider."
    )
    errors = "; ".join(_systematic(shift, error) for shift, error in power.systematic.items())
    print_message(f"Error that the grid itself has, without noise: {errors}.")


def _systematic(shift: float, error: tuple[float, float] | None) -> str:
    """The error of a and N_opt for a true optimum that is `shift` times the expected one."""
    where = "if the optimum is where it is expected"
    if shift != 1:
        factor, word = (shift, "larger") if shift > 1 else (1 / shift, "smaller")
        where = f"if it is {factor:g} times {word}"
    if error is None:
        return f"{where}, no fit: too few minima lie within the sizes"
    return f"{where}, {error[0]:+z.3f} in a and {error[1]:+z.0%} in N_opt"


def _share(x: float) -> str:
    return "under 1%" if x < 0.01 else f"{x:.0%}"


def _range(values: Sequence[float], form: Any) -> str:
    low, high = form(min(values)), form(max(values))
    return low if low == high else f"{low}-{high}"
