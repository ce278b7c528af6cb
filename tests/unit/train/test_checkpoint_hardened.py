"""Checkpoints under power cuts, full disks, links, other runs and invalid states."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from small_world import make_speeches
from special_files import KINDS, at_most, put_special
from test_checkpoint import FILES, SPEC, assert_is, flip, made, names, saved, update_manifest
from train_world import EVERY_UPDATE, make_runtime, make_spec, same_bits, stop_at

from chinchilla.core.errors import InputError
from chinchilla.data.dataset import TokenData
from chinchilla.train import train_run
from chinchilla.train.checkpoint import files as checkpoint_files
from chinchilla.train.checkpoint import load_checkpoint, save

# Power cuts


class PowerCuts:
    """After each system call of a block, records the two worst states a power cut could leave.

    `lost` holds only what fsync has promised: names as of the last fsync of their folder, contents
    as of the last fsync of the file. `torn` has every name of now, and contents only where promised.
    """

    CALLS = ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir")

    def __init__(self, root: Path, out: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.out = root, out
        self.content: dict[int, bytes] = {}
        self.listing: dict[int, dict[str, int]] = {}
        self.is_folder: dict[int, bool] = {}
        self.graves = out / "graves"  # a hard link to each file, so that its inode is not reused
        self.graves.mkdir(parents=True)
        self.states: list[Path] = []
        for path in (root, *root.rglob("*")):
            self._promise(path)
        for name in self.CALLS:
            patch.setattr(os, name, self._after(name, getattr(os, name)))

    def _promise(self, path: Path) -> None:
        inode = path.stat().st_ino
        if path.is_dir():
            self.listing[inode] = {p.name: self._inode(p) for p in path.iterdir()}
        else:
            self.content[inode] = path.read_bytes()

    def _inode(self, path: Path) -> int:
        inode = path.stat().st_ino
        self.is_folder[inode] = path.is_dir()
        if path.is_file() and not (self.graves / str(inode)).exists():
            os.link(path, self.graves / str(inode))
        return inode

    def _after(self, name: str, real: Callable) -> Callable:
        def call(*args, **kwargs):
            value = real(*args, **kwargs)
            if name == "fsync":
                self._promise(Path(os.readlink(f"/proc/self/fd/{args[0]}")))
            if name == "mkdir":  # the inode of an earlier folder may be reused
                self.listing.pop(Path(args[0]).stat().st_ino, None)
            with pytest.MonkeyPatch.context() as inner:
                for other in self.CALLS:
                    inner.setattr(os, other, REAL[other])
                self._cut()
            return value

        return call

    def _cut(self) -> None:
        here = self.out / f"{len(self.states):03d}-lost"
        here.mkdir()
        self._lost(here, self.root.stat().st_ino)
        torn = self.out / f"{len(self.states):03d}-torn"
        shutil.copytree(self.root, torn)
        for path in self.root.rglob("*"):
            if path.is_file() and self.content.get(self._inode(path)) != path.read_bytes():
                os.truncate(torn / path.relative_to(self.root), 0)
        self.states += [here, torn]

    def _lost(self, here: Path, inode: int) -> None:
        for name, child in self.listing.get(inode, {}).items():
            if self.is_folder[child]:
                (here / name).mkdir()
                self._lost(here / name, child)
            else:
                (here / name).write_bytes(self.content.get(child, b""))


REAL = {name: getattr(os, name) for name in PowerCuts.CALLS}


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which file is fsynced")
@pytest.mark.parametrize("before", [[], [10], [10, 20]])
def test_a_power_cut_at_any_moment_of_a_save_keeps_the_old_or_the_new_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: list[int]
):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    if before:
        saved(run_dir / "checkpoints", *before)
    with monkeypatch.context() as patch:
        cuts = PowerCuts(run_dir, tmp_path / "cuts", patch)
        saved(run_dir / "checkpoints", 30)
    assert len(cuts.states) >= 2 * (11 if len(before) < 2 else 17)  # calls of a save, and to prune
    found = []
    for state in cuts.states:
        got, complaints = load_checkpoint(state / "checkpoints", SPEC)
        assert complaints == [], state.name
        found.append(got.step if got else 0)
        if got:
            assert_is(got, got.step)
    assert set(found) == {max(before, default=0), 30}
    assert found[-2:] == [30, 30]  # after `save` has returned the checkpoint is durable


# Full disks


PRELUDE = f"""
import errno, resource, shutil, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
import torch
from small_world import make_speeches
from special_files import KINDS, at_most, put_special
from test_checkpoint import FILES, SPEC, assert_is, made, names, saved
from chinchilla.train.checkpoint import load_checkpoint, save_checkpoint
folder = Path(sys.argv[1])
"""

CUT_SHORT = """
big = made(30)
big.weights["big"] = torch.zeros(10_000)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    save_checkpoint(folder, SPEC, big)
except OSError as error:
    assert error.errno == errno.EFBIG
    print(error.filename, error.strerror, big.n_bytes)
