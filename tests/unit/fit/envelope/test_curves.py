"""Curves of approach 1: smoothed, and extended so that the runs of a budget end at one C."""

import numpy as np
import pytest

from chinchilla.fit.envelope.approach1 import fit_envelope
from chinchilla.fit.envelope.curves import common_ends, read_curves, smooth
from chinchilla.fit.envelope.lower_envelope import curve_envelopes
from chinchilla.fit.loss_law import six_nd_frontier

BUDGETS = 6e18 * 2.0 ** np.arange(4)


@pytest.fixture
def demo_sweep(law, observe):
    """The demo's design on a law: four budgets a factor two apart, five sizes at each, eight points a run.

    `horizons` adds three sizes at three horizons. A mid-run loss is up to 6% above the law's. With a
    `seed` each run ends up to half a step before or after its budget, of 50 to 600 steps.
    """

    def build(seed=None, *, horizons=True, named=True, noise=0.0):
        (log_k, a), _, _ = six_nd_frontier(law)
        N_opt = np.exp(log_k) * BUDGETS**a
        sizes = N_opt[0] * 1.35 ** (np.arange(-4, 9) + 0.75)
        runs = [
            (C, N, C)
            for C, best in zip(BUDGETS, N_opt, strict=True)
            for N in sizes[np.argsort(np.abs(np.log(sizes / best)))[:5]]
        ]
        if horizons:
            runs += [
                (np.nan, N, BUDGETS[0] * (N / N_opt[0]) ** 2 * ratio)
                for N in sizes[1:6:2]
                for ratio in (0.36, 0.73, 1.45)
            ]
        budget, N, C = np.array(runs).T
        rng = np.random.default_rng(seed)
        if seed is not None:
            C = C * (1 + rng.uniform(-0.5, 0.5, len(C)) / rng.integers(50, 600, len(C)))
        done = np.arange(1, 9) / 8
        D = (C / (6 * N))[:, None] * done  # (n_runs, 8)
        L = law(N[:, None], D) * (1 + 0.03 * (1 + np.cos(np.pi * done)))
        L *= np.exp(noise * rng.normal(size=(len(N), 1)))
        return observe(
            np.repeat(N, 8),
            D.ravel(),
            L.ravel(),
            run_id=np.repeat([f"run{i:02d}" for i in range(len(N))], 8),
            budget=np.repeat(budget if named else np.full(len(N), np.nan), 8),
            loss_kind="validation",
        )

    return build


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


@pytest.mark.parametrize("seed", range(8))
def test_the_envelope_never_rises_and_lies_above_no_curve(demo_sweep, seed):
    """At every C of the envelope no loss reached with as many FLOPs or fewer is lower, with noise of .3%."""
    obs = demo_sweep(seed, noise=0.003)
    fit = fit_envelope(obs, n_bootstrap=0)
    C, L = (np.array(fit.details["envelope"][name]) for name in ("C", "L"))
    assert np.all(np.diff(L) < 0)
    curves, _ = read_curves(obs)
    lowest = np.minimum.accumulate(curves.L.min(axis=0))
    assert np.all(np.interp(np.log(C), np.log(curves.C), lowest) >= L * (1 - 1e-9))
    measured = obs.C >= curves.C[0]
    for C_on, L_on in zip(C, L, strict=True):
        cheaper = obs.L[measured & (obs.C <= C_on * (1 - 1e-9))]
        assert not len(cheaper) or L_on <= cheaper.min() * (1 + 1e-3)


def test_the_longest_run_of_a_budget_does_not_win_for_being_the_longest(demo_sweep):
    """The third best of five sizes of a budget ends a step later than the rest, 2% beyond."""
    obs = demo_sweep(horizons=False)
    of_budget = np.flatnonzero(obs.budget_flops == BUDGETS[2])
    last = of_budget[obs.is_final[of_budget]]
    third = obs.run_id[last[np.argsort(obs.L[last])[2]]]
    for name in ("C", "D"):
        getattr(obs, name)[obs.run_id == third] *= 1.02
    curves, _ = read_curves(obs)
    found = curve_envelopes(curves)(np.arange(len(curves.N)))
    around = (BUDGETS[2] * 0.99 < found.C) & (BUDGETS[2] * 1.03 > found.C)
    assert np.any(around)
    assert obs.N[obs.run_id == third][0] not in found.N[around]


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
