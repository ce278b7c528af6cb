"""Runs that share a stable phase have the same bits as runs trained alone."""

import errno
import filecmp
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ranks_world import FORKSERVER, end, output_of, start
from train_world import ROWS, SEQ_LEN, make_runtime, make_spec, same_bits, stop_at

from chinchilla.config import WorkerCommand
from chinchilla.plan.cost import reused_steps
from chinchilla.plan.plan_file import save_plan
from chinchilla.plan.records import Curve, RunResult, RunSpec
from chinchilla.sweep.run_files import run_dir_of, save_runtime
from chinchilla.sweep.worker import Worker, run_worker
from chinchilla.train import train_run
from chinchilla.train.checkpoint import load_checkpoint, save
from chinchilla.train.distributed import join

RUNTIME = make_runtime()
COOLDOWN = {"schedule": "cooldown", "final_lr_ratio": 0.0, "warmup_steps": 3}


def horizons(data_dir: Path | None, *steps: int, **recipe) -> list[RunSpec]:
    return [make_spec(data_dir, n, **COOLDOWN, **recipe) for n in steps]


def weights(run_dir: Path, spec: RunSpec) -> dict:
    found, _ = load_checkpoint(run_dir / "checkpoints", spec)
    assert found.step == spec.steps
    return found.weights


def same_weights(a: Path, b: Path, spec: RunSpec) -> None:
    one, two = weights(a, spec), weights(b, spec)
    assert one.keys() == two.keys()
    for name, w in one.items():
        np.testing.assert_array_equal(w.numpy(), two[name].numpy(), name)


@pytest.fixture(scope="session")
def alone(data_dir: Path, tmp_path_factory: pytest.TempPathFactory):
    """The longer of two runs, trained alone: result, folder and spec."""
    [_, spec] = horizons(data_dir, 10, 20)
    run_dir = tmp_path_factory.mktemp("alone") / "run"
    return train_run(spec, run_dir, data_dir, RUNTIME), run_dir, spec


def saved_by_the_shorter(data_dir: Path, folder: Path) -> tuple[RunSpec, Path, RunResult]:
    """The shorter of the two runs, the folder of stable phases it has saved to, its result."""
    [short] = horizons(data_dir, 10)
    result = train_run(
        short, folder / "short", data_dir, RUNTIME, stable_phases=folder / "stable_phases"
    )
    return short, folder / "stable_phases", result


def test_a_run_from_a_shared_stable_phase_has_the_bits_of_one_trained_alone(
    alone, data_dir: Path, tmp_path: Path
):
    result, run_dir, spec = alone
    short, stable_phases, first = saved_by_the_shorter(data_dir, tmp_path)
    shared = train_run(spec, tmp_path / "long", data_dir, RUNTIME, stable_phases=stable_phases)
    same_bits(result, run_dir, shared, tmp_path / "long")
    same_weights(run_dir, tmp_path / "long", spec)
    assert len(Curve.load(tmp_path / "long").loss) == 20  # including those of the stable phase
    batch = ROWS * SEQ_LEN
    assert (first.reused_tokens, first.trained_tokens) == (0, 10 * batch)
    assert (shared.reused_tokens, shared.trained_tokens) == (8 * batch, 12 * batch)
    assert shared.flops_spent == result.flops_spent == spec.C  # of the whole run
    assert shared.train_seconds > 0
    assert sorted(p.name for p in (stable_phases / short.stable_phase_id).iterdir()) == [
        "step-00000008",
        "step-00000016",
    ]


def test_a_run_that_may_not_use_the_folder_of_its_stable_phase_is_trained_without(
    alone, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    result, run_dir, spec = alone
    _, stable_phases, _ = saved_by_the_shorter(data_dir, tmp_path)
    folder, may = stable_phases / spec.stable_phase_id, os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder and may(path, mode))
    shared = train_run(spec, tmp_path / "long", data_dir, RUNTIME, stable_phases=stable_phases)
    same_bits(result, run_dir, shared, tmp_path / "long")
    assert shared.reused_tokens == 0
    assert [path.name for path in folder.iterdir()] == ["step-00000008"]
    assert f"{folder} belongs to" in capsys.readouterr().err


def test_a_run_stopped_after_its_stable_phase_resumes_and_reports_the_reused_tokens(
    alone, data_dir: Path, tmp_path: Path
):
    result, run_dir, spec = alone
    _, stable_phases, _ = saved_by_the_shorter(data_dir, tmp_path)
    stop = stop_at(3)
    long = tmp_path / "long"
    assert (
        train_run(spec, long, data_dir, RUNTIME, should_stop=stop, stable_phases=stable_phases)
        is None
    )
    shared = train_run(spec, long, data_dir, RUNTIME, stable_phases=stable_phases)
    same_bits(result, run_dir, shared, long)
    assert shared.reused_tokens == 8 * ROWS * SEQ_LEN


