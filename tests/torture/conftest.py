"""A token folder, for runs that are killed and damaged."""

import pytest
from speeches import data_dir

__all__ = ["data_dir"]


@pytest.fixture(autouse=True)
def _processes_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set PYTHONPATH for the processes that these tests start, and only for them."""
    from run import ENVIRONMENT

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
