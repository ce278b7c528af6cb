"""Whether the frontier bends: on runs whose bend is known because it was put there."""

from dataclasses import replace

import numpy as np
import pytest
from diagnosed import NOISE, bent_runs, context_of

from chinchilla.diagnose.curvature import largest_compute, quadratic


@pytest.mark.parametrize("bend", [-0.03, 0.0, 0.02])
def test_the_bend_of_the_minima_is_found_exactly(bend):
    item = quadratic(context_of(bent_runs(bend), approaches=["isoflop"]))
    assert item.values["exponent_change_per_decade"] == pytest.approx(
        2 * bend * np.log(10), abs=1e-9
    )
    log_C = np.log(np.geomspace(1e18, 1e22, 7) / 1e20)
    middles = [log_C[part].mean() for part in np.array_split(np.arange(7), 3)]
    expected = [0.5 + 2 * bend * u for u in middles]
    assert item.values["slopes"] == pytest.approx(expected, abs=1e-9)
    low, high = item.values["ci95"]
    assert item.verdict == ("passed" if low <= 0 <= high else "warning")
    assert (item.verdict == "passed") == (bend == 0)


def test_an_exponent_that_falls_with_compute_is_a_drift(isoflop_runs):
    """Runs of a law with a second size term, which only small models feel: a falls from .6 to .5."""
    budgets = np.geomspace(1e18, 1e22, 9)
    obs = isoflop_runs(budgets, noise=NOISE / 4, seed=2)
    bent = replace(obs, L=obs.L + 3e6 / obs.N**0.9)
    item = largest_compute(context_of(bent, approaches=["parametric"]))
    assert item.verdict == "warning"
    assert item.advice.startswith("a changes as larger runs are added")
    straight = largest_compute(context_of(obs, approaches=["parametric"]))
    assert straight.verdict == "passed"
