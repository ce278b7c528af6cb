"""What a status reads of a run that is over."""

import json
from pathlib import Path

import pytest
from sweep_fakes import make_result, make_specs, make_sweep

from chinchilla.core.errors import InputError
from chinchilla.sweep.run_files import run_dir_of
from chinchilla.sweep.view.status import sweep_status


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """The result.json of a failed run."""
    specs = make_specs(1)
    run_dir = run_dir_of(make_sweep(tmp_path, specs), specs[0])
    run_dir.mkdir(parents=True)
    make_result(specs[0], "failed", "no memory", failure="oom", final_loss=None).save(run_dir)
    return run_dir / "result.json"


def test_a_failure_has_its_kind(result: Path, tmp_path: Path):
    [row] = sweep_status(tmp_path).rows
    assert (row.state, row.failure, row.reason, row.loss) == ("failed", "oom", "no memory", None)


@pytest.mark.parametrize(
    "odd",
    [
        {"status": "lost"}, {"steps_done": "many"}, {"final_loss": [1]}, {"reason": 3},
        {"spec": 3}, {"spec": None}, {"flops_spent": True}, {"final_loss": "nan"},
    ],
)  # fmt: skip
def test_an_invalid_result_is_shown_as_damaged(result: Path, tmp_path: Path, odd: dict):
    result.write_text(json.dumps({**json.loads(result.read_text()), **odd}))
    [row] = sweep_status(tmp_path).rows
    assert (row.state, row.reason) == ("waiting", "result.json is damaged: launch the sweep again")


@pytest.mark.parametrize("name", ["final_loss", "device", "reason", "spec", "status"])
def test_a_result_without_a_field_is_damaged(result: Path, tmp_path: Path, name: str):
    value = json.loads(result.read_text())
    del value[name]
    result.write_text(json.dumps(value))
    [row] = sweep_status(tmp_path).rows
    assert (row.state, row.reason) == ("waiting", "result.json is damaged: launch the sweep again")


def test_a_result_of_another_version_is_refused_in_one_line(result: Path, tmp_path: Path):
    result.write_text(json.dumps({**json.loads(result.read_text()), "schema": 99}))
    with pytest.raises(InputError, match=r"result\.json.*schema 99"):
        sweep_status(tmp_path)


@pytest.mark.parametrize("odd", [1e305, 10**299, -1.0])
def test_extreme_numbers_in_a_result_do_not_stop_the_status(
    result: Path, tmp_path: Path, odd: float
):
    result.write_text(json.dumps({**json.loads(result.read_text()), "final_loss": odd}))
    [row] = sweep_status(tmp_path).rows
    assert (row.state, row.loss) == ("failed", odd)
