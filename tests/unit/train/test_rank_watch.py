"""A rank that hangs, as on a node that lost power, ends the other ranks of its worker."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
import ranks_world
from sweep_fakes import wait_until

from chinchilla.train import distributed, rank_watch
from chinchilla.train.rank_watch import RankWatch


def hang(folder: Path) -> None:
    """Wait for the other rank in a collective, until this process is ended."""
    rank_watch.BEAT_SECONDS, rank_watch.STORE_SECONDS, rank_watch.GRACE_SECONDS = 0.2, 3.0, 0.5
    distributed.SILENT_SECONDS = 2.0
    ranks = distributed.join("cpu")
    ranks.on_lost = lambda: (folder / f"lost-{ranks.rank}").touch()
    with RankWatch(ranks, lost_code=75):
        (folder / f"joined-{ranks.rank}").touch()
        while True:
            ranks.any_rank(False)
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("victim", "reason"),
    [(1, "rank 1 of 2 on .*: no heartbeat for 2 s"), (0, "rank 0 does not answer|rank 0 has ended|rank 0 of 2")],
)  # fmt: skip
def test_a_rank_that_hangs_ends_the_others_with_the_reason(
    tmp_path: Path, victim: int, reason: str
):
    processes = ranks_world.start(2, tmp_path / "out", hang, tmp_path)
    wait_until(lambda: len(list(tmp_path.glob("joined-*"))) == 2, 60)
    time.sleep(1.0)
    assert all(p.is_alive() for p in processes), "ranks that answer are left alone"
    pid = processes[victim].pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    other = processes[1 - victim]
    other.join(30)
    processes[victim].kill()
    assert other.exitcode == 75
    lines = (tmp_path / "out" / f"rank-{1 - victim}.txt").read_text().splitlines()
    assert lines[-1].startswith(f"chinchilla: rank {1 - victim} of 2 ends: ")
    assert re.search(reason, lines[-1]), lines
    assert (tmp_path / f"lost-{1 - victim}").exists()
