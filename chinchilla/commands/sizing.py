"""chinchilla plan tokens=...: FLOPs, time, price and memory of training one model on many GPUs."""

import dataclasses
import math

from chinchilla import config
from chinchilla.commands.shared import print_json
from chinchilla.commands.show import new_table, print_table
from chinchilla.core.errors import InputError, Refusal
from chinchilla.core.paper import VOCAB_SIZE
from chinchilla.core.shapes import FLOP_CONVENTIONS, flops_per_token, n_params_non_embedding
from chinchilla.core.units import duration, number
from chinchilla.plan.grid import build_shape, plan_run
from chinchilla.plan.memory import MEMORY_SHARE, Memory, memory
from chinchilla.plan.records import RunSpec

PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "moments": "Adam's moments",
    "compute_copies": "bf16 copies of the weights",
    "gathered": "gathered: embedding, two blocks",
    "activations": "activations for the backward pass",
    "loss": "logits of a chunk, padded embedding, loss gradients",
}


def one_model(command: config.PlanCommand) -> int:
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
    table = new_table("Training FLOPs by convention", ("convention", "FLOPs"), left=("convention",))
    for name, flops in C.items():
        table.add_row(name, f"{flops:.4g}")
    print_table(table)
    table = new_table("Memory of one GPU", ("part", "GB"), left=("part",))
    for part, words in PARTS.items():
        if size := getattr(needed, part):
            table.add_row(words, f"{size / 1e9:.2f}")
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
    rows, room = max_rows, _room(command)
    recompute = command.activation_checkpointing
    while rows > 1 and memory(spec, rows * seq_len, command.gpus, recompute).total > room:
        rows = (rows + 1) // 2
    return rows


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
