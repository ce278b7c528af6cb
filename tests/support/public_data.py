"""Public measurements that are not part of this repository: CHINCHILLA_PUBLIC_DATA names their folder.

Without it they are looked for in shared/data beside the checkout.
"""

import os
from pathlib import Path

import pytest

BESIDE = Path(__file__).parents[3] / "shared" / "data"


def public(name: str) -> Path:
    """A table of public measurements, or a case beside them; skips the test if it is absent."""
    path = Path(os.environ.get("CHINCHILLA_PUBLIC_DATA", BESIDE)) / name
    if not path.exists():
        pytest.skip(f"{path} does not exist: set CHINCHILLA_PUBLIC_DATA to the folder of {name}")
    return path
