import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from sweep_fakes import (
    BREAKS,
    DIES,
    DIVERGES,
    RAISES,
    SLOW,
    fake_train,
    make_result,
    make_specs,
    make_sweep,
    n_starts,
    start_worker,
    wait_until,
)

from chinchilla.config import RuntimeConfig
from chinchilla.core.errors import InputError
from chinchilla.plan.records import RunResult
from chinchilla.sweep import claims
from chinchilla.sweep.claims import ClaimRecord, acquire, claim_status, latest_claim
from chinchilla.sweep.run_files import load_runtime, read_progress, run_dir_of
from chinchilla.sweep.signals import STOP_SIGNALS
from chinchilla.sweep.worker import Worker

RUNTIME = RuntimeConfig(device="cpu")


def work(sweep_dir: Path, train=fake_train, worker: str = "w"):
    return Worker(sweep_dir, sweep_dir, RUNTIME, worker, train).run()


def test_the_longest_run_is_claimed_first(tmp_path: Path):
    specs = make_specs(3)
    summary = work(make_sweep(tmp_path, specs))
    assert summary.finished == [s.run_id for s in reversed(specs)]


def test_two_processes_share_a_plan_and_train_no_run_twice(tmp_path: Path):
    specs = make_specs(14)
    make_sweep(tmp_path, specs)
    workers = [start_worker(tmp_path, f"w{i}") for i in range(2)]
    assert [w.wait(60) for w in workers] == [0, 0]
    pids = set()
    for spec in specs:
        run_dir = run_dir_of(tmp_path, spec)
        assert RunResult.load(run_dir).status == "finished"
        assert n_starts(run_dir) == 1
        pids.add((run_dir / "starts.txt").read_text())
    assert len(pids) == 2, "one of the workers did nothing"


def test_a_killed_workers_run_is_taken_over_and_finished(tmp_path: Path):
    [spec] = make_specs(1, SLOW)
    run_dir = run_dir_of(make_sweep(tmp_path, [spec]), spec)
    victim = start_worker(tmp_path, "victim")
    wait_until(lambda: read_progress(run_dir).get("step", 0) >= 1)
    victim.kill()
    victim.wait()

    def quick(*args, **kwargs):
        return make_result(spec, attempts=kwargs["starts"])

    assert work(tmp_path, quick, "heir").finished == [spec.run_id]
    assert RunResult.load(run_dir).attempts == 2
    assert not (
        run_dir / "attempts"
    ).exists()  # the run had made progress, so no failed attempt is recorded


@pytest.mark.slow
def test_a_run_that_kills_its_workers_without_progress_fails(tmp_path: Path):
    [spec] = make_specs(1, DIES)
    run_dir = run_dir_of(make_sweep(tmp_path, [spec]), spec)
    for i in range(6):
        if start_worker(tmp_path, f"w{i}").wait(30) == 0:
            break
    assert RunResult.load(run_dir).status == "failed"
    assert "died without a message" in RunResult.load(run_dir).reason
    assert n_starts(run_dir) <= 5


def test_a_worker_that_lost_its_run_does_not_write_a_result(tmp_path: Path):
    [spec] = make_specs(1)
    run_dir = run_dir_of(make_sweep(tmp_path, [spec]), spec)

    def late(*args, **kwargs):
        path = run_dir / "claim-1.json"  # while this trains, somebody finds it dead ...
        path.write_text(path.read_text().replace(f'"pid": {os.getpid()}', '"pid": 999999999'))
        heir = acquire(run_dir, "heir")
        assert heir.commit()  # ... trains, and writes the result
        make_result(spec, final_loss=2.5).save(run_dir)
        return make_result(spec, final_loss=9.9)

    summary = work(tmp_path, late)
    assert summary.finished == []
    assert RunResult.load(run_dir).final_loss == 2.5


def test_after_three_errors_a_run_has_failed(tmp_path: Path):
    bad, good = make_specs(1, RAISES) + make_specs(1)
    summary = work(make_sweep(tmp_path, [bad, good]))
    run_dir = run_dir_of(tmp_path, bad)
    result = RunResult.load(run_dir)
    assert (summary.failed, summary.finished) == ([bad.run_id], [good.run_id])
    assert (result.status, result.reason) == ("failed", "RuntimeError: the disk said no")
    assert result.attempts == summary.errors == n_starts(run_dir) == 3
    assert "fake_train" in (run_dir / "error.txt").read_text()
    attempt = json.loads((run_dir / "attempts" / "2.json").read_text())
    assert attempt["worker"] == "w"
    assert "the disk said no" in attempt["traceback"]
    assert latest_claim(run_dir).released


