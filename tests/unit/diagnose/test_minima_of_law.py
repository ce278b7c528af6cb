"""Minima of the IsoFLOP parabolas against those of approach 3's losses for the same runs."""

from dataclasses import replace

import numpy as np
import pytest
from diagnosed import BUDGETS, bent_runs, context_of

from chinchilla.diagnose.minima import approach_2_against_3


def test_approach_2_on_a_law_is_approach_2_on_its_losses(isoflop_runs):
    """Exact losses: no misfit. Off-centre grids bias both sets of minima alike."""
    found = approach_2_against_3(
        context_of(isoflop_runs(BUDGETS, half_width=8, off_centre=1.5), n_bootstrap=60)
    )
    assert found.verdict == "passed"
    v = found.values
    assert v["a_isoflop"] == pytest.approx(v["a_isoflop_of_law"], abs=1e-6)
    assert v["log_N_move"] == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_profiles_that_the_law_cannot_follow_are_a_misfit():
    """Minima on a curve, where those of a law lie on a line."""
    obs = bent_runs(-0.03)
    noisy = replace(obs, L=obs.L * np.exp(1e-4 * np.random.default_rng(0).normal(size=len(obs))))
    assert approach_2_against_3(context_of(noisy)).verdict == "warning"
