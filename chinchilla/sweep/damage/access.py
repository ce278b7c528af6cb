"""Files and folders that are damaged, or that this user may not read or write: say so, or repair it."""

import contextlib
import os
import stat
from pathlib import Path

from chinchilla.core.files.folders import Folder, opened
from chinchilla.core.files.owners import PERMISSION_ERRORS, nearest_existing, ownership

BLOCKED = "blocked: "  # precedes the reason in a claim that was released because of damaged files


def blocked_reason(error: OSError, place: Path) -> str:
    """Cause and remedy of an error of the system at `place`: a run's folder or a file in it."""
    path = nearest_existing(Path(error.filename or place))  # its folder may be inaccessible
    cause = f"{error.filename or place}: {error.strerror or error}"
    if error.errno not in PERMISSION_ERRORS:
        return f"{cause}. Correct it, then launch the sweep again."
    about = os.lstat(path)
    if about.st_uid == os.geteuid():
        mode = stat.filemode(about.st_mode)
        return (
            f"{cause}. {path} has permissions {mode}: launch the sweep again, which corrects them."
        )
    return (
        f"{cause}. {ownership(path)}. Ask its owner to make it readable and "
        "writable for the workers (chmod, chown), then launch the sweep again."
    )


def move_aside(path: Path) -> Path:
    """Rename what is at `path` to damaged-<n>-<name> beside it. Nothing is replaced.

    A file or folder of that name is made first: if another process has replaced what was a file by a folder
    meanwhile, or a folder by a file, the rename is refused.

    Raises:
        OSError: it cannot be renamed.
    """
    with opened(path.parent) as parent:
        is_folder = parent.is_dir(path.name)
        n = 1
        while not _reserved(parent, name := f"damaged-{n}-{path.name}", is_folder):
            n += 1
        try:
            os.rename(path.name, name, src_dir_fd=parent.fd, dst_dir_fd=parent.fd)
        except OSError:
            (os.rmdir if is_folder else os.unlink)(name, dir_fd=parent.fd)
            raise
    return path.with_name(name)


def _reserved(parent: Folder, name: str, is_folder: bool) -> bool:
    """Whether `name` is an empty file or folder, made now or by a process that was killed afterwards."""
    if is_folder:
        with contextlib.suppress(OSError):
            return parent.mkdir(name) or not os.listdir(parent.path / name)
        return False
    try:
        os.close(parent.create(name))
    except FileExistsError:
        about = os.lstat(name, dir_fd=parent.fd)
        return stat.S_ISREG(about.st_mode) and not about.st_size
    return True


def restore_access(folder: Path, skip: tuple[str, ...] = ()) -> bool:
    """Let the owner of a folder, if that is this user, read and write it and what it contains.

    Files of other users and links are not touched; nor are the contents of folders named in `skip`.

    Returns:
        Whether anything was changed.
    """
    changed = restore_own(folder)
    with contextlib.suppress(OSError), opened(folder) as own:  # none, or of another user
        for _, folders, files, fd in os.fwalk(".", dir_fd=own.fd):
            for name in (*folders, *files):
                changed |= restore_own(name, fd)
            folders[:] = [name for name in folders if name not in skip]
    return changed


def restore_own(path: Path | str, dir_fd: int | None = None) -> bool:
    """The same for one file or folder, without what it contains; `dir_fd` as of `os.open`."""
    with contextlib.suppress(OSError, NotImplementedError):  # another process may have removed it
        if _lacks(about := os.lstat(path, dir_fd=dir_fd)):
            # No link that replaces the file meanwhile is followed.
            # macOS has no O_PATH; Linux changes no mode by a name without following links.
            if not hasattr(os, "O_PATH"):
                mode = stat.S_IMODE(about.st_mode) | _lacks(about)
                os.chmod(path, mode, dir_fd=dir_fd, follow_symlinks=False)
                return True
            handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
            try:
                about = os.fstat(handle)
                if lacks := _lacks(about):
                    os.chmod(f"/dev/fd/{handle}", stat.S_IMODE(about.st_mode) | lacks)
                    return True
            finally:
                os.close(handle)
    return False


def _lacks(about: os.stat_result) -> int:
    """Permissions that the owner of a file or folder lacks; 0 if none, or if this user is not the owner."""
    if about.st_uid != os.geteuid() or not (
        stat.S_ISDIR(about.st_mode) or stat.S_ISREG(about.st_mode)
    ):
        return 0
    return (0o700 if stat.S_ISDIR(about.st_mode) else 0o600) & ~about.st_mode