def test_a_single_error_is_retried(tmp_path: Path):
    [spec] = make_specs(1)
    calls = []

    def flaky(*args, **kwargs):
        calls.append(1)
        if len(calls) == 1:
            raise OSError("file server away")
        return fake_train(*args, **kwargs)

    assert work(make_sweep(tmp_path, [spec]), flaky).finished == [spec.run_id]


def test_diverged_is_a_result(tmp_path: Path):
    [spec] = make_specs(1, DIVERGES)
    assert work(make_sweep(tmp_path, [spec])).diverged == [spec.run_id]
    assert n_starts(run_dir_of(tmp_path, spec)) == 1


@pytest.mark.parametrize("signum", STOP_SIGNALS, ids=lambda s: s.name)
def test_a_signal_stops_at_a_step_and_releases_the_run(tmp_path: Path, signum: int):
    [spec] = make_specs(1, SLOW)
    run_dir = run_dir_of(make_sweep(tmp_path, [spec]), spec)
    worker = start_worker(tmp_path, "w")
    wait_until(lambda: read_progress(run_dir))
    worker.send_signal(signum)
    assert worker.wait(20) == 75
    assert claim_status(run_dir, 0.0).state == "free"
    assert latest_claim(run_dir).released
    assert not (run_dir / "result.json").exists()


def test_a_broken_gpu_needs_a_new_process(tmp_path: Path):
    def broken(*args, **kwargs):
        raise RuntimeError("CUDA error: device-side assert triggered")

    summary = work(make_sweep(tmp_path, make_specs(3)), broken)
    assert (summary.errors, summary.needs_restart, summary.failed) == (1, True, [])


def test_a_worker_process_restarts_after_its_gpu_broke(tmp_path: Path):
    [spec] = make_specs(1, BREAKS)
    make_sweep(tmp_path, [spec])
    assert start_worker(tmp_path, "w").wait(30) == 0
    assert RunResult.load(run_dir_of(tmp_path, spec)).status == "finished"
    assert n_starts(run_dir_of(tmp_path, spec)) == 2


def test_a_worker_that_lost_its_run_leaves_no_trace(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.02)
    [spec] = make_specs(1)
    run_dir = run_dir_of(make_sweep(tmp_path, [spec]), spec)

    def slow(*args, should_stop, **kwargs):
        claims._create(run_dir, replace(latest_claim(run_dir), fence=2, worker="heir"))
        while not should_stop():
            time.sleep(0.01)
        raise AssertionError("asked to stop, and so to save, in somebody else's run")

    summary = work(tmp_path, slow)
    assert (summary.errors, summary.finished, summary.stopped) == (0, [], False)
    assert latest_claim(run_dir).worker == "heir"
    assert not (run_dir / "attempts").exists()


def test_a_worker_waits_for_a_silent_node_and_takes_over_its_run(tmp_path: Path):
    """After a node failure, the job starts on another node before its old claim is stale."""
    [spec] = make_specs(1)
    run_dir = run_dir_of(make_sweep(tmp_path, [spec]), spec)
    run_dir.mkdir(parents=True)
    (run_dir / "progress.json").write_text('{"step": 7}')
    record = ClaimRecord(1, "gone", "mars", "mars", 1, "", "", step=0, starts=1)
    (run_dir / "claim-1.json").write_text(json.dumps(asdict(record)))
    then = claims.file_system_now(run_dir) - 0.6
    os.utime(run_dir / "claim-1.json", (then, then))
    summary = Worker(tmp_path, tmp_path, RUNTIME, "w", fake_train, stale_seconds=1.0).run()
    assert summary.finished == [spec.run_id]


def test_a_worker_does_not_wait_for_a_live_worker(tmp_path: Path):
    [spec] = make_specs(1)
    claim = acquire(run_dir_of(make_sweep(tmp_path, [spec]), spec), "busy")
    assert work(tmp_path).finished == []
    claim.release()


def test_runs_added_to_the_plan_meanwhile_are_trained(tmp_path: Path):
    first, second = make_specs(2)
    make_sweep(tmp_path, [first])

    def and_add(spec, *args, **kwargs):
        make_sweep(tmp_path, [first, second])
        return make_result(spec)

    assert work(tmp_path, and_add).finished == [first.run_id, second.run_id]


def test_runtime_settings_survive_a_round_trip(tmp_path: Path):
    make_sweep(tmp_path, make_specs(1))
    assert load_runtime(tmp_path) == RUNTIME
    (tmp_path / "runtime.json").write_text('{"schema": 99}')
    with pytest.raises(InputError, match="schema"):
        load_runtime(tmp_path)


def test_importing_the_worker_does_not_import_torch():
    code = (
        "import sys, chinchilla.sweep.launch, chinchilla.sweep.slurm.submit;"
        "sys.exit(bool({'torch', 'hydra', 'wandb', 'rich'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
