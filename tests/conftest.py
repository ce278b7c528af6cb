"""What holds for every test."""

import gc

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Keep what stays for good out of the garbage collector's way.

    A worker collects after each run that it trains. Through thousands of tests and torch's modules
    that takes a third of a second; through what one test has made, next to nothing.
    """
    gc.collect()
    gc.freeze()
