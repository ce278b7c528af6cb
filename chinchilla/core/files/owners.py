"""Whose a file is, for messages about permissions."""

import contextlib
import errno
import os
import pwd
import stat
from pathlib import Path

PERMISSION_ERRORS = (errno.EACCES, errno.EPERM)


def nearest_existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that this user can see."""
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path


def ownership(path: Path) -> str:
    """A clause such as "runs/a belongs to ann (user id 1001), with permissions drwx------"."""
    about = os.lstat(path)
    return (
        f"{path} belongs to {_user(about.st_uid)}, with permissions {stat.filemode(about.st_mode)}"
    )


def _user(uid: int) -> str:
    with contextlib.suppress(KeyError):
        return f"{pwd.getpwuid(uid).pw_name} (user id {uid})"
    return f"user id {uid}"
