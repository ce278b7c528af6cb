"""scripts/bench/simulate_claims.py: the package's own claims with simulated workers and time."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts" / "bench"))

from simulate_claims import simulate


def test_each_run_is_trained_once_with_few_operations(tmp_path: Path):
    found = simulate(tmp_path / "sweep", n_workers=30, n_runs=120, run_seconds=60.0)
    assert (found["runs_trained"], found["results"], found["trained_more_than_once"]) == (
        120,
        120,
        0,
    )
    assert found["claim_stat_calls_median"] <= 50
    assert found["claim_operations_median"] <= 70
    assert found["by_purpose_per_second"]["heartbeat"] <= 30 * 0.5


def test_runs_of_dead_workers_are_taken_over(tmp_path: Path):
    found = simulate(
        tmp_path / "sweep", n_workers=20, n_runs=60, run_seconds=60.0, kill=lambda i: i % 4 == 0
    )
    assert (found["results"], found["trained_more_than_once"]) == (60, 5)
