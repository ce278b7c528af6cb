"""What a run's record says of it, once it is over."""

import math
from datetime import UTC, datetime

import numpy as np
import torch
from torch import nn

from chinchilla.core.shapes import flops_per_token
from chinchilla.data.dataset import TokenData
from chinchilla.plan.records import Curve, RunResult, RunSpec
from chinchilla.train import device as devices
from chinchilla.train.distributed import RankGroup

# The final loss is the mean over this last share of a run. The same share for every run: a fixed
# number of steps would lag further behind the end of short runs and tilt the exponents.
FINAL_SHARE = 0.02


def summarize(
    spec: RunSpec,
    curve: Curve,
    diverged: str,
    *,
    data: TokenData,
    validation_tokens: int,
    model: nn.Module,
    device: torch.device,
    ranks: RankGroup,
    train_seconds: float,
    started: datetime,
    attempts: int,
    stable_steps: int = 0,
) -> RunResult:
    """The result of a run whose losses are `curve`; `diverged` says why, when it did.

    The first `stable_steps` of it came from a stable phase.
    """
    losses, done = curve.loss, len(curve.loss)
    window = max(1, round(FINAL_SHARE * done))
    tail = losses[-window:]
    finished = not diverged
    speed = (done - stable_steps) * spec.batch_tokens / max(1e-9, train_seconds)
    peak = devices.peak_flops(device)
    model_flops = flops_per_token(spec.model, "with_head")
    held_out = {"validation": float(curve.validation_loss[-1])} if finished else {}
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    n_params = sum(sizes.values())
    name = devices.device_name(device)
    use = data.use(done * spec.batch_tokens, spec.model.seq_len)
    return RunResult(
        spec=spec,
        status="finished" if finished else "diverged",
        reason=diverged,
        final_loss=float(tail.mean()) if finished else None,
        final_loss_se=float(tail.std(ddof=1) / np.sqrt(window))
        if finished and window > 1
        else None,
        final_loss_steps=window,
        validation_loss=held_out,
        validation_tokens={"validation": validation_tokens},
        bits_per_byte={
            k: v / math.log(2) / data.bytes_per_token("validation") for k, v in held_out.items()
        },
        n_params=n_params,
        n_params_non_embedding=n_params - sizes["embedding"],
        steps_done=done,
        flops_spent=flops_per_token(spec.model, spec.flop_convention) * done * spec.batch_tokens,
        train_seconds=train_seconds,
        tokens_per_second=speed,
        mfu=model_flops * speed / (peak * ranks.world_size) if peak else None,
        peak_memory_bytes=max(ranks.gather(devices.peak_memory(device))),
        device=name if ranks.world_size == 1 else f"{ranks.world_size} x {name}",
        versions=devices.versions(),
        git=devices.git_commit(),
        started_utc=started.isoformat(timespec="seconds"),
        finished_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        attempts=attempts,
        unique_tokens=sum(source.unique for source in use),
        epochs={source.name: source.epochs for source in use},
        reused_tokens=stable_steps * spec.batch_tokens,
    )
