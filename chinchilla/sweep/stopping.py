"""Asking a run to stop: signals raise a flag, the training loop looks at it between steps."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)


class Stop:
    """Whether a stop was asked for, and by which signals. Not an Event: a handler must not lock."""

    def __init__(self) -> None:
        self.requested = False
        self.seen: set[int] = set()

    def __bool__(self) -> bool:
        return self.requested


@contextmanager
def stop_on_signals(stop: Stop | None = None) -> Iterator[Stop]:
    """Turn Ctrl-C, TERM, HUP and USR2 (Slurm's warning) into a flag; a second Ctrl-C interrupts.

    `stop` is the flag to raise, by default a new one.
    Outside the main thread, where Python takes no signals, the flag just stays down.
    """
    stop = Stop() if stop is None else stop  # a lowered flag is falsy
    owner = os.getpid()

    def handle(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked helper: USR2 reaches it too, and is not its business
            if signum != signal.SIGUSR2:
                signal.signal(signum, signal.SIG_DFL)
                os.kill(os.getpid(), signum)
            return
        if stop.requested and signum == signal.SIGINT:
            raise KeyboardInterrupt
        stop.requested = True
        stop.seen.add(signum)

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    # Ignored on purpose stays so: HUP under nohup, INT in a script's background. USR2 does not: it
    # is ignored only until there is somebody to handle it.
    taken = [
        s for s in STOP_SIGNALS if s == signal.SIGUSR2 or signal.getsignal(s) != signal.SIG_IGN
    ]
    before = {s: signal.signal(s, handle) for s in taken}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
