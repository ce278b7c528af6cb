import contextlib
import json
import math
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from train_world import (
    EVERY_UPDATE,
    ROWS,
    SEQ_LEN,
    make_runtime,
    make_spec,
    same_bits,
    stop_at,
    train_and_save,
)

from chinchilla.data.dataset import TokenData
from chinchilla.model import Transformer
from chinchilla.plan.memory import memory
from chinchilla.plan.records import Curve, RunResult, RunSpec
from chinchilla.train import fsdp, preflight, train_run, trainer
from chinchilla.train.checkpoint import load_checkpoint
from chinchilla.train.checkpoint.files import LOSSES

RUNTIME = make_runtime()


def metrics(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


# Losses


def test_the_loss_decreases_from_that_of_a_uniform_prediction(whole, spec: RunSpec):
    result, run_dir = whole
    loss = Curve.load(run_dir).loss
    assert loss[0] == pytest.approx(math.log(spec.model.vocab_size) + 0.5, abs=0.4)
    assert result.status == "finished"
    assert result.final_loss < loss[0] - 1
    assert result.validation_loss["validation"] < loss[0] - 1


def test_the_first_loss_is_the_models_on_the_first_batch(whole, spec: RunSpec, data_dir: Path):
    rows = torch.from_numpy(TokenData.open(data_dir).batch(spec.seed, 0, ROWS, SEQ_LEN))
    model = Transformer(spec.model).init_weights(spec.seed)
    expected = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()).item()
    assert Curve.load(whole[1]).loss[0] == pytest.approx(expected, rel=1e-6)


def test_training_is_deterministic(whole, spec: RunSpec, data_dir: Path, tmp_path: Path):
    again = train_run(spec, tmp_path / "run", data_dir, RUNTIME)
    same_bits(*whole, again, tmp_path / "run")


def test_another_seed_is_another_run(whole, spec: RunSpec, data_dir: Path, tmp_path: Path):
    other = train_run(replace(spec, seed=1), tmp_path / "run", data_dir, RUNTIME)
    assert other.final_loss != whole[0].final_loss
    assert not np.any(Curve.load(tmp_path / "run").loss == Curve.load(whole[1]).loss)


def test_relative_positions_train_and_resume(data_dir: Path, tmp_path: Path):
    spec = make_spec(data_dir, steps=10, positions="relative")
    one = train_run(spec, tmp_path / "one", data_dir, RUNTIME)
    assert train_run(spec, tmp_path / "two", data_dir, RUNTIME, should_stop=stop_at(6)) is None
    two = train_run(spec, tmp_path / "two", data_dir, RUNTIME)
    same_bits(one, tmp_path / "one", two, tmp_path / "two")
    assert one.final_loss < Curve.load(tmp_path / "one").loss[0] - 0.3


def test_bf16_follows_fp32_and_keeps_fp32_weights(whole, data_dir: Path, tmp_path: Path):
    """Rounding to 8 bits changes the losses of this run by less than 0.05 nats."""
    spec = make_spec(data_dir, precision="bf16")
    result = train_run(spec, tmp_path, data_dir, RUNTIME)
    assert result.final_loss == pytest.approx(whole[0].final_loss, abs=0.05)
    assert result.final_loss != whole[0].final_loss
    checkpoint, _ = load_checkpoint(tmp_path / "checkpoints", spec)
    state = [*checkpoint.weights.values(), *checkpoint.optimizer.values()]
    assert {t.dtype for t in state} == {torch.float32}


def test_gradients_are_clipped_when_asked(whole, data_dir: Path, tmp_path: Path):
    """Adam is invariant to the gradient's scale, so clipping matters only when norms vary."""
    losses = {}
    for clip in (0.0, 1e9, 0.1):
        run_dir = tmp_path / str(clip)
        train_run(make_spec(data_dir, steps=8, grad_clip=clip), run_dir, data_dir, RUNTIME)
        losses[clip] = Curve.load(run_dir).loss
    np.testing.assert_array_equal(losses[0.0], losses[1e9])
    assert np.abs(losses[0.1] - losses[0.0]).max() > 1e-4


