"""Approach 1: envelopes of curves with a known frontier, and their censored edges."""

import time

import numpy as np
import pytest

from chinchilla.core.errors import FitError
from chinchilla.fit import bootstrap
from chinchilla.fit.envelope import approach1
from chinchilla.fit.envelope.approach1 import fit_envelope
from chinchilla.fit.loss_law import six_nd_frontier
from chinchilla.fit.numerics import fit_line
from chinchilla.fit.result import LossLaw

DENSE = 2e9 * np.arange(1, 176)  # tokens


@pytest.fixture
def curves(law, observe):
    """Sizes, each trained to every horizon within a factor 8 of its best C; 60 points a run.

    Horizons are common values of C, so that at each the runs of all sizes end together. `penalty`
    makes a loss in mid-run worse than the law's by up to that share, as a decaying learning rate
    does; 0 puts every point of every curve on the law.
    """

    def build(penalty, *, n_sizes=33, largest=5e9, horizon_factor=1.19, noise=0.0, **conventions):
        (log_k, a), _, _ = six_nd_frontier(law)
        sizes = np.geomspace(5e7, largest, n_sizes)
        best_C = (sizes / np.exp(log_k)) ** (1 / a)
        horizons = np.exp(
            np.arange(np.log(best_C[0] / 8), np.log(best_C[-1] * 8), np.log(horizon_factor))
        )
        size, C_end = (x.ravel() for x in np.meshgrid(np.arange(n_sizes), horizons, indexing="ij"))
        near = np.abs(np.log(C_end / best_C[size])) <= np.log(8)
        N, C_end = sizes[size[near]], C_end[near]
        done = np.geomspace(0.02, 1, 60)
        D = C_end[:, None] / (6 * N[:, None]) * done  # (n_runs, 60)
        L = law(N[:, None], D) * (1 + penalty * (1 - done))
        L *= np.exp(noise * np.random.default_rng(0).normal(size=L.shape))
        run_id = np.repeat([f"run{i:03d}" for i in range(len(N))], 60)
        return observe(np.repeat(N, 60), D.ravel(), L.ravel(), run_id=run_id, **conventions)

    return build


def test_curves_on_the_law_give_its_frontier(curves, law):
    """Every point on the law: the envelope is the best size at each C, a staircase in N."""
    fit = fit_envelope(curves(0.0, loss_kind="validation"), n_bootstrap=0)
    (log_k, a), (_, b), _ = six_nd_frontier(law)
    assert fit.N_opt.exponent == pytest.approx(a, abs=2e-3)
    assert fit.D_opt.exponent == pytest.approx(b, abs=2e-3)
    assert fit.N_opt(1e20) == pytest.approx(np.exp(log_k) * 1e20**a, rel=0.01)
    assert fit.N_opt.exponent + fit.D_opt.exponent == pytest.approx(1, abs=1e-3)


def test_resamples_that_do_not_vary_are_no_interval(curves, monkeypatch):
    """Every resample holds all runs: the width of zero is not stated, because N_opt steps with the sizes."""
    monkeypatch.setattr(bootstrap, "draw_counts", lambda n, k, seed: np.ones((k, n)))
    fit = fit_envelope(curves(0.0, loss_kind="validation"), n_bootstrap=20)
    assert fit.N_opt.p10 is fit.N_opt.ci95 is fit.D_opt.p10 is None
    assert any("no interval: all 20 resamples give a=" in w for w in fit.warnings)


def test_pessimistic_mid_runs_leave_the_envelope_at_run_ends(curves, law):
    fit = fit_envelope(curves(0.3, loss_kind="validation"), n_bootstrap=0)
    (_, a), _, _ = six_nd_frontier(law)
    assert fit.N_opt.exponent == pytest.approx(a, abs=2e-3)
    assert fit.details["tail_share"] > 0.9
    assert not any("of the envelope lies in the last" in w for w in fit.warnings)


def test_few_horizons_lower_the_tail_share(curves):
    fit = fit_envelope(curves(0.02, horizon_factor=2.0, loss_kind="validation"), n_bootstrap=0)
    assert fit.details["tail_share"] < 0.85
    assert any("Train further horizons" in w for w in fit.warnings)


