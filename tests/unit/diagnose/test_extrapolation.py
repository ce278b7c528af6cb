"""Predictions of held-out larger runs by the law of the smaller ones."""

from dataclasses import replace

import numpy as np
import pytest
from diagnosed import BUDGETS, NOISE, context_of

from chinchilla.diagnose.extrapolation import extrapolation_in_C, extrapolation_in_N, score


def test_score_is_the_error_of_ln_loss(scattered_runs, law):
    obs = scattered_runs()
    assert score(law, obs)["mae"] == pytest.approx(0, abs=1e-15)
    high = score(law, replace(obs, L=obs.L / 1.02))
    assert high == {
        "mae": pytest.approx(np.log(1.02)), "bias": pytest.approx(np.log(1.02)), "n": len(obs)
    }  # fmt: skip


@pytest.mark.parametrize("item", [extrapolation_in_C, extrapolation_in_N])
def test_an_exact_law_predicts_exactly(isoflop_runs, item):
    found = item(context_of(isoflop_runs(BUDGETS), n_bootstrap=0))
    assert found.verdict == "passed"
    assert max(row["held_out"]["mae"] for row in found.values["windows"]) < 1e-6
    cuts = [row["held_out"]["n"] for row in found.values["windows"]]
    assert cuts == sorted(cuts, reverse=True)


def test_losses_that_stop_falling_beyond_the_window_are_missed(isoflop_runs):
    """A floor under the loss that only the largest budget meets: predicted too low, and said so."""
    obs = isoflop_runs(BUDGETS, noise=NOISE, seed=8)
    L = np.where(obs.budget_flops > 1e21, obs.L * 1.05, obs.L)
    found = extrapolation_in_C(context_of(replace(obs, L=L)))
    last = found.values["windows"][-1]
    assert found.verdict == "warning"
    assert last["held_out"]["bias"] == pytest.approx(-np.log(1.05), abs=0.01)
    assert last["held_out"]["n"] == 9
