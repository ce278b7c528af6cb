"""A tiny model and recipe, exact comparison of two runs, and training in a process that is killed."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chinchilla.config import RecipeConfig, RuntimeConfig
from chinchilla.core.shapes import ModelShape
from chinchilla.data.dataset import TokenData
from chinchilla.plan.grid import plan_run
from chinchilla.plan.records import Curve, RunResult, RunSpec
from chinchilla.train import train_run

SEQ_LEN = 16
ROWS = 4  # rows of a batch
EVERY_UPDATE = 1e-9  # runtime.checkpoint_minutes that leave a checkpoint after each update


def make_spec(
    data_dir: Path | None = None,
    steps: int = 24,
    positions: str = "rope",
    precision: str = "fp32",
    **recipe: Any,
) -> RunSpec:
    """A run on `data_dir`; without one, on data that does not exist."""
    vocab_size = TokenData.open(data_dir).vocab_size if data_dir else 400
    settings = {"peak_lr": 2e-2, "batch_tokens": ROWS * SEQ_LEN, "warmup_steps": 3, **recipe}
    return plan_run(
        ModelShape(16, 64, 8, 2, 1, vocab_size, SEQ_LEN, positions),
        RecipeConfig(warmup_fraction=0.5, max_lr_ratio=1e40, **settings),
        flop_convention="with_head",
        data_id=TokenData.open(data_dir).data_id if data_dir else "none",
        precision=precision,
        tokens=steps * settings["batch_tokens"],
    )


def make_runtime(**changes: Any) -> RuntimeConfig:
    settings = {
        "device": "cpu",
        "validation_tokens": 256,
        "validation_evals": 4,
        "log_every_steps": 5,
    }
    return RuntimeConfig(**{**settings, **changes})


def stop_at(step: int, micro_batches: int = 1):
    """A should_stop that returns True before update number `step`; each micro-batch calls it once."""
    calls = -1

    def should_stop() -> bool:
        nonlocal calls
        calls += 1
        return calls >= step * micro_batches

    return should_stop


def same_bits(a: RunResult, a_run_dir: Path, b: RunResult, b_run_dir: Path) -> None:
    """Assert that every loss of two runs is equal, in the curve and in the result."""
    one, two = Curve.load(a_run_dir), Curve.load(b_run_dir)
    for name in ("step", "loss", "validation_step", "validation_loss"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), name)
    for name in ("status", "final_loss", "final_loss_se", "validation_loss", "bits_per_byte"):
        assert getattr(a, name) == getattr(b, name), name


def train_and_save(spec: RunSpec, run_dir: Path, data_dir: Path, runtime: RuntimeConfig) -> None:
    """The work of a process that is killed: train and save the result."""
    torch.set_num_threads(1)
    sys.stdout = open(run_dir.parent / f"{run_dir.name}.out", "a", buffering=1)  # noqa: SIM115
    result = train_run(spec, run_dir, data_dir, runtime)
    assert result is not None
    result.save(run_dir)
