"""What a status reads of a run that is over."""

import json
from pathlib import Path

import pytest
from sweep_fakes import make_result, make_specs, make_sweep

from chinchilla.errors import InputError
from chinchilla.sweep.cells import cell_of
from chinchilla.sweep.status import sweep_status


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """The result.json of a failed run."""
    specs = make_specs(1)
    cell = cell_of(make_sweep(tmp_path, specs), specs[0])
    cell.mkdir(parents=True)
    make_result(specs[0], "failed", "no memory", failure="oom", final_loss=None).save(cell)
    return cell / "result.json"


def test_a_failure_has_its_kind(result: Path, tmp_path: Path):
    [row] = sweep_status(tmp_path).rows
    assert (row.state, row.failure, row.reason, row.loss) == ("failed", "oom", "no memory", None)


@pytest.mark.parametrize(
    "odd",
    [
        {"schema": 99}, {"status": "lost"}, {"steps_done": "many"}, {"final_loss": [1]},
        {"reason": 3}, {"spec": 3}, {"spec": None}, {"flops_spent": True},
    ],
)  # fmt: skip
def test_what_is_no_result_of_this_version_is_said_in_a_line(
    result: Path, tmp_path: Path, odd: dict
):
    result.write_text(json.dumps({**json.loads(result.read_text()), **odd}))
    with pytest.raises(InputError, match=r"result\.json"):
        sweep_status(tmp_path)


@pytest.mark.parametrize("name", ["final_loss", "tokens_per_second", "reason", "spec", "status"])
def test_a_field_that_is_missing_is_said(result: Path, tmp_path: Path, name: str):
    value = json.loads(result.read_text())
    del value[name]
    result.write_text(json.dumps(value))
    with pytest.raises(InputError, match=f"{name} missing"):
        sweep_status(tmp_path)
