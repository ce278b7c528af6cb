"""Curves of approach 1: smoothed, and extended so that the runs of a budget end at one C."""

import numpy as np
import pytest

from chinchilla.fit.envelope.approach1 import fit_envelope
from chinchilla.fit.envelope.curves import common_ends, read_curves, smooth


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("horizons", [True, False])
def test_ends_of_one_budget_that_differ_by_a_step_do_not_change_the_result(
    demo_sweep, horizons, named
):
    """The longest run of a budget, alone beyond the others, used to move a by up to .34."""
    equal = fit_envelope(demo_sweep(horizons=horizons), n_bootstrap=0)
    for seed in range(8):
        moved = fit_envelope(demo_sweep(seed, horizons=horizons, named=named), n_bootstrap=0)
        assert moved.N_opt.exponent == pytest.approx(equal.N_opt.exponent, abs=0.005)
        assert moved.N_opt(5e20) == pytest.approx(equal.N_opt(5e20), rel=0.02)


def test_which_ends_count_as_one():
    nan = np.nan
    ends = np.array([100.0, 101.5, 110.0, 200.0, 209.0, 150.0])
    budget = np.array([nan, nan, nan, 2.0, 2.0, 2.0])
    assert common_ends(ends, budget).tolist() == [101.5, 101.5, 110.0, 209.0, 209.0, 150.0]
    steady = 1.01 ** np.arange(20)  # a chain of close ends is not one end
    assert np.all(common_ends(steady, np.full(20, nan)) <= 1.02 * steady)


def test_a_curve_is_extended_by_the_slope_of_its_end(observe, law):
    """Runs that end 1.5% early are read at the common end within 3e-5 of the law."""
    N = np.array([1e8, 1.5e8, 2.25e8])
    done = np.linspace(0.2, 1, 40)
    D = (np.array([1e19, 1.015e19, 1e19]) / (6 * N))[:, None] * done
    L = law(N[:, None], D)
    run_id = np.repeat(["a", "b", "c"], 40)
    obs = observe(np.repeat(N, 40), D.ravel(), L.ravel(), run_id=run_id, loss_kind="validation")
    curves, _ = read_curves(obs, "constant")
    assert curves.C[-1] == pytest.approx(1.015e19, rel=1e-12)
    assert curves.D[:, -1] == pytest.approx(1.015e19 / (6 * curves.N), rel=1e-9)
    assert curves.L[:, -1] == pytest.approx(law(curves.N, curves.D[:, -1]), rel=3e-5)


def test_smoothing_keeps_constants_shortens_noise_and_leaves_short_curves_alone():
    assert smooth(np.full(400, 3.0)) == pytest.approx(np.full(400, 3.0))
    noise = np.random.default_rng(0).normal(size=4000)
    assert smooth(noise).std() < 0.4 * noise.std()
    line = np.arange(400.0)
    assert smooth(line)[5:-5] == pytest.approx(line[5:-5])
    short = np.random.default_rng(0).normal(size=30)
    assert smooth(short) is short
