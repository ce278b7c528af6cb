"""The records in a run's folder belong together; others are refused with what does not agree."""

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sweep_fakes import make_result, make_specs

from chinchilla.core.errors import InputError
from chinchilla.core.files.reading import read_json
from chinchilla.core.files.sealed import DamagedRecord
from chinchilla.core.files.writing import write_json
from chinchilla.plan.plan_file import load_plan, save_plan
from chinchilla.plan.records import Curve, RunResult, RunSpec
from chinchilla.plan.run_folder import check_curve_file, load_curve


def make_curve(n: int, seed: int = 0) -> Curve:
    loss = np.random.default_rng(seed).random(n) + 3
    return Curve(np.arange(n), loss, np.array([float(n)]), np.array([3.25 + seed]))


def write_run(folder: Path, spec: RunSpec, **more: Any) -> Path:
    """The folder of a finished run."""
    run_dir = folder / spec.run_id
    run_dir.mkdir(parents=True)
    curve = make_curve(spec.steps, spec.seed)
    result = make_result(
        spec, final_loss=float(curve.loss[-5:].mean()),
        validation_loss={"validation": float(curve.validation_loss[-1])}, **curve.save(run_dir),
    )  # fmt: skip
    replace(result, **more).save(run_dir)
    return run_dir


def read(run_dir: Path) -> tuple[RunResult, Curve]:
    result = RunResult.load(run_dir)
    return result, load_curve(run_dir, result)


def test_the_records_of_a_run_are_read(tmp_path: Path):
    [spec] = make_specs(1)
    result, curve = read(write_run(tmp_path, spec))
    assert (result.spec, len(curve.loss)) == (spec, spec.steps)
    check_curve_file(tmp_path / spec.run_id, result)


def test_a_diverged_run_has_a_curve_without_a_final_loss(tmp_path: Path):
    [spec] = make_specs(1)
    none = {"status": "diverged", "final_loss": None, "final_loss_steps": 0, "validation_loss": {}}
    assert read(write_run(tmp_path, spec, **none))[0].status == "diverged"


OF_ANOTHER: dict[str, tuple[str, str]] = {
    "the result of another run": ("result.json", "belongs to run {other}, not {own}"),
    "the curve of another run": ("curve.npz", "is not the one that result.json names"),
    "both": ("*", "belongs to run {other}, not {own}"),
}


@pytest.mark.parametrize(("pattern", "problem"), OF_ANOTHER.values(), ids=OF_ANOTHER)
def test_files_copied_from_another_run_are_refused(tmp_path: Path, pattern: str, problem: str):
    own, other = (write_run(tmp_path, spec) for spec in make_specs(2))
    for path in other.glob(pattern):
        shutil.copy(path, own)
    with pytest.raises(DamagedRecord) as raised:
        read(own)
    assert problem.format(own=own.name, other=other.name) in str(raised.value)
    assert "launch the sweep again" in str(raised.value)


UNTRUE: dict[str, tuple[dict[str, Any], str]] = {
    "more steps": ({"steps_done": 21}, "its steps are not those from 0 to 20"),
    "another final loss": ({"final_loss": 3.125}, "losses have the mean"),
    "no final loss": ({"final_loss": None}, "losses have the mean"),
    "a mean over more steps": ({"final_loss_steps": 6}, "its last 6 losses have the mean"),
    "another validation loss": ({"validation_loss": {"v": 3.0}}, "its last validation loss is"),
    "no curve": ({"curve_sha256": ""}, "is not the one that result.json names"),
}


@pytest.mark.parametrize(("change", "problem"), UNTRUE.values(), ids=UNTRUE)
def test_a_curve_must_have_the_steps_and_losses_of_the_result(tmp_path: Path, change, problem):
    run_dir = write_run(tmp_path, make_specs(1)[0], **change)
    with pytest.raises(DamagedRecord, match=problem):
        read(run_dir)


def test_a_curve_that_is_missing_or_of_another_size_shows_without_reading_it(tmp_path: Path):
    own, other = (write_run(tmp_path, spec) for spec in make_specs(2))
    shutil.copy(other / "curve.npz", own)
    with pytest.raises(DamagedRecord, match="is not the one"):
        check_curve_file(own, RunResult.load(own))
    os.remove(own / "curve.npz")
    with pytest.raises(DamagedRecord, match="is missing"):
        check_curve_file(own, RunResult.load(own))
    check_curve_file(own, replace(RunResult.load(own), curve_sha256=""))  # it failed


def test_the_folder_may_be_given_by_a_relative_path(tmp_path: Path, monkeypatch):
    run_dir = write_run(tmp_path, make_specs(1)[0])
    monkeypatch.chdir(run_dir)
    assert read(Path("."))[0] == read(run_dir)[0]


def flips(path: Path, n: int, same: Callable[[], bool]) -> int:
    """Flip n random bits of a file, one at a time; returns how many were not found but changed nothing.

    `same` reads the file and returns whether it has the values that were written.
    """
    data, draw = path.read_bytes(), random.Random(0)
    n_same = n_named = 0
    n = min(n, 8 * len(data))
    for bit in draw.sample(range(8 * len(data)), n):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            assert same(), f"bit {bit} changed a value and was not found"
            n_same += 1
        except InputError as error:
            n_named += str(path) in str(error)
    path.write_bytes(data)
    assert same()
    assert n_same + n_named == n, "an error names the file"
    return n_same


@pytest.mark.parametrize("share", [0.1, pytest.param(1, marks=pytest.mark.slow)], ids=str)
def test_flipped_bits_are_found_or_change_nothing(tmp_path: Path, share: float):
    specs = make_specs(3)
    runs = [write_run(tmp_path / "runs", spec) for spec in specs]
    result, curve = read(runs[0])
    assert (
        flips(
            runs[0] / "result.json", int(3_000 * share), lambda: RunResult.load(runs[0]) == result
        )
        < 100
    )
    assert (
        flips(runs[0] / "curve.npz", int(1_000 * share), lambda: equal(read(runs[0])[1], curve))
        == 0
    )
    save_plan(specs, tmp_path / "plan.jsonl")
    n_same = flips(
        tmp_path / "plan.jsonl",
        int(2_000 * share),
        lambda: load_plan(tmp_path / "plan.jsonl") == specs,
    )
    assert n_same < 100
    path = tmp_path / "spec.json"
    write_json(path, specs[0].to_record())
    flips(
        path,
        int(1_000 * share),
        lambda: RunSpec.from_record(read_json(path, "run spec"), str(path)) == specs[0],
    )


def equal(a: Curve, b: Curve) -> bool:
    return all(getattr(a, name).tobytes() == x.tobytes() for name, x in vars(b).items())
