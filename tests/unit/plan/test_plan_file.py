"""plan.jsonl: damaged lines are named, and the others are read."""

import pytest
from sweep_fakes import make_specs

from chinchilla.core.errors import InputError
from chinchilla.plan.plan_file import load_plan, read_plan, save_plan
from chinchilla.plan.records import RunSpec


@pytest.fixture
def spec() -> RunSpec:
    return make_specs(1)[0]


def test_a_repeated_line_of_a_plan_counts_once_and_is_reported(tmp_path, spec):
    save_plan([spec, spec], tmp_path / "plan.jsonl")
    specs, [problem] = read_plan(tmp_path / "plan.jsonl")
    assert specs == [spec]
    assert f"line 2 repeats run {spec.run_id}, and may have replaced another run" in problem


def test_an_invalid_line_of_a_plan_is_reported_with_its_number(tmp_path, spec):
    path = tmp_path / "plan.jsonl"
    save_plan([spec, spec], path)
    path.write_text(path.read_text()[:-30])  # a copy cut short
    with pytest.raises(InputError, match=r"plan.jsonl line 2 is not JSON"):
        load_plan(path)


def test_a_missing_plan_is_reported_with_the_command_that_writes_it(tmp_path):
    with pytest.raises(
        InputError, match=r"is not the folder of a sweep: it has no plan.jsonl.*`chinchilla sweep`"
    ):
        load_plan(tmp_path / "plan.jsonl")


def test_a_plan_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "plan.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="line 1 is not JSON"):
        load_plan(tmp_path / "plan.jsonl")
