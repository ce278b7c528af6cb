"""Users of one group train a sweep in one folder; one of them is hostile, one has a umask that excludes the group."""

import contextlib
import multiprocessing
import os
import random
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sweep_fakes import make_result, make_specs, make_sweep

import chinchilla.train.device  # noqa: F401 (other users cannot import what is not loaded yet)
from chinchilla.config import RuntimeConfig
from chinchilla.core.files.writing import guard, make_dirs, open_log, writable_dir, write_text
from chinchilla.plan.records import Curve, RunResult, RunSpec
from chinchilla.plan.unwritten import save_curve_or_keep
from chinchilla.sweep.launch import launch_lock
from chinchilla.sweep.run_files import has_result, run_dir_of
from chinchilla.sweep.worker import Worker
from chinchilla.tracking.metrics_writer import MetricsWriter

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="user ids are set as on Linux"),
    pytest.mark.skipif(os.getuid() != 0, reason="only root can act as other users"),
]
NORMAL, CARELESS, HOSTILE, GROUP = 65531, 65532, 65533, 65530
UMASKS = {NORMAL: 0o022, CARELESS: 0o077, HOSTILE: 0o022}
RUNTIME = RuntimeConfig(device="cpu")
N_RUNS = 16


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder that every user can enter, with a home for each and a sweep for their group."""
    base = Path(tempfile.mkdtemp(prefix="chinchilla-test-"))
    base.chmod(0o755)
    for uid in UMASKS:
        home = base / f"home-{uid}"
        home.mkdir()
        (home / "profile").write_text("precious")
        (home / "folder").mkdir()
        (home / "folder" / "file").write_text("precious")
        for path in (home, home / "profile", home / "folder", home / "folder" / "file"):
            os.chown(path, uid, uid)
        home.chmod(0o755)  # so that the hostile user can link to what is in it
    (base / "sweep").mkdir()
    os.chown(base / "sweep", NORMAL, GROUP)
    (base / "sweep").chmod(0o2775)
    yield base
    shutil.rmtree(base)


def start(uid: int, work, *args) -> multiprocessing.Process:
    """Run a function in a process of this user."""

    def become() -> None:
        os.setgroups([GROUP])
        os.setgid(uid)
        os.setuid(uid)
        os.umask(UMASKS[uid])
        os.environ["XDG_STATE_HOME"] = f"/tmp/no-state-{uid}"
        work(*args)

    process = multiprocessing.get_context("fork").Process(target=become)
    process.start()
    return process


def end(process: multiprocessing.Process, seconds: float = 60) -> int | None:
    process.join(seconds)
    if process.is_alive():
        process.kill()
        pytest.fail("a process hangs")
    return process.exitcode


def plan(sweep: Path, specs: list[RunSpec]) -> None:
    make_sweep(guard(sweep), specs)


def train(spec: RunSpec, run_dir: Path, data_dir, runtime, *, on_progress, should_stop, **more):
    """Writes with every writer that training uses."""
    metrics = MetricsWriter(run_dir, spec, runtime, 0)
    for step in range(1, spec.steps + 1):
        if should_stop():
            return None
        metrics.write(step=step, loss=3.0)
        on_progress(step, 3.0)
        time.sleep(0.002)
    make_dirs(run_dir / "checkpoints" / "step-00000001")
    write_text(run_dir / "checkpoints" / "step-00000001" / "state.json", "{}")
    metrics.close()
    curve = Curve(np.arange(spec.steps), np.full(spec.steps, 3.0))
    return make_result(spec, **save_curve_or_keep(run_dir, curve))


def work(sweep: Path, dies_at: int = 0) -> None:
    """A worker; it is killed in the run of this number, if that is not 0."""
    n = 0

    def counted(*args, **settings):
        nonlocal n
        n += 1
        if n == dies_at:
            os._exit(9)
        return train(*args, **settings)

    Worker(sweep, sweep, RUNTIME, train=counted).run()


def contents(folder: Path) -> dict[str, tuple[int, int, int, str]]:
    """Owner, mode, time of the last change, and text of everything in a folder."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        about = path.lstat()
        text = path.read_text() if path.is_file() else ""
        found[str(path)] = (about.st_uid, about.st_mode, about.st_ctime_ns, text)
    return found