def test_the_start_of_training_does_not_turn_the_line(curves, law):
    """A smoothed steep start lets odd sizes win at tiny C; nothing below the first run end counts."""
    obs = curves(0.0, loss_kind="validation")
    rng = np.random.default_rng(0)
    first_end = obs.finals().C.min()
    early = obs.C < 0.5 * first_end
    obs.L[early] *= np.exp(0.05 * rng.normal(size=int(early.sum())))
    fit = fit_envelope(obs, n_bootstrap=0)
    (_, a), _, _ = six_nd_frontier(law)
    assert min(fit.details["envelope"]["C"]) >= first_end * (1 - 1e-12)
    assert fit.N_opt.exponent == pytest.approx(a, abs=2e-3)


def test_C_where_the_best_size_is_at_an_edge_is_shown_but_not_fitted(curves):
    fit = fit_envelope(curves(0.0, loss_kind="validation"), n_bootstrap=0)
    approach1 = fit.details["envelope"]
    N, censored = np.array(approach1["N"]), np.array(approach1["censored"])
    assert 0 < censored.mean() < 0.6
    assert np.all(censored[N == N.min()])
    assert {p.N for p in fit.points} == set(N[~censored])
    assert any("was not fitted: a better size may lie outside" in w for w in fit.warnings)
    assert len({len(approach1[k]) for k in ("C", "N", "D", "L", "censored")}) == 1


def test_points_hold_the_tokens_seen_at_that_C(curves, law):
    fit = fit_envelope(curves(0.0, loss_kind="validation"), n_bootstrap=0)
    for p in fit.points:
        assert 6 * p.N * p.D == pytest.approx(p.C, rel=1e-9)
        assert p.L == pytest.approx(float(law(p.N, p.D)), rel=1e-3)


def test_training_losses_are_smoothed_and_held_out_losses_are_not(curves):
    train = fit_envelope(curves(0.0, loss_kind="train", n_sizes=9), n_bootstrap=0)
    held_out = fit_envelope(curves(0.0, loss_kind="validation", n_sizes=9), n_bootstrap=0)
    assert train.settings["smooth_steps"] == 10
    assert held_out.settings["smooth_steps"] == 0


def test_the_interval_covers_and_resamples_whole_runs(curves, law):
    obs = curves(0.0, n_sizes=17, noise=0.001, loss_kind="validation")
    fit = fit_envelope(obs, n_bootstrap=200)
    (_, a), _, _ = six_nd_frontier(law)
    assert fit.N_opt.p10 - 0.01 < a < fit.N_opt.p90 + 0.01
    assert fit.N_opt.p10 < fit.N_opt.exponent < fit.N_opt.p90
    assert fit.n_runs == len(np.unique(obs.run_id))
    assert fit.settings["interval"] == "pairs bootstrap of runs, 200 resamples"


def test_final_losses_alone_are_labelled_weaker(isoflop_runs, law):
    fit = fit_envelope(isoflop_runs(np.geomspace(6e18, 3e21, 9)), n_bootstrap=0)
    assert fit.settings["endpoints_only"] is True
    assert "weaker" in fit.warnings[0]
    assert fit.N_opt.exponent == pytest.approx(law.beta / (law.alpha + law.beta), abs=1e-9)
    assert "tail_share" not in fit.details


def test_two_sizes_are_refused(curves):
    with pytest.raises(FitError, match=r"needs 3 model sizes and these runs have 2") as error:
        fit_envelope(curves(0.0, n_sizes=2))
    assert error.value.kind == "too_few_sizes"


def test_an_envelope_on_the_edges_is_refused(curves):
    """Three sizes: only the middle one can be uncensored."""
    with pytest.raises(FitError, match=r"3 sizes on the envelope and finds 1.*Train sizes on both"):
        fit_envelope(curves(0.0, n_sizes=3, largest=1e8))


def test_curves_that_never_meet_are_refused(observe, law):
    N = np.repeat([1e8, 1e9, 1e10], 10)
    D = 20 * N * np.tile(np.linspace(0.5, 1, 10), 3)
    obs = observe(N, D, law(N, D), run_id=np.repeat(["a", "b", "c"], 10))
    with pytest.raises(
        FitError, match=r"no C at which 3 sizes have a curve.*overlapping FLOPs"
    ) as error:
        fit_envelope(obs)
    assert error.value.kind == "no_overlap"