def test_all_runs_save_the_same_bytes_for_a_stable_phase(data_dir: Path, tmp_path: Path):
    """Two runs whose cool-downs start at the same step, with other lengths, budgets and sweeps."""
    [one] = horizons(data_dir, 10)
    other = replace(
        one, steps=12, cosine_steps=12, cooldown_steps=4, budget_flops=1e9, sweep="another",
        flop_convention="paper", final_lr_ratio=0.5,
    )  # fmt: skip
    assert one.stable_phase_id == other.stable_phase_id
    for spec, name in ((one, "one"), (other, "other")):
        train_run(
            spec,
            tmp_path / name,
            data_dir,
            RUNTIME,
            stable_phases=tmp_path / f"{name}-stable phases",
        )
    left = [
        tmp_path / f"{n}-stable phases" / one.stable_phase_id / "step-00000008"
        for n in ("one", "other")
    ]
    names = sorted(p.name for p in left[0].iterdir())
    assert filecmp.cmpfiles(*left, names, shallow=False) == (names, [], [])


@pytest.mark.parametrize(
    "other",
    [{"peak_lr": 1e-2}, {"seed": 1}, {"batch_tokens": 2 * ROWS * SEQ_LEN}, {"warmup_steps": 2},
     {"weight_decay": 0.0}, {"optimizer": "adam"}, {"precision": "bf16"}, {"beta2": 0.9}],
    ids=str,
)  # fmt: skip
def test_settings_that_affect_the_stable_phase_change_its_id(other):
    [spec] = horizons(None, 20)
    assert make_spec(None, 20, **{**COOLDOWN, **other}).stable_phase_id != spec.stable_phase_id
    assert make_spec(None, 40, **COOLDOWN).stable_phase_id == spec.stable_phase_id
    assert make_spec(None, 20).stable_phase is None


def test_a_damaged_stable_phase_is_skipped_and_reported(
    alone, data_dir: Path, tmp_path: Path, capsys
):
    result, run_dir, spec = alone
    short, stable_phases, _ = saved_by_the_shorter(data_dir, tmp_path)
    left = stable_phases / short.stable_phase_id / "step-00000008" / "weights.safetensors"
    left.write_bytes(left.read_bytes()[:-1] + b"!")
    again = train_run(spec, tmp_path / "long", data_dir, RUNTIME, stable_phases=stable_phases)
    same_bits(result, run_dir, again, tmp_path / "long")
    assert again.reused_tokens == 0
    assert (
        f"{left.parent} is damaged (weights.safetensors does not match" in capsys.readouterr().err
    )


def test_a_shorter_run_does_not_start_past_the_start_of_its_cool_down(
    data_dir: Path, tmp_path: Path
):
    """The saved stable phase is longer: a retried run, or a shorter run planned later."""
    short, long = horizons(data_dir, 10, 20)
    alone = train_run(short, tmp_path / "alone", data_dir, RUNTIME)
    train_run(long, tmp_path / "long", data_dir, RUNTIME, stable_phases=tmp_path / "stable_phases")
    late = train_run(
        short, tmp_path / "late", data_dir, RUNTIME, stable_phases=tmp_path / "stable_phases"
    )
    same_bits(alone, tmp_path / "alone", late, tmp_path / "late")
    assert late.reused_tokens == 0


