"""One measurement of bench_throughput.py: training steps of one program in its own process.

    python scripts/bench/bench_steps.py SIDE FOLDER JOB.json OUT.json

SIDE is ours (this package), naive (naive_model.py), nanogpt, litgpt or torchtitan, and FOLDER is the folder of that program. JOB has the
keys shape, device, compile, threads, steps, warm_ups and rows. Every program trains on the same batches with
AdamW(0.9, 0.95), weight decay 0.1 on matrices, clipping at 1 and a constant rate, in bf16 with fp32 weights on
a GPU and in fp32 on a CPU, and reads its loss every LOG_EVERY steps.

For this package the complete training loop is timed: data loading, schedule, forward and backward passes,
clipping, optimizer, and log points with their checks for divergence. The batches of the other programs are in
host memory before the timing starts.

The initial weights are equal: norms are 1; biases, and parameters that the other programs do not have, are 0. The
exception is torchtitan's feed-forward, a SwiGLU with three matrices in place of two of width 4 d_model. Its width
is 8/3 d_model rounded to a multiple of 16, so that a token needs about as many FLOPs in matrix products
(bench_throughput.py compares the counts), and its initial weights are torchtitan's. torchtitan runs as its trainer
configures it on one GPU: `parallelize_llama` with blocks compiled separately and the mixed precision of FSDP2
over a mesh of one device, its chunked and compiled loss, its fused AdamW and its clipping. Causal SDPA replaces
FlexAttention with document masks, which these rows do not need.
"""

from __future__ import annotations  # --help must not import torch

import contextlib
import io
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from bench_tools import Arguments, existing_folder, json_file, out_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

JOB = ("shape", "device", "compile", "threads", "steps", "warm_ups", "rows")
PEAK_LR, DECAY, CLIP, BETAS = 1e-3, 0.1, 1.0, (0.9, 0.95)
N_LOSSES = 10  # first losses that are compared between programs
LOG_EVERY = 10  # steps between reads of the loss: the default of nanoGPT and of this package
MANY_STEPS = 4_000_000  # planned steps, so that the rate is constant over the timed ones


class Side:
    """A program under test: `step` makes one update and `loss` returns the loss of the last one."""

    def __init__(self, step: Callable[[int], None], loss: Callable[[], float], model: nn.Module):
        self.step, self.loss, self.model = step, loss, model


