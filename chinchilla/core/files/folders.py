"""Folders in which other users may write: nothing outside of them is changed, nor is a lost one created again.

`guard` registers the folder of a sweep. From then on, every writer of this process (`core.files.writing`) reaches
a path below it from a handle of the folder, one component at a time and without following links, and
makes sure first that it is still the same folder. Links above it are followed once, in `guard`.

The folder is recognized by a random number in its file .folder-id. Device and inode would not do: a file
server may answer with another device after it was mounted again, and a file system gives the inode of a
deleted folder to the next one. A copy or a restored backup counts as the same folder.
"""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

WAIT_SECONDS = 600.0  # for a folder that is not there, in total; then FolderGone
POLL_SECONDS = 0.5
CHECKED_SECONDS = 10.0  # for which an open handle is used before the identity is read again
ID_FILE = ".folder-id"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Errors of this process, not of the folder: waiting does not help.
_OWN = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class FolderGone(OSError):
    """The folder of a sweep is not there any more: renamed, moved, unmounted, deleted or replaced."""

    def __init__(self, message: str, path: str) -> None:
        # This number, as of a file server that has lost a file, is not a failure of the run.
        super().__init__(errno.ESTALE, message, path)


class Folder:
    """An open folder; its methods create entries and follow no links.

    Attributes:
        fd: the handle, for the dir_fd arguments of `os`.
        path: for messages.
        group: the group that may write to the guarded folder, which gets new entries; None = no such group.
    """

    def __init__(self, fd: int, path: Path, group: int | None) -> None:
        self.fd, self.path, self.group = fd, path, group

    def create(self, name: str) -> int:
        """Create a file; returns its descriptor. Raises FileExistsError also for a link."""
        fd = os.open(name, _NEW, 0o666, dir_fd=self.fd)
        self._share(fd, 0o060)
        return fd

    def open(self, name: str, flags: int) -> int:
        """Open a file to change it, or create it; what is no regular file with one name is replaced.

        A link, also a hard link, might lead to a file elsewhere, and a pipe would block.
        """
        more = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        for _ in range(3):  # another process may create it in between
            with contextlib.suppress(FileNotFoundError):
                try:
                    fd = os.open(name, flags | more, dir_fd=self.fd)
                    about = os.fstat(fd)
                    if stat.S_ISREG(about.st_mode) and about.st_nlink == 1:
                        return fd
                    os.close(fd)
                except FileNotFoundError:
                    raise
                except OSError as error:
                    if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EACCES):
                        raise
                os.unlink(name, dir_fd=self.fd)
            with contextlib.suppress(FileExistsError):
                return self.create(name)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self.path / name))

    def mkdir(self, name: str) -> bool:
        """Create a folder and sync this one; False if the name exists."""
        try:
            os.mkdir(name, dir_fd=self.fd)
        except FileExistsError:
            return False
        if self.group is not None:
            with contextlib.suppress(OSError):  # replaced by another process
                fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self.fd)
                try:
                    self._share(fd, 0o2070)
                finally:
                    os.close(fd)
        self.sync()
        return True

    def enter(self, name: str) -> int:
        """Open a folder in this one.

        Raises:
            OSError: ELOOP for a link.
        """
        try:
            return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self.fd)
        except OSError as error:
            path = self.path / name
            if error.errno in (errno.ELOOP, errno.ENOTDIR) and self.is_link(name):
                text = "a link, and links in the folder of a sweep are not followed"
                raise OSError(errno.ELOOP, text, str(path)) from None
            error.filename = str(path)
            raise

    def is_link(self, name: str) -> bool:
        """Whether an entry is a symbolic link."""
        try:
            return stat.S_ISLNK(os.lstat(name, dir_fd=self.fd).st_mode)
        except OSError:
            return False

    def is_dir(self, name: str) -> bool:
        """Whether an entry is a folder, not a link to one."""
        try:
            return stat.S_ISDIR(os.lstat(name, dir_fd=self.fd).st_mode)
        except OSError:
            return False

    def sync(self) -> None:
        """Sync the folder, so that changes of names in it survive a power failure.

        Some file systems (older CIFS, some FUSE) cannot sync a folder and answer EINVAL. They decide
        themselves when a rename becomes durable, so that answer is ignored.
        """
        try:
            os.fsync(self.fd)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise

    def _share(self, fd: int, bits: int) -> None:
        """Let the group write to a new entry, whatever this user's umask is."""
        if self.group is None:
            return
        about = os.fstat(fd)
        if about.st_uid != os.geteuid():  # replaced by another process
            return
        if about.st_gid != self.group:
            try:
                os.fchown(fd, -1, self.group)
            except OSError:  # this user is not in the group, and no other group gets the permission
                return
        os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) | bits)


def _writing_group(fd: int, about: os.stat_result) -> int | None:
    """The group that may write to an open folder.

    None if the folder has an access control list: the permission of the group is then the mask of the list,
    and the list decides about new entries too.
    """
    if not about.st_mode & stat.S_IWGRP:
        return None
    if hasattr(os, "getxattr"):
        for kind in ("access", "default"):
            with contextlib.suppress(OSError):  # without a list, or on a file system without lists
                os.getxattr(fd, f"system.posix_acl_{kind}")
                return None
    return about.st_gid


class _Handle:
    """An open folder whose identity was read at a time; closed with the last reference to it."""

    def __init__(self, fd: int, group: int | None) -> None:
        about = os.fstat(fd)
        self.fd, self.group, self.inode = os.dup(fd), group, (about.st_dev, about.st_ino)
        self.time = time.monotonic()

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.fd)


