"""Whether runs determine the law: condition numbers, and the warning of `fit` itself."""

import numpy as np
import pytest

from chinchilla.diagnose.context import Context
from chinchilla.diagnose.identifiability import (
    condition_numbers,
    identifiability,
    weakest_direction,
)
from chinchilla.fit import FitResults, fit_parametric
from chinchilla.fit.result import LossLaw
from chinchilla.observations.table import Observations


def context_of(obs: Observations, n_bootstrap: int) -> Context:
    frontier = fit_parametric(obs, n_bootstrap=n_bootstrap)
    return Context(obs, FitResults.of({"parametric": frontier}, {}, obs), 10 * float(obs.C.max()))


def test_condition_numbers_depend_on_origin_and_units_as_documented(scattered_runs, law):
    obs = scattered_runs()
    here = condition_numbers(law, obs.N, obs.D)
    thousands = LossLaw(law.E, law.A / 1e3**law.alpha, law.B, law.alpha, law.beta)
    there = condition_numbers(thousands, obs.N / 1e3, obs.D)
    assert there["centred_scaled"] == pytest.approx(here["centred_scaled"], rel=1e-9)
    assert there["centred"] == pytest.approx(here["centred"], rel=1e-9)
    assert there["raw_scaled"] < 0.95 * here["raw_scaled"]
    assert here["raw"] > here["centred"] > 1


def test_the_weakest_direction_moves_losses_least(scattered_runs, law):
    """A step along it changes ln L less than the same step along any parameter alone."""
    obs = scattered_runs()
    v, words = weakest_direction(law, obs.N, obs.D)
    assert words.startswith("raising ")
    condition = condition_numbers(law, obs.N, obs.D)["centred_scaled"]
    u, w = np.log(obs.N).mean(), np.log(obs.D).mean()

    def moved(step: np.ndarray) -> float:
        E, alpha, beta = law.E * np.exp(step[2]), law.alpha + step[3], law.beta + step[4]
        A = law.A * np.exp(step[0] + step[3] * u)
        B = law.B * np.exp(step[1] + step[4] * w)
        other = LossLaw(E, A, B, alpha, beta)
        return float(np.linalg.norm(np.log(other(obs.N, obs.D) / law(obs.N, obs.D))))

    alone = np.array([moved(step) for step in 1e-6 * np.eye(5)])
    steps = 1e-6 * np.eye(5) * (alone.min() / alone)  # every parameter alone now moves as much
    along = moved(sum(x * step for x, step in zip(v.values(), steps, strict=True)))
    assert along < np.sqrt(5) / condition * alone.min() * 1.01
    assert along < 0.3 * alone.min()


def test_runs_at_one_ratio_do_not_identify_the_law(observe, law):
    N = np.repeat(np.geomspace(1e8, 1e10, 8), 2)
    D = 20 * N * np.tile([1, 1.6], 8)
    item = identifiability(context_of(observe(N, D, law(N, D)), 60))
    assert item.verdict == "warning"
    assert "Train some sizes at several tokens per parameter" in item.advice
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
    assert "Train some sizes at several tokens per parameter" in text
    assert not warned((2, 6, 20, 60, 200))


def test_a_wide_standard_error_is_inconclusive(scattered_runs):
    obs = scattered_runs(ratios=(2, 20, 200), noise=0.06, seed=2)
    context = context_of(obs, 200)
    assert context.se_a[0] > 0.05
    assert identifiability(context).verdict == "inconclusive"