def attack(run_dirs: list[Path], targets: list[Path], seconds: float) -> None:
    """Replace files of runs by links to what other users own, by pipes and by closed folders."""
    choose = random.Random(0).choice
    names = "heartbeat", "progress.json", "metrics.jsonl", "checkpoints", "attempts", "curve.npz"
    names = *names, "spec.json", "error.txt"
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            path = choose(run_dirs) / choose(names)
            if path.is_dir() and not path.is_symlink():
                path.rename(path.with_name(f"taken-{choose(range(10**9))}"))
            else:
                path.unlink(missing_ok=True)
            kind = choose(("link", "link", "dangling", "hard", "pipe", "closed"))
            if kind == "link":
                path.symlink_to(choose(targets))
            elif kind == "dangling":
                path.symlink_to(choose(targets) / "new")
            elif kind == "hard":
                path.hardlink_to(choose(targets))  # where the system permits it
            elif kind == "pipe" and path.name not in ("metrics.jsonl", "progress.json"):
                os.mkfifo(path)
            else:
                path.mkdir(mode=0)
        time.sleep(0.0005)


@pytest.mark.slow
def test_a_hostile_member_of_the_group_reaches_nothing_outside_and_the_others_finish(base: Path):
    sweep, specs = base / "sweep", make_specs(N_RUNS)
    assert end(start(NORMAL, plan, sweep, specs)) == 0
    targets = [
        base / f"home-{uid}" / name
        for uid in (NORMAL, CARELESS)
        for name in ("profile", "folder", "folder/file", ".", "new")
    ]
    before = {uid: contents(base / f"home-{uid}") for uid in (NORMAL, CARELESS)}

    def plant() -> None:
        make_dirs(guard(sweep) / "runs")
        for spec, target in zip(specs[-2:], targets, strict=False):
            run_dir_of(sweep, spec).symlink_to(target)
        for name in ("ended", "workers", "stable_phases", "launch"):
            (sweep / name).symlink_to(base / f"home-{NORMAL}" / "folder")

    assert end(start(HOSTILE, plant)) == 0
    attacked = [run_dir_of(sweep, s) for s in specs[: N_RUNS // 2]]
    attacker = start(HOSTILE, attack, attacked, targets, 3.0)
    workers = [start(CARELESS, work, sweep), start(NORMAL, work, sweep)]
    codes = [end(worker) for worker in workers]
    end(attacker)
    codes += [end(start(NORMAL, work, sweep)) for _ in range(2)]  # launched again
    assert codes == [0] * 4, "a worker ends with a traceback"

    def use_other_writers() -> None:
        with pytest.raises(OSError, match="links in the folder"), open_log(sweep / "workers" / "w"):
            pass
        with pytest.raises(OSError, match="links in the folder"), launch_lock(sweep):
            pass

    assert end(start(NORMAL, lambda: [guard(sweep), use_other_writers()])) == 0
    after = {uid: contents(base / f"home-{uid}") for uid in (NORMAL, CARELESS)}
    assert after == before
    assert not any(has_result(run_dir_of(sweep, s)) for s in specs[-2:])  # their folders are links
    for spec in specs[N_RUNS // 2 : -2]:
        assert RunResult.load(run_dir_of(sweep, spec)).final_loss == 3.0


def test_runs_of_a_killed_colleague_are_finished_by_another_member(base: Path):
    """The colleague's umask is 077, and none of the two made the folder."""
    sweep, specs = base / "sweep", make_specs(5)
    os.chown(sweep, 0, GROUP)
    assert end(start(NORMAL, plan, sweep, specs)) == 0
    assert end(start(CARELESS, work, sweep, 3)) == 9
    assert sum(has_result(run_dir_of(sweep, s)) for s in specs) == 2
    assert end(start(NORMAL, work, sweep)) == 0
    assert all(has_result(run_dir_of(sweep, s)) for s in specs)
    for path in (sweep, *sweep.rglob("*")):
        about = path.lstat()
        assert about.st_gid == GROUP, path
        assert about.st_mode & stat.S_IWGRP, path


def test_a_folder_without_write_permission_is_refused_with_the_reason(base: Path):
    sweep = base / "sweep"
    assert end(start(NORMAL, plan, sweep, make_specs(1))) == 0
    sweep.chmod(0o755)

    def refused() -> None:
        with pytest.raises(ValueError, match=r"not a writable folder \(Permission denied\)"):
            writable_dir(guard(sweep) / "runs", "sweep_dir")

    assert end(start(CARELESS, refused)) == 0
