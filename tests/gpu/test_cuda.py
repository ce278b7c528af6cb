"""Training on a CUDA device: bf16, resuming, memory, speed, a local cluster of one GPU."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from chinchilla.cli import main
from chinchilla.config import RecipeConfig, RuntimeConfig
from chinchilla.core.shapes import ModelShape
from chinchilla.data.dataset import TokenData
from chinchilla.model import Transformer
from chinchilla.model.compiling import compiled
from chinchilla.model.functions import chunk_gradients
from chinchilla.plan.grid import plan_run
from chinchilla.plan.memory import MEMORY_SHARE, memory
from chinchilla.plan.plan_file import load_plan
from chinchilla.plan.records import Curve, RunResult, RunSpec
from chinchilla.train import fsdp, train_run, trainer
from chinchilla.train.checkpoint import load_checkpoint
from chinchilla.train.device import peak_flops

pytestmark = pytest.mark.gpu
RUNTIME = RuntimeConfig(device="cuda", validation_tokens=4096, validation_evals=3)


def make_spec(
    data_dir: Path,
    steps: int = 60,
    shape: tuple[int, int, int] = (128, 4, 128),
    rows: int = 16,
    precision: str = "bf16",
    positions: str = "rope",
) -> RunSpec:
    """A run of `rows` rows; shape is d_model, n_layers, seq_len."""
    data = TokenData.open(data_dir)
    d_model, n_layers, seq_len = shape
    batch_tokens = rows * seq_len
    return plan_run(
        ModelShape(
            d_model, 4 * d_model, 64, d_model // 64, n_layers, data.vocab_size, seq_len, positions
        ),
        RecipeConfig(peak_lr=3e-3, batch_tokens=batch_tokens, warmup_fraction=0.1),
        flop_convention="with_head",
        data_id=data.data_id,
        precision=precision,
        tokens=steps * batch_tokens,
    )


@pytest.mark.parametrize("positions", ["rope", "relative"])
def test_a_bf16_run_learns_and_keeps_fp32_weights(data_dir: Path, tmp_path: Path, positions: str):
    spec = make_spec(data_dir, positions=positions)
    result = train_run(spec, tmp_path, data_dir, RUNTIME)
    loss = Curve.load(tmp_path).loss
    assert result.status == "finished"
    assert loss[0] == pytest.approx(math.log(512) + 0.5, abs=0.4)
    assert result.final_loss < loss[0] - 1.5
    checkpoint, _ = load_checkpoint(tmp_path / "checkpoints", spec)
    state = [*checkpoint.weights.values(), *checkpoint.optimizer.values()]
    assert {t.dtype for t in state} == {torch.float32}


def test_the_gpu_in_fp32_agrees_with_the_cpu(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Same weights and batches; fp32 rounding grows over 10 updates to under 5e-3 nats. Without TF32."""
    torch.set_float32_matmul_precision("highest")
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    spec = make_spec(data_dir, steps=10, shape=(64, 2, 64), rows=4, precision="fp32")
    losses = []
    for device in ("cpu", "cuda"):
        train_run(spec, tmp_path / device, data_dir, replace(RUNTIME, device=device))
        losses.append(Curve.load(tmp_path / device).loss)
    assert losses[1][0] == pytest.approx(losses[0][0], abs=1e-4)
    np.testing.assert_allclose(losses[1], losses[0], atol=5e-3)


def test_a_stopped_run_resumes_close_to_one_that_was_not_stopped(data_dir: Path, tmp_path: Path):
    """Atomic additions on a GPU are not ordered, so losses differ by up to 0.02 nats in bf16."""
    spec = make_spec(data_dir, steps=40)
    whole = train_run(spec, tmp_path / "whole", data_dir, RUNTIME)
    calls = iter(range(1000))
    stop = {"should_stop": lambda: next(calls) >= 20}
    assert train_run(spec, tmp_path / "run", data_dir, RUNTIME, **stop) is None
    result = train_run(spec, tmp_path / "run", data_dir, RUNTIME)
    one, two = Curve.load(tmp_path / "whole"), Curve.load(tmp_path / "run")
    np.testing.assert_allclose(two.loss, one.loss, atol=0.02)
    assert result.validation_loss["validation"] == pytest.approx(
        whole.validation_loss["validation"], abs=0.02
    )


def test_the_result_contains_the_gpu_its_speed_and_its_memory(data_dir: Path, tmp_path: Path):
    result = train_run(make_spec(data_dir, steps=20), tmp_path, data_dir, RUNTIME)
    name = torch.cuda.get_device_name()
    assert result.device == name
    assert 0 < result.peak_memory_bytes < torch.cuda.get_device_properties(0).total_memory
    assert result.versions["cuda"] == torch.version.cuda
    assert (result.mfu is None) == (peak_flops(torch.device("cuda")) is None)
    assert result.mfu is None or 0 < result.mfu < 1


