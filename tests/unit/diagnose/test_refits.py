"""Approach 3 without a run, a budget or the highest losses, and in windows."""

from dataclasses import replace

import numpy as np
import pytest
from diagnosed import BUDGETS, NOISE, context_of, unresampled_context

from chinchilla.diagnose import context as context_module
from chinchilla.diagnose.refits import (
    drop_path,
    leave_one_budget_out,
    leave_one_run_out,
    leave_one_size_out,
    window_path,
)
from chinchilla.fit.parametric.approach3 import fit_loss_law


def test_refits_are_fits_of_the_rest(isoflop_runs):
    obs = isoflop_runs(BUDGETS, noise=NOISE, seed=3)
    context = context_of(obs)
    rows = leave_one_budget_out(context).values["rows"]
    assert [r["C"] for r in rows] == list(BUDGETS)
    rest = obs.where(obs.budget_flops != BUDGETS[2])
    law, _ = fit_loss_law(rest.N, rest.D, rest.L)
    assert rows[2]["beta"] == pytest.approx(law.beta, rel=1e-6)
    assert rows[2]["a"] == pytest.approx(law.beta / (law.alpha + law.beta), rel=1e-6)
    log_N = context.log_N + rows[2]["log_N_move"]
    assert log_N == pytest.approx(context.line(law)[1], rel=1e-6)
    assert rows[2]["n"] == 45


def test_sizes_are_shown_as_counts(scattered_runs):
    item = leave_one_size_out(context_of(scattered_runs(noise=NOISE)))
    names = [row["name"] for row in item.values["rows"]]
    assert (names[0], names[-1]) == ("the size 50.0M", "the size 5.00B")
    assert any(f"Without {name} it is" in item.message for name in names)


def test_a_stray_run_is_named(isoflop_runs):
    obs = isoflop_runs(BUDGETS, noise=NOISE, seed=5)
    stray = int(np.argmax(obs.N))
    L = obs.L.copy()
    L[stray] *= 1.10
    item = leave_one_run_out(unresampled_context(replace(obs, L=L)))  # Huber would shrug it off
    assert f"Without run {obs.run_id[stray]} it is" in item.message
    rows = sorted(item.values["rows"], key=lambda row: -abs(row["log_N_move"]))
    assert rows[0]["name"] == f"run {obs.run_id[stray]}"
    assert rows[0]["residual"] > 0.05
    assert abs(rows[0]["log_N_move"]) > 2 * abs(rows[1]["log_N_move"])


def test_the_drop_path_drops_by_loss(isoflop_runs):
    obs = isoflop_runs(BUDGETS, noise=NOISE, seed=6)
    rows = drop_path(context_of(obs)).values["rows"]
    assert [r["k"] for r in rows] == [1, 2, 5, 10, 20]
    assert [r["n"] for r in rows] == [53, 52, 49, 44, 34]
    rest = obs.where(np.argsort(-obs.L)[5:])
    law, _ = fit_loss_law(rest.N, rest.D, rest.L)
    assert rows[2]["beta"] == pytest.approx(law.beta, rel=1e-6)


@pytest.mark.slow
def test_a_law_that_changes_at_small_models_shows_in_the_windows(isoflop_runs):
    """Models under a size lose 4% that no law knows of: windows of N disagree by many deviations."""
    obs = isoflop_runs(BUDGETS, noise=NOISE, seed=7, half_width=8)
    small = np.quantile(obs.N, 0.25) > obs.N
    item = window_path(context_of(replace(obs, L=obs.L * np.where(small, 1.04, 1.0))))
    assert item.verdict == "warning"
    rows = item.values["rows"]
    assert len(rows) == 12
    z = [r["log_N_move"] / r["log_N_sd"] for r in rows if r["window"].startswith("N")]
    assert np.abs(z).max() > 2.5
    assert window_path(context_of(obs)).verdict == "passed"


def test_estimated_refits_agree_with_minimised_ones(isoflop_runs, monkeypatch):
    """Of many parts only those that move N_opt most are minimised."""
    obs = isoflop_runs(BUDGETS, noise=NOISE, seed=3)
    exact = leave_one_run_out(context_of(obs))
    minimised = []
    real = context_module.refit_loss_law
    monkeypatch.setattr(
        context_module,
        "refit_loss_law",
        lambda *a, **k: minimised.append(len(a[3])) or real(*a, **k),
    )
    monkeypatch.setattr(context_module, "MAX_REFITS", 10)
    monkeypatch.setattr(context_module, "N_EXACT", 5)
    estimated = leave_one_run_out(context_of(obs))
    assert minimised == [5]
    assert (estimated.verdict, estimated.message) == (exact.verdict, exact.message)
    pairs = zip(estimated.values["rows"], exact.values["rows"], strict=True)
    errors = [abs(x["log_N_move"] - y["log_N_move"]) / y["log_N_sd"] for x, y in pairs]
    assert max(errors) < 0.3
    assert np.median(errors) < 0.03


def test_refits_for_absolute_residuals_are_all_minimised(isoflop_runs, monkeypatch):
    """One Newton step is not accurate where the objective has kinks."""
    obs = isoflop_runs(BUDGETS[:3], noise=NOISE, seed=3)
    context = unresampled_context(obs, objective="lad")
    exact = leave_one_run_out(context)
    monkeypatch.setattr(context_module, "MAX_REFITS", 10)
    monkeypatch.setattr(context_module, "N_EXACT", 5)
    assert leave_one_run_out(context) == exact
