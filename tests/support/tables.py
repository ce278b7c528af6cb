"""A small table of runs, and helpers for tests that read tables."""

import numpy as np

from chinchilla.core.units import CONVENTIONS
from chinchilla.fit.loss_law import named_law
from chinchilla.observations import Observations
from chinchilla.observations.columns import COLUMNS, OPTIONAL

LAW = named_law("hoffmann")
SIX_ND = {"flop_convention": "six_nd"}
HEADER = "run_id,budget_flops,C,N,D,L\n"
BUDGET_RUNS = HEADER + "a,1e18,1e18,1e8,1.7e9,3.5\nb,,2e18,2e8,1.7e9,3.2\n"
RUNS = "run_id,C,N,D,L\na,1.2e18,1e8,2e9,3.5\nb,4.8e18,2e8,4e9,3.2\n"


def assert_same_runs(a: Observations, b: Observations) -> None:
    """C, N, D and L agree to twelve digits."""
    for name in ("C", "N", "D", "L"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-12)


def distinct_runs(n: int = 12) -> dict[str, np.ndarray]:
    """Columns of n runs on the law, all of different C."""
    N = np.geomspace(1e8, 1e10, n)
    D = 20 * N * np.tile([0.5, 1.0, 2.0], n)[:n]
    return {"C": 6 * N * D, "N": N, "D": D, "L": LAW(N, D)}


def assert_identical(a: Observations, b: Observations) -> None:
    """All columns and conventions are equal; notes are not compared."""
    for name in (*COLUMNS, *OPTIONAL):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for name in CONVENTIONS:
        assert getattr(a, name) == getattr(b, name)
