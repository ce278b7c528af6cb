"""A thread for slow file systems, and the memory that a copy of the state may take."""

import contextlib
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.1  # between two collectives while ranks wait for each other's files


def in_thread(work: Callable[[], Any]) -> Future[Any]:
    """Run `work` in a thread that does not keep a process alive whose file system does not answer."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="checkpoint", daemon=True).start()
    return future


def available_memory() -> float:
    """Bytes of memory that this process can still use: of the machine, or of its control group."""
    room = math.inf
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        room = 1024.0 * int(next(x for x in lines if x.startswith("MemAvailable:")).split()[1])
    with contextlib.suppress(OSError, ValueError):  # "max" means no limit
        name = Path("/proc/self/cgroup").read_text().rpartition("::/")[2].strip()
        group = Path("/sys/fs/cgroup") / name
        limit, used = (int((group / f"memory.{x}").read_text()) for x in ("max", "current"))
        room = min(room, limit - used)
    return room
