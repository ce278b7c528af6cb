import dataclasses
import errno
import json
import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sweep_fakes import wait_until

from chinchilla.core.files.folders import Folder
from chinchilla.core.files.writing import create_once, temporary_path
from chinchilla.sweep import claims
from chinchilla.sweep.claims import acquire, claim_status, file_system_now, latest_claim
from chinchilla.sweep.run_files import clean_sweep


def pretend_elsewhere(run_dir: Path, silent_seconds: float) -> None:
    """Make the latest claim one of another machine whose heartbeat is this old."""
    record = latest_claim(run_dir)
    path = run_dir / f"claim-{record.fence}.json"
    path.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(record, processes="mars"))))
    then = file_system_now(run_dir) - silent_seconds
    for file in (path, run_dir / "heartbeat"):
        if file.exists():
            os.utime(file, (then, then))


@pytest.fixture(autouse=True)
def _slow_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 3600.0)  # tests set the times of heartbeats


def test_exactly_one_of_many_workers_acquires_a_run(tmp_path: Path):
    won = []
    barrier = threading.Barrier(8)

    def race(i: int) -> None:
        barrier.wait()
        if (claim := acquire(tmp_path / "run", f"w{i}")) is not None:
            won.append(claim)

    threads = [threading.Thread(target=race, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(won) == 1
    assert acquire(tmp_path / "run", "late") is None


def test_exactly_one_of_many_workers_takes_over_a_dead_workers_run(tmp_path: Path):
    run_dir = tmp_path / "run"
    assert acquire(run_dir, "dead")
    pretend_elsewhere(run_dir, silent_seconds=100)
    won = []
    barrier = threading.Barrier(8)

    def race(i: int) -> None:
        barrier.wait()
        if (claim := acquire(run_dir, f"w{i}")) is not None:
            won.append(claim)

    threads = [threading.Thread(target=race, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert [c.record.fence for c in won] == [2]
    assert won[0].previous.worker == "dead"


@pytest.mark.parametrize(("silent", "state"), [(1, "held"), (30, "silent"), (61, "dead")])
def test_the_heartbeat_age_decides_for_other_machines(tmp_path: Path, silent: float, state: str):
    acquire(tmp_path, "far")
    pretend_elsewhere(tmp_path, silent)
    assert claim_status(tmp_path, file_system_now(tmp_path)).state == state


def test_the_process_table_decides_for_this_machine(tmp_path: Path):
    claim = acquire(tmp_path, "here")
    os.utime(tmp_path / "claim-1.json", (0, 0))  # as after a night's sleep of a laptop
    assert claim_status(tmp_path, file_system_now(tmp_path)).state == "held"
    child = subprocess.Popen(["true"])
    child.wait()
    for changed in ({"pid": child.pid}, {"pid_start": "1"}):  # gone; or its number used again
        record = dataclasses.replace(claim.record, **changed)
        (tmp_path / "claim-1.json").write_text(json.dumps(dataclasses.asdict(record)))
        assert claim_status(tmp_path, file_system_now(tmp_path)).state == "dead"


def test_a_zombie_is_dead():
    child = subprocess.Popen(["true"])
    wait_until(lambda: claims.process_start(child.pid) is None)
    child.wait()
    assert claims.process_start(os.getpid())


def test_a_released_run_is_free_and_the_fencing_token_increases(tmp_path: Path):
    first = acquire(tmp_path, "a")
    first.release()
    second = acquire(tmp_path, "b")
    assert second.record.fence == 2
    assert second.previous.released
    first.release()  # again, late: does not free the new holder's run
    assert acquire(tmp_path, "c") is None


def test_a_holder_that_lost_its_claim_cannot_commit(tmp_path: Path):
    late = acquire(tmp_path, "late")
    pretend_elsewhere(tmp_path, silent_seconds=100)
    successor = acquire(tmp_path, "new")
    assert not late.still_mine()
    assert not late.commit()
    assert successor.commit()


def test_commit_wins_against_a_worker_that_has_read_the_claim_before(tmp_path: Path):
    holder = acquire(tmp_path, "holder")
    record = dataclasses.replace(holder.record, fence=2, worker="taker")
    assert holder.commit()  # between the taker's look and its step
    assert not claims._create(tmp_path, record)
    assert holder.still_mine()


def test_the_heartbeat_thread_detects_a_lost_claim(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.05)
    heartbeat = tmp_path / "heartbeat"
    claim = acquire(tmp_path, "a")
    wait_until(heartbeat.exists)
    os.utime(heartbeat, (0, 0))
    wait_until(lambda: heartbeat.stat().st_mtime > 0)
    record = dataclasses.replace(claim.record, fence=2, worker="b")
    assert claims._create(tmp_path, record)
    wait_until(lambda: claim.lost)
    claim.release()
    assert not latest_claim(tmp_path).released  # b's


def test_a_lost_nfs_reply_counts_as_success(tmp_path, monkeypatch: pytest.MonkeyPatch):
    link = os.link

    def link_and_lose_the_reply(a: str, b: str, **folders: int) -> None:
        link(a, b, **folders)
        raise FileExistsError

    monkeypatch.setattr(os, "link", link_and_lose_the_reply)
    assert create_once(tmp_path / "x", "mine")
    monkeypatch.setattr(os, "link", link)
    assert not create_once(tmp_path / "x", "yours")
    assert (tmp_path / "x").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_hard_links_one_of_many_workers_gets_a_run(
    tmp_path, monkeypatch: pytest.MonkeyPatch, number: int
):
    def no_links(a: str, b: str, **folders: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", no_links)
    with ThreadPoolExecutor(8) as pool:
        claims = [c for c in pool.map(lambda i: acquire(tmp_path, f"w{i}"), range(8)) if c]
    [claim] = claims
    assert acquire(tmp_path, "late") is None
    assert claim.publish("result.json", {"loss": 1.0})
    assert not create_once(tmp_path / "result.json", "again")
    claim.release()
    assert latest_claim(tmp_path).released
    assert not list(tmp_path.glob(".*"))


def test_without_hard_links_an_incomplete_claim_counts_as_held(tmp_path):
    """Its worker has created the file and not yet written it."""
    (tmp_path / "claim-1.json").touch()
    assert claim_status(tmp_path, file_system_now(tmp_path)).state == "held"
    assert acquire(tmp_path, "w") is None


# Claims that cannot be read

BROKEN = {
    "cut short": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "not text": lambda text: "\udcff\udcfe",
    "another record": lambda text: '{"schema": 1}',
    "a list": lambda text: "[]",
    "another number": lambda text: text.replace('"fence": 2', '"fence": 3'),
    "text for a number": lambda text: text.replace('"fence": 2', '"fence": "2"'),
    "a key misspelt by a bit": lambda text: text.replace('"host"', '"hosu"'),
    "no process table": lambda text: text.replace(json.loads(text)["processes"], ""),
    "deep": lambda text: "[" * 100_000,
}


def broken(run_dir: Path, damage, silent_seconds: float) -> Path:
    """A run whose second claim is damaged, with a heartbeat of this age."""
    acquire(run_dir, "first").release()
    second = acquire(run_dir, "second")
    assert second.record.fence == 2
    second._stop.set()  # as a worker that died: its thread must not beat once more
    second._thread.join()
    path = run_dir / "claim-2.json"
    text = damage(path.read_text())
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    then = file_system_now(run_dir) - silent_seconds
    for file in (path, run_dir / "heartbeat"):
        if file.exists():
            os.utime(file, (then, then))
    return path


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)
def test_a_damaged_claim_expires_when_its_heartbeat_stops(
    tmp_path: Path, damage, caplog: pytest.LogCaptureFixture
):
    path = broken(tmp_path, damage, silent_seconds=100)
    assert claim_status(tmp_path, file_system_now(tmp_path)).state == "dead"
    claim = acquire(tmp_path, "third")
    assert (claim.record.fence, claim.record.starts) == (3, 3)
    assert not claim.previous.released
    assert claim.record.step > claim.previous.step  # not taken for a death without progress
    assert not path.exists()
    assert (tmp_path / "damaged-claim-2.json").exists()
    [line] = caplog.messages
    assert "claim-2.json was damaged" in line
    assert claim.commit()
    assert claim.record.fence == 4


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)
def test_a_damaged_claim_is_held_while_its_heartbeat_is_recent(tmp_path: Path, damage):
    broken(tmp_path, damage, silent_seconds=1)
    assert claim_status(tmp_path, file_system_now(tmp_path)).state == "held"
    assert acquire(tmp_path, "third") is None


def test_a_folder_or_a_broken_link_with_a_claims_name_is_a_damaged_claim(tmp_path: Path):
    (tmp_path / "a" / "claim-1.json").mkdir(parents=True)
    os.utime(tmp_path / "a" / "claim-1.json", (0, 0))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "claim-1.json").symlink_to(tmp_path / "nowhere")
    for run_dir in (tmp_path / "a", tmp_path / "b"):
        assert acquire(run_dir, "w").record.fence == 2


def test_releasing_rewrites_a_damaged_claim(tmp_path: Path):
    claim = acquire(tmp_path, "a")
    (tmp_path / "claim-1.json").write_text("")
    claim.release()
    assert claim_status(tmp_path, file_system_now(tmp_path)).state == "free"


# Outcomes


def test_a_result_is_written_once_even_if_its_writer_is_delayed_after_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    late = acquire(tmp_path, "late")
    assert late.commit()  # ... and here its machine stops for a while
    pretend_elsewhere(tmp_path, silent_seconds=100)
    new = acquire(tmp_path, "new")
    assert new.publish("result.json", {"by": "new"})
    monkeypatch.setattr(late, "commit", lambda: True)  # it goes on behind its commit
    assert not late.publish("result.json", {"by": "late"})
    assert json.loads((tmp_path / "result.json").read_text()) == {"by": "new"}


def leave_behind(path: Path) -> None:
    """The temporary file of a process that died while it wrote `path`."""
    child = subprocess.Popen(["true"])
    child.wait()
    name = temporary_path(path).name.replace(f"-{os.getpid()}-", f"-{child.pid}-")
    path.with_name(name).write_text("half")


def test_acquiring_a_run_removes_temporary_files_of_killed_workers(tmp_path: Path):
    leave_behind(tmp_path / "result.json")
    acquire(tmp_path, "w")
    assert not list(tmp_path.glob(".*"))


def test_a_launch_removes_temporary_files_of_finished_runs(tmp_path: Path):
    run_dir = tmp_path / "runs" / "a"
    run_dir.mkdir(parents=True)
    (run_dir / "result.json").write_text("{}")
    for path in (tmp_path / "plan.jsonl", tmp_path / "runs" / "clock", run_dir / "result.json"):
        leave_behind(path)
    clean_sweep(tmp_path)
    assert not list(tmp_path.rglob(".*"))
    assert (run_dir / "result.json").read_text() == "{}"


def test_a_clock_that_is_late_does_not_touch_the_heartbeats_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Where no file can be created, the time of the file system is not known."""
    run_dir = tmp_path / "run"
    assert acquire(run_dir, "w")
    pretend_elsewhere(run_dir, 0.0)
    (run_dir / "heartbeat").touch()
    before = (run_dir / "heartbeat").stat().st_mtime
    late = before - 3600
    claim_status(run_dir, late)
    assert (run_dir / "heartbeat").stat().st_mtime == before, "the file system is not late"

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.utime(run_dir / "heartbeat", (before + 3600, before + 3600))
    monkeypatch.setattr(Folder, "create", full)
    claim_status(run_dir, file_system_now(run_dir))
    assert (run_dir / "heartbeat").stat().st_mtime == before + 3600
    monkeypatch.undo()
    claim_status(run_dir, file_system_now(run_dir))
    assert (run_dir / "heartbeat").stat().st_mtime < before + 60
