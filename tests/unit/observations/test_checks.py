"""Losses without signal are refused; misfits are warned of."""

import numpy as np
import pytest

from chinchilla.core.errors import FitError
from chinchilla.fit import fit_envelope, fit_isoflop, fit_parametric
from chinchilla.fit.loss_law import named_law
from chinchilla.observations.checks import check_signal, robust_sd

LAW = named_law("besiroglu")
N = np.tile(np.geomspace(1e8, 3e9, 7), 5)
C = np.repeat(np.geomspace(1e19, 1e21, 5), 7)
D = C / 6 / N


def runs(observe, L):
    return observe(N, D, L, budget=C)


@pytest.mark.parametrize("seed", range(4))
def test_shuffled_losses_and_noise_are_refused_by_all_approaches(observe, seed):
    """One shuffle of a hundred passes by chance; these seeds do not."""
    rng = np.random.default_rng(seed)
    for L in (rng.permutation(LAW(N, D)), 3 + 0.3 * rng.normal(size=len(N))):
        for fit in (fit_envelope, fit_isoflop, fit_parametric):
            with pytest.raises(FitError) as error:
                fit(runs(observe, L), n_bootstrap=0)
            assert error.value.kind in ("no_signal", "loss_rises")


def test_about_one_of_a_hundred_shuffles_passes(observe):
    passed = 0
    for seed in range(100):
        try:
            check_signal(runs(observe, np.random.default_rng(seed).permutation(LAW(N, D))), "x")
        except FitError:
            continue
        passed += 1
    assert passed <= 4


@pytest.mark.parametrize("noise", [0.0, 0.002, 0.02])
@pytest.mark.parametrize(("n_budgets", "n_sizes"), [(2, 5), (3, 4), (5, 7)])
def test_noisy_sweeps_on_a_law_have_a_signal(observe, noise, n_budgets, n_sizes):
    """2% noise is four times that of the published points."""
    budgets = np.repeat(1e19 * 10.0 ** np.arange(n_budgets), n_sizes)
    sizes = np.tile(np.geomspace(0.2, 5, n_sizes), n_budgets) * 0.09 * budgets**0.5
    tokens = budgets / 6 / sizes
    for seed in range(10):
        rng = np.random.default_rng(seed)
        L = LAW(sizes, tokens) * np.exp(noise * rng.normal(size=len(sizes)))
        check_signal(observe(sizes, tokens, L, budget=budgets), "x")


def test_small_noisy_sweeps_have_no_outliers(observe):
    """A robust fit of five parameters passes through five of twelve runs, whose residuals are zero."""
    budgets = np.repeat([1e18, 1e19, 1e20], 4)
    sizes = np.tile([0.35, 0.7, 1.4, 2.8], 3) * 0.09 * budgets**0.5
    tokens = budgets / 6 / sizes
    warned = fitted = 0
    for seed in range(30):
        L = LAW(sizes, tokens) * np.exp(0.01 * np.random.default_rng(seed).normal(size=12))
        try:
            fit = fit_parametric(observe(sizes, tokens, L, budget=budgets), n_bootstrap=0)
        except FitError:
            continue
        fitted += 1
        warned += any("robust standard deviations" in w for w in fit.warnings)
    assert fitted >= 25
    assert warned <= 3


def test_robust_sd_of_normal_residuals():
    r = np.random.default_rng(0).normal(size=4_000)
    assert robust_sd(r) == pytest.approx(1.0, abs=0.05)  # standard error .016 * 1.17


@pytest.mark.parametrize("gap", [0.1, 0.2, 0.6])
def test_two_data_sets_in_one_table_are_warned_of(observe, gap):
    L = LAW(N, D) + gap * (np.arange(len(N)) % 2)
    try:
        fit = fit_parametric(runs(observe, L), n_bootstrap=0)
    except FitError:
        return
    assert any("one data set" in w for w in fit.warnings)
