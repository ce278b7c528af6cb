"""Which runs approach 2 uses: sizes near each budget's lowest loss, without outliers."""

import re
from dataclasses import replace

import numpy as np
import pytest

from chinchilla.fit.isoflop.approach2 import fit_isoflop
from chinchilla.fit.isoflop.window import MIN_SIDE, MIN_SIZES, near_lowest
from chinchilla.fit.loss_law import six_nd_frontier

BUDGETS = [1e19, 3e19, 1e20, 3e20, 1e21, 3e21]


def starved(runs, law):
    """The runs with losses that leave the law below two tokens per parameter, as real sweeps do."""
    ratio = runs.D / runs.N
    return replace(runs, L=runs.L * (1 + 0.08 * np.maximum(np.log(2 / ratio), 0) ** 2))


def test_a_window_holds_enough_sizes_on_both_sides_of_the_lowest_loss():
    x = np.log([1, 2, 3, 4, 50, 60, 70, 500, 1e4])
    L = np.array([9, 8, 7, 6, 5, 6, 7, 8, 9.0])
    keep = near_lowest(x, L, 0.1)
    assert keep.sum() == MIN_SIZES
    assert (x[keep] < x[4]).sum() >= MIN_SIDE
    assert (x[keep] > x[4]).sum() >= MIN_SIDE
    assert near_lowest(x, L, 3.0).sum() == 6


def test_profiles_that_follow_the_law_take_the_widest_window(isoflop_runs):
    runs = isoflop_runs(BUDGETS, n_sizes=15, half_width=16, noise=0.003)
    window = fit_isoflop(runs, n_bootstrap=0).details["window"]
    assert window["width"] == 2.0
    assert window["n_outside"] > 0
    assert window["outliers"] == []


def test_sizes_that_leave_the_law_are_outside_the_window(isoflop_runs, law):
    """Profiles down to .1 tokens per parameter: all sizes move N_opt by over 40%, the window by 3%."""
    runs = starved(isoflop_runs(BUDGETS, n_sizes=15, half_width=30, noise=1e-3), law)
    (log_k, a), _, _ = six_nd_frontier(law)
    true = np.exp(log_k + a * np.log(3e21))
    near = fit_isoflop(runs, n_bootstrap=0)
    every = fit_isoflop(runs, window="all", n_bootstrap=0)
    assert near.details["window"]["width"] == 1.3
    assert abs(np.log(every.points[-1].N / true)) > 0.5
    assert abs(np.log(near.points[-1].N / true)) < 0.04
    assert "within a factor of 3.67" in near.settings["window"]


@pytest.mark.parametrize("factor", [0.6, 1.4])
def test_a_diverged_run_inside_the_window_is_excluded_and_named(isoflop_runs, factor):
    """An absurdly low loss would move the window to itself; an absurdly high one bend the curve."""
    runs = isoflop_runs(BUDGETS, n_sizes=9, noise=0.002)
    clean = fit_isoflop(runs, n_bootstrap=0)
    L = runs.L.copy()
    L[2] *= factor
    fit = fit_isoflop(replace(runs, L=L), n_bootstrap=0)
    assert [o["run_id"] for o in fit.details["window"]["outliers"]] == [runs.run_id[2]]
    assert fit.N_opt.exponent == pytest.approx(clean.N_opt.exponent, abs=0.01)
    (text,) = [text for text in fit.warnings if runs.run_id[2] in text and "excluded" in text]
    with_it = float(re.search(r"a = \S+ without them, (\S+) with them", text)[1])
    assert with_it != pytest.approx(fit.N_opt.exponent, abs=1e-3)


def test_noise_alone_excludes_no_run(isoflop_runs):
    for seed in range(20):
        runs = isoflop_runs(BUDGETS, n_sizes=9, noise=0.01, seed=seed)
        assert fit_isoflop(runs, n_bootstrap=0).details["window"]["outliers"] == []


def test_a_falling_loss_is_reported_only_where_it_falls(isoflop_runs):
    """A curve without minimum although the lowest loss has worse ones on both sides."""
    runs = isoflop_runs(BUDGETS, n_sizes=9, noise=0)
    L = runs.L.copy()
    L[:9] = 3 + np.array([0.0, 0.3, 0.3, 0.2, 0.19, 0.18, 0.17, 0.165, 0.164])
    L[8] -= 0.2
    L[7] -= 0.21
    fit = fit_isoflop(replace(runs, L=L), profile="parabola", window="all", n_bootstrap=0)
    kinds = [b["kind"] for b in fit.details["budgets"]]
    assert kinds[1:] == [None] * 5
    assert kinds[0] in ("curve_misses", "opens_downward")
    assert not any("still falls" in text for text in fit.refusals)
