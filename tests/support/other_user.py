"""Run code as an ordinary user: permissions do not apply to root, as whom tests may run."""

import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534  # user and group id of an ordinary user without files
OTHER = 65533  # another one


@contextmanager
def folder_of_nobody() -> Iterator[Path]:
    """An empty folder that an ordinary user owns."""
    folder = Path(tempfile.mkdtemp(prefix="chinchilla-"))  # pytest's folders are closed to others
    try:
        give(folder)
        yield folder
    finally:
        shutil.rmtree(folder)


def give(folder: Path, user: int = NOBODY) -> None:
    """Make a user the owner of a folder and all files in it, if that is possible."""
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, user, user, follow_symlinks=False)


def as_nobody(action: Callable[[], int]) -> int:
    """The result of an action that an ordinary user executes."""
    if os.geteuid():
        return action()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            code = action()
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")
