import errno
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as safetensors_bytes
from safetensors.torch import save_file
from train_world import make_spec

from chinchilla.core.errors import InputError
from chinchilla.core.files.reading import sha256_file
from chinchilla.core.files.writing import temporary_path
from chinchilla.train.checkpoint import Checkpoint, load_checkpoint, save, save_checkpoint
from chinchilla.train.checkpoint import files as checkpoint_files

SPEC = make_spec()
FILES = ("MANIFEST.json", "optimizer.safetensors", "state.json", "weights.safetensors")


def made(step: int) -> Checkpoint:
    draw = torch.Generator().manual_seed(step)
    weights = {"a.weight": torch.randn(5, 3, generator=draw), "b": torch.tensor([1e-30, -0.0])}
    optimizer = {"exp_avg.b": torch.randn(2, generator=draw), "step.b": torch.tensor(float(step))}
    return Checkpoint(step, weights, optimizer, {"train_seconds": 1.5, "evaluations": [[3, 0.1]]})


def saved(folder: Path, *steps: int) -> list[Path]:
    return [save_checkpoint(folder, SPEC, made(step)) for step in steps]


def assert_is(got: Checkpoint | None, step: int) -> None:
    expected = made(step)
    assert got is not None
    assert (got.step, got.progress) == (step, expected.progress)
    for one, two in ((got.weights, expected.weights), (got.optimizer, expected.optimizer)):
        assert list(one) == list(two)
        for name in one:
            assert one[name].dtype == two[name].dtype
            assert one[name].numpy().tobytes() == two[name].numpy().tobytes(), name


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_loading_returns_the_saved_bits(tmp_path: Path):
    [path] = saved(tmp_path, 7)
    assert path.name == "step-00000007"
    got, complaints = load_checkpoint(tmp_path, SPEC)
    assert_is(got, 7)
    assert complaints == []


def test_a_missing_folder_has_no_checkpoint(tmp_path: Path):
    assert load_checkpoint(tmp_path / "none", SPEC) == (None, [])


def test_the_newest_two_are_kept(tmp_path: Path):
    saved(tmp_path, 9, 10, 99, 100_000_000)  # more digits than the name is padded to
    assert names(tmp_path) == ["step-00000099", "step-100000000"]
    assert_is(load_checkpoint(tmp_path, SPEC)[0], 100_000_000)


def test_nothing_on_disk_is_a_pickle(tmp_path: Path):
    [path] = saved(tmp_path, 1)
    assert names(path) == sorted(FILES)
    for file in FILES:
        start = (path / file).read_bytes()[:9]
        # safetensors: length of a JSON header, then the header
        assert start[:1] == b"{" or start[8:9] == b"{", file


def update_manifest(path: Path, **changes: object) -> None:
    """Write a manifest with the hashes of the current files."""
    body = json.loads((path / "MANIFEST.json").read_text())
    del body["sha256"]
    body["files"] = {name: sha256_file(path / name) for name in body["files"]}
    (path / "MANIFEST.json").write_text(checkpoint_files.manifest_text({**body, **changes}))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-2] ^= 1  # the last number of a tensor; the closing brace of JSON
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", [flip, truncate, empty, Path.unlink])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path: Path, file: str, damage):
    _, newest = saved(tmp_path, 10, 20)
    damage(newest / file)
    got, [line] = load_checkpoint(tmp_path, SPEC)
    assert_is(got, 10)
    assert str(newest) in line
    assert "\n" not in line


@pytest.mark.parametrize("manifest", ["{}", "[]", "null", "[1]", '{"state.json": 3}', "[" * 10**5])
def test_a_manifest_without_hashes_is_damage(tmp_path: Path, manifest: str):
    _, newest = saved(tmp_path, 10, 20)
    (newest / "MANIFEST.json").write_text(manifest)
    got, [line] = load_checkpoint(tmp_path, SPEC)
    assert_is(got, 10)
    assert str(newest) in line


def test_if_no_checkpoint_can_be_read_the_run_starts_anew_with_a_warning(tmp_path: Path):
    for path in saved(tmp_path, 10, 20):
        flip(path / "weights.safetensors")
    got, lines = load_checkpoint(tmp_path, SPEC)
    assert got is None
    assert len(lines) == 3
    assert "starts from the beginning" in lines[-1]


def test_damaged_checkpoints_do_not_take_the_place_of_good_ones(tmp_path: Path):
    """After falling back to 10, saving 12 and 14 keeps both; 20 is not touched.

    It may as well be whole and belong to whoever took the run over: a late save must not delete it.
    """
    flip(saved(tmp_path, 10, 20)[1] / "weights.safetensors")
    saved(tmp_path, 12, 14)
    assert names(tmp_path) == ["step-00000012", "step-00000014", "step-00000020"]


def test_a_checkpoint_of_another_spec_is_refused_with_both_run_ids(tmp_path: Path):
    saved(tmp_path, 10)
    other = replace(SPEC, seed=1)
    with pytest.raises(
        InputError, match=rf"belongs to run {SPEC.run_id}, not {other.run_id} .seed"
    ):
        load_checkpoint(tmp_path, other)