def test_ends_of_runs_at_one_ratio_are_refused(observe, law):
    """Any line through them is D = 20*N, whatever the law: a = .500 [.500, .500]."""
    N = 1e7 * 1.5 ** np.arange(15)
    with pytest.raises(
        FitError, match=r"without curves cannot separate the effects of N and D.*20 tokens"
    ) as error:
        fit_envelope(observe(N, 20 * N, law(N, 20 * N)))
    assert error.value.kind == "one_ray"
    D = N * np.where(np.arange(15) % 2, 24, 20)
    with pytest.raises(
        FitError, match=r"on average only 0\.0 other sizes.*the planned sizes"
    ) as error:
        fit_envelope(observe(N, D, law(N, D)))
    assert error.value.kind == "no_overlap"


def test_ends_of_a_grid_follow_the_grid_and_not_the_law_and_are_refused(observe, monkeypatch):
    """Sizes by tokens per parameter on a law with a = 1/3: its line would be .07 or more off."""
    law = LossLaw(1.7, 400 * 1e9**0.16, 410 * 2e10**-0.03, 0.5, 0.25)
    N = np.repeat(np.geomspace(5e7, 5e9, 8), 5)
    D = N * np.tile([5.0, 10, 20, 40, 80], 8)
    obs = observe(N, D, law(N, D))
    with pytest.raises(
        FitError, match=r"on average only 0\.9 other sizes.*Give the curves, or train"
    ):
        fit_envelope(obs)
    monkeypatch.setattr(approach1, "check_competition", lambda runs: None)
    assert abs(fit_envelope(obs, n_bootstrap=0).N_opt.exponent - 1 / 3) > 0.07


def test_a_run_with_one_point_or_backward_flops_is_left_out_by_name(curves):
    obs = curves(0.0, n_sizes=9, loss_kind="validation")
    lone = np.flatnonzero(obs.run_id == "run000")[:-1]
    obs.C[np.flatnonzero(obs.run_id == "run001")[30]] *= 10
    fit = fit_envelope(obs.where(np.setdiff1d(np.arange(len(obs)), lone)), n_bootstrap=0)
    assert fit.refusals == [
        "run run000: fewer than two points after its last gap of over a factor 3 in C.",
        "run run001: N changes along the curve, or C does not rise with D.",
    ]
    assert fit.n_runs == len(np.unique(obs.run_id)) - 2


@pytest.fixture
def ladders(law, observe):
    """Sizes over a factor 100, each trained to four horizons 1:2:4:8 around its best C, 60 points a run.

    A run ends on the law; before, its loss is higher by up to `penalty`.
    """

    def build(n_sizes, penalty=0.05, noise=0.0, seed=0):
        (log_k, a), _, _ = six_nd_frontier(law)
        sizes = np.geomspace(5e7, 5e9, n_sizes)
        best_C = (sizes / np.exp(log_k)) ** (1 / a)
        N = np.repeat(sizes, 4)
        C_end = np.repeat(best_C, 4) * np.tile(2.0 ** np.array([-1.5, -0.5, 0.5, 1.5]), n_sizes)
        done = np.geomspace(0.02, 1, 60)
        D = C_end[:, None] / (6 * N[:, None]) * done
        L = law(N[:, None], D) * (1 + penalty * (1 - done))
        L *= np.exp(noise * np.random.default_rng(seed).normal(size=(len(N), 1)))
        run_id = np.repeat([f"run{i:03d}" for i in range(len(N))], 60)
        return observe(
            np.repeat(N, 60), D.ravel(), L.ravel(), run_id=run_id, loss_kind="validation"
        )

    return build


def test_few_sizes_make_a_staircase_and_the_line_goes_through_the_mid_points_of_steps(ladders, law):
    """Least squares through m whole steps finds a*(1 - 1/m^2); of six sizes four are inside."""
    fit = fit_envelope(ladders(6, penalty=0.0), n_bootstrap=0)
    (_, a), (_, b), _ = six_nd_frontier(law)
    stairs = fit_line(*(np.log([getattr(p, x) for p in fit.points]) for x in "CN"))
    assert len({p.N for p in fit.points}) == 4
    assert stairs[1] < a * (1 - 1 / 16)
    assert fit.N_opt.exponent == pytest.approx(a, abs=1e-3)
    assert fit.D_opt.exponent == pytest.approx(b, abs=1e-3)
    assert "middles of the steps" in fit.settings["line"]


@pytest.mark.parametrize("n_sizes", [6, 9, 16])
def test_horizons_that_end_do_not_shift_the_line(ladders, law, n_sizes):
    """A size that lost to a larger one stays beaten after its last run has ended.

    To leave out C where no smaller size has a curve any more would keep the early part of each
    step only: N_opt 20-60% too large with 6 and 9 sizes.
    """
    fit = fit_envelope(ladders(n_sizes), n_bootstrap=0)
    (log_k, a), _, _ = six_nd_frontier(law)
    assert fit.N_opt.exponent == pytest.approx(a, abs=0.01)
    assert fit.N_opt(1e20) == pytest.approx(np.exp(log_k) * 1e20**a, rel=0.1)


