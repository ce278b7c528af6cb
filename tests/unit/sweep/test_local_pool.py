"""A pool of workers whose logs cannot be opened, or are moved."""

import subprocess
import sys
from pathlib import Path

import pytest

from chinchilla.sweep import local_pool
from chinchilla.sweep.local_pool import Pool, PoolSize
from chinchilla.sweep.preflight import worker_name
from chinchilla.sweep.signals import Stop


def program(text: str) -> tuple[str, ...]:
    return sys.executable, "-c", text


def test_workers_end_if_one_of_the_pool_cannot_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    started = []

    class Recorded(subprocess.Popen):
        def __init__(self, *args, **settings) -> None:
            super().__init__(*args, **settings)
            started.append(self)

    monkeypatch.setattr(local_pool.subprocess, "Popen", Recorded)
    (tmp_path / "workers" / f"{worker_name(1)}.log").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        Pool(tmp_path, tmp_path, PoolSize(2, 1), program("import time; time.sleep(60)"))
    assert [process.returncode is not None for process in started] == [True]


def test_a_failed_worker_is_named_although_its_log_is_gone(tmp_path: Path):
    with Pool(tmp_path, tmp_path, PoolSize(1, 1), program("raise SystemExit(9)")) as pool:
        (tmp_path / "workers").rename(tmp_path / "moved")
        assert pool.wait(Stop()) == [9]
    [line] = pool.errors()
    assert "ended with code 9: its log cannot be read" in line
