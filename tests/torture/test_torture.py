"""A small count of each torture; `make torture` runs the full ones (docs/results/torture.json)."""

from pathlib import Path
from typing import Any

import pytest
from run import of_chaos, of_claims, of_launchers


def assert_all_passed(found: dict[str, Any], at_least: int) -> None:
    assert found["wrong"] == []
    assert found["asked"] == found["passed"] >= at_least


@pytest.mark.parametrize(
    ("name", "counts", "cases"),
    [
        ("race", (12, 30), 30),
        ("writers", (12, 2), 2),
        pytest.param("late", (3,), 3, marks=pytest.mark.slow),
        pytest.param("killed_workers", (), 25, marks=pytest.mark.slow),
        pytest.param("damaged_claims", (30,), 30, marks=pytest.mark.slow),
    ],
)
def test_a_run_has_one_trainer_and_one_result(
    tmp_path: Path, name: str, counts: tuple[int, ...], cases: int
):
    assert_all_passed(of_claims(name, tmp_path / "work", *counts), cases)


@pytest.mark.slow
def test_a_launcher_killed_anywhere_submits_each_job_once(tmp_path: Path):
    assert_all_passed(of_launchers(tmp_path / "work", 4), 4)


@pytest.mark.slow
def test_killed_runs_end_in_the_same_bits(data_dir: Path, tmp_path: Path):
    """Six kills at calls inside a save, two at any moment."""
    from torture_runs import killed_runs

    found = killed_runs(data_dir, tmp_path, n=8, n_inside=6)
    assert_all_passed(vars(found) | {"passed": found.passed}, 8)


@pytest.mark.slow
def test_damaged_checkpoints_are_noticed_and_passed_over(data_dir: Path, tmp_path: Path):
    """Each file flipped, cut and deleted."""
    from torture_runs import damaged_checkpoints

    found = damaged_checkpoints(data_dir, tmp_path, n=12)
    assert_all_passed(vars(found) | {"passed": found.passed}, 12)


@pytest.mark.slow
def test_a_sweep_with_faults_of_all_kinds_is_finished_by_launching_again():
    """Five runs; each is a case, and so are the checks of hangs, tracebacks and lost results."""
    assert_all_passed(of_chaos(seed=1, faults=21, minutes=0.35, runs=5), 11)
