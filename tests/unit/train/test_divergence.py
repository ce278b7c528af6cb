"""What counts as divergence, and how it is recorded."""

import json
import math
from pathlib import Path

import pytest
from train_world import (
    EVERY_UPDATE,
    make_runtime,
    make_spec,
)

from chinchilla.plan.records import RunResult, RunSpec
from chinchilla.train import train_run, trainer

RUNTIME = make_runtime()


@pytest.mark.parametrize("log_every_steps", [1, 5, 24])
def test_an_unstable_run_is_recorded_as_diverged(
    data_dir: Path, tmp_path: Path, log_every_steps: int
):
    spec = make_spec(data_dir, peak_lr=1e30, grad_clip=0.0)
    runtime = make_runtime(log_every_steps=log_every_steps, checkpoint_minutes=EVERY_UPDATE)
    result = train_run(spec, tmp_path, data_dir, runtime)
    assert result.status == "diverged"
    assert "not finite" in result.reason
    assert result.final_loss is None
    assert result.final_loss_se is None
    assert result.validation_loss == result.bits_per_byte == {}
    assert 0 < result.steps_done <= spec.steps
    assert result.flops_spent == pytest.approx(spec.C * result.steps_done / spec.steps)
    result.save(tmp_path)
    assert RunResult.read(tmp_path / "result.json") == result
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # NaN is not JSON


def poisoned(monkeypatch: pytest.MonkeyPatch, losses: dict[int, float]) -> None:
    """Replace the recorded losses of some steps without changing the updates."""
    real = trainer.Trainer.train_step

    def update(self, should_stop) -> bool:
        done = real(self, should_stop)
        if self.step in losses:
            self.losses[self.step - 1] = losses[self.step]
        return done

    monkeypatch.setattr(trainer.Trainer, "train_step", update)


@pytest.mark.parametrize("log_every_steps", [1, 7, 24])
def test_divergence_reports_the_first_step_whose_loss_is_not_finite(
    spec: RunSpec,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    log_every_steps: int,
):
    poisoned(monkeypatch, {13: math.inf})
    runtime = make_runtime(log_every_steps=log_every_steps)
    result = train_run(spec, tmp_path, data_dir, runtime)
    assert (result.status, result.reason) == ("diverged", "loss is not finite at step 13")


@pytest.mark.parametrize("log_every_steps", [1, 2, 7, 24])
@pytest.mark.parametrize(("n", "status"), [(9, "finished"), (10, "diverged")])
def test_ten_steps_a_nat_above_uniform_are_divergence_at_any_log_interval(
    spec: RunSpec, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    log_every_steps: int, n: int, status: str,
):  # fmt: skip
    high = math.log(spec.model.vocab_size) + 1.01  # with nine of them, the mean of ten is below
    poisoned(monkeypatch, dict.fromkeys(range(8, 8 + n), high))
    runtime = make_runtime(log_every_steps=log_every_steps)
    result = train_run(spec, tmp_path, data_dir, runtime)
    assert result.status == status
    assert ("to step 17 is more than 1 nat above" in result.reason) == (status == "diverged")


def test_a_high_loss_during_warm_up_is_not_divergence(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spec = make_spec(data_dir, steps=30, warmup_steps=12)
    assert spec.warmup_steps == 12
    poisoned(monkeypatch, dict.fromkeys(range(1, 12), 9.0))
    assert train_run(spec, tmp_path, data_dir, RUNTIME).status == "finished"


@pytest.mark.parametrize("checkpoint_minutes", [EVERY_UPDATE, 10])
def test_a_validation_loss_that_is_not_finite_is_divergence(
    spec: RunSpec, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint_minutes: float
):  # fmt: skip
    """The last update can make weights infinite after the last finite training loss."""
    monkeypatch.setattr(trainer, "validation_loss", lambda *args: math.nan)
    runtime = make_runtime(validation_evals=1, checkpoint_minutes=checkpoint_minutes)
    result = train_run(spec, tmp_path, data_dir, runtime)
    assert result.status == "diverged"
    assert result.reason == "validation loss is not finite after step 24"
    assert result.final_loss is None
    result.save(tmp_path)
