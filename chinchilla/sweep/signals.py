"""Asking a run to stop: signals raise a flag, the training loop looks at it between steps."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)  # Slurm sends them to every process of a job
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, *WARNINGS)
WARNING_SECONDS = 180  # USR2 so long before the time limit: a step, an evaluation, a checkpoint
WARNING_SHARE = 0.25  # ... and at most this share of it, or short jobs would be warned at once


def warning_seconds(limit_seconds: float) -> int:
    """How long before its time limit a job is to be warned."""
    return int(min(WARNING_SECONDS, WARNING_SHARE * limit_seconds))


class Stop:
    """Whether a stop was asked for, and by which signals. Not an Event: a handler must not lock."""

    def __init__(self) -> None:
        self.requested = False
        self.seen: set[int] = set()

    def __bool__(self) -> bool:
        return self.requested


@contextmanager
def stop_on_signals(stop: Stop | None = None) -> Iterator[Stop]:
    """Turn Ctrl-C, TERM, HUP, USR1 and USR2 (Slurm's warning) into a flag; a second Ctrl-C interrupts.

    `stop` is the flag to raise, by default a new one. A warning that came while this process was
    starting (`warnings_held`) raises it at once. Outside the main thread, where Python takes no
    signals, the flag just stays down.
    """
    stop = Stop() if stop is None else stop  # a lowered flag is falsy
    owner = os.getpid()

    def handle(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked helper: warnings reach it too, and are not its business
            if signum not in WARNINGS:
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
    # Ignored on purpose stays so: HUP under nohup, INT in a script's background. Warnings do not:
    # they are ignored only until there is somebody to handle them.
    taken = [s for s in STOP_SIGNALS if s in WARNINGS or signal.getsignal(s) != signal.SIG_IGN]
    before = {s: signal.signal(s, handle) for s in taken}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WARNINGS)
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def warnings_held() -> Iterator[None]:
    """Start a process that will use `stop_on_signals` in here: a warning waits until it does.

    A new program has no handlers, and would die of a warning that comes while it is being loaded;
    what is blocked stays blocked across exec.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WARNINGS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
