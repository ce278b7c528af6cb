"""A run that runs out of memory is resumed with half the micro-batch and has the same losses."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from train_world import EVERY_UPDATE, ROWS, SEQ_LEN, make_runtime

from chinchilla.model import Transformer
from chinchilla.plan.plan_file import save_plan
from chinchilla.plan.records import Curve, RunResult, RunSpec
from chinchilla.sweep.failures import read_attempts
from chinchilla.sweep.run_files import run_dir_of
from chinchilla.sweep.worker import Worker
from chinchilla.train import fsdp

# fp32 sums in another order: 2^-24 relative at each update, grown by 24 updates of a large step.
ROUNDING = 1e-4  # nats


class Tight(Transformer):
    """Raises OutOfMemoryError for training passes of more than `rows` rows."""

    rows = ROWS

    def forward(self, tokens, targets=None) -> torch.Tensor:
        if torch.is_grad_enabled() and len(tokens) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(tokens, targets)


@pytest.mark.parametrize("room", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_after_running_out_of_memory_a_run_resumes_with_half_the_micro_batch(
    spec: RunSpec,
    whole,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    room: int,
):
    save_plan([spec], tmp_path / "plan.jsonl")
    monkeypatch.setattr(fsdp, "Transformer", Tight)
    monkeypatch.setattr(Tight, "rows", room)
    summary = Worker(tmp_path, data_dir, make_runtime(), "w").run()
    assert summary.finished == [spec.run_id]
    run_dir = run_dir_of(tmp_path, spec)
    used = [a.micro_batch_tokens // SEQ_LEN for a in read_attempts(run_dir) if a.failure == "oom"]
    assert used == [4, 2][: len(used)]
    assert len(used) == {2: 1, 1: 2}[room]
    result = RunResult.read(run_dir / "result.json")
    assert result.spec.run_id == whole[0].spec.run_id
    curves = [Curve.load(folder).loss for folder in (whole[1], run_dir)]
    np.testing.assert_allclose(*curves, atol=ROUNDING, rtol=0)


def test_running_out_of_memory_repeats_only_the_steps_after_the_checkpoint(
    spec: RunSpec, whole, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save_plan([spec], tmp_path / "plan.jsonl")
    passes, saved = [], []
    folder = run_dir_of(tmp_path, spec) / "checkpoints"

    class Fills(Tight):
        def forward(self, tokens, targets=None) -> torch.Tensor:
            passes.append(len(tokens))
            if len(passes) < 11:
                self.rows = ROWS
                time.sleep(0.01)  # so that some checkpoints are complete
            elif not saved:
                self.rows = 2
                saved.append(max(int(p.name[5:]) for p in folder.glob("step-*")))
            return super().forward(tokens, targets)

    monkeypatch.setattr(fsdp, "Transformer", Fills)
    runtime = make_runtime(checkpoint_minutes=EVERY_UPDATE, validation_evals=1)
    assert Worker(tmp_path, data_dir, runtime, "w").run().finished == [spec.run_id]
    run_dir = run_dir_of(tmp_path, spec)
    [attempt] = read_attempts(run_dir)
    assert passes.count(ROWS) == 11
    assert attempt.failure == "oom"
    losses = Curve.load(run_dir).loss
    before = Curve.load(whole[1]).loss
    [step] = saved
    assert step >= 1
    evaluation = 256 // SEQ_LEN // 2
    assert passes.count(2) <= 2 * (spec.steps - step) + evaluation
    np.testing.assert_array_equal(losses[:step], before[:step])
    np.testing.assert_allclose(losses, before, atol=ROUNDING, rtol=0)
    assert RunResult.read(run_dir / "result.json").attempts == 2
    assert replace(RunResult.read(run_dir / "result.json").spec, sweep="") == replace(
        whole[0].spec, sweep=""
    )