def our_shape(shape: dict[str, int]) -> Any:
    """A ModelShape of n_layers, d_model, n_heads, vocab_size, seq_len."""
    from chinchilla.core.shapes import ModelShape

    d, h = shape["d_model"], shape["n_heads"]
    return ModelShape(d, 4 * d, d // h, h, shape["n_layers"], shape["vocab_size"], shape["seq_len"])


def our_weights(shape: dict[str, int]) -> dict[str, Tensor]:
    """Initial weights of every program, fp32 on the host."""
    from chinchilla.model import Transformer

    return {
        n: p.detach() for n, p in Transformer(our_shape(shape)).init_weights(0).named_parameters()
    }


def write_tokens(folder: Path, job: dict[str, Any]) -> None:
    """Write a token folder with token frequencies of 1 / rank, as for words, enough for all steps."""
    from chinchilla.data.manifest import Manifest, Source, TokenizerInfo
    from chinchilla.data.shards import ShardWriter

    s, rng = job["shape"], np.random.default_rng(0)
    vocab_size, splits = s["vocab_size"], {}
    p = 1 / np.arange(1, vocab_size + 1)
    n = (max(N_LOSSES, job["warm_ups"]) + job["steps"] + 1) * job["rows"] * s["seq_len"] + 1
    for name, size in (("train", n), ("validation", 4 * (s["seq_len"] + 1))):
        writer = ShardWriter(folder, name, n, "uint16", vocab_size - 1)
        writer.add(rng.choice(vocab_size, size, p=p / p.sum()).astype(np.uint16), 1, size)
        splits[name] = writer.close()
    (folder / "tokenizer.model").write_bytes(b"")
    info = TokenizerInfo("tokenizer.model", "0" * 64, vocab_size, "given", vocab_size - 1, False)
    n_bytes = sum(split.bytes for split in splits.values())
    source = Source("zipf", "", 1, len(splits), n_bytes, {}, splits)
    Manifest("zipf", info, "uint16", [source], {}).save(folder)


def ours(folder: Path, job: dict[str, Any], device: torch.device, tokens: Path) -> Side:
    """This package's training loop."""
    from chinchilla.config import RecipeConfig, RuntimeConfig
    from chinchilla.data.dataset import TokenData
    from chinchilla.plan.grid import plan_run
    from chinchilla.train.trainer import Trainer

    shape = our_shape(job["shape"])
    batch_tokens = job["rows"] * shape.seq_len
    recipe = RecipeConfig(
        peak_lr=PEAK_LR, batch_tokens=batch_tokens, warmup_steps=0, weight_decay=DECAY,
        beta1=BETAS[0], beta2=BETAS[1], grad_clip=CLIP,
    )  # fmt: skip
    spec = plan_run(
        shape, recipe, flop_convention="with_head", data_id=TokenData.open(tokens).data_id,
        precision="bf16" if device.type == "cuda" else "fp32", tokens=MANY_STEPS * batch_tokens,
    )  # fmt: skip
    runtime = RuntimeConfig(
        device=device.type, micro_batch_tokens=batch_tokens, log_every_steps=LOG_EVERY,
        compile_blocks="always" if job["compile"] else "never", cuda_graphs=job["compile"],
    )  # fmt: skip
    run = Trainer(spec, tokens.parent / "run", tokens, runtime)

    def step(number: int) -> None:
        assert run.step == number
        run.train_step()
        if run.step % runtime.log_every_steps == 0:
            run.log()
        assert not run.diverged, run.diverged

    return Side(step, lambda: float(run.losses[run.step - 1]), run.model)


def nanogpt(folder: Path, job: dict[str, Any], device: torch.device, tokens: Path) -> Side:
    """Its model.py with its own optimizer (fused if it chooses so) and autocast."""
    import torch

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

    return autocast_side(forward, model, optimizer, job, device, tokens)


def litgpt(folder: Path, job: dict[str, Any], device: torch.device, tokens: Path) -> Side:
    """Its model with the architecture of this package: RMSNorm, rotary positions, GELU of width 4 d."""
    import torch
    from torch import nn

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
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": DECAY},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LR, betas=BETAS, fused=True)
    run = torch.compile(model) if job["compile"] else model

    def forward(x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(run(x).flatten(0, 1), y.flatten())

    return autocast_side(forward, model, optimizer, job, device, tokens)


def torchtitan(folder: Path, job: dict[str, Any], device: torch.device, tokens: Path) -> Side:
    """Its llama3 as its trainer configures it on one device; see the docstring of the module."""
    import torch

    sys.path.insert(0, str(folder))
    import torch.distributed as dist
    from torchtitan.tools import utils

    utils.device_type = device.type  # on a machine without a GPU, its own detection finds one
    from torchtitan.components.loss import ChunkedCELoss
    from torchtitan.components.optimizer import OptimizersContainer, ParamGroupConfig
    from torchtitan.config import (
        ActivationCheckpointConfig,
        CompileConfig,
        ParallelismConfig,
        TrainingConfig,
    )  # fmt: skip
    from torchtitan.distributed import ParallelDims
    from torchtitan.distributed import utils as dist_utils
    from torchtitan.models import llama3
    from torchtitan.models.common import ComplexRoPE, Embedding, Linear, RMSNorm
    from torchtitan.models.common.attention import ScaledDotProductAttention

    s = job["shape"]
    d, vocab_size = s["d_model"], s["vocab_size"]
    layers = llama3._build_llama3_layers(
        n_layers=s["n_layers"], dim=d, n_heads=s["n_heads"], hidden_dim=16 * round(8 * d / 48),
        fuse_qkv=True, attn_backend="flex",
        rope=ComplexRoPE.Config(
            dim=d // s["n_heads"], max_seq_len=s["seq_len"], theta=10_000.0, scaling="none"
        ),
    )  # fmt: skip
    for layer in layers:
        layer.attention.inner_attention = ScaledDotProductAttention.Config()
    config = llama3.Llama3Model.Config(
        dim=d, vocab_size=vocab_size, enable_weight_tying=True, layers=layers,
        tok_embeddings=Embedding.Config(
            num_embeddings=vocab_size, embedding_dim=d, param_init=llama3._EMBEDDING_SKIP_INIT
        ),
        norm=RMSNorm.Config(normalized_shape=d, param_init=llama3._NORM_INIT),
        lm_head=Linear.Config(
            in_features=d, out_features=vocab_size, param_init=llama3._output_linear_init(d)
        ),
    )  # fmt: skip
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(0)
    backend = "nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    compiling = CompileConfig(enable=job["compile"])
    with torch.device("meta"):
        model = config.build()
    llama3.parallelize_llama(
        model,
        parallel_dims=ParallelDims(1, 1, 1, 1, 1, 1, 1),
        training=TrainingConfig(
            seq_len=s["seq_len"], mixed_precision_param="bfloat16" if on_gpu else "float32"
        ),
        parallelism=ParallelismConfig(),
        compile_config=compiling,
        ac_config=ActivationCheckpointConfig(mode="none"),
        dump_folder=str(tokens.parent),
    )
    model.to_empty(device=device)
    torch.manual_seed(0)
    model.init_states(buffer_device=None)
    copy_titan(model, our_weights(s), s["n_heads"])
    chunked = ChunkedCELoss(ChunkedCELoss.Config(), compile_config=compiling)
    chunked.set_lm_head(model.lm_head)
    model._skip_lm_head = True
    adamw = {"lr": PEAK_LR, "betas": BETAS, "eps": 1e-8}
    groups = [
        ParamGroupConfig(
            pattern=pattern,
            optimizer_name="AdamW",
            optimizer_kwargs={**adamw, "weight_decay": decay},
        )
        for pattern, decay in (("norm", 0.0), (".*", DECAY))
    ]
    optimizer = OptimizersContainer(
        OptimizersContainer.Config(param_groups=groups), model_parts=[model]
    )
    n_tokens = torch.tensor(job["rows"] * s["seq_len"], device=device)
    last = torch.zeros(())
    batch = preloaded(job, device, tokens)

    def step(number: int) -> None:
        nonlocal last
        rows = batch(number)
        optimizer.zero_grad()
        loss = chunked(model(rows[:, :-1].contiguous()), rows[:, 1:].contiguous(), n_tokens)
        loss.backward()
        dist_utils.clip_grad_norm_(list(model.parameters()), CLIP, foreach=True)
        optimizer.step()
        last = loss.detach()

    return Side(step, lambda: float(last), model)


def naive(folder: Path, job: dict[str, Any], device: torch.device, tokens: Path) -> Side:
    """naive_model.py with torch's AdamW as it is by default."""
    import torch
    from naive_model import NaiveTransformer

    s = job["shape"]
    model = NaiveTransformer(
        s["d_model"], s["n_heads"], s["n_layers"], s["vocab_size"], s["seq_len"]
    )
    names = {
        "attention.qkv": "qkv", "attention.out": "out", "ffw.up": "up", "ffw.down": "down",
        "attention_norm.gain": "attention_norm.weight", "ffw_norm.gain": "ffw_norm.weight",
    }  # fmt: skip
    copy_weights(model, our_weights(s), names, "blocks", "embedding.weight")
    model.to(device)
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": DECAY},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LR, betas=BETAS)
    run = torch.compile(model) if job["compile"] else model
    return autocast_side(run, model, optimizer, job, device, tokens)


def copy_titan(model: nn.Module, ours: dict[str, Tensor], n_heads: int) -> None:
    """Copy embedding and attention. Its rotary pairs are adjacent and its rows are grouped by head."""
    import torch

    theirs = {n: getattr(p, "_local_tensor", p).detach() for n, p in model.named_parameters()}
    for name in ("tok_embeddings.weight", "lm_head.weight"):
        if name in theirs:
            theirs[name].copy_(ours["embedding"])
    for name, value in ours.items():
        layer = name.split(".")[1] if name.startswith("blocks.") else ""
        if name.endswith("attention.out.weight"):
            theirs[f"layers.{layer}.attention.wo.weight"].copy_(value)
        if name.endswith("attention.qkv.weight"):
            q, k, v = value.unflatten(0, (3, n_heads, -1))  # (n_heads, kv_size, d_model) each
            q, k = (x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2) for x in (q, k))
            rows = torch.stack((q, k, v), 1).flatten(0, 2)
            theirs[f"layers.{layer}.attention.qkv_linear.wqkv.weight"].copy_(rows)


def copy_weights(
    model: nn.Module, ours: dict[str, Tensor], names: dict[str, str], blocks: str, embedding: str
) -> None:
    """Copy the weights into another model. Its norm gains become 1 and its other parameters 0."""
    theirs = {name: p.detach() for name, p in model.named_parameters()}
    for name, p in theirs.items():
        p.fill_(1.0 if p.dim() == 1 and name.endswith("weight") else 0.0)
    theirs[embedding].copy_(ours["embedding"])
    for name, value in ours.items():
        if not name.startswith("blocks."):
            continue
        _, layer, rest = name.split(".", 2)
        part, _, kind = rest.rpartition(".")
        name_there = names[rest] if rest in names else f"{names[part]}.{kind}"
        if (target := f"{blocks}.{layer}.{name_there}") in theirs:
            theirs[target].copy_(value)


def preloaded(job: dict[str, Any], device: torch.device, folder: Path) -> Callable[[int], Tensor]:
    """Function from the step to its batch, (rows, seq_len + 1) on the device; all are read beforehand."""
    import torch

    from chinchilla.data.dataset import TokenData

    data, n = TokenData.open(folder), max(N_LOSSES, job["warm_ups"]) + job["steps"]
    rows, seq_len = job["rows"], job["shape"]["seq_len"]
    host = [torch.from_numpy(data.batch(0, i, rows, seq_len)) for i in range(n)]
    if device.type == "cuda":
        host = [tokens.pin_memory() for tokens in host]
    return lambda step: host[step].to(device, non_blocking=True)


def autocast_side(
    forward: Callable[[Tensor, Tensor], Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    job: dict[str, Any],
    device: torch.device,
    folder: Path,
) -> Side:
    """A training step as in the scripts of nanoGPT and litgpt."""
    import torch
    from torch import nn

    low, last = device.type == "cuda", torch.zeros(())
    batch = preloaded(job, device, folder)

    def step(number: int) -> None:
        nonlocal last
        tokens = batch(number)
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            loss = forward(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        last = loss.detach()

    return Side(step, lambda: float(last), model)


SIDES = {
    "ours": ours,
    "naive": naive,
    "nanogpt": nanogpt,
    "litgpt": litgpt,
    "torchtitan": torchtitan,
}


def matmul_weights(model: nn.Module) -> int:
    """Weights of matrix products, including the tied head; learned positions are only looked up."""
    return sum(p.numel() for n, p in model.named_parameters() if p.dim() >= 2 and "wpe" not in n)


def measure(side: str, folder: Path, job: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Train and time: process CPU time on a CPU, wall time on a GPU."""
    import torch

    torch.set_num_threads(job["threads"])
    torch.set_float32_matmul_precision("high")
    device = torch.device(job["device"])
    on_gpu = device.type == "cuda"
    tokens = scratch / "tokens"
    tokens.mkdir()
    write_tokens(tokens, job)
    began = time.perf_counter()
    program = SIDES[side](folder, job, device, tokens)
    losses, warm_ups = [], max(N_LOSSES, job["warm_ups"])
    for number in range(warm_ups):
        program.step(number)
        losses.append(program.loss())
    set_up = time.perf_counter() - began
    clock = time.perf_counter if on_gpu else time.process_time
    if on_gpu:
        torch.cuda.synchronize()
    began = clock()
    for number in range(warm_ups, warm_ups + job["steps"]):
        program.step(number)
        if side != "ours" and (number + 1) % LOG_EVERY == 0:
            program.loss()
    last = program.loss()  # waits for the device
    seconds = clock() - began
    n_tokens = job["steps"] * job["rows"] * job["shape"]["seq_len"]
    peak = torch.cuda.max_memory_allocated() if on_gpu else 1024 * resource.getrusage(0).ru_maxrss
    return {
        "tokens_per_second": n_tokens / seconds, "ready_seconds": set_up, "peak_bytes": peak,
        "first_losses": losses[:N_LOSSES], "last_loss": last,
        "matmul_weights": matmul_weights(program.model),
    }  # fmt: skip


def main() -> None:
    parser = Arguments(__doc__)
    parser.add_argument("side", metavar="SIDE", choices=SIDES, help=", ".join(SIDES))
    parser.add_argument("folder", metavar="FOLDER", type=existing_folder)
    parser.add_argument("job", metavar="JOB.json", type=json_file)
    parser.add_argument("out", metavar="OUT.json", type=out_file)
    args = parser.parse_args()
    if missing := [key for key in JOB if key not in args.job]:
        parser.error(f"JOB.json lacks {', '.join(missing)}. Add them.")
    with tempfile.TemporaryDirectory() as scratch:
        measured = measure(args.side, args.folder, args.job, Path(scratch))
    args.out.write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
