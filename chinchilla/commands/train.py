"""The commands plan, train and flops, and the planning that `sweep` shares with `plan`."""

import dataclasses
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chinchilla import config
from chinchilla.commands.data import longest_use, show_use, use_record
from chinchilla.commands.shared import print_json
from chinchilla.commands.show import new_table, print_table, show_plan
from chinchilla.core.errors import InputError
from chinchilla.core.files import writable_dir
from chinchilla.plan.records import RunResult, RunSpec, load_plan, save_plan

if TYPE_CHECKING:
    from chinchilla.data.dataset import SourceUse, TokenData


VERIFY_BYTES = 4e9  # token folders up to this size are verified before a sweep, at about 1 GB/s


def plan(command: config.PlanCommand) -> int:
    """Plan a grid, show its cost and write plan.jsonl; with tokens=, size one model."""
    if command.tokens:
        from chinchilla.commands.sizing import one_model

        return one_model(command)
    specs, use = planned(command)
    if command.out:
        out = Path(command.out)
        writable_dir(out.parent, "out")
        if out.is_file() and {s.sweep for s in load_plan(out)} - {command.grid.name}:
            raise InputError(
                f"out={out} contains the plan of another grid, which would be overwritten. Give "
                "out=FILE, or out= to print only."
            )
        save_plan(specs, out)
    if command.format == "json":
        from chinchilla.plan.cost import plan_cost

        cost = plan_cost(specs, command.cluster, command.cluster.n_workers or 1)
        return print_json(
            {
                "runs": [dataclasses.asdict(s) | derived(s) for s in specs],
                "cost": dataclasses.asdict(cost),
                "sources": use_record(use),
            }
        )
    show_plan(specs, command.cluster)
    if command.out:
        print(f"wrote {command.out}: {len(specs)} runs.")
    return 0


def train(command: config.TrainCommand) -> int:
    """Train one model in this process; a finished run is not trained again."""
    from chinchilla.plan.grid import build_shape, plan_run
    from chinchilla.sweep.launch import launch

    if bool(command.budget_flops) == bool(command.tokens):
        raise InputError("give one of budget_flops (training FLOPs) or tokens (training tokens).")
    tokens = _open_tokens(command.data_dir)
    _check_vocab("model.vocab_size", command.model.vocab_size, tokens)
    spec = plan_run(
        build_shape(command.model, tokens.vocab_size),
        command.recipe,
        flop_convention=command.flop_convention,
        data_id=tokens.data_id,
        precision=_precision(command.recipe, command.cluster, command.runtime.device),
        budget_flops=command.budget_flops or None,
        tokens=command.tokens or None,
        sweep=Path(command.out_dir).name,
    )
    _warn(command.recipe, [spec])
    _checked_use(command, [spec], tokens)
    out_dir = writable_dir(Path(command.out_dir), "out_dir")
    code = launch(command, [spec], out_dir, Path(command.data_dir))
    run_dir = out_dir / "runs" / spec.run_id
    if code == 0 and (run_dir / "result.json").exists():
        result = RunResult.load(run_dir)
        if command.format == "json":
            return print_json(dataclasses.asdict(result))
        validation = ", ".join(f"{k} {v:.4f}" for k, v in result.validation_loss.items())
        loss = result.reason
        if result.final_loss is not None:
            se = "" if result.final_loss_se is None else f" ± {result.final_loss_se:.4f}"
            loss = f"final loss {result.final_loss:.4f}{se} nats/token"
        print(
            f"{spec.run_id}: {result.status}, {loss}; {validation or 'no validation loss'}. "
            f"{run_dir / 'result.json'}"
        )
    return code


