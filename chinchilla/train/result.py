"""The outcome of a run: the RunResult built from its curve."""

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chinchilla.core.provenance import code_here
from chinchilla.core.shapes import flops_per_token
from chinchilla.plan.records import Curve, RunResult
from chinchilla.train import device as devices

if TYPE_CHECKING:
    from chinchilla.train.trainer import Trainer

# The final loss is the mean over this last share of a run. The share is the same for every run: a
# fixed number of steps would lag further behind the end of short runs and bias the exponents.
FINAL_SHARE = 0.02


def build_result(
    run: "Trainer", curve: Curve, starts: int, curve_file: dict[str, Any]
) -> RunResult:
    """The result of `run`, whose losses are `curve`, written as `curve_file`; all ranks call this."""
    spec, data, group = run.spec, run.data, run.group
    losses, steps_done = curve.loss, len(curve.loss)
    window = max(1, round(FINAL_SHARE * steps_done))
    final_losses = losses[-window:]
    finished = not run.diverged
    seconds = run.timer.seconds
    speed = (steps_done - run.reused_steps) * spec.batch_tokens / max(1e-9, seconds)
    mfu = None
    if peak := devices.peak_flops(run.device):
        mfu = flops_per_token(spec.model, "with_head") * speed / (peak * group.world_size)
    validation = {"validation": float(curve.validation_loss[-1])} if finished else {}
    sizes = {name: p.numel() for name, p in run.model.named_parameters()}
    n_params = sum(sizes.values())
    device = devices.device_name(run.device)
    use = data.use(steps_done * spec.batch_tokens, spec.model.seq_len)
    return RunResult(
        spec=spec,
        status="finished" if finished else "diverged",
        reason=run.diverged,
        final_loss=float(final_losses.mean()) if finished else None,
        final_loss_se=float(final_losses.std(ddof=1) / np.sqrt(window))
        if finished and window > 1
        else None,
        final_loss_steps=window,
        validation_loss=validation,
        validation_tokens={"validation": len(run.validation_rows) * spec.model.seq_len},
        bits_per_byte={
            k: v / math.log(2) / data.bytes_per_token("validation") for k, v in validation.items()
        },
        n_params=n_params,
        n_params_non_embedding=n_params - sizes["embedding"],
        steps_done=steps_done,
        flops_spent=flops_per_token(spec.model, spec.flop_convention)
        * steps_done
        * spec.batch_tokens,
        train_seconds=seconds,
        tokens_per_second=speed,
        mfu=mfu,
        peak_memory_bytes=max(group.gather(devices.peak_memory(run.device))),
        device=device if group.world_size == 1 else f"{group.world_size} x {device}",
        versions=devices.versions(),
        code=code_here(),
        started_utc=run.started.isoformat(timespec="seconds"),
        finished_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        attempts=starts,
        unique_tokens=sum(source.unique for source in use),
        epochs={source.name: source.epochs for source in use},
        reused_tokens=run.reused_steps * spec.batch_tokens,
        seconds={"train": seconds, **run.other_seconds},
        execution=execution(run),
        **curve_file,
    )


def execution(run: "Trainer") -> dict[str, Any]:
    """How the last process executed the run; everything in it changes losses by rounding at most."""
    on_gpu = run.device.type == "cuda"
    dtype = {"bf16": "bf16", "bf16_weights": "bf16", "fp32": "tf32" if on_gpu else "fp32"}
    return {
        "device": devices.device_name(run.device),
        "ranks": run.group.world_size,
        "shards": run.group.shards,
        "dtype": dtype[run.spec.precision],  # of matrix products
        "threads": torch.get_num_threads(),
        "compiled": run.model.compile_blocks,
        "cuda_graphs": run.forward_backward.keeps_gradients,
        "update_in_graph": run.update.graph is not None,
        "attention": run.forward_backward.attention,
        "micro_batch_tokens": run.micro_rows * run.spec.model.seq_len,
        "activation_checkpointing": run.runtime.activation_checkpointing,
    }