"""


@pytest.mark.slow
def test_a_write_interrupted_by_a_file_size_limit_is_reported_like_a_full_disk(tmp_path: Path):
    """The write fails inside safetensors, in the middle of a file, at a limit of 20,000 bytes."""
    saved(tmp_path, 10, 20)
    command = [sys.executable, "-c", PRELUDE + CUT_SHORT, str(tmp_path)]
    words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert words[0] == str(tmp_path / "step-00000030")
    assert f"needs {int(words[-1]):,} bytes" in " ".join(words)
    assert names(tmp_path) == ["step-00000010", "step-00000020"]
    assert_is(load_checkpoint(tmp_path, SPEC)[0], 20)


FULL = """
saved(folder, 10)
for left in (0, 4096, 8192, 12288):  # room for nothing, and for one to three of the four files
    (folder / "filler").write_bytes(bytes(shutil.disk_usage(folder).free - left))
    try:
        saved(folder, 20)
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
        print(error.filename, error.strerror)
    assert names(folder) == ["filler", "step-00000010"], names(folder)
    got, lines = load_checkpoint(folder, SPEC)
    assert_is(got, 10)
    assert lines == []
    (folder / "filler").unlink()
saved(folder, 20)
assert_is(load_checkpoint(folder, SPEC)[0], 20)
"""


@pytest.mark.slow
def test_a_real_full_disk_keeps_the_older_checkpoint(tmp_path: Path):
    """On a disk of 256 KiB in a mount namespace."""
    (tmp_path / "code.py").write_text(PRELUDE + FULL)
    disk = tmp_path / "disk"
    disk.mkdir()
    unshare = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=256k none {disk}"
    if not shutil.which("unshare") or subprocess.run([*unshare, mount], check=False).returncode:
        pytest.skip("this user may not mount a small disk here (unshare --map-root-user --mount)")
    command = [*unshare, f"{mount} && exec {sys.executable} {tmp_path / 'code.py'} {disk}"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == 4
    for line in lines:
        assert line.startswith(str(disk / "step-00000020"))
        assert f"needs {made(20).n_bytes:,} bytes" in line
        assert "are free" in line


# What is kept and deleted


def test_a_bit_lost_after_a_save_invalidates_only_that_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Loading detects it and uses the checkpoint before."""
    saved(tmp_path, 10, 20)
    rename = save.rename

    def rename_and_rot(a: Path, b: Path) -> None:
        rename(a, b)
        if Path(b).name == "step-00000030":
            flip(Path(b) / "weights.safetensors")

    with monkeypatch.context() as patch:
        patch.setattr(save, "rename", rename_and_rot)
        saved(tmp_path, 30)
    got, [line] = load_checkpoint(tmp_path, SPEC)
    assert_is(got, 20)
    assert "weights.safetensors does not match its SHA-256" in line
    assert names(tmp_path) == ["damaged-step-00000030", "step-00000020"]


def test_a_damaged_checkpoint_is_renamed_until_the_next_save(tmp_path: Path):
    """So it does not count as one of the two checkpoints that are kept."""
    flip(saved(tmp_path, 10, 20)[1] / "weights.safetensors")
    load_checkpoint(tmp_path, SPEC)
    assert names(tmp_path) == ["damaged-step-00000020", "step-00000010"]
    assert load_checkpoint(tmp_path, SPEC)[1] == []  # reported once
    saved(tmp_path, 15)
    assert names(tmp_path) == ["step-00000010", "step-00000015"]
    saved(tmp_path, 20)
    assert names(tmp_path) == ["step-00000015", "step-00000020"]


def test_a_header_of_many_tensors_is_not_parsed(tmp_path: Path):
    """safetensors would take 24 bytes of memory per byte of it."""
    *_, newest = saved(tmp_path, 10, 20)
    header = b"{" + b" " * 5_000_000 + b"}"
    (newest / "weights.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    update_manifest(newest)
    got, [complaint] = load_checkpoint(tmp_path, SPEC)
    assert_is(got, 10)
    assert "the header of weights.safetensors is longer" in complaint


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_with_a_special_file_is_damaged(tmp_path: Path, kind: str, name: str):
    """Nothing waits for a FIFO; the checkpoint before it is used, and the file is named."""
    *_, newest = saved(tmp_path, 10, 20)
    put_special(kind, newest / name)
    with at_most(10):
        got, [complaint] = load_checkpoint(tmp_path, SPEC)
    assert_is(got, 10)
    assert name in complaint


def test_an_error_of_the_file_server_is_not_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saved(tmp_path, 10, 20)
    real = checkpoint_files.sha256_file

    def stale(path: Path) -> str:
        if "step-00000020" in str(path):
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files, "sha256_file", stale)
        got, [line] = load_checkpoint(tmp_path, SPEC)
    assert_is(got, 10)
    assert "cannot be read" in line
    assert_is(load_checkpoint(tmp_path, SPEC)[0], 20)


