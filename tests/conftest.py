"""Settings that hold for every test."""

import gc
import os
import signal

import pytest


def pytest_configure() -> None:
    """Restore default signal handlers: a background job ignores SIGINT, and `nohup` SIGHUP.

    Programs that the tests start would inherit that. The width of the output is that without a
    terminal, whatever COLUMNS says.
    """
    os.environ.pop("COLUMNS", None)
    for signum, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Exempt existing objects from garbage collection.

    A worker collects garbage after each run that it trains. With the objects of thousands of tests and
    of torch's modules that takes a third of a second.
    """
    gc.collect()
    gc.freeze()
