"""The commands plan, train and flops, and the planning that `sweep` shares with `plan`.

`plan tokens=...` computes FLOPs, time, price and memory of training one model on many GPUs.
"""

import dataclasses
import math
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chinchilla import config
from chinchilla.commands.data import longest_use, show_use, use_record
from chinchilla.commands.shared import print_json
from chinchilla.commands.show import print_table, show_plan
from chinchilla.core.errors import InputError, Refusal
from chinchilla.core.files import writable_dir
from chinchilla.core.paper import VOCAB_SIZE
from chinchilla.core.shapes import (
    FLOP_CONVENTIONS,
    POSITIONS,
    flops_per_token,
    n_params,
    n_params_non_embedding,
)
from chinchilla.core.table import Cell, Table, cell
from chinchilla.core.units import duration, number
from chinchilla.plan.grid import build_shape, check_tokens, plan_grid, plan_run
from chinchilla.plan.memory import MEMORY_SHARE, Memory, memory, rows_that_fit
from chinchilla.plan.records import RunResult, RunSpec, load_plan, save_plan

if TYPE_CHECKING:
    from chinchilla.data.dataset import SourceUse, TokenData


VERIFY_BYTES = 4e9  # token folders up to this size are verified before a sweep, at about 1 GB/s
PARTS = {  # field of Memory -> label
    "weights": "weights",
    "gradients": "gradients",
    "moments": "Adam's moments",
    "compute_copies": "bf16 copies of the weights",
    "gathered": "gathered: embedding, two blocks",
    "activations": "activations for the backward pass",
    "loss": "logits of a chunk, padded embedding, loss gradients",
}


def plan(command: config.PlanCommand) -> int:
    """Plan a grid, show its cost and write plan.jsonl; with tokens=, size one model."""
    if command.tokens:
        return _plan_one_model(command)
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
    shape = build_shape(command.model, VOCAB_SIZE)
    N, tokens = n_params(shape), command.tokens
    per_token = {name: flops_per_token(shape, name) for name in FLOP_CONVENTIONS}
    total = {name: value * tokens for name, value in per_token.items()} if tokens else None
    if command.format == "json":
        return print_json(
            {
                "model": dataclasses.asdict(shape),
                "n_params": N,
                "n_params_non_embedding": n_params_non_embedding(shape),
                "training_flops_per_token": per_token,
                "training_flops": total,
            }
        )
    for positions in POSITIONS:
        s = dataclasses.replace(shape, positions=positions)
        print(
            f"N = {n_params(s):,} parameters with {positions} positions, "
            f"{n_params_non_embedding(s):,} without the tied embedding; vocabulary {s.vocab_size:,}"
        )
    columns = {
        "convention": [Cell(name) for name in per_token],
        "training FLOPs per token": [cell(x, "{:.6g}".format) for x in per_token.values()],
        "over 6N": [cell(x / (6 * N), "{:.4f}".format) for x in per_token.values()],
    }
    if total:
        columns["C, FLOPs"] = [cell(x, "{:.4g}".format) for x in total.values()]
    title = f"training FLOPs, {shape.positions} positions, {shape.seq_len:,} tokens per row"
    print_table(Table.of(columns, title))
    return 0


def planned(
    command: config.PlanCommand | config.SweepCommand,
) -> "tuple[list[RunSpec], list[SourceUse]]":
    """The specs of the grid, checked against the data, and the longest run's use of each source."""
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


# ------------------------------------------------------------------ plan tokens=...: one model


