"""Checks before a run starts."""

from dataclasses import replace
from pathlib import Path

import pytest
from train_world import make_runtime

from chinchilla.core.errors import InputError
from chinchilla.core.files import read_json
from chinchilla.plan.records import RunSpec
from chinchilla.train import train_run

RUNTIME = make_runtime()


def test_data_of_another_id_is_refused(spec: RunSpec, data_dir: Path, tmp_path: Path):
    other = replace(spec, data_id="0123456789abcdef")
    with pytest.raises(
        InputError, match=f"planned on data 0123456789abcdef, .* holds {spec.data_id}"
    ):
        train_run(other, tmp_path / "run", data_dir, RUNTIME)
    assert not (tmp_path / "run").exists()


def test_the_folder_of_another_run_is_refused(spec: RunSpec, data_dir: Path, tmp_path: Path):
    train_run(spec, tmp_path, data_dir, RUNTIME, should_stop=lambda: True)
    other = replace(spec, seed=5)
    with pytest.raises(InputError, match=f"belongs to run {spec.run_id}, not {other.run_id}"):
        train_run(other, tmp_path, data_dir, RUNTIME)
    assert RunSpec.from_dict(read_json(tmp_path / "spec.json", "spec"), "here") == spec
