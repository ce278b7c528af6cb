"""Refits of parts of the runs, and the size of their moves if a law holds."""

import numpy as np
import pytest
from diagnosed import BUDGETS, NOISE, context_of, unresampled_context

from chinchilla.core.errors import FitError
from chinchilla.diagnose.context import Context
from chinchilla.fit import FitResults


def test_moves_are_as_large_as_expected_of_a_true_law(isoflop_runs):
    """Least squares, equal errors: z of the exponent without the last budget, and of the smaller
    half of C, have mean square 1 (over 40 worlds: within a third)."""
    z = []
    for seed in range(40):
        obs = isoflop_runs(BUDGETS, noise=NOISE, seed=seed)
        context = unresampled_context(obs)
        keep = np.array([obs.budget_flops < 2e21, np.median(obs.C) >= obs.C])
        parts = context.refit(keep)
        z.append((parts.a - context.a) / parts.a_sd)
    assert np.sqrt(np.mean(np.square(z), axis=0)) == pytest.approx([1, 1], rel=0.35)


def test_cuts_that_look_the_same_are_one(observe, law):
    """Runs without budgets, half of them at values of C that differ by .1%."""
    C = np.append(1e20 * np.linspace(1, 1.001, 20), np.geomspace(1e21, 1e22, 20))
    N = np.sqrt(C / 120)
    cuts, keep = context_of(observe(N, C / (6 * N), law(N, C / (6 * N))), 0).cuts()
    labels = [f"{c:.3g}" for c in cuts]
    assert len(set(labels)) == len(labels)
    assert keep.sum(axis=1).min() >= 40 / 3


def test_a_case_without_a_law_is_a_typed_error(scattered_runs):
    obs = scattered_runs()
    with pytest.raises(FitError, match="approach 3 was not fitted"):
        _ = Context(obs, FitResults({}, {}, {}), 1e22).law
