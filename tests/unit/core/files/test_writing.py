"""Atomic writes and leftovers of killed processes."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chinchilla.core.errors import InputError
from chinchilla.core.files import writing as files
from chinchilla.core.files.writing import (
    atomic_write,
    clean_leftovers,
    create_once,
    make_dirs,
    temporary_path,
    writable_dir,
    write_json,
    write_text,
)


@pytest.fixture
def old_file(tmp_path):
    path = tmp_path / "fact.json"
    path.write_text("old")
    return path


def names(path):
    return sorted(p.name for p in path.parent.iterdir())


def test_write_text_leaves_only_the_file(tmp_path):
    write_text(tmp_path / "a.txt", "one\ntwo ä\n")
    assert (tmp_path / "a.txt").read_bytes() == "one\ntwo ä\n".encode()
    assert names(tmp_path / "a.txt") == ["a.txt"]


def test_the_old_content_is_visible_until_the_block_ends(old_file):
    with atomic_write(old_file) as f:
        f.write("new")
        f.flush()
        assert old_file.read_text() == "old"
    assert old_file.read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), SystemExit(1)])
def test_an_exception_keeps_the_old_file_and_removes_the_temporary_one(old_file, error):
    def write_half():
        with atomic_write(old_file) as f:
            f.write("half of the n")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert old_file.read_text() == "old"
    assert names(old_file) == ["fact.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_file_and_removes_the_temporary_one(old_file, monkeypatch, call):
    def fail(*args, **keywords):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, call, fail)
    with pytest.raises(OSError, match="No space left") as error:
        write_text(old_file, "new")
    assert error.value.filename == str(old_file), "the system gives no file name"
    assert old_file.read_text() == "old"
    assert names(old_file) == ["fact.json"]


def test_file_and_folder_are_synced_around_the_rename(tmp_path, monkeypatch):
    """The order that survives a power failure: fsync file, rename, fsync folder."""
    done = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(fd):
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file")
        real_fsync(fd)

    def replace(a, b, **folders):
        done.append("rename")
        real_replace(a, b, **folders)

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(files.os, "replace", replace)
    write_text(tmp_path / "a", "x")
    assert done == ["file", "rename", "folder"]


def test_concurrent_writers_use_different_temporary_files(old_file):
    with atomic_write(old_file) as a, atomic_write(old_file) as b:
        a.write("a" * 10)
        b.write("b" * 5)
    assert old_file.read_text() == "a" * 10  # the outer block ends last
    assert names(old_file) == ["fact.json"]


def test_binary_mode_writes_bytes_unchanged(tmp_path):
    with atomic_write(tmp_path / "b", "wb") as f:
        f.write(b"\r\n\x00")
    assert (tmp_path / "b").read_bytes() == b"\r\n\x00"


def test_an_existing_folder_is_reported_by_name(tmp_path):
    with pytest.raises(IsADirectoryError) as error:
        write_text(tmp_path, "x")
    assert error.value.filename == str(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_not_written_as_json(old_file, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(old_file, {"loss": value})
    assert old_file.read_text() == "old"


def test_writable_dir_creates_an_empty_folder(tmp_path):
    made = writable_dir(tmp_path / "a" / "b", "out_dir")
    assert made.is_dir()
    assert list(made.iterdir()) == []


def test_a_folder_below_a_file_is_refused_with_its_setting(old_file):
    """Root ignores permissions, but cannot write below a file either."""
    with pytest.raises(
        InputError, match=r"^sweep_dir=.*fact.json/x is not a writable folder .*another sweep_dir"
    ):
        writable_dir(old_file / "x", "sweep_dir")
    with pytest.raises(InputError, match=r"sweep_dir=.*Not a directory"):
        writable_dir(old_file, "sweep_dir")


def test_a_read_only_folder_is_refused(tmp_path, monkeypatch):
    def read_only(self, name):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), name)

    monkeypatch.setattr(files.Folder, "create", read_only)
    with pytest.raises(InputError, match=r"out_dir=.*Read-only file system"):
        writable_dir(tmp_path, "out_dir")


def test_a_json_file_ends_with_a_newline(tmp_path):
    write_json(tmp_path / "x.json", [1])
    text = (tmp_path / "x.json").read_text()
    assert text.endswith("]\n")
    assert json.loads(text) == [1]


def dead_pid() -> int:
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def leftover_of(path, pid: int, table: str = ""):
    """The temporary path of process `pid` of this or another process table."""
    name = temporary_path(path).name.replace(f"-{os.getpid()}-", f"-{pid}-")
    return path.with_name(name.replace(files._table_digest(), table or files._table_digest()))


def test_clean_leftovers_removes_files_of_dead_processes_only(tmp_path):
    dead = leftover_of(tmp_path / "result.json", dead_pid())
    dead.write_text("half")
    folder = leftover_of(tmp_path / "step-00000010", dead_pid())
    (folder / "inner").mkdir(parents=True)
    alive = temporary_path(tmp_path / "result.json")
    alive.write_text("half")
    assert set(clean_leftovers(tmp_path)) == {dead.name, folder.name}
    assert names(alive) == [alive.name]


@pytest.mark.parametrize(("age", "stays"), [(0, True), (3500, True), (3700, False)])
def test_leftovers_of_another_machine_are_removed_after_an_hour(tmp_path, age, stays):
    far = leftover_of(tmp_path / "result.json", dead_pid(), table="0123abcd")
    far.write_text("half")
    folder = leftover_of(tmp_path / "step-00000010", os.getpid(), table="0123abcd")
    folder.mkdir()
    (folder / "weights").write_text("a growing file in it keeps the folder")
    then = time.time() - age
    os.utime(far, (then, then))
    os.utime(folder, (0, 0))
    clean_leftovers(tmp_path)
    assert far.exists() == stays
    assert (folder / "weights").exists()


@pytest.mark.parametrize(
    "name", ["result.json", "x.tmp", ".x.tmp", ".result.json.1234abcd.tmp", ".vimrc.swp", "~$a.tmp"]
)
def test_clean_leftovers_ignores_other_names(tmp_path, name):
    (tmp_path / name).write_text("mine")
    os.utime(tmp_path / name, (0, 0))
    assert clean_leftovers(tmp_path) == []
    assert (tmp_path / name).read_text() == "mine"


def test_clean_leftovers_removes_a_link_and_not_its_target(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    leftover_of(tmp_path / "step-00000010", dead_pid()).symlink_to(tmp_path / "precious")
    assert len(clean_leftovers(tmp_path)) == 1
    assert (tmp_path / "precious" / "file").read_text() == "mine"


def test_the_leftover_of_a_killed_writer_is_removed(tmp_path):
    """SIGKILL while the temporary file is open."""
    code = (
        "import os, signal, sys; from pathlib import Path; from chinchilla.core.files.writing import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as f:\n"
        "    f.write('half'); f.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "fact.json"
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    [left] = names(path)
    assert clean_leftovers(tmp_path) == [left]
    assert names(path) == []


def test_create_once_never_replaces_a_file(tmp_path):
    assert create_once(tmp_path / "x", "first")
    assert not create_once(tmp_path / "x", "second")
    assert (tmp_path / "x").read_text() == "first"
    assert names(tmp_path / "x") == ["x"]


def test_a_folder_that_cannot_be_synced_is_no_error(tmp_path, monkeypatch):
    """Older CIFS and some FUSE answer EINVAL. Other errors, and those of files, are raised."""
    real, number = os.fsync, errno.EINVAL

    def fsync(fd):
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(number, os.strerror(number))
        real(fd)

    monkeypatch.setattr(files.os, "fsync", fsync)
    make_dirs(tmp_path / "a" / "b")
    write_text(tmp_path / "a" / "b" / "x", "text")
    assert create_once(tmp_path / "a" / "b" / "y", "text")
    assert names(tmp_path / "a" / "b" / "x") == ["x", "y"]
    number = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        write_text(tmp_path / "x", "text")
    monkeypatch.setattr(files.os, "fsync", raising(errno.EINVAL))
    with pytest.raises(OSError, match="Invalid argument"):
        write_text(tmp_path / "x", "text")


def raising(number):
    def call(*args, **keywords):
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_is_created_once_without_hard_links(tmp_path, monkeypatch, number):
    monkeypatch.setattr(files.os, "link", raising(number))
    assert create_once(tmp_path / "x", "mine")
    assert not create_once(tmp_path / "x", "yours")
    assert (tmp_path / "x").read_text() == "mine"
    assert number in files.NO_HARD_LINKS


def test_a_file_of_a_full_disk_without_hard_links_is_not_left_incomplete(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "link", raising(errno.EPERM))
    real, calls = os.fsync, []

    def full_at_the_second_file(fd):
        calls.append(fd)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(fd)

    monkeypatch.setattr(files.os, "fsync", full_at_the_second_file)
    with pytest.raises(OSError, match="No space left") as error:
        create_once(tmp_path / "x", "text")
    assert error.value.filename == str(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []
    assert create_once(tmp_path / "x", "text")
    assert not create_once(tmp_path / "x", "other")
    assert (tmp_path / "x").read_text() == "text"


def test_make_dirs_syncs_every_parent(tmp_path, monkeypatch):
    synced, real = [], os.fsync

    def fsync(fd):
        synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    make_dirs(tmp_path / "a" / "b" / "c")
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    make_dirs(tmp_path / "a" / "b")
    assert len(synced) == 3
