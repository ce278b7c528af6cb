"""Whether runs determine the law: condition numbers, and the warning of `fit` itself."""

import numpy as np
import pytest

from chinchilla.diagnose.context import Context
from chinchilla.diagnose.identifiability import identifiability
from chinchilla.fit import FitResults, fit_parametric
from chinchilla.observations.table import Observations


def context_of(obs: Observations, n_bootstrap: int) -> Context:
    frontier = fit_parametric(obs, n_bootstrap=n_bootstrap)
    return Context(obs, FitResults.of({"parametric": frontier}, {}, obs), 10 * float(obs.C.max()))


def test_runs_at_one_ratio_do_not_identify_the_law(observe, law):
    N = np.repeat(np.geomspace(1e8, 1e10, 8), 2)
    D = 20 * N * np.tile([1, 1.6], 8)
    item = identifiability(context_of(observe(N, D, law(N, D)), 60))
    assert item.verdict == "warning"
    assert "Train some sizes at several tokens per parameter" in item.advice
    assert "approach 2" not in item.advice  # it has no answer for these runs
    assert item.values["tokens_per_parameter"] == pytest.approx([20, 32])
    assert item.values["corr_lnN_lnD"] > 0.95


def test_fit_itself_warns_of_an_ill_conditioned_design(scattered_runs):
    """Ten sizes near 20 tokens per parameter, and the same sizes from 2 to 200."""

    def warned(ratios: tuple[float, ...]) -> list[str]:
        obs = scattered_runs(n_sizes=10, ratios=ratios, noise=0.001, seed=1)
        context = context_of(obs, 40)
        item = identifiability(context)
        warnings = context.fits.fitted["parametric"].warnings
        found = [w for w in warnings if w.startswith("ill-conditioned")]
        assert (item.verdict == "warning") == bool(found)
        return found

    (text,) = warned((18, 20, 22))
    assert text.endswith("Train some sizes at several tokens per parameter.")
    assert not warned((2, 6, 20, 60, 200))


def test_a_wide_standard_error_is_inconclusive(scattered_runs):
    obs = scattered_runs(ratios=(2, 20, 200), noise=0.06, seed=2)
    context = context_of(obs, 200)
    assert context.se[0] > 0.05
    assert identifiability(context).verdict == "inconclusive"
