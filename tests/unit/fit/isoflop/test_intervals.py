"""Intervals of approach 2: one draw of signs moves profiles and exponents."""

from dataclasses import replace

import numpy as np
import pytest

from chinchilla.core.paper import ISOFLOP_BUDGETS
from chinchilla.fit.isoflop import approach2, intervals
from chinchilla.fit.isoflop.approach2 import fit_isoflop
from chinchilla.fit.isoflop.profile import fit_budget, lines, minima
from chinchilla.fit.loss_law import FlopsPerToken
from chinchilla.fit.parametric.solver import Laws, fit_loss_law, refit_loss_law

SMOOTH = {"huber_delta": 1e-3, "objective": "least_squares"}


def test_a_resample_is_what_losses_with_redrawn_signs_give(isoflop_runs, monkeypatch):
    """Profiles and approach 3 fitted again to losses whose residuals have other signs, small noise."""
    obs = isoflop_runs(ISOFLOP_BUDGETS[::2], half_width=16, noise=1e-4)
    cost = FlopsPerToken.from_observations(obs)
    law, _ = fit_loss_law(obs.N, obs.D, obs.L, **SMOOTH)
    budgets = np.unique(obs.budget_labels)
    used = [
        fit_budget(obs.where(obs.budget_labels == b), b, (law.alpha, law.beta), cost)
        for b in budgets
    ]
    monkeypatch.setattr(intervals, "_degrees_of_freedom", lambda used, x: 1e15)  # no widening
    monkeypatch.setattr(intervals, "STEP", 0.05)  # to first order
    found = intervals.resampled_lines(used, cost, 20, 3, law, obs, SMOOTH)
    signs = np.random.default_rng(3).choice([-1.0, 1.0], size=(20, len(obs)))
    middle = lines(minima(used)[None], cost)[0]
    expected, apart = [], []
    for s in signs:
        fitted = law(obs.N, obs.D)
        new, _ = fit_loss_law(obs.N, obs.D, fitted * (obs.L / fitted) ** s, **SMOOTH)
        for exponents, kept in (((new.alpha, new.beta), expected), ((law.alpha, law.beta), apart)):
            again = []
            for p, b in zip(used, budgets, strict=True):
                own = s[obs.budget_labels == b]  # sizes rise within a budget of `isoflop_runs`
                L = p.columns @ p.c + own * p.residuals / np.sqrt(1 - p.leverage)
                again.append(fit_budget(replace(p.obs, L=L), b, exponents, cost))
            kept.append(lines(minima(again)[None], cost)[0])
    at = np.array([1.0, np.log(10 * ISOFLOP_BUDGETS[-1])])  # ln N_opt = ln k + a*ln C
    wanted, without, got = ((np.array(x) - middle)[:, :2] @ at for x in (expected, apart, found))
    assert np.abs(got - wanted).max() < 0.05 * np.abs(wanted).max()
    assert np.abs(without - wanted).max() > 0.1 * np.abs(wanted).max()  # the exponents matter


def test_refits_that_do_not_converge_leave_no_gaps(isoflop_runs, monkeypatch):
    def one_in_ten(*runs, **how) -> Laws:
        laws = refit_loss_law(*runs, **how)
        good = np.arange(len(laws.converged)) % 10 == 0
        return Laws(np.where(good[:, None], laws.theta, np.nan), laws.objective, good)

    monkeypatch.setattr(intervals, "refit_loss_law", one_in_ten)
    runs = isoflop_runs(ISOFLOP_BUDGETS, noise=0.002)
    fit = fit_isoflop(runs, n_bootstrap=50)
    assert len(fit.N_opt.samples[0]) == 50


@pytest.mark.parametrize("profile", ["exact", "parabola"])
def test_more_resamples_than_draws_of_signs_all_differ(isoflop_runs, profile):
    fit = fit_isoflop(isoflop_runs(ISOFLOP_BUDGETS, noise=0.002), profile=profile, n_bootstrap=500)
    assert len(np.unique(fit.N_opt.samples[1])) > 480  # stored to seven digits


def test_runs_without_a_budget_take_part_in_the_draws(isoflop_runs, scattered_runs):
    """They help to find alpha and beta: window=all uses them, and the interval is one."""
    grid, extra = isoflop_runs(ISOFLOP_BUDGETS, noise=0.002), scattered_runs(noise=0.002)
    columns = {
        name: np.concatenate([getattr(extra, name), getattr(grid, name)])
        for name in ("budget_flops", "C", "N", "D", "L")
    }
    both = type(grid).of(**columns, run_id=[f"r{i}" for i in range(len(grid) + len(extra))])
    fit = fit_isoflop(both, window="all", n_bootstrap=50)
    assert fit.n_runs == len(grid)
    assert fit.N_opt.p10 < fit.N_opt.exponent < fit.N_opt.p90


@pytest.mark.parametrize("noise", [0.002, 0.0])
def test_resamples_that_do_not_vary_are_no_interval_where_runs_scatter(
    isoflop_runs, monkeypatch, noise
):
    def same(used, *_: object) -> np.ndarray:
        return np.tile(lines(minima(used)[None], FlopsPerToken.from_observations(runs)), (50, 1))

    runs = isoflop_runs(ISOFLOP_BUDGETS, noise=noise)
    monkeypatch.setattr(approach2, "resampled_lines", same)
    fit = fit_isoflop(runs, n_bootstrap=50)
    assert (fit.N_opt.p10 is None) == (noise > 0)
    assert any("no interval: all 50 resamples give a=" in w for w in fit.warnings) == (noise > 0)


def test_one_degree_of_freedom_gives_wide_intervals_and_finite_resamples(isoflop_runs, monkeypatch):
    """Student's t with one degree of freedom has no variance; N_opt of a resample stays a number."""
    monkeypatch.setattr(intervals, "_degrees_of_freedom", lambda used, x: 1.0)
    runs = isoflop_runs(ISOFLOP_BUDGETS, noise=0.002)
    N_opt = fit_isoflop(runs, n_bootstrap=1000).N_opt
    assert np.isfinite(N_opt.all_at(3e22)).all()
    assert N_opt.ci95[1] - N_opt.ci95[0] > 4 * (N_opt.p90 - N_opt.p10) / 2
    assert np.ptp(N_opt.samples[1]) < 30 * (N_opt.p90 - N_opt.p10)
