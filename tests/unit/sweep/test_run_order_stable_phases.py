"""Order of runs that share a stable phase: which run waits for which, and no run waits indefinitely."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from sweep_fakes import fake_train, make_result, make_specs, make_sweep

from chinchilla.config import ClusterConfig, RuntimeConfig
from chinchilla.plan.records import RunResult, RunSpec
from chinchilla.sweep.claims import acquire
from chinchilla.sweep.cost import estimate
from chinchilla.sweep.run_files import run_dir_of, stable_phase_step
from chinchilla.sweep.run_order import RunOrder, should_wait
from chinchilla.sweep.slurm.submit import submit
from chinchilla.sweep.view.status import sweep_status
from chinchilla.sweep.worker import Worker

RUNTIME = RuntimeConfig(device="cpu")


def horizons(*steps: int, seed: int = 0) -> list[RunSpec]:
    """Runs that share a stable phase; a fifth of their steps is cool-down."""
    [base] = make_specs(1, seed)
    return [
        replace(base, steps=n, cosine_steps=n, schedule="cooldown", cooldown_steps=n // 5)
        for n in steps
    ]


def train(spec, run_dir, data_dir, runtime, *, stable_phases=None, **kwargs):
    """Fake training: creates an empty checkpoint folder of the stable phase and reports where it started."""
    started = 0
    if spec.stable_phase:
        folder = stable_phases / spec.stable_phase_id
        folder.mkdir(parents=True, exist_ok=True)
        started = stable_phase_step(stable_phases.parent, spec)
        (folder / f"step-{spec.stable_steps:08d}").mkdir(exist_ok=True)
    return make_result(spec, reused_tokens=started * spec.batch_tokens)


def work(sweep_dir: Path, worker: str = "w", train=train):
    return Worker(sweep_dir, sweep_dir, RUNTIME, worker, train, stale_seconds=0.4).run()


def test_runs_of_a_stable_phase_are_ordered_from_short_to_long():
    first, second = horizons(10, 20, 400), horizons(300, 30, seed=1)
    [alone] = make_specs(1)
    alone = replace(alone, steps=350, cosine_steps=350)
    ordered = RunOrder([*second, alone, *first]).specs
    assert [s.steps for s in ordered] == [10, 20, 400, 350, 30, 300]


def test_no_more_workers_are_submitted_than_can_be_busy(tmp_path: Path, fake):
    """Runs with one stable phase are consecutive: two stable phases and one other run need three of eight jobs."""
    specs = [*horizons(100, 200, 400), *horizons(50, 500, seed=1), *make_specs(1)]
    cluster = ClusterConfig(kind="slurm", n_workers=8)
    assert estimate(specs, cluster, RUNTIME)[-1].n_jobs == 3
    make_sweep(tmp_path / "sweep", specs)
    assert submit(cluster, tmp_path / "sweep", tmp_path, specs).n_submitted == 3


def test_a_longer_horizon_waits_only_for_the_part_it_would_resume_from():
    short, middle, long = horizons(100, 200, 400)
    [other] = horizons(100, seed=1)
    assert should_wait(long, 0, [short])
    assert should_wait(long, 80, [middle])
    assert not should_wait(long, 80, [short])  # which is in its cool-down by now
    assert not should_wait(
        short, 0, [long, middle]
    )  # these will not leave anything that it could use
    assert not should_wait(long, 0, [other])
    assert not should_wait(make_specs(1)[0], 0, make_specs(2))


def test_each_horizon_resumes_where_the_one_before_left_the_stable_phase(
    tmp_path: Path,
):
    specs = horizons(100, 200, 400)
    summary = work(make_sweep(tmp_path, specs[::-1]))
    assert summary.finished == [s.run_id for s in specs]
    steps = [RunResult.load(run_dir_of(tmp_path, s)).reused_tokens // s.batch_tokens for s in specs]
    assert steps == [0, 80, 160]


def test_another_worker_takes_another_stable_phase(tmp_path: Path):
    first, second = horizons(100, 400), horizons(50, 200, seed=1)
    make_sweep(tmp_path, [*first, *second])
    (run_dir := run_dir_of(tmp_path, first[0])).mkdir(parents=True)
    held = acquire(run_dir, "busy", step=0, stalls=0, now=time.time(), stale_seconds=30)
    assert work(tmp_path).finished == [s.run_id for s in second]  # and it has ended
    (tmp_path / "stable_phases" / first[0].stable_phase_id / "step-00000080").mkdir(parents=True)
    assert work(tmp_path).finished == [first[1].run_id]  # the other is in its cool-down now
    held.release()
    assert work(tmp_path).finished == [first[0].run_id]


def test_the_time_left_counts_a_stable_phase_once(tmp_path: Path):
    """The longest run waits and will start from step 160 of its 400."""
    specs = horizons(100, 200, 400)
    make_sweep(tmp_path, specs)
    run_dirs = [run_dir_of(tmp_path, s) for s in specs]
    for run_dir in run_dirs[:2]:
        run_dir.mkdir(parents=True)
    make_result(specs[0], tokens_per_second=1024.0).save(run_dirs[0])  # a step a second
    held = acquire(run_dirs[1], "busy", step=0, stalls=0, now=time.time(), stale_seconds=30)
    progress = {"step": 150, "steps": 200, "loss": 3.0, "tokens_per_second": 1024.0}
    (run_dirs[1] / "progress.json").write_text(json.dumps(progress))
    assert sweep_status(tmp_path).seconds_left == pytest.approx(50 + 240)
    held.release()


def test_a_failed_run_delays_no_other_run(tmp_path: Path):
    """The shortest fails three times; the others train their stable phase themselves."""
    specs = horizons(100, 200, 400)

    def fails(spec, *args, **kwargs):
        if spec.steps == 100:
            raise RuntimeError("no")
        return train(spec, *args, **kwargs)

    summary = work(make_sweep(tmp_path, specs), train=fails)
    assert summary.finished == [s.run_id for s in specs[1:]]
    assert summary.failed == [specs[0].run_id]
    assert RunResult.load(run_dir_of(tmp_path, specs[1])).reused_tokens == 0


def test_runs_without_a_stable_phase_are_not_affected(tmp_path: Path):
    specs = make_specs(2)
    summary = work(make_sweep(tmp_path, specs), train=fake_train)
    assert summary.finished == [s.run_id for s in specs[::-1]]
    assert not (tmp_path / "stable_phases").exists()