def test_the_exponent_lies_inside_its_own_interval(ladders, law):
    """Eight ladders with run-to-run noise of .2%; a staircase through fewer runs is no smaller a."""
    (_, a), _, _ = six_nd_frontier(law)
    for seed in range(8):
        fit = fit_envelope(ladders(12, noise=2e-3, seed=seed), n_bootstrap=100)
        assert fit.N_opt.p10 < fit.N_opt.exponent < fit.N_opt.p90
        assert fit.N_opt.ci95[0] < a < fit.N_opt.ci95[1]


def test_four_thousand_resamples_of_run_ends_take_a_second(isoflop_runs):
    runs = isoflop_runs(np.geomspace(6e18, 3e21, 17), n_sizes=14, noise=0.003)
    start = time.process_time()
    fit_envelope(runs, n_bootstrap=4000)
    assert time.process_time() - start < 1.5


@pytest.fixture
def constant_rate(law, observe):
    """22 sizes that all train to one D at a constant rate: every point of a curve lies on the law."""

    def build(tokens, warm_up=1.0):
        sizes = np.geomspace(5e7, 2e9, 22)
        N, D = np.repeat(sizes, len(tokens)), np.tile(tokens, len(sizes))
        L = law(N, D) * np.where(D == tokens[0], warm_up, 1.0)
        run_id = np.repeat([f"run{i:02d}" for i in range(len(sizes))], len(tokens))
        return observe(N, D, L, run_id=run_id, loss_kind="validation")

    return build


def test_constant_rates_give_the_law_by_whole_curves(constant_rate, law):
    """What lies below the end of the cheapest run counts: a factor 40 more in C."""
    obs = constant_rate(DENSE)
    (_, a), (_, b), _ = six_nd_frontier(law)
    fit = fit_envelope(obs, schedule="constant", n_bootstrap=0)
    assert fit.N_opt.exponent == pytest.approx(a, abs=0.01)
    assert fit.D_opt.exponent == pytest.approx(b, abs=0.01)
    assert fit.settings["schedule"] == "constant"
    assert "tail_share" not in fit.details
    assert not any("middle of" in w for w in fit.warnings)
    matched = fit_envelope(obs, n_bootstrap=0)
    assert min(matched.details["envelope"]["C"]) == pytest.approx(obs.finals().C.min())
    assert fit.points[0].C < 0.1 * matched.points[0].C
    assert any("use envelope_schedule=constant" in w for w in matched.warnings)


def test_a_first_point_in_warm_up_before_a_gap_does_not_decide(constant_rate, law):
    """2B, 12B, 22B, ... tokens, the first loss 15% too high: a straight line from there is no curve."""
    tokens = 2e9 + 1e10 * np.arange(35)
    fit = fit_envelope(constant_rate(tokens, warm_up=1.15), schedule="constant", n_bootstrap=0)
    (_, a), _, _ = six_nd_frontier(law)
    assert fit.N_opt.exponent == pytest.approx(a, abs=0.02)
    assert fit.refusals == ["22 runs: points before a gap of over a factor 3 in C were left out."]
    assert min(fit.details["envelope"]["C"]) > 6 * 5e7 * 1.1e10


def test_two_points_far_apart_are_no_curve(constant_rate):
    obs = constant_rate(np.array([1e10, 2e10, 4e10]))
    far = (obs.run_id == "run03") & (obs.D < 4e10)
    obs.D[far] /= 10
    obs.C[far] /= 10
    fit = fit_envelope(obs, schedule="constant", n_bootstrap=0)
    assert fit.n_runs == 21
    assert fit.refusals[0].startswith(
        "run run03: fewer than two points after its last gap of over a factor 3 in C."
    )


def test_a_size_that_wins_before_larger_ones_have_a_curve_is_not_fitted(constant_rate):
    """Curves from 1e11 tokens on: at first each size wins where it begins, N ~ C whatever the law."""
    with pytest.raises(FitError, match=r"was left out, because a better size may lie outside"):
        fit_envelope(constant_rate(1e11 * np.arange(1, 6)), schedule="constant", n_bootstrap=0)