# Stopping and resuming


@pytest.mark.parametrize(
    "stops",
    [
        [1],
        [7, 7, 8],
        [10, 20],
        [23],
        pytest.param([2, 5, 8, 11, 14, 17, 20, 23], marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_resumes_with_the_same_bits(
    whole, spec: RunSpec, data_dir: Path, tmp_path: Path, stops: list[int]
):
    run_dir, done = tmp_path / "run", 0
    for stop in stops:
        should_stop = stop_at(stop - done)  # called once before each remaining update
        assert train_run(spec, run_dir, data_dir, RUNTIME, should_stop=should_stop) is None
        assert not (run_dir / "curve.npz").exists()
        done = stop
    result = train_run(spec, run_dir, data_dir, RUNTIME, starts=3)
    same_bits(*whole, result, run_dir)
    assert result.attempts == 3
    timing = {"tokens_per_second"}
    strip = [[{k: v for k, v in m.items() if k not in timing} for m in metrics(c)]
             for c in (whole[1], run_dir)]  # fmt: skip
    assert strip[0] == strip[1]


def test_a_run_stopped_before_its_first_update_leaves_no_checkpoint(
    spec: RunSpec, data_dir: Path, tmp_path: Path
):
    assert train_run(spec, tmp_path, data_dir, RUNTIME, should_stop=lambda: True) is None
    assert not (tmp_path / "checkpoints").exists()


def test_a_finished_run_returns_its_result_without_training_again(
    whole, spec: RunSpec, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = train_run(spec, tmp_path, data_dir, RUNTIME)
    monkeypatch.setattr(trainer.Trainer, "train_step", None)
    again = train_run(spec, tmp_path, data_dir, RUNTIME)
    same_bits(first, tmp_path, again, whole[1])
    assert again.train_seconds == pytest.approx(first.train_seconds, abs=0.05)


def test_train_seconds_add_up_over_attempts(spec: RunSpec, data_dir: Path, tmp_path: Path):
    def slow() -> bool:
        time.sleep(0.02)  # between two updates, so it counts as training
        return False

    stop = stop_at(12)

    def slow_then_stop() -> bool:
        return slow() or stop()

    train_run(spec, tmp_path, data_dir, RUNTIME, should_stop=slow_then_stop)
    result = train_run(spec, tmp_path, data_dir, RUNTIME, should_stop=slow)
    assert 24 * 0.02 < result.train_seconds
    assert result.tokens_per_second == pytest.approx(spec.D / result.train_seconds)


def test_resuming_past_a_damaged_checkpoint_gives_the_same_bits(
    whole, spec: RunSpec, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run_dir = tmp_path / "run"
    eager = make_runtime(checkpoint_minutes=EVERY_UPDATE)
    train_run(spec, run_dir, data_dir, eager, should_stop=stop_at(15))
    newest = run_dir / "checkpoints" / "step-00000015"
    os.truncate(newest / "weights.safetensors", 100)
    result = train_run(spec, run_dir, data_dir, RUNTIME)
    same_bits(*whole, result, run_dir)
    printed = capsys.readouterr()  # with format=json standard output holds one document
    assert f"warning: checkpoint {newest} is damaged" in printed.err
    assert printed.out == ""


def test_nothing_is_written_for_a_run_that_another_worker_has_taken_over(
    spec: RunSpec, data_dir: Path, tmp_path: Path
):
    lost = {"still_mine": lambda: False}
    eager = make_runtime(checkpoint_minutes=EVERY_UPDATE)
    assert train_run(spec, tmp_path, data_dir, eager, **lost) is None
    assert train_run(spec, tmp_path, data_dir, RUNTIME, should_stop=stop_at(3), **lost) is None
    assert not (tmp_path / "checkpoints").exists()


FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["chinchilla.train"])  # torch is imported only once


def start_process(*args) -> multiprocessing.process.BaseProcess:
    process = FORKSERVER.Process(target=train_and_save, args=args)
    process.start()
    return process


def newest_step(run_dir: Path) -> int:
    return max((int(p.name[5:]) for p in (run_dir / "checkpoints").glob("step-*")), default=0)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_run_killed_at_random_moments_resumes_with_the_same_bits(
    whole, spec: RunSpec, data_dir: Path, tmp_path: Path, seed: int
):
    """SIGKILL three times while it trains and writes checkpoints, then resumed to the end."""
    run_dir, draw = tmp_path / "run", random.Random(seed)
    eager = make_runtime(checkpoint_minutes=EVERY_UPDATE)
    landed = []
    for floor in (1, 7, 13):  # each process gets further than the one before
        process = start_process(spec, run_dir, data_dir, eager)
        deadline = time.monotonic() + 60
        while newest_step(run_dir) < floor:
            assert process.is_alive(), (tmp_path / "run.out").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.05))
        process.kill()  # no error if it has just ended
        process.join()
        landed.append(process.exitcode == -signal.SIGKILL)
    assert landed[0], "the first kill came too late to test anything"
    process = start_process(spec, run_dir, data_dir, eager)
    process.join(60)
    assert process.exitcode == 0, (tmp_path / "run.out").read_text()
    same_bits(*whole, RunResult.read(run_dir / "result.json"), run_dir)
    assert [m["step"] for m in metrics(run_dir)] == [5, 10, 15, 20, 24]
    assert not list((run_dir / "checkpoints").glob(".tmp-*"))


# Settings that must not change a run


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_micro_batches_change_only_the_rounding(
    whole, spec: RunSpec, data_dir: Path, tmp_path: Path, rows: int
):
    """fp32 sums in another order: 2^-24 relative, grown by 24 updates to under 1e-4 nats."""
    runtime = make_runtime(micro_batch_tokens=rows * SEQ_LEN)
    result = train_run(spec, tmp_path, data_dir, runtime)
    np.testing.assert_allclose(Curve.load(tmp_path).loss, Curve.load(whole[1]).loss, atol=1e-4)
    assert result.validation_loss["validation"] == pytest.approx(
        whole[0].validation_loss["validation"], abs=1e-4
    )


def test_the_automatic_micro_batch_divides_the_rows_of_the_rank(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    """24 rows on 6 ranks, with room for 3 of the 4 rows of each: 2+2 rather than 3+1."""
    spec = make_spec(data_dir, batch_tokens=24 * SEQ_LEN)
    room = memory(spec, 3 * SEQ_LEN, 2, device="cpu").total
    monkeypatch.setattr(preflight, "memory_room", lambda device: room)
    group = SimpleNamespace(
        world_size=6, shards=2, gather=lambda own: [own] * 6, raise_together=contextlib.nullcontext
    )
    rows = preflight.micro_batch_rows(spec, 24 // 6, make_runtime(), torch.device("cpu"), group)
    assert rows == 2


def test_micro_batches_have_the_configured_size(spec: RunSpec, data_dir: Path, tmp_path: Path):
    seen = []

    class Spy(Transformer):
        def forward(self, tokens, targets=None):
            if torch.is_grad_enabled():
                seen.append(tuple(tokens.shape))
            return super().forward(tokens, targets)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fsdp, "Transformer", Spy)
        runtime = make_runtime(micro_batch_tokens=3 * SEQ_LEN + 5)
        # Asked before each update and between its two passes: the fifth question stops the run.
        train_run(spec, tmp_path, data_dir, runtime, should_stop=stop_at(4))
    assert seen == [(3, SEQ_LEN), (1, SEQ_LEN)] * 2


def test_a_signal_between_micro_batches_discards_the_update_and_changes_no_bit(
    spec: RunSpec, data_dir: Path, tmp_path: Path
):
    """Stopped after the second of four passes of update 6, which is trained again after resuming."""
    runtime = make_runtime(micro_batch_tokens=SEQ_LEN)
    whole = train_run(spec, tmp_path / "whole", data_dir, runtime)
    run_dir = tmp_path / "run"
    passes = 4 * 5 + 2
    assert train_run(spec, run_dir, data_dir, runtime, should_stop=stop_at(passes)) is None
    checkpoint, _ = load_checkpoint(run_dir / "checkpoints", spec)
    assert checkpoint.step == 5
    assert len(checkpoint.optimizer[LOSSES]) == 5
    result = train_run(spec, run_dir, data_dir, runtime)
    same_bits(whole, tmp_path / "whole", result, run_dir)


def test_metrics_contain_the_gradient_norm_before_clipping(
    spec: RunSpec, data_dir: Path, tmp_path: Path
):
    run = trainer.Trainer(spec, tmp_path, data_dir, make_runtime(log_every_steps=1))
    norms = []
    step = run.optimizer.step
    run.optimizer.step = lambda: (
        norms.append(math.hypot(*[float(p.grad.norm()) for p in run.update.parameters])),
        step(),
    )
    run.train_step()
    run.log()
    run.close()
    [line] = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert line["gradient_norm"] > 1
    assert norms == [pytest.approx(spec.grad_clip, rel=1e-4)]


def test_logging_evaluation_and_checkpoint_intervals_change_no_loss(
    whole, spec: RunSpec, data_dir: Path, tmp_path: Path
):
    runtime = make_runtime(log_every_steps=3, validation_evals=9, checkpoint_minutes=EVERY_UPDATE)
    result = train_run(spec, tmp_path, data_dir, runtime)
    np.testing.assert_array_equal(Curve.load(tmp_path).loss, Curve.load(whole[1]).loss)
    assert result.validation_loss == whole[0].validation_loss
    assert result.spec.run_id == whole[0].spec.run_id


# Validation, metrics and progress


def test_validation_losses_are_measured_at_the_evaluation_steps(
    whole, spec: RunSpec, data_dir: Path
):
    curve = Curve.load(whole[1])
    assert curve.validation_step.tolist() == [3, 6, 12, 24]
    assert curve.step.tolist() == list(range(24))
    assert curve.validation_loss[-1] == whole[0].validation_loss["validation"]
    assert np.all(np.diff(curve.validation_loss) < 0)


def test_metrics_lines_contain_mean_loss_rate_and_validation_loss(whole, spec: RunSpec):
    result, run_dir = whole
    lines, curve = metrics(run_dir), Curve.load(run_dir)
    assert [m["step"] for m in lines] == [5, 10, 15, 20, 24]
    assert [m["tokens"] for m in lines] == [m["step"] * ROWS * SEQ_LEN for m in lines]
    assert lines[1]["loss"] == pytest.approx(curve.loss[5:10].mean(), rel=1e-6)
    assert lines[-1]["lr"] == pytest.approx(0.1 * spec.peak_lr)
    assert [m.get("validation_loss") for m in lines] == [
        curve.validation_loss[0], curve.validation_loss[1], curve.validation_loss[2],
        None, result.validation_loss["validation"],
    ]  # fmt: skip


def test_progress_is_reported_at_log_points(spec: RunSpec, data_dir: Path, tmp_path: Path):
    calls: list[tuple[int, float]] = []
    train_run(spec, tmp_path, data_dir, RUNTIME, on_progress=lambda *x: calls.append(x))
    assert calls == [(m["step"], m["loss"]) for m in metrics(tmp_path)]


def test_recomputing_blocks_changes_no_bit(whole, spec: RunSpec, data_dir: Path, tmp_path: Path):
    result = train_run(spec, tmp_path, data_dir, make_runtime(activation_checkpointing=True))
    same_bits(*whole, result, tmp_path)
