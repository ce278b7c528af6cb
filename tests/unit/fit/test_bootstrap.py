"""Resamples of runs, and the intervals made of them."""

import numpy as np
import pytest

from chinchilla.core.errors import FitError, InputError
from chinchilla.fit.bootstrap import RESAMPLINGS, draw, draw_counts, method, power_laws


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
    N_opt, D_opt, counts, warnings = power_laws((0.0, 0.5), (0.0, 0.5), samples, 1e20)
    assert (N_opt.p10, N_opt.p90) == pytest.approx((0.42, 0.58))
    assert (D_opt.p10, D_opt.p90) == pytest.approx((0.42, 0.58))
    assert counts == {"n_resamples": 101, "n_fitted": 101}
    assert not warnings
    low, high = N_opt.band(1e20)
    assert low == pytest.approx(1e20**0.42, rel=1e-4)
    assert high == pytest.approx(1e20**0.58, rel=1e-4)


def test_no_interval_when_most_resamples_fail():
    samples = np.full((100, 4), np.nan)
    samples[:49] = 0.5
    N_opt, D_opt, counts, warnings = power_laws((0.0, 0.5), (0.0, 0.5), samples, 1e20)
    assert N_opt.p10 is None
    assert D_opt.samples == []
    assert counts["n_fitted"] == 49
    assert "only 49 of 100 resamples" in warnings[0]


def test_some_failed_resamples_are_counted_in_a_warning():
    samples = np.full((100, 4), 0.5)
    samples[:20] = np.nan
    *_, warnings = power_laws((0.0, 0.5), (0.0, 0.5), samples, 1e20)
    assert "leaves out 20 of 100" in warnings[0]


def test_the_method_names_the_bootstrap_and_the_number_of_resamples():
    assert method("pairs", 0).startswith("none")
    assert method("pairs", 4_000) == "pairs bootstrap of runs, 4,000 resamples"


def test_an_unknown_way_to_resample_names_the_known_ones(scattered_runs):
    with pytest.raises(
        InputError, match="resampling='jackknife': choose one of bayesian, pairs, by_"
    ):
        draw("jackknife", scattered_runs(), 20, 0)


@pytest.mark.parametrize("name", RESAMPLINGS)
def test_every_way_to_resample_keeps_about_as_many_runs_as_there_are(scattered_runs, name):
    w = draw(name, scattered_runs(), 200, 0)
    assert w.sum(axis=1).mean() == pytest.approx(40, rel=0.05)


@pytest.mark.parametrize(
    ("estimate", "where"), [(0.5, ""), (0.419, "outside"), (0.425, "at an end of")]
)
def test_an_estimate_at_an_end_of_its_own_interval_is_reported(estimate, where):
    samples = np.tile(np.linspace(0.4, 0.6, 101)[:, None], (1, 4))  # 10% at .42, 90% at .58
    *_, warnings = power_laws((0.5, estimate), (0.5, 1 - estimate), samples, 1e20)
    assert len(warnings) == bool(where)
    assert all(
        f"a={estimate:.3f} lies {where} its own interval, 0.42 to 0.58" in w for w in warnings
    )


def test_a_size_outside_of_its_own_interval_is_reported_if_a_is_not():
    """Exponents agree, coefficients do not: two clouds of runs in one table."""
    samples = np.tile(np.linspace(0.4, 0.6, 101)[:, None], (1, 4))
    samples[:, 0] = 46.05 * (0.5 - samples[:, 1]) + 1  # all lines meet at e^(24.0) at 1e20
    samples[:, 0] += np.linspace(-0.1, 0.1, 101)
    *_, warnings = power_laws((0.0, 0.5), (0.0, 0.5), samples, 1e20)
    assert len(warnings) == 1
    assert "N_opt(1e+20)=1e+10 lies outside its own interval" in warnings[0]


def test_sizes_or_tokens_that_fall_with_compute_are_refused():
    for N, D, name in ((-0.2, 1.2, "N_opt"), (1.1, -0.1, "D_opt")):
        with pytest.raises(FitError, match=f"{name} falls as C grows") as error:
            power_laws((0.0, N), (0.0, D), np.zeros((0, 4)), 1e20)
        assert error.value.kind == "falls"


def test_random_weights_vary_also_where_a_run_is_alone_in_its_budget(observe, law):
    C = np.geomspace(1e19, 1e21, 24)
    N = 0.6 * (C / 6) ** 0.4565 * np.resize([1.0, 0.3, 3.0], 24)
    obs = observe(N, C / (6 * N), law(N, C / (6 * N)), budget=C)
    w = draw("bayesian", obs, 2000, 0)
    assert np.all(w > 0)
    assert w.sum(axis=1) == pytest.approx(24)
    assert 0.7 < w.var() < 1.3


def test_samples_that_do_not_vary_are_no_interval_where_runs_scatter():
    same = np.tile([1.0, 0.5, -1.0, 0.5], (100, 1))
    N_opt, D_opt, _, warnings = power_laws((1.0, 0.5), (-1.0, 0.5), same, 1e20, scatter=2e-3)
    assert N_opt.p10 is N_opt.ci95 is D_opt.p10 is None
    assert len(warnings) == 1
    assert "no interval: all 100 resamples give a=0.5, although the runs miss" in warnings[0]
    exact, _, _, warnings = power_laws((1.0, 0.5), (-1.0, 0.5), same, 1e20, scatter=1e-12)
    assert exact.p10 == exact.p90 == 0.5
    assert not warnings
