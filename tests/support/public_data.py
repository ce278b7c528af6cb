"""Public measurements that are not part of this repository, in the folder CHINCHILLA_PUBLIC_DATA.

The default is shared/data beside the checkout.
"""

import os
from pathlib import Path

import pytest

DEFAULT = Path(__file__).parents[3] / "shared" / "data"


def public(name: str) -> Path:
    """Path of a table of public measurements; skips the test if it does not exist."""
    path = Path(os.environ.get("CHINCHILLA_PUBLIC_DATA", DEFAULT)) / name
    if not path.exists():
        pytest.skip(f"{path} does not exist: set CHINCHILLA_PUBLIC_DATA to the folder of {name}")
    return path