def flops(command: config.FlopsCommand) -> int:
    """Show N and training FLOPs of a model in every FLOP convention."""
    from chinchilla.core.paper import VOCAB_SIZE
    from chinchilla.core.shapes import (
        FLOP_CONVENTIONS,
        POSITIONS,
        flops_per_token,
        n_params,
        n_params_non_embedding,
    )
    from chinchilla.plan.grid import build_shape

    shape = build_shape(command.model, VOCAB_SIZE)
    per_token = {name: flops_per_token(shape, name) for name in FLOP_CONVENTIONS}
    N = n_params(shape)
    if command.format == "json":
        return print_json({
            "model": dataclasses.asdict(shape), "n_params": N,
            "n_params_non_embedding": n_params_non_embedding(shape),
            "training_flops_per_token": per_token,
            "training_flops": {k: v * command.tokens for k, v in per_token.items()} if command.tokens else None,
        })  # fmt: skip
    for positions in POSITIONS:
        s = dataclasses.replace(shape, positions=positions)
        print(
            f"N = {n_params(s):,} parameters with {positions} positions, "
            f"{n_params_non_embedding(s):,} without the tied embedding; vocabulary {s.vocab_size:,}"
        )
    total_head = ("C, FLOPs",) if command.tokens else ()
    table = new_table(
        f"training FLOPs, {shape.positions} positions, {shape.seq_len:,} tokens per row",
        ("convention", "training FLOPs per token", "over 6N", *total_head),
        left=("convention",),
    )
    for name, value in per_token.items():
        total = [f"{value * command.tokens:.4g}"] if command.tokens else []
        table.add_row(name, f"{value:.6g}", f"{value / (6 * N):.4f}", *total)
    print_table(table)
    return 0


def planned(
    command: config.PlanCommand | config.SweepCommand,
) -> "tuple[list[RunSpec], list[SourceUse]]":
    """The specs of the grid, checked against the data, and the longest run's use of each source."""
    from chinchilla.plan.grid import plan_grid

    device = command.runtime.device if isinstance(command, config.SweepCommand) else "auto"
    precision = _precision(command.recipe, command.cluster, device)
    if not command.data_dir:
        specs = plan_grid(
            command.grid, command.recipe, vocab_size=0, data_id="none", precision=precision
        )
        _warn(command.recipe, specs)
        return specs, []
    tokens = _open_tokens(command.data_dir)
    _check_vocab("grid.vocab_size", command.grid.vocab_size, tokens)
    specs = plan_grid(
        command.grid,
        command.recipe,
        vocab_size=tokens.vocab_size,
        data_id=tokens.data_id,
        precision=precision,
    )
    _warn(command.recipe, specs)
    return specs, _checked_use(command, specs, tokens)


def _check_vocab(key: str, vocab_size: int, tokens: "TokenData") -> None:
    if vocab_size and vocab_size < tokens.vocab_size:
        raise InputError(
            f"{key}={vocab_size} is below the tokenizer's vocabulary size {tokens.vocab_size}. "
            "Leave it 0 to use that."
        )


def _checked_use(
    command: config.PlanCommand | config.SweepCommand | config.TrainCommand,
    specs: list[RunSpec],
    tokens: "TokenData",
) -> "list[SourceUse]":
    """Show the longest run's use of each source, then check that the tokens suffice."""
    from chinchilla.plan.grid import check_tokens

    seq_len = specs[0].model.seq_len
    available = tokens.epoch_tokens(seq_len)
    use = longest_use(specs, tokens)
    if command.format == "text":
        show_use(use, command.epochs)
    what = "tokens that exist"
    if len(use) > 1:
        what = f"tokens available before source {tokens.scarcest(seq_len)!r} repeats"
    check_tokens(specs, available, command.epochs, what)
    return use


def _open_tokens(data_dir: str) -> "TokenData":
    """Open the token folder; verify the hashes of its shards if it is small."""
    from chinchilla.data.dataset import TokenData

    size = sum(path.stat().st_size for path in Path(data_dir).glob("*.bin"))
    return TokenData.open(data_dir, verify=size < VERIFY_BYTES)


def _warn(recipe: config.RecipeConfig, specs: list[RunSpec]) -> None:
    """Warn on stderr of runs outside of the range that the recipe's law was fitted on."""
    from chinchilla.plan.lr_rules import extrapolation_warnings

    for line in extrapolation_warnings(recipe, specs):
        print(f"warning: {line}", file=sys.stderr)


def _precision(recipe: config.RecipeConfig, cluster: config.ClusterConfig, device: str) -> str:
    """The recipe's precision; auto is bf16 if a GPU will train, fp32 on a CPU."""
    if recipe.precision != "auto":
        return recipe.precision
    has_gpu = (
        Path("/dev/nvidia0").exists()
        and os.environ.get("CUDA_VISIBLE_DEVICES") != ""
        and not metadata.version("torch").endswith("+cpu")
    )
    on_gpu = device != "cpu" and (
        (cluster.kind == "slurm" and cluster.gpus_per_node > 0) or has_gpu
    )
    return "bf16" if on_gpu else "fp32"


def derived(s: RunSpec) -> dict[str, Any]:
    """Quantities computed from a spec, for JSON."""
    return {"run_id": s.run_id, "N": s.N, "D": s.D, "C": s.C}
