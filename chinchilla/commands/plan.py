"""The commands plan and flops, and the planning that `sweep` and `train` share with `plan`."""

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
from chinchilla.core.errors import InputError, Problems, Refusal
from chinchilla.core.files.writing import writable_dir
from chinchilla.core.paper import VOCAB_SIZE
from chinchilla.core.shapes import (
    FLOP_CONVENTIONS,
    flops_per_token,
    n_params,
    n_params_non_embedding,
)
from chinchilla.core.table import Cell, Table, cell
from chinchilla.core.terminal import print_message
from chinchilla.core.units import duration, number
from chinchilla.plan.cost import plan_cost
from chinchilla.plan.grid import build_shape, check_tokens, plan_grid, plan_run
from chinchilla.plan.lr_rules import extrapolation_warnings
from chinchilla.plan.memory import MEMORY_SHARE, Memory, memory, rows_that_fit
from chinchilla.plan.plan_file import load_plan, save_plan
from chinchilla.plan.records import RunSpec

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
    """Plan a grid and show its cost; with tokens= size one model, with hours= propose a grid."""
    if command.tokens:
        return _plan_one_model(command)
    if command.proposes:
        from chinchilla.commands.propose import propose

        return propose(command)
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
        cost = plan_cost(specs, command.cluster, command.cluster.n_workers or 1)
        return print_json(
            {
                "runs": [dataclasses.asdict(s) | derived(s) for s in specs],
                "cost": dataclasses.asdict(cost),
                "sources": use_record(use),
            }
        )
    show_use(use, command.epochs)
    show_plan(specs, command.cluster)
    if command.out:
        print_message(f"wrote {command.out}: {len(specs)} runs.")
    return 0


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
    print_message(
        f"N = {N:,} parameters with {shape.positions} positions, {n_params_non_embedding(shape):,} "
        f"without the tied embedding; vocabulary {shape.vocab_size:,}"
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
    tokens = None
    if command.data_dir:
        tokens = open_tokens(command.data_dir, "grid.vocab_size", command.grid.vocab_size)
    problems = Problems()
    specs = plan_grid(
        command.grid,
        command.recipe,
        vocab_size=tokens.vocab_size if tokens else 0,
        data_id=tokens.data_id if tokens else "none",
        precision=chosen_precision(command.recipe, command.cluster, device),
        problems=problems,
    )
    if problems.errors and specs and tokens is not None:
        with problems.collected():
            _check_tokens(specs, tokens, command.epochs)
    problems.raise_any()
    return specs, check_plan(command, specs, tokens)


def open_tokens(data_dir: str, key: str, vocab_size: int) -> "TokenData":
    """Open the token folder, and verify the hashes of its shards if it is small.

    Args:
        data_dir: the folder.
        key: setting that gave vocab_size, for the message.
        vocab_size: vocabulary size of the models; 0 = the tokenizer's.

    Raises:
        InputError: vocab_size is below the tokenizer's.
    """
    from chinchilla.data.dataset import TokenData

    size = sum(path.lstat().st_size for path in Path(data_dir).glob("*.bin"))
    tokens = TokenData.open(data_dir, verify=size < VERIFY_BYTES)
    if vocab_size and vocab_size < tokens.vocab_size:
        raise InputError(
            f"{key}={vocab_size} is below the tokenizer's vocabulary size {tokens.vocab_size}. "
            "Leave it 0 to use that."
        )
    return tokens


def check_plan(
    command: config.PlanCommand | config.SweepCommand | config.TrainCommand,
    specs: list[RunSpec],
    tokens: "TokenData | None",
) -> "list[SourceUse]":
    """Warn of runs outside of the recipe's law, and check that the tokens suffice.

    Returns:
        The longest run's use of each source; nothing without tokens.
    """
    for line in extrapolation_warnings(command.recipe, specs):
        print_message(f"warning: {line}", file=sys.stderr)
    if tokens is None:
        return []
    use = longest_use(specs, tokens)
    _check_tokens(specs, tokens, command.epochs)
    return use


def _check_tokens(specs: list[RunSpec], tokens: "TokenData", epochs: float) -> None:
    """Refuse a plan whose longest run needs more tokens than `epochs` passes over the data have."""
    seq_len, what = specs[0].model.seq_len, "tokens that exist"
    if len(longest_use(specs, tokens)) > 1:
        what = f"tokens available before source {tokens.scarcest(seq_len)!r} repeats"
    check_tokens(specs, tokens.epoch_tokens(seq_len), epochs, what)


def chosen_precision(
    recipe: config.RecipeConfig, cluster: config.ClusterConfig, device: str
) -> str:
    """The recipe's precision; auto is bf16 if a GPU will train, fp32 on a CPU.

    The device of the job decides: for Slurm and manual the settings, for local and debug this machine.
    """
    if recipe.precision != "auto":
        return recipe.precision
    if device == "auto" and cluster.kind in ("slurm", "manual"):
        n_gpus = [r.gpus_per_node for r in cluster.resources] or [None]
        on_gpu = any((cluster.gpus_per_node if n is None else n) > 0 for n in n_gpus)
    elif device == "auto":
        on_gpu = (
            Path("/dev/nvidia0").exists()
            and os.environ.get("CUDA_VISIBLE_DEVICES") != ""
            and not metadata.version("torch").endswith("+cpu")
        )
    else:
        on_gpu = device != "cpu"
    return "bf16" if on_gpu and not _lacks_bf16(cluster, device) else "fp32"


def _lacks_bf16(cluster: config.ClusterConfig, device: str) -> bool:
    """Whether this machine will train, on a GPU without bf16 units (T4, V100); then print a notice."""
    if cluster.kind not in ("debug", "local"):
        return False
    from chinchilla.train.device import device_name, pick_device, supports_bf16

    gpu = pick_device(device)
    if gpu.type == "cpu" or supports_bf16(gpu):
        return False
    print_message(
        f"note: {device_name(gpu)} has no bf16 units; the plan uses fp32.", file=sys.stderr
    )
    return True


def derived(s: RunSpec) -> dict[str, Any]:
    """Quantities computed from a spec, for JSON."""
    return {"run_id": s.run_id, "N": s.N, "D": s.D, "C": s.C}


def _plan_one_model(command: config.PlanCommand) -> int:
    """Print parameters, FLOPs in every convention, time, price, and the memory of a GPU by part.

    Raises:
        InputError: the batch does not divide among the GPUs.
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
    seq_len = spec.model.seq_len
    n_rows = spec.batch_tokens // seq_len
    if n_rows % gpus:
        raise InputError(
            f"a batch of {n_rows:,} rows ({spec.batch_tokens:,} tokens) cannot be divided evenly "
            f"among {gpus:,} GPUs. Give recipe.batch_tokens={math.ceil(n_rows / gpus) * gpus * seq_len}, or "
            "another number of gpus."
        )
    micro, recompute, needed = _micro_batch(command, spec)
    C = {name: flops_per_token(spec.model, name) * spec.D for name in FLOP_CONVENTIONS}
    seconds = C["with_head"] / (gpus * cluster.peak_flops * cluster.mfu)
    hours = gpus * seconds / 3600
    price = hours * cluster.price_per_device_hour
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
                "activation_checkpointing": recompute,
                "memory_bytes_per_gpu": dataclasses.asdict(needed) | {"total": needed.total},
                "seconds": seconds,
                "gpu_hours": hours,
                "price": price,
            }
        )
    print_message(
        f"N = {spec.N:,} parameters ({n_params_non_embedding(spec.model):,} without the tied "
        f"embedding), D = {spec.D:.4g} tokens in {spec.steps:,} steps of {spec.batch_tokens:,}, "
        f"D/N = {number(spec.D / spec.N)}."
    )
    columns = {
        "convention": map(Cell, C),
        "FLOPs": (cell(x, "{:.4g}".format) for x in C.values()),
    }
    print_table(Table.of(columns, "Training FLOPs by convention"))
    table = Table(["part", "GB"], caption="Memory of one GPU")
    for part, label in PARTS.items():
        if size := getattr(needed, part):
            table.add_row(label, cell(size / 1e9, "{:.2f}".format))
    table.add_row("total", f"{needed.total / 1e9:.2f} of {cluster.gpu_memory_gb:g}")
    print_table(table)
    print_message(
        f"{_gpus(gpus)}, passes of {micro:,} tokens on each: {duration(seconds)}, {number(hours)} "
        f"GPU-hours at {cluster.mfu:.0%} of {cluster.peak_flops:.3g} FLOP/s, "
        f"{number(price)} at {cluster.price_per_device_hour:g} an hour."
    )
    if recompute:
        print_message(
            "note: the model fits only with runtime.activation_checkpointing=true, which computes "
            "blocks twice. Lower cluster.mfu accordingly."
        )
    return 0


def _micro_batch(command: config.PlanCommand, spec: RunSpec) -> tuple[int, bool, Memory]:
    """Tokens per forward pass, whether blocks are recomputed, and memory; recomputed only if needed."""
    cluster, gpus, seq_len = command.cluster, command.gpus, spec.model.seq_len
    room, rows = MEMORY_SHARE * 1e9 * cluster.gpu_memory_gb, spec.batch_tokens // seq_len // gpus
    for recompute in (False, True):
        micro = rows_that_fit(spec, rows, room, gpus, recompute) * seq_len
        needed = memory(spec, micro, gpus, recompute)
        if needed.total <= room:
            return micro, recompute, needed
    largest = max(PARTS, key=lambda part: getattr(needed, part))
    raise Refusal(
        f"{spec.N:,} parameters need {needed.total / 1e9:,.1f} GB on each of {_gpus(gpus)}, even with "
        f"activation checkpointing, {getattr(needed, largest) / 1e9:,.1f} of them for {PARTS[largest]}; "
        f"cluster.gpu_memory_gb={cluster.gpu_memory_gb:g}, of which {MEMORY_SHARE:.0%} can be used. "
        "Give more gpus, or cluster.gpu_memory_gb= of larger ones."
    )


def _gpus(n: int) -> str:
    return "1 GPU" if n == 1 else f"{n:,} GPUs"
