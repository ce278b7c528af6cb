"""Guarded folders: no writer follows a link below them, and none creates a lost one again."""

import errno
import os
import shutil
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chinchilla.core.errors import InputError
from chinchilla.core.files import folders, writing
from chinchilla.core.files.folders import FolderGone, is_gone, wait_for_folder
from chinchilla.core.files.writing import (
    atomic_write,
    clean_leftovers,
    create_file,
    create_once,
    guard,
    make_dirs,
    open_log,
    remove,
    rename,
    touch,
    write_text,
)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A guarded folder with a run, beside a folder of someone else."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "profile").write_text("precious")
    (tmp_path / "sweep" / "runs" / "a").mkdir(parents=True)
    return guard(tmp_path / "sweep")


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(folders, "POLL_SECONDS", 0.01)


def append(path: Path) -> None:
    with open_log(path) as f:
        f.write(b"more")


WRITERS: dict[str, Callable[[Path], object]] = {
    "write_text": lambda path: write_text(path, "text"),
    "create_once": lambda path: create_once(path, "text"),
    "create_file": lambda path: os.close(create_file(path)),
    "make_dirs": lambda path: make_dirs(path / "x"),
    "touch": touch,
    "log": append,
    "remove": remove,
    "rename": lambda path: rename(path, path.with_name("other")),
}
each_writer = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


def tree(folder: Path) -> dict[str, tuple[float, str]]:
    """Names, times and contents of everything in a folder."""
    paths = [folder, *sorted(folder.rglob("*"))]
    return {str(p): (p.stat().st_mtime_ns, p.read_text() if p.is_file() else "") for p in paths}


@each_writer
@pytest.mark.parametrize("link", ["runs", "runs/a"])
def test_no_writer_reaches_a_folder_through_a_link(sweep: Path, write, link: str):
    home = sweep.parent / "home"
    (home / "a").mkdir()
    shutil.rmtree(sweep / link)
    (sweep / link).symlink_to(home)
    before = tree(home)
    with pytest.raises(OSError, match="links in the folder of a sweep are not followed") as error:
        write(sweep / "runs" / "a" / "profile")
    assert error.value.filename == str(sweep / link)
    assert tree(home) == before


@each_writer
@pytest.mark.parametrize("kind", ["symbolic", "dangling", "hard", "pipe"])
def test_no_writer_changes_a_file_elsewhere_through_a_link(sweep: Path, write, kind: str):
    """What is in the way is replaced, refused or, by `remove`, deleted; nothing waits for a pipe."""
    home, path = sweep.parent / "home", sweep / "runs" / "a" / "x"
    if kind == "hard":
        path.hardlink_to(home / "profile")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(home / ("profile" if kind == "symbolic" else "new"))
    before = tree(home)
    try:
        write(path)
    except OSError as error:
        assert error.errno in (errno.EEXIST, errno.ENOTDIR, errno.ELOOP)  # noqa: PT017
    assert tree(home) == before
    assert write not in (touch, append) or stat.S_ISREG(path.lstat().st_mode)


def test_a_log_and_a_heartbeat_are_continued(sweep: Path):
    path = sweep / "workers" / "w.log"
    append(path)
    append(path)
    assert path.read_bytes() == b"moremore"
    os.utime(path, (0, 0))
    touch(path)
    assert time.time() - path.stat().st_mtime < 60
    assert path.read_bytes() == b"moremore"


def test_leftovers_behind_a_link_are_not_removed(sweep: Path):
    home = sweep.parent / "home"
    left = writing.temporary_path(home / "x")
    left.write_text("")
    os.utime(left, (0, 0))
    (sweep / "checkpoints").symlink_to(home)
    clean_leftovers(sweep / "checkpoints")
    assert left.exists()


def test_a_link_to_the_folder_itself_is_followed(sweep: Path):
    """A person may link runs/ to a larger disk; the target counts from then on."""
    link = sweep.parent / "link"
    link.symlink_to(sweep)
    assert guard(link) == sweep
    write_text(link / "x", "text")
    assert (sweep / "x").read_text() == "text"


def test_a_folder_may_be_moved_and_linked_while_it_is_used(sweep: Path):
    away = sweep.with_name("away")
    sweep.rename(away)
    sweep.symlink_to(away)
    write_text(sweep / "x", "text")
    assert (away / "x").read_text() == "text"


def linked_elsewhere(sweep: Path) -> None:
    """Another user can make the link, but no file with the identity in what belongs to others."""
    sweep.rename(sweep.with_name("renamed"))
    sweep.symlink_to(sweep.parent / "home")


def removed(sweep: Path) -> None:
    shutil.rmtree(sweep)


def recreated(sweep: Path) -> None:
    """As by a command that creates the parents of what it writes; the inode may be the same."""
    shutil.rmtree(sweep)
    (sweep / "runs" / "a").mkdir(parents=True)


def replaced(sweep: Path) -> None:
    sweep.rename(sweep.with_name("renamed"))
    (sweep / "runs" / "a").mkdir(parents=True)
    guard(sweep.parent / "home")  # has an identity of its own
    shutil.copy(sweep.parent / "home" / folders.ID_FILE, sweep)


def renamed(sweep: Path) -> None:
    sweep.rename(sweep.with_name("renamed"))


@each_writer
@pytest.mark.parametrize("lose", [removed, recreated, replaced, renamed, linked_elsewhere])
def test_a_lost_folder_is_not_created_again(sweep: Path, briefly, write, lose):
    lose(sweep)
    before = tree(sweep) if sweep.exists() else {}
    with pytest.raises(FolderGone, match=f"the folder {sweep} is not there any more"):
        write(sweep / "runs" / "a" / "x")
    assert (tree(sweep) if sweep.exists() else {}) == before
    assert is_gone(sweep / "runs")


