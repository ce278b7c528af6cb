"""One measurement of bench_throughput.py: training steps of one program, in a process of its own.

    python scripts/bench_steps.py SIDE FOLDER JOB.json OUT.json

SIDE is ours, nanogpt or litgpt; FOLDER holds that program. JOB has shape, device, compile, threads,
steps, warm_ups, rows. Every side trains on the same tokens from the same weights (its norms at 1, biases
and what the others do not have at 0) with AdamW(0.9, 0.95), decay 0.1 on matrices, clipping at 1 and a
constant rate, in bf16 with fp32 weights on a GPU and in fp32 on a CPU.
"""

import contextlib
import io
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PEAK_LR, DECAY, CLIP, BETAS = 1e-3, 0.1, 1.0, (0.9, 0.95)
N_LOSSES = 10  # of the first steps, compared between sides
Step = Callable[[Tensor], Tensor]  # (rows, seq_len + 1) on the device to the mean loss


def our_shape(shape: dict[str, int]) -> Any:
    """A ModelShape of n_layers, d_model, n_heads, vocab_size, seq_len."""
    from chinchilla.shapes import ModelShape

    d, h = shape["d_model"], shape["n_heads"]
    return ModelShape(d, 4 * d, d // h, h, shape["n_layers"], shape["vocab_size"], shape["seq_len"])


def our_weights(shape: dict[str, int]) -> dict[str, Tensor]:
    """What every side starts from, fp32 on the host."""
    from chinchilla.model import Transformer

    return {
        n: p.detach() for n, p in Transformer(our_shape(shape)).init_weights(0).named_parameters()
    }


def ours(folder: Path, job: dict[str, Any], device: torch.device) -> Step:
    """This package: the passes, clipping and optimizer of its training loop."""
    from chinchilla.model import Transformer
    from chinchilla.train.passes import Passes
    from chinchilla.train.ranks import ALONE
    from chinchilla.train.sharding import clip_gradients

    shape = our_shape(job["shape"])
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = Transformer(shape, dtype, compile_blocks=job["compile"]).init_weights(0).to(device)
    optimizer = adamw(model)
    graphs = device.type == "cuda" and job["compile"]
    share = 1 / (job["rows"] * shape.seq_len)
    passes = Passes(model, job["rows"], share, graphs, may_fall_back=False)

    def step(tokens: Tensor) -> Tensor:
        loss = passes.add(tokens).clone()
        clip_gradients(model.parameters(), CLIP, ALONE)
        optimizer.step()
        passes.clear()
        return loss

    return step


def nanogpt(folder: Path, job: dict[str, Any], device: torch.device) -> Step:
    """Its model.py, with its own optimizer (fused where it chooses so) and autocast."""
    sys.path.insert(0, str(folder))
    from model import GPT, GPTConfig

    s = job["shape"]
    config = GPTConfig(
        block_size=s["seq_len"], vocab_size=s["vocab_size"], n_layer=s["n_layers"],
        n_head=s["n_heads"], n_embd=s["d_model"], dropout=0.0, bias=True,
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        model = GPT(config)
    names = {
        "attention.qkv": "attn.c_attn", "attention.out": "attn.c_proj",
        "ffw.up": "mlp.c_fc", "ffw.down": "mlp.c_proj",
        "attention_norm.gain": "ln_1.weight", "ffw_norm.gain": "ln_2.weight",
    }  # fmt: skip
    copy_weights(model, our_weights(s), names, "transformer.h", "transformer.wte.weight")
    model.to(device)
    with contextlib.redirect_stdout(io.StringIO()):
        optimizer = model.configure_optimizers(DECAY, PEAK_LR, BETAS, device.type)
    run = torch.compile(model) if job["compile"] else model

    def forward(x: Tensor, y: Tensor) -> Tensor:
        return run(x, y)[1]

    return autocast_step(forward, model, optimizer, device)


def litgpt(folder: Path, job: dict[str, Any], device: torch.device) -> Step:
    """Its model with the same parts as ours: RMSNorm, rotary positions, a GELU of width 4 d."""
    sys.path.insert(0, str(folder))
    from litgpt.config import Config
    from litgpt.model import GPT

    s = job["shape"]
    config = Config(
        block_size=s["seq_len"], vocab_size=s["vocab_size"], padded_vocab_size=s["vocab_size"],
        n_layer=s["n_layers"], n_head=s["n_heads"], n_embd=s["d_model"], rotary_percentage=1.0,
        parallel_residual=False, bias=False, norm_class_name="RMSNorm", norm_eps=1e-6,
        mlp_class_name="GptNeoxMLP", intermediate_size=4 * s["d_model"],
    )  # fmt: skip
    model = GPT(config)
    model.lm_head.weight = model.transformer.wte.weight
    names = {
        "attention.qkv": "attn.qkv", "attention.out": "attn.proj", "ffw.up": "mlp.fc",
        "ffw.down": "mlp.proj", "attention_norm.gain": "norm_1.weight", "ffw_norm.gain": "norm_2.weight",
    }  # fmt: skip
    copy_weights(model, our_weights(s), names, "transformer.h", "lm_head.weight")
    model.to(device)
    optimizer = adamw(model)
    run = torch.compile(model) if job["compile"] else model

    def forward(x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(run(x).flatten(0, 1), y.flatten())

    return autocast_step(forward, model, optimizer, device)


@torch.no_grad()
def copy_weights(
    model: nn.Module, ours: dict[str, Tensor], names: dict[str, str], blocks: str, embedding: str
) -> None:
    """Our weights into a peer's model; its norms' gains are 1, everything else that it has is 0."""
    theirs = dict(model.named_parameters())
    for name, p in theirs.items():
        p.fill_(1.0 if p.dim() == 1 and name.endswith("weight") else 0.0)
    theirs[embedding].copy_(ours["embedding"])
    for name, value in ours.items():
        if not name.startswith("blocks."):
            continue
        _, layer, rest = name.split(".", 2)
        part, _, kind = rest.rpartition(".")
        where = names[rest] if rest in names else f"{names[part]}.{kind}"
        if (there := f"{blocks}.{layer}.{where}") in theirs:
            theirs[there].copy_(value)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """Decay on matrices only, fused."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": DECAY},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=PEAK_LR, betas=BETAS, fused=True)


def autocast_step(
    forward: Callable[[Tensor, Tensor], Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> Step:
    """A step as nanoGPT's and litgpt's training scripts make it."""
    low = device.type == "cuda"

    def step(tokens: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            loss = forward(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


SIDES = {"ours": ours, "nanogpt": nanogpt, "litgpt": litgpt}


def batches(job: dict[str, Any]) -> Iterator[np.ndarray]:
    """Rows of tokens with a frequency like words have (1 / rank), the same for every side."""
    s, rng = job["shape"], np.random.default_rng(0)
    p = 1 / np.arange(1, s["vocab_size"] + 1)
    while True:
        yield rng.choice(s["vocab_size"], (job["rows"], s["seq_len"] + 1), p=p / p.sum())


def measure(side: str, folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Train and time; seconds of process CPU time on a CPU, of wall time on a GPU."""
    torch.set_num_threads(job["threads"])
    torch.set_float32_matmul_precision("high")
    device = torch.device(job["device"])
    on_gpu = device.type == "cuda"
    began = time.perf_counter()
    step = SIDES[side](folder, job, device)
    feed = batches(job)
    losses = [
        float(step(torch.from_numpy(next(feed)).to(device)))
        for _ in range(max(N_LOSSES, job["warm_ups"]))
    ]
    ready = time.perf_counter() - began
    clock = time.perf_counter if on_gpu else time.process_time
    waiting = [torch.from_numpy(next(feed)) for _ in range(job["steps"])]
    waiting = [t.pin_memory() for t in waiting] if on_gpu else waiting
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    began = clock()
    for tokens in waiting:
        last = step(tokens.to(device, non_blocking=True))
    last = float(last)  # waits for the device
    seconds = clock() - began
    tokens = job["steps"] * job["rows"] * job["shape"]["seq_len"]
    peak = torch.cuda.max_memory_allocated() if on_gpu else 1024 * resource.getrusage(0).ru_maxrss
    return {
        "tokens_per_second": tokens / seconds, "ready_seconds": ready, "peak_bytes": peak,
        "first_losses": losses[:N_LOSSES], "last_loss": last,
    }  # fmt: skip


if __name__ == "__main__":
    job = json.loads(Path(sys.argv[3]).read_text())
    Path(sys.argv[4]).write_text(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), job)))
