"""Resamples of runs, and the intervals made of them."""

import numpy as np
import pytest

from chinchilla.core.errors import FitError
from chinchilla.fit.bootstrap import draw_counts, method, power_laws, random_weights


def test_every_resample_has_as_many_runs_as_there_are():
    counts = draw_counts(20, 50, seed=0)
    assert counts.shape == (50, 20)
    assert np.all(counts.sum(axis=1) == 20)
    assert 0.55 < (counts > 0).mean() < 0.72  # 1 - 1/e = .63 of the runs occur


def test_strata_keep_their_number_of_runs():
    strata = np.array([0, 0, 0, 1, 1, 2])
    counts = draw_counts(6, 50, seed=0, strata=strata)
    for group, size in ((0, 3), (1, 2), (2, 1)):
        assert np.all(counts[:, strata == group].sum(axis=1) == size)


def test_percentiles_are_those_of_the_exponents():
    exponents = np.linspace(0.4, 0.6, 101)
    samples = np.stack([np.zeros(101), exponents, np.zeros(101), 1 - exponents], axis=1)
    N_opt, D_opt, warnings = power_laws((0.0, 0.5), (0.0, 0.5), samples)
    assert (N_opt.p10, N_opt.p90) == pytest.approx((0.42, 0.58))
    assert (D_opt.p10, D_opt.p90) == pytest.approx((0.42, 0.58))
    assert len(N_opt.samples[0]) == 101
    assert not warnings
    low, high = N_opt.band(1e20)
    assert low == pytest.approx(1e20**0.42, rel=1e-4)
    assert high == pytest.approx(1e20**0.58, rel=1e-4)


def test_no_interval_when_most_resamples_fail():
    samples = np.full((100, 4), np.nan)
    samples[:49] = 0.5
    N_opt, D_opt, warnings = power_laws((0.0, 0.5), (0.0, 0.5), samples)
    assert N_opt.p10 is None
    assert D_opt.samples == []
    assert "only 49 of 100 resamples" in warnings[0]


def test_some_failed_resamples_are_counted_in_a_warning():
    samples = np.full((100, 4), 0.5)
    samples[:20] = np.nan
    *_, warnings = power_laws((0.0, 0.5), (0.0, 0.5), samples)
    assert "leaves out 20 of 100" in warnings[0]


def test_the_method_names_the_bootstrap_and_the_number_of_resamples():
    assert method("pairs", 0).startswith("none")
    assert method("pairs bootstrap", 4_000) == "pairs bootstrap, 4,000 resamples"


def test_sizes_or_tokens_that_fall_with_compute_are_refused():
    for N, D, name in ((-0.2, 1.2, "N_opt"), (1.1, -0.1, "D_opt")):
        with pytest.raises(FitError, match=f"{name} falls as C grows") as error:
            power_laws((0.0, N), (0.0, D), np.zeros((0, 4)))
        assert error.value.kind == "falls"


def test_random_weights_are_positive_with_mean_1():
    w = random_weights(24, 2000, 0)
    assert np.all(w > 0)
    assert w.sum(axis=1) == pytest.approx(24)
    assert 0.7 < w.var() < 1.3


def test_samples_that_do_not_vary_are_no_interval_where_runs_scatter():
    same = np.tile([1.0, 0.5, -1.0, 0.5], (100, 1))
    N_opt, D_opt, warnings = power_laws((1.0, 0.5), (-1.0, 0.5), same, scatter=2e-3)
    assert N_opt.p10 is N_opt.ci95 is D_opt.p10 is None
    assert len(warnings) == 1
    assert "no interval: all 100 resamples give a=0.5, although the runs" in warnings[0]
    exact, _, warnings = power_laws((1.0, 0.5), (-1.0, 0.5), same, scatter=1e-12)
    assert exact.p10 == exact.p90 == 0.5
    assert not warnings
