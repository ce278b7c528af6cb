"""Stop a run by signals: handlers set a flag that the training loop checks before each micro-batch."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)  # Slurm sends them to every process of a job
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, *WARNINGS)
WARNING_SECONDS = 180  # of USR2 before the time limit: for a step, an evaluation and a checkpoint
WARNING_SHARE = 0.25  # ... at most this share of the time limit, for short jobs


def warning_seconds(limit_seconds: float) -> int:
    """Time between a job's warning and its time limit."""
    return int(min(WARNING_SECONDS, WARNING_SHARE * limit_seconds))


class Stop:
    """Whether to stop, and the signals received. Not an Event: signal handlers must not lock."""

    def __init__(self) -> None:
        self.requested = False
        self.seen: set[int] = set()

    def __bool__(self) -> bool:
        return self.requested


@contextmanager
def stop_on_signals(stop: Stop | None = None) -> Iterator[Stop]:
    """Set a flag on Ctrl-C, TERM, HUP, USR1 and USR2 (Slurm's warning); a second Ctrl-C interrupts.

    `stop` is the flag to set, by default a new one. A warning received while this process was
    starting (`block_warnings`) sets it at once. Outside the main thread, where Python handles no
    signals, the flag is never set.
    """
    stop = Stop() if stop is None else stop  # an unset flag is falsy
    owner = os.getpid()

    def handle(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked helper: it ignores warnings
            if signum not in WARNINGS:
                signal.signal(signum, signal.SIG_DFL)
                os.kill(os.getpid(), signum)
            return
        if stop.requested and signum == signal.SIGINT:
            raise KeyboardInterrupt
        if not stop.requested:
            line = (
                f"{signal.Signals(signum).name} received: stopping after the current micro-batch\n"
            )
            with suppress(OSError):  # not print, which a handler must not call during another print
                os.write(2, line.encode())
        stop.requested = True
        stop.seen.add(signum)

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    # Signals that are ignored on purpose stay ignored: HUP under nohup, INT in the background of a
    # script. Warnings are ignored only until a handler is installed.
    handled = [s for s in STOP_SIGNALS if s in WARNINGS or signal.getsignal(s) != signal.SIG_IGN]
    before = {s: signal.signal(s, handle) for s in handled}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WARNINGS)
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            # By default a warning would kill this process, which may be about to end with 0.
            ends = signum in WARNINGS and handler == signal.SIG_DFL
            signal.signal(signum, signal.SIG_IGN if ends else handler)


@contextmanager
def block_warnings() -> Iterator[None]:
    """Block warnings while starting a process that will call `stop_on_signals`.

    A new program has no handlers and a warning would end it while it loads. Blocked signals stay
    blocked across exec and are delivered once `stop_on_signals` unblocks them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WARNINGS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