def test_a_batch_that_does_not_fit_is_split_until_it_does(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With free memory that fits the estimate of four of sixteen rows."""
    spec = make_spec(data_dir, steps=2)
    room = memory(spec, 4 * 128).total / MEMORY_SHARE + 1
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (room, room))
    seen = []

    class Spy(Transformer):
        def forward(self, tokens, targets=None):
            if torch.is_grad_enabled():
                seen.append(len(tokens))
            return super().forward(tokens, targets)

    monkeypatch.setattr(fsdp, "Transformer", Spy)
    plain = replace(RUNTIME, cuda_graphs=False, compile_blocks="never")
    train_run(spec, tmp_path, data_dir, plain)
    assert seen == [4] * 8


def test_every_batch_uses_graphs_also_for_the_update(data_dir: Path, tmp_path: Path):
    """16 rows in passes of 5 have a last pass of 1 row."""
    runtime = replace(RUNTIME, micro_batch_tokens=5 * 128)
    result = train_run(make_spec(data_dir, steps=4), tmp_path, data_dir, runtime)
    assert result.execution["cuda_graphs"]
    assert result.execution["update_in_graph"]
    assert result.execution["compiled"]
    assert result.execution["attention"] != "default"


def test_the_compiled_gradient_of_the_loss_keeps_no_fp32_probabilities():
    """Peak memory in addition to the inputs: bf16 logits and their bf16 gradients."""
    n, vocab_size, d = 4096, 32_768, 64
    x, W = (
        torch.randn(n, d, device="cuda").bfloat16(),
        torch.randn(vocab_size, d, device="cuda").bfloat16(),
    )
    b, t = (
        torch.zeros(vocab_size, device="cuda").bfloat16(),
        torch.randint(vocab_size, (n,), device="cuda"),
    )
    compiled(chunk_gradients)(x, W, b, t)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    compiled(chunk_gradients)(x, W, b, t)
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before < 1.2 * (2 + 2) * n * vocab_size


@pytest.mark.parametrize("micro_rows", [16, 4, 5])
def test_graphs_and_compiled_blocks_give_the_losses_of_plain_passes(
    data_dir: Path, tmp_path: Path, micro_rows: int
):
    """Including evaluations between replays, and a smaller last micro-batch."""
    spec = make_spec(data_dir, steps=30, precision="fp32")
    runtime = replace(RUNTIME, micro_batch_tokens=micro_rows * 128)
    found = {}
    for blocks in ("never", "always"):
        for graphs in (False, True):
            run_dir = tmp_path / f"{blocks}-{graphs}"
            train_run(
                spec, run_dir, data_dir, replace(runtime, compile_blocks=blocks, cuda_graphs=graphs)
            )
            found[blocks, graphs] = Curve.load(run_dir)
    plain = found["never", False]
    for curve in found.values():
        np.testing.assert_allclose(curve.loss, plain.loss, atol=2e-3)
        np.testing.assert_allclose(curve.validation_loss, plain.validation_loss, atol=2e-3)


def test_a_model_compiles_to_three_programs_at_any_depth(data_dir: Path, tmp_path: Path):
    """A block, the last norm, and the loss of a chunk."""
    torch._dynamo.reset()
    counters.clear()
    for n_layers in (2, 4):
        spec = make_spec(data_dir, steps=3, shape=(128, n_layers, 128))
        train_run(spec, tmp_path / str(n_layers), data_dir, RUNTIME)
    assert counters["stats"]["unique_graphs"] == 3


def test_nothing_waits_for_the_device_between_log_points(data_dir: Path, tmp_path: Path):
    run = trainer.Trainer(make_spec(data_dir), tmp_path, data_dir, RUNTIME)
    run.evaluation_steps = set()
    for _ in range(3):
        run.train_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            run.train_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        run.close()


def test_a_batch_that_fits_is_not_split(data_dir: Path, tmp_path: Path):
    run = trainer.Trainer(make_spec(data_dir), tmp_path, data_dir, RUNTIME)
    run.logbook.close()
    assert run.micro_rows == run.rows == 16


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize(
    ("shape", "rows", "positions"),
    [((512, 8, 512), 16, "rope"), ((512, 8, 512), 16, "relative"), ((1024, 4, 256), 4, "rope")],
)
def test_memory_is_estimated_within_a_factor_of_two(
    data_dir: Path, tmp_path: Path, shape, rows: int, positions: str, precision: str
):
    """And the estimate is high enough that MEMORY_SHARE covers the difference."""
    spec = make_spec(
        data_dir, steps=3, shape=shape, rows=rows, positions=positions, precision=precision
    )
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    train_run(spec, tmp_path, data_dir, replace(RUNTIME, micro_batch_tokens=spec.batch_tokens))
    used = torch.cuda.max_memory_allocated() - before
    estimate = memory(spec, spec.batch_tokens).total
    assert used * MEMORY_SHARE < estimate < 2 * used


def test_a_local_cluster_trains_on_the_gpu(data_dir: Path, tmp_path: Path):
    code = main([
        "sweep", "grid=demo", "grid.budgets=[2e11]", "grid.models=[64x1,64x2,64x3,128x1,128x2]",
        "grid.sizes_per_budget=0", "grid.kv_size=64", "grid.seq_len=64", "grid.min_steps=10",
        "grid.expected_coefficient=0.36", "grid.expected_exponent=0.5", "grid.horizon_models=[]",
        "grid.horizon_tokens_per_param=[]", "recipe=demo", "recipe.batch_tokens=2048",
        "recipe.precision=bf16", "cluster=local", "cluster.n_workers=1", "runtime.device=cuda",
        "epochs=10", f"data_dir={data_dir}", f"sweep_dir={tmp_path / 'sweep'}",
    ])  # fmt: skip
    assert code == 0
    specs = load_plan(tmp_path / "sweep" / "plan.jsonl")
    assert len(specs) == 5
    for spec in specs:
        result = RunResult.load(tmp_path / "sweep" / "runs" / spec.run_id)
        assert result.status == "finished"
        assert result.device == torch.cuda.get_device_name()
