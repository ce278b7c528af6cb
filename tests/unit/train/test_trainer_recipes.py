"""Optimizers, precisions, schedules and parametrizations: training learns and resumes exactly."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ranks_world import trained
from train_world import make_runtime, make_spec, same_bits, stop_at

from chinchilla.plan.memory import memory
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


def test_bf16_weights_halve_the_estimated_memory_of_the_state():
    specs = {p: make_spec(precision=p) for p in ("fp32", "bf16", "bf16_weights")}
    estimated = {p: memory(s, device="cpu").total for p, s in specs.items()}
    N = specs["fp32"].N  # with a vocabulary of 400, which is not padded on a CPU
    assert estimated["bf16"] - estimated["bf16_weights"] == (16 - 8 + 2) * N  # and no compute copy