class Guard:
    """A registered folder; `identity` is the content of its .folder-id, or "" if it has none."""

    def __init__(self, root: Path, identity: str, stop: object) -> None:
        self.root, self.identity, self.stop = root, identity, stop
        self.gone_since: float | None = None
        self._handle: _Handle | None = None

    def open(self, wait: bool = True, again: bool = False) -> Folder:
        """Open the folder if it is the same as before.

        Args:
            wait: wait until it is, at most until it has been away for WAIT_SECONDS or `stop` is true.
            again: read the identity also if it was read less than CHECKED_SECONDS ago.

        Raises:
            FolderGone: it is not there.
        """
        while True:
            try:
                folder = (None if again else self._copy()) or self._open()
            except OSError as error:
                if not self.identity or error.errno in _OWN:
                    raise
                problem = error.strerror or str(error)
            else:
                self.gone_since = None
                return folder
            now = time.monotonic()
            self.gone_since = now if self.gone_since is None else self.gone_since
            away = now - self.gone_since
            if not wait or self.stop or away >= WAIT_SECONDS:
                raise FolderGone(
                    f"the folder {self.root} is not there any more, or is another one ({problem}; waited "
                    f"{away:.0f} s): launch again when it is back, or with its new name",
                    str(self.root),
                )
            time.sleep(POLL_SECONDS)

    def _copy(self) -> Folder | None:
        """The folder by the handle that is open, if the path still leads to it.

        Its inode is not given to another folder while the handle is open.
        """
        handle = self._handle  # another thread may replace it
        if handle is None or time.monotonic() - handle.time > CHECKED_SECONDS:
            return None
        about = os.stat(self.root)
        if (about.st_dev, about.st_ino) != handle.inode:
            return None
        return Folder(os.dup(handle.fd), self.root, handle.group)

    def _open(self) -> Folder:
        # A person may move the folder and leave a link; the identity shows that it leads there.
        fd = os.open(self.root, _DIRECTORY | (0 if self.identity else os.O_NOFOLLOW))
        try:
            folder = Folder(fd, self.root, _writing_group(fd, os.fstat(fd)))
            if self.identity and read_identity(folder) != self.identity:
                raise OSError(errno.ESTALE, f"no {ID_FILE} or another one is in it")
            self._handle = _Handle(fd, folder.group) if self.identity else None
        except BaseException:
            os.close(fd)
            raise
        return folder


def read_identity(folder: Folder) -> str:
    """Content of the file .folder-id; "" without one."""
    try:
        fd = os.open(
            ID_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder.fd
        )
    except FileNotFoundError:
        return ""
    try:
        return os.read(fd, 64).decode("ascii", "replace").strip()
    finally:
        os.close(fd)


_guards: dict[Path, Guard] = {}


def register(root: Path, identity: str = "", stop: object = False) -> Path:
    """Guard `root` in this process from now on; returns its path without links.

    With an empty `identity`, writers do not follow links below the folder, and do not wait for it; a folder
    that is guarded already stays so.
    """
    resolved = root.resolve()
    known = _guards.get(resolved)
    if known is None or identity not in ("", known.identity):
        known = Guard(resolved, identity, stop)
    if identity:
        known.stop = stop
    _guards[resolved] = _guards[Path(os.path.abspath(root))] = known
    return resolved


def unguard(root: Path) -> None:
    """Guard a folder no longer, as before it is created anew."""
    for path in (root.resolve(), Path(os.path.abspath(root))):
        _guards.pop(path, None)


def end_waiting(path: Path, stop: object) -> None:
    """Let nothing in this process wait for the guarded folder of a path any longer once `stop` is true."""
    if guard := guard_of(path):
        guard.stop = stop


def guard_of(path: Path) -> Guard | None:
    """The innermost guard of a path."""
    path = Path(os.path.abspath(path))
    return next((_guards[p] for p in (path, *path.parents) if p in _guards), None)


def wait_for_folder(path: Path, wait: bool = True) -> None:
    """Wait until the guarded folder of a path is there.

    Without `wait`, its identity is read again.

    Raises:
        FolderGone: it has been away for WAIT_SECONDS, or for any time if `wait` is false.
    """
    if guard := guard_of(path):
        os.close(guard.open(wait, again=not wait).fd)


def is_gone(path: Path) -> bool:
    """Whether the guarded folder of a path is not there."""
    try:
        wait_for_folder(path, wait=False)
    except FolderGone:
        return True
    return False


@contextmanager
def opened(path: Path, *, create: bool = False, wait: bool = True) -> Iterator[Folder]:
    """Open a folder, below a guarded one without following links.

    Args:
        path: the folder.
        create: create it if it is missing, and its parents, but neither a guarded folder nor its parents.
        wait: wait for the guarded folder.

    Raises:
        FolderGone: the guarded folder is not there.
        OSError: the path is no folder, or (ELOOP) leads through a link in a guarded folder.
    """
    path = Path(os.path.abspath(path))
    guard = guard_of(path)
    if guard is None:
        if create:
            _make_parents(path)
        folder, names = Folder(os.open(path, _DIRECTORY), path, None), []
    else:
        folder = guard.open(wait)
        root = next(p for p in (path, *path.parents) if p in _guards)
        names = list(path.relative_to(root).parts)
    try:
        for name in names:
            try:
                inner = folder.enter(name)
            except FileNotFoundError:
                if not create:
                    raise
                folder.mkdir(name)
                inner = folder.enter(name)
            os.close(folder.fd)
            folder = Folder(inner, folder.path / name, folder.group)
        yield folder
    finally:
        os.close(folder.fd)


def _make_parents(path: Path) -> None:
    missing = [each for each in (path, *path.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        with opened(each.parent) as parent:
            parent.sync()
