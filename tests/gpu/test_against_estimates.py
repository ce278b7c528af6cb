"""On a CUDA device: estimated and allocated memory, and loss curves of bf16 and fp32."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_world import make_speeches
from test_cuda import RUNTIME, make_spec

from chinchilla.config import RecipeConfig
from chinchilla.core.shapes import ModelShape
from chinchilla.data.dataset import TokenData
from chinchilla.plan.grid import plan_run
from chinchilla.plan.memory import memory
from chinchilla.plan.records import Curve
from chinchilla.train import train_run, trainer

pytestmark = pytest.mark.gpu


def allocated(spec, run_dir: Path, data_dir: Path, **runtime) -> int:
    """Peak bytes allocated by a trainer and three updates."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    run = trainer.Trainer(spec, run_dir, data_dir, replace(RUNTIME, **runtime))
    torch.cuda.reset_peak_memory_stats()
    try:
        for _ in range(3):
            run.train_step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    finally:
        run.close()


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("shape", "rows"), [((512, 8, 512), 64), ((1024, 6, 256), 8)])
def test_memory_is_estimated_within_a_tenth(
    data_dir: Path, tmp_path: Path, shape: tuple[int, int, int], rows: int, recompute: bool
):
    """Plain passes in bf16 with two micro-batches; a small run first loads libraries."""
    settings = {
        "cuda_graphs": False,
        "compile_blocks": "never",
        "activation_checkpointing": recompute,
    }
    small = make_spec(data_dir, steps=10, rows=4)
    allocated(small, tmp_path / "small", data_dir, **settings)
    spec = make_spec(data_dir, steps=10, shape=shape, rows=rows)
    half = spec.batch_tokens // 2
    used = allocated(spec, tmp_path / "run", data_dir, micro_batch_tokens=half, **settings)
    estimate = memory(spec, half, recompute=recompute).total
    assert estimate == pytest.approx(used, rel=0.1)


@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_blocks_and_graphs_do_not_exceed_the_estimated_memory(
    data_dir: Path, tmp_path: Path, recompute: bool
):
    """So that the automatic micro-batch fits; MEMORY_SHARE covers what the estimate omits."""
    spec = make_spec(data_dir, steps=10, shape=(512, 8, 512), rows=64)
    used = allocated(
        spec, tmp_path, data_dir, micro_batch_tokens=spec.batch_tokens,
        activation_checkpointing=recompute,
    )  # fmt: skip
    estimate = memory(spec, spec.batch_tokens, recompute=recompute).total
    assert used < 1.1 * estimate


def test_bf16_ends_where_fp32_does_after_1e15_flops(tmp_path: Path):
    """Final loss and the mean loss of each tenth of the run agree within half a percent.

    All speeches are used, so that 11 million tokens are only a few epochs.
    """
    data_dir = make_speeches(tmp_path / "speeches", 1000, 512)
    data = TokenData.open(data_dir)
    losses = {}
    for precision in ("fp32", "bf16"):
        spec = plan_run(
            ModelShape(384, 1536, 64, 6, 8, data.vocab_size, 256),
            RecipeConfig(peak_lr=1e-3, batch_tokens=16_384, warmup_fraction=0.1),
            flop_convention="with_head",
            data_id=data.data_id,
            precision=precision,
            budget_flops=1e15,
        )
        result = train_run(spec, tmp_path / precision, data_dir, RUNTIME)
        assert result.status == "finished"
        curve = Curve.load(tmp_path / precision).loss
        tenths = torch.from_numpy(curve.copy()).tensor_split(10)
        losses[precision] = [float(t.mean()) for t in tenths[1:]] + [result.final_loss]
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.005)
