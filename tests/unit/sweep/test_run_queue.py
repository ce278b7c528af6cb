"""Claims among many runs: few operations on the shared file system, and hints that may be wrong."""

import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from sweep_fakes import fake_train, make_result, make_specs, make_sweep, save_curve

from chinchilla.config import RuntimeConfig
from chinchilla.plan.records import RunResult
from chinchilla.sweep import claims, run_files
from chinchilla.sweep.claims import Claim, acquire, claim_status, latest_claim
from chinchilla.sweep.launch import prepare
from chinchilla.sweep.retry import retry
from chinchilla.sweep.run_files import ended_runs, mark_ended, missing_specs, run_dir_of
from chinchilla.sweep.run_queue import N_CHECKED, N_MORE, RunQueue
from chinchilla.sweep.worker import Worker

RUNTIME = RuntimeConfig(device="cpu")
CALLS = ("stat", "lstat", "listdir", "open", "link", "rename", "replace", "unlink", "mkdir")


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def work(sweep_dir: Path) -> list[str]:
    return Worker(sweep_dir, sweep_dir, RUNTIME, "w", fake_train).run().finished


def end(sweep_dir: Path, spec, status: str = "finished", mark: bool = True) -> None:
    """A run with a result, as its worker leaves it."""
    run_dir = run_dir_of(sweep_dir, spec)
    claim = acquire(run_dir, "earlier")
    assert claim
    result = make_result(spec, status, **save_curve(run_dir, spec))
    assert claim.publish("result.json", result.to_record())
    claim.release()
    if mark:
        mark_ended(run_dir)


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is claimed from now on seems to be claimed on another machine, without heartbeats."""
    monkeypatch.setattr(claims, "process_table", lambda: "another machine")
    monkeypatch.setattr(claims.threading.Thread, "start", lambda thread: None)


def calls_of_a_claim(
    sweep_dir: Path, n_ended: int, n_held: int, monkeypatch: pytest.MonkeyPatch
) -> Counter[str]:
    """Calls of the first claim of a worker after so many runs have ended and others are held."""
    specs = make_specs(n_ended + n_held + 5)
    make_sweep(sweep_dir, specs)
    with monkeypatch.context() as patch:
        elsewhere(patch)
        for spec in specs[5:]:
            run_dir = run_dir_of(sweep_dir, spec)
            assert acquire(run_dir, "other")
            if spec in specs[-n_ended:]:
                (run_dir / "result.json").write_text("{}")
                mark_ended(run_dir)
    made: Counter[str] = Counter()
    queue = RunQueue(sweep_dir, "w")
    with monkeypatch.context() as patch:
        for name in CALLS:
            real = getattr(os, name)

            def counted(*args, real=real, name=name, **kwargs):
                made[name] += str(args[0]).startswith(str(sweep_dir))
                return real(*args, **kwargs)

            patch.setattr(os, name, counted)
        found, _ = queue.claim_next(None)
    assert found, "no run was claimed"
    found[1].release()
    return made


def test_operations_of_a_claim_do_not_grow_with_the_sweep(tmp_path: Path, monkeypatch):
    small = calls_of_a_claim(tmp_path / "small", 10, 8, monkeypatch)
    large = calls_of_a_claim(tmp_path / "large", 100, 40, monkeypatch)
    assert large.total() <= small.total() + 3
    assert small["stat"] + small["lstat"] <= 50
    assert large.total() <= 80


def test_a_worker_that_finds_nothing_else_examines_a_bounded_number(tmp_path: Path, monkeypatch):
    specs = make_specs(N_CHECKED + N_MORE + 30)
    make_sweep(tmp_path, specs)
    with monkeypatch.context() as patch:
        elsewhere(patch)
        for spec in specs:
            assert acquire(run_dir_of(tmp_path, spec), "other")
    examined = []
    real = claims.claim_status
    monkeypatch.setattr(
        "chinchilla.sweep.run_queue.claim_status",
        lambda run_dir, *args: examined.append(run_dir) or real(run_dir, *args),
    )
    assert RunQueue(tmp_path, "w").claim_next(None) == (None, False)
    assert len(set(examined)) == len(examined) == N_CHECKED + N_MORE


def test_dead_holders_among_many_are_found_by_later_claims(tmp_path: Path, monkeypatch):
    specs = make_specs(20)
    make_sweep(tmp_path, specs)
    with monkeypatch.context() as patch:
        elsewhere(patch)
        for spec in specs[4:]:
            run_dir = run_dir_of(tmp_path, spec)
            assert acquire(run_dir, "died")
            os.utime(run_dir / "claim-1.json", (0, 0))
    assert sorted(work(tmp_path)) == sorted(s.run_id for s in specs)


def test_a_result_without_a_mark_is_not_trained_again_and_is_marked(tmp_path: Path):
    specs = make_specs(30)
    make_sweep(tmp_path, specs)
    for spec in specs[:28]:
        end(tmp_path, spec, mark=False)
    assert sorted(work(tmp_path)) == sorted(s.run_id for s in specs[28:])
    assert len(ended_runs(tmp_path)) == 30


def test_a_retried_run_is_claimed_again(tmp_path: Path):
    specs = make_specs(3)
    make_sweep(tmp_path, specs)
    for spec in specs:
        end(tmp_path, spec, "failed" if spec is specs[1] else "finished")
    worker = Worker(tmp_path, tmp_path, RUNTIME, "w", fake_train)
    assert worker.run().finished == []
    assert retry(tmp_path)["again"] == [specs[1].run_id]
    assert worker.run().finished == [specs[1].run_id]


def test_no_mark_remains_without_a_result(tmp_path: Path, monkeypatch):
    """A worker that is late with its mark, and a `retry` between."""
    [spec] = make_specs(1)
    make_sweep(tmp_path, [spec])
    run_dir = run_dir_of(tmp_path, spec)
    end(tmp_path, spec, "failed", mark=False)
    touch = run_files.touch

    def late(path: Path, *args, **kwargs) -> None:
        touch(path, *args, **kwargs)
        if path.parent.name == "ended" and (run_dir / "result.json").exists():
            (run_dir / "result.json").rename(run_dir / "result-failed-1.json")

    monkeypatch.setattr(run_files, "touch", late)
    mark_ended(run_dir)
    assert ended_runs(tmp_path) == set()


@pytest.mark.parametrize("launched", [True, False])
@pytest.mark.parametrize("lost", ["result.json", ""])
def test_deleting_a_result_or_a_run_makes_it_trainable(tmp_path: Path, lost: str, launched: bool):
    specs = make_specs(2)
    make_sweep(tmp_path, specs)
    for spec in specs:
        end(tmp_path, spec)
    run_dir = run_dir_of(tmp_path, specs[0])
    if lost:
        (run_dir / lost).unlink()
    else:
        run_dir.rename(tmp_path / "moved away")
    if launched:
        prepare(tmp_path, specs, RUNTIME)
        assert missing_specs(tmp_path) == [specs[0]]
    assert work(tmp_path) == [specs[0].run_id]
    assert RunResult.load(run_dir).status == "finished"


def test_a_run_whose_folder_disappears_while_a_worker_looks_is_trained(tmp_path: Path, monkeypatch):
    """Removed by the user, or in a listing of a file server that is out of date."""
    specs = make_specs(3)
    make_sweep(tmp_path, specs)
    for spec in specs:
        run_dir_of(tmp_path, spec).mkdir(parents=True)
    real, left = os.listdir, [run_dir_of(tmp_path, s) for s in specs[:2]]

    def removed_before(path):
        if path in left:
            left.remove(path)
            Path(path).rmdir()
        return real(path)

    monkeypatch.setattr(os, "listdir", removed_before)
    assert sorted(work(tmp_path)) == sorted(s.run_id for s in specs)


def test_a_run_that_waited_for_one_that_was_not_examined_is_claimed(tmp_path: Path, monkeypatch):
    """The run it waited for has a result and no mark, and the first look does not always reach it."""
    first, *others = make_specs(12)
    done, free = (
        replace(first, steps=n, schedule="cooldown", cooldown_steps=n // 5) for n in (40, 80)
    )
    make_sweep(tmp_path, [done, free, *others])
    end(tmp_path, done, mark=False)
    with monkeypatch.context() as patch:
        elsewhere(patch)
        for spec in others:
            assert acquire(run_dir_of(tmp_path, spec), "other")
    for name in "abcdef":
        found, _ = RunQueue(tmp_path, name).claim_next(None)
        assert found, name
        found[1].release()


def test_a_plan_that_grows_is_read_again(tmp_path: Path):
    specs = make_specs(4)
    make_sweep(tmp_path, specs[:2])
    queue = RunQueue(tmp_path, "w")
    found, _ = queue.claim_next(None)
    assert found
    make_sweep(tmp_path, specs)
    claimed, _ = queue.claim_next(None)
    assert claimed
    assert claimed[0] == specs[3]
    for _, claim in (found, claimed):
        claim.release()


# Heartbeats


@pytest.mark.parametrize(
    ("workers", "age", "state"),
    [(1, 59, "silent"), (1, 61, "dead"), (1000, 61, "held"), (1000, 299, "silent"), (1000, 301, "dead")],
)  # fmt: skip
def test_the_age_of_death_follows_the_number_of_workers_in_the_claim(
    tmp_path: Path, monkeypatch, workers: int, age: float, state: str
):
    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        elsewhere(patch)
        assert acquire(run_dir, "other", n_workers=workers)
    now = time.time()
    for name in ("claim-1.json", "heartbeat"):
        (run_dir / name).touch()
        os.utime(run_dir / name, (now - age, now - age))
    assert claim_status(run_dir, now).state == state


def test_a_holder_records_more_workers_before_its_heartbeats_become_rarer(
    tmp_path: Path, monkeypatch
):
    elsewhere(monkeypatch)
    n_workers = 10
    claim = acquire(tmp_path / "run", "w", count_workers=lambda: n_workers)
    assert isinstance(claim, Claim)
    for _ in range(claims.REVIEW_BEATS):
        assert claim.beat()
    assert latest_claim(tmp_path / "run") == claim.record
    assert claim.record.workers == 1, "10 workers need no rarer heartbeats"
    n_workers = 1000
    for _ in range(claims.REVIEW_BEATS):
        assert claim.beat()
    assert latest_claim(tmp_path / "run") == claim.record
    assert claim.record.workers == 1000