@pytest.mark.parametrize("damage", ["a file", "a broken link"])
def test_what_is_no_folder_is_replaced_by_the_checkpoint(tmp_path: Path, damage: str):
    [path] = saved(tmp_path, 5)
    shutil.rmtree(path)
    path.write_text("x") if damage == "a file" else path.symlink_to("/none")
    assert load_checkpoint(tmp_path, SPEC)[0] is None
    saved(tmp_path, 5)
    checkpoint, _ = load_checkpoint(tmp_path, SPEC)
    assert checkpoint
    assert checkpoint.step == 5


def test_an_intact_checkpoint_of_the_same_step_is_kept_and_a_damaged_one_replaced(tmp_path: Path):
    [path] = saved(tmp_path, 10)
    inode = path.stat().st_ino
    saved(tmp_path, 10)
    assert path.stat().st_ino == inode
    flip(path / "state.json")
    saved(tmp_path, 10)
    assert_is(load_checkpoint(tmp_path, SPEC)[0], 10)
    assert names(tmp_path) == ["step-00000010"]


def test_a_killed_deletion_leaves_no_partial_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved(tmp_path, 10, 20)

    def die(path: Path) -> None:
        os.unlink(Path(path) / "state.json")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files, "remove", die)
        with pytest.raises(KeyboardInterrupt):
            saved(tmp_path, 30)
    assert [n for n in names(tmp_path) if not n.startswith(".")] == [
        "step-00000020", "step-00000030",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o027, 0o640, 0o750)]
)
def test_files_have_the_mode_of_the_umask(tmp_path: Path, umask: int, file: int, folder: int):
    """safetensors itself creates files that only the owner can read."""
    before = os.umask(umask)
    try:
        [path] = saved(tmp_path / "checkpoints", 10)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == path.parent.stat().st_mode & 0o777 == folder
    assert {p.stat().st_mode & 0o777 for p in path.iterdir()} == {file}


# What is refused


def test_a_checkpoint_of_another_version_is_refused_with_the_version(tmp_path: Path):
    """It is not damage: that would delete it and start the run anew."""
    [path] = saved(tmp_path, 10)
    update_manifest(path, schema=99, version="9.9.9")
    with pytest.raises(InputError, match=r"written by version 9\.9\.9 \(schema 99\)"):
        load_checkpoint(tmp_path, SPEC)
    assert names(tmp_path) == ["step-00000010"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peak_lr": 0.5}, "peak_lr 0.02 -> 0.5"),
        ({"data_id": "feed"}, "data_id none -> feed"),
        (
            {"model": replace(SPEC.model, positions="relative")},
            "positions rope -> relative",
        ),
    ],
)
def test_a_checkpoint_of_another_spec_is_refused_with_the_differences(
    tmp_path: Path, change: dict, message: str
):
    saved(tmp_path, 10)
    with pytest.raises(InputError, match=message) as error:
        load_checkpoint(tmp_path, replace(SPEC, **change))
    assert "\n" not in str(error.value)


def test_data_prepared_again_with_another_tokenizer_is_refused(data_dir: Path, tmp_path: Path):
    """The data_id of a spec depends on the tokenizer."""
    spec, run_dir, other = make_spec(data_dir), tmp_path / "run", tmp_path / "data"
    assert train_run(spec, run_dir, data_dir, make_runtime(), should_stop=stop_at(3)) is None
    make_speeches(other, vocab_size=390)
    with pytest.raises(InputError, match=rf"planned on data {spec.data_id}, .* another tokenizer"):
        train_run(spec, run_dir, other, make_runtime())
    changed = replace(spec, data_id=TokenData.open(other).data_id)
    with pytest.raises(InputError, match=f"data_id {spec.data_id} -> "):
        load_checkpoint(run_dir / "checkpoints", changed)


def test_the_curve_of_a_run_that_another_worker_has_taken_over_is_not_overwritten(
    data_dir: Path, tmp_path: Path
):
    """After the last update another worker owns the run: nothing is written."""
    spec = make_spec(data_dir)
    first = train_run(spec, tmp_path, data_dir, make_runtime(checkpoint_minutes=EVERY_UPDATE))
    before = (tmp_path / "curve.npz").stat().st_mtime_ns
    assert train_run(spec, tmp_path, data_dir, make_runtime(), still_mine=lambda: False) is None
    assert (tmp_path / "curve.npz").stat().st_mtime_ns == before
    same_bits(first, tmp_path, train_run(spec, tmp_path, data_dir, make_runtime()), tmp_path)
