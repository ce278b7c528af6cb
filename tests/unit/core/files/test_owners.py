"""Messages name the owner of a file and its permissions."""

import os
from pathlib import Path

from chinchilla.core.files.owners import nearest_existing, ownership


def test_the_owner_and_the_permissions_of_the_nearest_existing_path_are_named(tmp_path: Path):
    tmp_path.chmod(0o750)
    text = ownership(nearest_existing(tmp_path / "none" / "file"))
    assert text.startswith(f"{tmp_path} belongs to ")
    assert f"user id {os.geteuid()}" in text
    assert text.endswith("with permissions drwxr-x---")