def test_a_checkpoint_can_be_loaded_under_another_sweep_name(tmp_path: Path):
    saved(tmp_path, 10)
    assert_is(load_checkpoint(tmp_path, replace(SPEC, sweep="other"))[0], 10)


def test_the_partial_checkpoint_of_a_killed_save_is_deleted_unread(tmp_path: Path):
    [path] = saved(tmp_path, 10)
    child = subprocess.Popen(["true"])
    child.wait()
    left = temporary_path(tmp_path / "step-00000020")
    left = left.with_name(left.name.replace(f"-{os.getpid()}-", f"-{child.pid}-"))
    shutil.copytree(path, left)
    got, complaints = load_checkpoint(tmp_path, SPEC)
    assert_is(got, 10)
    assert complaints == []
    assert names(tmp_path) == ["step-00000010"]


def test_tensor_files_have_the_bytes_that_safetensors_writes(tmp_path: Path):
    """Several dtypes, a scalar, an empty tensor, a name outside ASCII, rows of a larger tensor."""
    tensors = {
        "b": torch.randn(6, 4)[2:5],
        "a.\u00fc": torch.randn(5).bfloat16(),
        "z": torch.tensor(3.0),
        "e": torch.zeros(0, 3),
        "d": torch.randn(2, 3, dtype=torch.float64).t(),
    }
    for name, some in (("all", tensors), ("none", {})):
        digest = checkpoint_files.write_tensors(tmp_path / name, some)
        expected = safetensors_bytes({k: v.contiguous() for k, v in some.items()})
        assert (tmp_path / name).read_bytes() == expected
        assert digest == sha256_file(tmp_path / name)


def no_space(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def failing_after(real, n: int):
    """`real` for n calls, then the disk is full."""
    calls = 0

    def call(*args, **kwargs):
        nonlocal calls
        calls += 1
        return real(*args, **kwargs) if calls <= n else no_space()

    return call


# Each call of each kind that one save makes: state.json, 2 tensor files, the manifest, the rename;
# fsync of the parent, of state.json and its folder, of 2 tensor files, of the manifest and its folder, of
# the parent.
FAULTS = [
    *((save, "write_text", n) for n in range(2)),
    *((save, "write_tensors", n) for n in range(2)),
    *((os, "fsync", n) for n in range(8)),
    *((os, "replace", n) for n in range(2)),
    (os, "rename", 0),
    (save, "fsync_dir", 0),
]


@pytest.mark.parametrize(
    ("module", "name", "n"), FAULTS, ids=[f"{m.__name__}.{f}-{n}" for m, f, n in FAULTS]
)
def test_a_full_disk_keeps_the_older_checkpoint_and_no_partial_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module, name: str, n: int
):
    saved(tmp_path, 10)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, failing_after(getattr(module, name), n))
        with pytest.raises(OSError, match="No space left"):
            saved(tmp_path, 20)
    assert not list(tmp_path.glob(".*"))
    got, complaints = load_checkpoint(tmp_path, SPEC)
    assert complaints == []
    assert got is not None
    assert_is(got, got.step)
    # Only the last fsync is after the rename: by then the new checkpoint is complete.
    late = name == "fsync_dir" or (name, n) == ("fsync", 7)
    assert got.step == (20 if late else 10)
    saved(tmp_path, 20)
    assert_is(load_checkpoint(tmp_path, SPEC)[0], 20)


def test_a_save_makes_the_number_of_calls_that_faults_are_injected_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Otherwise the list above could miss calls that are added later."""
    count: dict[str, int] = {}
    for module, name, _ in FAULTS:
        if name in count:
            continue
        count[name], real = 0, getattr(module, name)

        def call(*args, _name=name, _real=real, **kwargs):
            count[_name] += 1
            return _real(*args, **kwargs)

        monkeypatch.setattr(module, name, call)
    saved(tmp_path, 10)
    expected = {name: 1 + max(n for _, f, n in FAULTS if f == name) for name in count}
    assert count == expected


def test_a_truncated_tensor_file_is_damage_even_with_a_matching_hash(tmp_path: Path):
    """The hash matches, but the file is not safetensors."""
    _, newest = saved(tmp_path, 10, 20)
    truncate(newest / "weights.safetensors")
    update_manifest(newest)
    got, [line] = load_checkpoint(tmp_path, SPEC)
    assert_is(got, 10)
    assert str(newest) in line


def test_loading_a_checkpoint_runs_no_code(tmp_path: Path):
    """A pickle in place of a tensor file is damage, even with a matching hash."""
    [path] = saved(tmp_path, 10)
    torch.save({"a": torch.zeros(1)}, path / "weights.safetensors")
    update_manifest(path)
    got, lines = load_checkpoint(tmp_path, SPEC)
    assert got is None
    assert "damaged" in lines[0]


def test_other_files_in_the_folder_are_not_touched(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    saved(tmp_path, 1, 2, 3)
    assert names(tmp_path) == [
        "notes.txt", "other.safetensors", "step-00000002", "step-00000003",
    ]  # fmt: skip