def test_writers_wait_for_a_folder_that_comes_back(sweep: Path):
    away = sweep.with_name("away")
    sweep.rename(away)
    timer = threading.Timer(0.3, lambda: away.rename(sweep))
    timer.start()
    write_text(sweep / "runs" / "a" / "x", "text")
    assert (sweep / "runs" / "a" / "x").read_text() == "text"
    timer.join()


def test_a_copy_in_the_place_of_the_folder_is_the_same_folder(sweep: Path):
    """Another device and inode, as after a file system was mounted again or restored."""
    away = sweep.with_name("away")
    sweep.rename(away)
    shutil.copytree(away, sweep)
    wait_for_folder(sweep, wait=False)


def test_a_stop_ends_the_wait(sweep: Path):
    stop: list[bool] = []
    guard(sweep, stop)
    sweep.rename(sweep.with_name("away"))
    threading.Timer(0.2, lambda: stop.append(True)).start()
    began = time.monotonic()
    with pytest.raises(FolderGone):
        touch(sweep / "runs" / "x")
    assert 0.1 < time.monotonic() - began < 5


def test_what_need_not_be_written_does_not_wait(sweep: Path):
    sweep.rename(sweep.with_name("away"))
    began = time.monotonic()
    with pytest.raises(FolderGone):
        touch(sweep / "runs" / "a" / "heartbeat", wait=False)
    with pytest.raises(FolderGone):
        write_text(sweep / "runs" / "a" / "progress.json", "", wait=False)
    assert time.monotonic() - began < 0.4


def test_the_wait_is_bounded_in_total(sweep: Path, briefly):
    sweep.rename(sweep.with_name("away"))
    with pytest.raises(FolderGone):
        touch(sweep / "x")
    began = time.monotonic()
    with pytest.raises(FolderGone):
        touch(sweep / "x")
    assert time.monotonic() - began < 0.1


def test_a_folder_where_nothing_can_be_written_is_refused(tmp_path: Path, monkeypatch):
    def read_only(self, name):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(folders.Folder, "create", read_only)
    with pytest.raises(InputError, match=r"^sweep_dir=.* is not a writable folder .Read-only"):
        guard(tmp_path)


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_folder_of_a_group_stays_one_with_any_umask(tmp_path: Path, umask: int):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    sweep.chmod(0o2775)
    before = os.umask(umask)
    try:
        guard(sweep)
        make_dirs(sweep / "runs" / "a")
        write_text(sweep / "runs" / "a" / "x", "")
        create_once(sweep / "runs" / "a" / "y", "")
        append(sweep / "runs" / "a" / "z")
    finally:
        os.umask(before)
    for path in sweep.rglob("*"):
        expected = 0o2070 if path.is_dir() else 0o060
        assert path.stat().st_mode & expected == expected, path
        assert not path.stat().st_mode & stat.S_IWOTH


IDENTIFY = """
import sys
from pathlib import Path
from chinchilla.core.files import writing
from chinchilla.core.files.folders import guard_of
writing.EMPTY_SECONDS = 0.3
print(guard_of(writing.guard(Path(sys.argv[1]))).identity)
"""


def test_an_empty_identity_is_replaced_by_one_that_all_processes_agree_on(tmp_path: Path):
    (tmp_path / ".folder-id").touch()
    arguments = [sys.executable, "-P", "-c", IDENTIFY, str(tmp_path)]
    started = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = {process.communicate(timeout=60)[0].strip() for process in started}
    assert found == {(tmp_path / ".folder-id").read_text().strip()}
    assert len(found.pop()) == 32


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX access control list of (tag, permissions, id), as the extended attribute holds it."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


@pytest.mark.parametrize("kind", ["access", "default"])
def test_the_mask_of_an_access_control_list_is_no_permission_of_the_group(
    tmp_path: Path, kind: str
):
    """The list gives a user all permissions, and the group none to write or none that exceed the mask."""
    (tmp_path / "sweep").mkdir(mode=0o755)
    none, mask = 2**32 - 1, 7 if kind == "access" else 5
    named = acl((1, 7, none), (2, 7, 1234), (4, 5, none), (0x10, mask, none), (0x20, 0, none))
    (tmp_path / "sweep").chmod(0o775 if kind == "default" else 0o755)
    try:
        os.setxattr(tmp_path / "sweep", f"system.posix_acl_{kind}", named)
    except (OSError, AttributeError):
        pytest.skip("a file system without access control lists")
    path = guard(tmp_path / "sweep") / "x"
    write_text(path, "")
    assert not path.stat().st_mode & stat.S_IWGRP


def test_a_group_that_this_user_is_not_in_gets_no_permission_and_no_other_group_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Without the set-group-ID bit, a new entry has the group of the process."""

    def refuse(*args: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchown", refuse)
    other = folders.Folder(os.open(tmp_path, os.O_RDONLY), tmp_path, tmp_path.stat().st_gid + 1)
    before = os.umask(0o022)
    try:
        os.close(other.create("x"))
        other.mkdir("y")
    finally:
        os.umask(before)
        os.close(other.fd)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "y").stat().st_mode) == 0o755


def test_without_a_group_the_umask_decides(tmp_path: Path):
    (tmp_path / "sweep").mkdir(mode=0o755)
    before = os.umask(0o022)
    try:
        make_dirs(guard(tmp_path / "sweep") / "runs")
        with atomic_write(tmp_path / "sweep" / "x") as f:
            f.write("")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "sweep" / "runs").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "sweep" / "x").stat().st_mode) == 0o644
