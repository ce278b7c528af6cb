"""scripts/bench/simulate_claims.py: the package's own claims with simulated workers and time."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts" / "bench"))

from simulate_claims import simulate


def test_each_run_is_trained_once_also_after_workers_died(tmp_path: Path):
    found = simulate(
        tmp_path / "sweep", n_workers=12, n_runs=36, run_seconds=20.0, kill=lambda i: i % 6 == 0
    )
    assert (found["runs_trained"], found["results"]) == (36, 36)
    assert found["trained_more_than_once"] == 2  # those of the two workers that died
    assert found["claim_stat_calls_median"] <= 50
    assert found["claim_operations_median"] <= 70
    assert 12 * 0.5 < found["by_purpose_per_second"]["heartbeat"] <= 12 * 1.3, "six calls in 5 s"
    assert found["by_kind_per_second"]["mkdir"] > 0, "calls with names in open folders are counted"
