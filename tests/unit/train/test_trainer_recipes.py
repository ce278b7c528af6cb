"""Optimizers, precisions, schedules and parametrizations: training learns and resumes exactly."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ranks_world import trained
from small_world import make_speeches
from train_world import make_runtime, make_spec, same_bits, stop_at

from chinchilla.config import RecipeConfig
from chinchilla.core.shapes import ModelShape
from chinchilla.data.dataset import TokenData
from chinchilla.plan.grid import plan_run
from chinchilla.plan.records import Curve
from chinchilla.train import train_run
from chinchilla.train.checkpoint import load_checkpoint

RUNTIME = make_runtime()
RECIPES = {
    "adam": {"optimizer": "adam", "weight_decay": 1e-3},
    "bf16_weights": {"precision": "bf16_weights"},
    "longer cosine": {"cosine_cycle": 2.0},
    "mup": {"parametrization": "mup", "lr_base_width": 8},
    "completep": {"parametrization": "completep", "lr_base_width": 8, "base_layers": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_run_learns_and_resumes_with_the_same_bits(data_dir: Path, tmp_path: Path, recipe: dict):
    spec = make_spec(data_dir, steps=14, **recipe)
    one = train_run(spec, tmp_path / "one", data_dir, RUNTIME)
    for stop in (3, 6):  # 3 updates, then 6 more
        stopped = train_run(spec, tmp_path / "two", data_dir, RUNTIME, should_stop=stop_at(stop))
        assert stopped is None
    two = train_run(spec, tmp_path / "two", data_dir, RUNTIME)
    same_bits(one, tmp_path / "one", two, tmp_path / "two")
    assert one.final_loss < Curve.load(tmp_path / "one").loss[0] - 0.3


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_two_processes_give_the_losses_of_one(data_dir: Path, tmp_path: Path, recipe: dict):
    """Each step's losses; without fp32 weights within bf16's rounding, as gradients are summed in two
    orders."""
    spec = make_spec(data_dir, batch_tokens=8 * 16, **recipe)
    micro = {"micro_batch_tokens": 4 * 16}
    train_run(spec, tmp_path / "one", data_dir, make_runtime(**micro))
    trained(2, spec, tmp_path / "two", data_dir)
    one, two = (Curve.load(tmp_path / name).loss for name in ("one", "two"))
    near = 0.05 if spec.precision == "bf16_weights" else 5e-5
    np.testing.assert_allclose(one, two, atol=near, rtol=0)


def test_without_an_fp32_copy_weights_and_moments_are_bf16(data_dir: Path, tmp_path: Path):
    """Also in the checkpoint, which is half as large."""
    sizes = {}
    for precision in ("bf16", "bf16_weights"):
        run_dir = tmp_path / precision
        spec = make_spec(data_dir, steps=2, precision=precision)
        assert train_run(spec, run_dir, data_dir, RUNTIME).status == "finished"
        checkpoint, _ = load_checkpoint(run_dir / "checkpoints", spec)
        tensors = {n: t for n, t in checkpoint.optimizer.items() if n.startswith("exp_avg")}
        tensors |= checkpoint.weights
        kind = torch.float32 if precision == "bf16" else torch.bfloat16
        assert {t.dtype for t in tensors.values()} == {kind}
        sizes[precision] = sum(t.nbytes for t in tensors.values())
    assert sizes["bf16_weights"] == sizes["bf16"] / 2


def test_without_an_fp32_copy_small_updates_are_lost(data_dir: Path, tmp_path: Path):
    """The cause of figure A6: with 8 bits an update below 1/256 of a weight is lost in rounding."""
    spec = {p: make_spec(data_dir, steps=6, peak_lr=1e-6, precision=p, weight_decay=0.0)
            for p in ("bf16", "bf16_weights")}  # fmt: skip
    moved = {}
    for precision in spec:
        run_dir = tmp_path / precision
        train_run(spec[precision], run_dir, data_dir, RUNTIME, should_stop=stop_at(1))
        before, _ = load_checkpoint(run_dir / "checkpoints", spec[precision])
        train_run(spec[precision], run_dir, data_dir, RUNTIME)
        after, _ = load_checkpoint(run_dir / "checkpoints", spec[precision])
        a, b = (c.weights["blocks.0.ffw.up.weight"] for c in (before, after))
        moved[precision] = (a != b).float().mean().item()
    assert moved["bf16"] > 0.99
    assert moved["bf16_weights"] < 0.05


@pytest.mark.slow
def test_bf16_ends_where_fp32_does_after_1e11_flops(tmp_path: Path):
    """Final loss and the mean loss of each tenth of the run agree within half a percent."""
    data_dir = make_speeches(tmp_path / "speeches", 40, 512)
    data = TokenData.open(data_dir)
    found = {}
    for precision in ("fp32", "bf16"):
        spec = plan_run(
            ModelShape(64, 256, 32, 2, 2, data.vocab_size, 64),
            RecipeConfig(peak_lr=4e-3, batch_tokens=2048, warmup_fraction=0.1),
            flop_convention="with_head",
            data_id=data.data_id,
            precision=precision,
            budget_flops=1e11,
        )
        runtime = make_runtime(validation_tokens=4096, validation_evals=2)
        result = train_run(spec, tmp_path / precision, data_dir, runtime)
        loss = Curve.load(tmp_path / precision).loss
        assert loss[0] - loss[-1] > 1.5, "it learns"
        tenths = [part.mean() for part in np.array_split(loss, 10)]
        found[precision] = [*tenths, result.final_loss, result.validation_loss["validation"]]
    assert found["bf16"] != found["fp32"]
    np.testing.assert_allclose(found["bf16"], found["fp32"], rtol=0.005)
