"""Approach 3: laws are recovered, convergence is certified, and undetermined fits are refused."""

import numpy as np
import pytest

from chinchilla.core.errors import FitError
from chinchilla.fit.parametric.approach3 import fit_parametric
from chinchilla.fit.result import LossLaw
from chinchilla.observations.table import Observations


def test_exponents_are_those_of_the_closed_form(scattered_runs, law):
    fit = fit_parametric(scattered_runs(), n_bootstrap=0)
    assert fit.N_opt.exponent == pytest.approx(law.beta / (law.alpha + law.beta), rel=1e-8)
    assert fit.D_opt.exponent == pytest.approx(law.alpha / (law.alpha + law.beta), rel=1e-8)
    assert fit.N_opt.p10 is None
    assert fit.settings["interval"].startswith("none")


def test_flops_other_than_6nd_change_the_frontier_but_not_the_law(law, observe):
    N = np.repeat(np.geomspace(5e7, 5e9, 8), 4)
    D = N * np.tile([5.0, 20.0, 80.0, 200.0], 8)
    obs = observe(N, D, law(N, D), C=(6 * N + 400 * N ** (2 / 3)) * D)
    fit = fit_parametric(obs, n_bootstrap=0)
    assert fit.law.alpha == pytest.approx(law.alpha, rel=1e-8)
    # A head is a fixed price: it favours larger models at small C, so N_opt grows more slowly.
    assert fit.N_opt.exponent < law.beta / (law.alpha + law.beta)
    assert "own C/D" in fit.settings["frontier"]


def test_the_interval_covers_the_law_it_was_drawn_from(scattered_runs, law):
    fit = fit_parametric(scattered_runs(noise=0.003, seed=1), n_bootstrap=100, seed=3)
    assert fit.N_opt.p10 < law.beta / (law.alpha + law.beta) < fit.N_opt.p90
    low, high = np.percentile(fit.law_samples[3], (10, 90))
    assert low < law.alpha < high
    assert len(fit.N_opt.samples[0]) == 100
    again = fit_parametric(scattered_runs(noise=0.003, seed=1), n_bootstrap=100, seed=3)
    assert again == fit


def test_five_runs_are_too_few(scattered_runs):
    obs = scattered_runs().where(np.arange(5))
    with pytest.raises(FitError, match=r"five parameters and 5 runs.*at least 6"):
        fit_parametric(obs)


def test_two_sizes_are_too_few(scattered_runs):
    with pytest.raises(FitError, match=r"three different sizes N.*have 2"):
        fit_parametric(scattered_runs(n_sizes=2))


def test_runs_at_one_ratio_of_tokens_to_parameters_are_refused(scattered_runs):
    with pytest.raises(FitError, match=r"every run has 20 tokens per parameter. Train some sizes"):
        fit_parametric(scattered_runs(n_sizes=40, ratios=(20,)))


def test_losses_that_do_not_depend_on_tokens_are_refused(observe):
    N = np.repeat(np.geomspace(1e8, 1e10, 6), 4)
    D = N * np.tile([10.0, 20.0, 40.0, 80.0], 6)
    with pytest.raises(FitError, match=r"beta|determine its parameters|converge"):
        fit_parametric(observe(N, D, 2 + 300 / N**0.3))


def test_a_law_without_irreducible_loss_is_reported_at_a_bound(scattered_runs):
    fit = fit_parametric(scattered_runs(law=LossLaw(1e-9, 40, 40, 0.2, 0.15)), n_bootstrap=0)
    assert any("no irreducible loss" in w for w in fit.warnings)
    assert fit.law.alpha == pytest.approx(0.2, rel=1e-3)


def test_a_law_that_misses_its_runs_is_reported(observe, law):
    """Two data sets .6 nats apart at every size and ratio."""
    N, ratio = (
        x.ravel() for x in np.meshgrid(np.geomspace(3e7, 3e9, 8), np.geomspace(0.05, 500, 12))
    )
    L = law(N, ratio * N) + 0.6 * (np.arange(len(N)) % 2)
    warnings = fit_parametric(observe(N, ratio * N, L), n_bootstrap=0).warnings
    (message,) = [text for text in warnings if "the law fits these runs badly" in text]
    assert "share one data set, tokenizer, recipe and loss" in message
    assert "tokens_per_param=LOW,HIGH" in message


@pytest.fixture
def lone_runs(law, observe):
    """24 budgets of one run each."""

    def build(seed: int) -> Observations:
        C = np.geomspace(6e18, 3e21, 24)
        N = 0.57 * C**0.4565 * np.resize([1.0, 0.2, 5.0, 0.45, 2.2], 24)
        D = C / (6 * N)
        error = 0.002 * np.random.default_rng(seed).normal(size=24)
        return observe(N, D, law(N, D) * np.exp(error), budget=C)

    return build


def test_runs_alone_in_their_budget_have_an_interval(lone_runs):
    obs = lone_runs(0)
    fit = fit_parametric(obs, n_bootstrap=100)
    assert fit.N_opt.p90 - fit.N_opt.p10 > 0.005


@pytest.mark.slow
def test_the_interval_of_runs_alone_in_their_budget_has_its_nominal_coverage(lone_runs, law):
    """60 sweeps, so 80% +- 5%. Fully: scripts/studies/coverage.py."""
    a = law.beta / (law.alpha + law.beta)
    fits = [fit_parametric(lone_runs(i), n_bootstrap=200) for i in range(60)]
    assert 0.67 < np.mean([f.N_opt.p10 < a < f.N_opt.p90 for f in fits]) < 0.93
    assert np.mean([f.N_opt.ci95[0] < a < f.N_opt.ci95[1] for f in fits]) > 0.87