def test_a_full_disk_at_the_stable_phase_is_reported_and_leaves_no_partial_checkpoint(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    [short] = horizons(data_dir, 10)
    rename = save.rename

    def full(a, b):
        if "stable_phases" in str(b):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(a, b)

    monkeypatch.setattr(save, "rename", full)
    with pytest.raises(OSError, match="No space left on device: a checkpoint needs"):
        train_run(
            short, tmp_path / "run", data_dir, RUNTIME, stable_phases=tmp_path / "stable_phases"
        )
    monkeypatch.undo()
    assert list((tmp_path / "stable_phases" / short.stable_phase_id).iterdir()) == []
    result = train_run(
        short, tmp_path / "run", data_dir, RUNTIME, stable_phases=tmp_path / "stable_phases"
    )
    assert result.status == "finished"


def test_a_run_stopped_at_the_end_of_its_stable_phase_still_shares_it(
    data_dir: Path, tmp_path: Path
):
    """Stopped at the start of its cool-down, a run saves the stable phase when it resumes."""
    [short] = horizons(data_dir, 10)
    stable_phases = tmp_path / "stable_phases"
    stop = stop_at(8)
    assert (
        train_run(
            short,
            tmp_path / "run",
            data_dir,
            RUNTIME,
            should_stop=stop,
            stable_phases=stable_phases,
        )
        is None
    )
    assert not stable_phases.exists()
    train_run(short, tmp_path / "run", data_dir, RUNTIME, stable_phases=stable_phases)
    assert [p.name for p in (stable_phases / short.stable_phase_id).iterdir()] == ["step-00000008"]


def train_of_stable_phase(
    spec: RunSpec, run_dir: Path, data_dir: Path, stable_phases: Path
) -> None:
    ranks = join("cpu", seconds=60)
    result = train_run(spec, run_dir, data_dir, RUNTIME, group=ranks, stable_phases=stable_phases)
    if ranks.rank == 0:
        result.save(run_dir)
    ranks.close()


@pytest.mark.slow
def test_stable_phases_are_shared_between_one_and_two_processes(data_dir: Path, tmp_path: Path):
    short, middle, long = horizons(data_dir, 10, 20, 40)
    stable_phases = tmp_path / "stable_phases"
    train_run(short, tmp_path / "short", data_dir, RUNTIME, stable_phases=stable_phases)
    codes = end(
        start(
            2,
            tmp_path / "output",
            train_of_stable_phase,
            middle,
            tmp_path / "middle",
            data_dir,
            stable_phases,
        )
    )
    assert codes == [0, 0], output_of(tmp_path / "output")
    assert RunResult.read(tmp_path / "middle" / "result.json").reused_tokens == 8 * ROWS * SEQ_LEN
    result = train_run(long, tmp_path / "long", data_dir, RUNTIME, stable_phases=stable_phases)
    assert result.reused_tokens == 16 * ROWS * SEQ_LEN
    train_run(long, tmp_path / "alone", data_dir, RUNTIME)
    shared, alone = (Curve.load(tmp_path / name).loss for name in ("long", "alone"))
    np.testing.assert_allclose(shared, alone, atol=5e-5, rtol=0)


@pytest.mark.slow
def test_a_sweep_whose_workers_are_killed_gives_the_bits_of_runs_trained_alone(
    data_dir: Path, tmp_path: Path
):
    """SIGKILL before, at and after the ends of two stable phases, with two workers at a time."""
    specs = [s for seed in (0, 1) for s in horizons(data_dir, 20, 40, 60, seed=seed)]
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    save_plan(specs, sweep / "plan.jsonl")
    save_runtime(make_runtime(checkpoint_minutes=0.001), sweep)
    command = WorkerCommand(sweep_dir=str(sweep), data_dir=str(data_dir), threads=1)
    draw, killed = random.Random(0), 0
    for left in (1, 3, 5):  # stable phase checkpoints after which the two are killed
        workers = [FORKSERVER.Process(target=run_worker, args=(command,)) for _ in range(2)]
        for worker in workers:
            worker.start()
        deadline = time.monotonic() + 120
        while len(list(sweep.glob("stable_phases/*/step-*"))) < left and workers[0].is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.2))
        for worker in workers:
            worker.kill()
            worker.join()
            killed += worker.exitcode == -signal.SIGKILL
    assert killed >= 2, "the kills came too late to test anything"
    assert not Worker(sweep, data_dir, make_runtime()).run().stopped
    for spec in specs:
        run_dir = run_dir_of(sweep, spec)
        alone = train_run(spec, tmp_path / spec.run_id, data_dir, make_runtime())
        same_bits(alone, tmp_path / spec.run_id, RunResult.read(run_dir / "result.json"), run_dir)
        assert RunResult.read(run_dir / "result.json").reused_tokens in (
            0,
            *(s.stable_steps * s.batch_tokens for s in specs),
        )
    assert not list(sweep.glob("stable_phases/*/.tmp-*"))


def test_a_sweep_trains_as_many_tokens_as_its_plan_predicts(data_dir: Path, tmp_path: Path):
    """One size at three lengths: at most 0.7 of the tokens of cosine runs."""
    ladder = (8, 16, 32)
    specs = horizons(data_dir, *ladder)
    save_plan(specs, tmp_path / "plan.jsonl")
    summary = Worker(tmp_path, data_dir, make_runtime(), "w").run()
    assert len(summary.finished) == len(specs)
    results = [RunResult.load(run_dir_of(tmp_path, s)) for s in specs]
    trained, over = sum(r.trained_tokens for r in results), reused_steps(specs)
    assert trained == sum((s.steps - over[s.run_id]) * s.batch_tokens for s in specs)
    assert trained <= 0.7 * sum(s.D for s in specs)
    assert trained / sum(s.D for s in specs) == pytest.approx(37 / 56)
    assert [r.steps_done for r in results] == [s.steps for s in specs]