def _plan_one_model(command: config.PlanCommand) -> int:
    """Print parameters, FLOPs in every convention, time, price, and the memory of a GPU by part.

    Raises:
        InputError: micro_batch_tokens is not a multiple of the row length, or exceeds a GPU's part of
            the batch.
        Refusal: the model does not fit into the memory of the GPUs.
    """
    cluster, gpus = command.cluster, command.gpus
    spec = plan_run(
        build_shape(command.model, VOCAB_SIZE),
        command.recipe,
        flop_convention="with_head",
        data_id="none",
        precision=command.recipe.precision if command.recipe.precision != "auto" else "bf16",
        tokens=command.tokens,
    )
    rows = _rows(command, spec)
    micro = rows * spec.model.seq_len
    needed = memory(spec, micro, gpus, command.activation_checkpointing)
    if needed.total > _room(command):
        raise Refusal(_too_large(command, spec, needed))
    C = {name: flops_per_token(spec.model, name) * spec.D for name in FLOP_CONVENTIONS}
    total_rows = spec.batch_tokens // spec.model.seq_len
    busy = min(gpus, total_rows)  # a row cannot be divided
    seconds = C["with_head"] / (busy * cluster.peak_flops * cluster.mfu)
    hours = gpus * seconds / 3600
    if command.format == "json":
        return print_json(
            {
                "model": dataclasses.asdict(spec.model),
                "n_params": spec.N,
                "n_params_non_embedding": n_params_non_embedding(spec.model),
                "tokens": spec.D,
                "steps": spec.steps,
                "batch_tokens": spec.batch_tokens,
                "training_flops": C,
                "gpus": gpus,
                "micro_batch_tokens": micro,
                "activation_checkpointing": command.activation_checkpointing,
                "memory_bytes_per_gpu": dataclasses.asdict(needed) | {"total": needed.total},
                "seconds": seconds,
                "gpu_hours": hours,
                "price": hours * cluster.price_per_device_hour,
            }
        )
    print(
        f"N = {spec.N:,} parameters ({n_params_non_embedding(spec.model):,} without the tied "
        f"embedding), D = {spec.D:.4g} tokens in {spec.steps:,} steps of {spec.batch_tokens:,}, "
        f"D/N = {number(spec.D / spec.N)}."
    )
    table = Table(["convention", "FLOPs"], caption="Training FLOPs by convention")
    for name, total in C.items():
        table.add_row(name, cell(total, "{:.4g}".format))
    print_table(table)
    table = Table(["part", "GB"], caption="Memory of one GPU")
    for part, label in PARTS.items():
        if size := getattr(needed, part):
            table.add_row(label, cell(size / 1e9, "{:.2f}".format))
    table.add_row("total", f"{needed.total / 1e9:.2f} of {cluster.gpu_memory_gb:g}")
    print_table(table)
    print(
        f"{_gpus(gpus)}, passes of {micro:,} tokens on each: {duration(seconds)}, {number(hours)} "
        f"GPU-hours at {cluster.mfu:.0%} of {cluster.peak_flops:.3g} FLOP/s, "
        f"{number(hours * cluster.price_per_device_hour)} at {cluster.price_per_device_hour:g} an hour."
    )
    if gpus > total_rows:
        print(
            f"note: a row cannot be divided among GPUs: with a batch of {total_rows:,} rows "
            f"{gpus - total_rows:,} GPUs are idle; they are included in the price."
        )
    if total_rows % gpus:
        least = math.ceil(total_rows / gpus) * gpus * spec.model.seq_len
        print(
            f"note: a batch of {total_rows:,} rows does not divide among {gpus:,} ranks, as training "
            f"requires. The next batch that does: recipe.batch_tokens={least}."
        )
    if command.activation_checkpointing:
        print(
            "note: activation checkpointing computes blocks twice; lower cluster.mfu accordingly."
        )
    return 0


def _gpus(n: int) -> str:
    return "1 GPU" if n == 1 else f"{n:,} GPUs"


def _room(command: config.PlanCommand) -> float:
    return MEMORY_SHARE * 1e9 * command.cluster.gpu_memory_gb


def _rows(command: config.PlanCommand, spec: RunSpec) -> int:
    """Rows of a GPU's forward pass: micro_batch_tokens, or as many as fit, at least one."""
    seq_len = spec.model.seq_len
    max_rows = math.ceil(spec.batch_tokens / seq_len / command.gpus)
    if tokens := command.micro_batch_tokens:
        if tokens % seq_len or tokens > max_rows * seq_len:
            raise InputError(
                f"micro_batch_tokens={tokens} is not a multiple of the row length {seq_len} up to a GPU's "
                f"part of the batch, {max_rows * seq_len:,}. Give a multiple, or 0 for as many as fit."
            )
        return tokens // seq_len
    return rows_that_fit(spec, command.gpus, _room(command), command.activation_checkpointing)


def _too_large(command: config.PlanCommand, spec: RunSpec, needed: Memory) -> str:
    """Message: the memory needed, and the smallest change with which it fits."""
    largest = max(PARTS, key=lambda part: getattr(needed, part))
    room, row = _room(command), spec.model.seq_len
    if memory(spec, row, command.gpus, command.activation_checkpointing).total <= room:
        advice = "Give micro_batch_tokens=0."
    elif memory(spec, row, command.gpus, recompute=True).total <= room:
        advice = "Give activation_checkpointing=true."
    else:
        advice = "Give more GPUs, or cluster.gpu_memory_gb= of larger ones."
        for gpus in (2**k for k in range(1, 17)):
            if gpus > command.gpus and memory(spec, row, gpus, recompute=True).total <= room:
                advice = f"Give gpus={gpus} activation_checkpointing=true, or more GPUs."
                break
    where = "1 GPU" if command.gpus == 1 else f"each of {_gpus(command.gpus)}"
    return (
        f"{spec.N:,} parameters need {needed.total / 1e9:,.1f} GB on {where}, "
        f"{getattr(needed, largest) / 1e9:,.1f} of them for {PARTS[largest]}; "
        f"cluster.gpu_memory_gb={command.cluster.gpu_memory_gb:g}, of which {MEMORY_SHARE:.0%} can be used. {advice}"
    )
