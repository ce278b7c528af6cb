"""Checkpoints that this user may not read: the old one is renamed, or the run goes on without saving."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from other_user import NOBODY, OTHER, as_nobody, folder_of_nobody, give, needs_root
from test_checkpoint import SPEC, assert_is, made, names, saved

from chinchilla.train.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture
def shared() -> Iterator[Path]:
    """Two checkpoints of a user."""
    with folder_of_nobody() as place:
        saved(place, 5, 10)
        give(place)
        yield place


def close(path: Path, user: int) -> None:
    give(path, user)
    path.chmod(0)


def save_again(folder: Path) -> int:
    save_checkpoint(folder, SPEC, made(10))
    return 0


@needs_root
@pytest.mark.parametrize(
    ("name", "user"),
    [("", NOBODY), ("", OTHER), ("MANIFEST.json", OTHER), ("optimizer.safetensors", OTHER)],
)
def test_an_old_checkpoint_that_may_not_be_read_is_replaced(shared: Path, name: str, user: int):
    close(shared / "step-00000010" / name, user)
    assert as_nobody(lambda: save_again(shared)) == 0
    got, warnings = load_checkpoint(shared, SPEC)
    assert_is(got, 10)
    assert not warnings


@needs_root
def test_an_old_checkpoint_that_may_not_be_renamed_is_left_and_named(shared: Path, capfd):
    give(shared, OTHER)
    shared.chmod(0o1777)  # files may only be renamed by their owners
    close(shared / "step-00000010", OTHER)
    assert as_nobody(lambda: save_again(shared)) == 0
    printed = capfd.readouterr().err
    assert f"no checkpoint is saved as {shared / 'step-00000010'}" in printed
    assert f"belongs to user id {OTHER}, with permissions d---------" in printed
    assert names(shared) == ["step-00000005", "step-00000010"]


@needs_root
def test_a_folder_that_may_not_be_written_is_named_with_its_owner(shared: Path):
    give(shared, OTHER)
    shared.chmod(0o755)

    def action() -> int:
        with pytest.raises(OSError, match="a checkpoint cannot be written") as caught:
            save_checkpoint(shared, SPEC, made(20))
        assert f"{shared} belongs to user id {OTHER}" in caught.value.strerror
        assert "free" not in caught.value.strerror
        assert caught.value.filename == str(shared)
        return 0

    assert as_nobody(action) == 0
