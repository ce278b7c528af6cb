"""A thread for slow file systems."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
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
