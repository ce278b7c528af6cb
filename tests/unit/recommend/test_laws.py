"""The saturating law: fitted where the five-parameter law misses, selected by held-out errors."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from public_data import public

from chinchilla.config import FitCommand
from chinchilla.fit import FitResults, fit_all
from chinchilla.fit.loss_law import log_N_opt
from chinchilla.observations.table import Observations
from chinchilla.recommend.choose import choose
from chinchilla.recommend.forecast import RecommendedModel, forecasts_of_laws
from chinchilla.recommend.held_out import errors_of_laws
from chinchilla.recommend.isoflop_minima import minima_of
from chinchilla.recommend.laws import (
    SATURATING,
    CandidateLaw,
    candidate_laws,
    fit_windows,
    log_loss,
    optimum,
)

HOW = {"huber_delta": 1e-3, "objective": "huber"}
TRUE = np.array([1.8, 4e4, 4e6, 0.62, 0.72, 0.6, 2e8])  # E, A, B, alpha, beta, q, D0
BUDGETS = np.geomspace(1e17, 3e19, 6)


def sweep(theta=TRUE, noise=0.0, seed=0, n_sizes=11, half_width=20.0) -> Observations:
    """IsoFLOP runs of six budgets on a law of seven parameters, C = 6*N*D."""
    rng = np.random.default_rng(seed)
    C = np.repeat(BUDGETS, n_sizes)
    best = np.repeat([float(np.exp(optimum(theta, None, c)[0][0])) for c in BUDGETS], n_sizes)
    N = best * np.tile(np.geomspace(1 / half_width, half_width, n_sizes), len(BUDGETS))
    D = C / (6 * N)
    L = np.exp(log_loss(theta, np.log(N), np.log(D)) + noise * rng.normal(size=len(N)))
    return Observations.of(N=N, D=D, L=L, C=C, budget_flops=C)


def saturating_law_of(obs: Observations) -> CandidateLaw:
    law = candidate_laws(obs, fit_windows(obs, HOW))[-1]
    assert law.name == SATURATING
    return law


def recommended(obs: Observations) -> RecommendedModel:
    command = FitCommand(
        observations="-", out_dir="-", n_bootstrap=0, approaches=["isoflop", "parametric"]
    )
    found = choose(obs, fit_all(obs, None, command), HOW)
    assert found is not None
    return found


def test_runs_on_the_law_give_it_back():
    """Noise of .1%: losses within .2% at the optima of 10 and 100 times the largest C, N_opt within 10%."""
    found = saturating_law_of(sweep(noise=1e-3))
    assert found.misfit < 1.5e-3
    with pytest.raises(AssertionError, match="q and D0"):
        _ = found.law
    for times in (10, 100):
        (x,), (y,) = optimum(found.theta, None, times * BUDGETS[-1])
        (x_true,), (y_true,) = optimum(TRUE, None, times * BUDGETS[-1])
        assert x == pytest.approx(x_true, abs=0.1)
        assert y == pytest.approx(y_true, abs=2e-3)


def test_a_law_that_holds_needs_no_saturating_law():
    """Runs on the five-parameter law with noise of .3%."""
    obs = sweep(np.array([1.7, 400.0, 400.0, 0.34, 0.28, 1.0, 0.0]), noise=3e-3)
    windows = fit_windows(obs, HOW)
    assert candidate_laws(obs, windows) == windows


def test_under_thirty_runs_have_no_saturating_law():
    obs = sweep(n_sizes=11).where(np.arange(66) % 11 % 3 == 0)
    windows = fit_windows(obs, HOW)
    assert len(obs) < 30
    assert candidate_laws(obs, windows) == windows


def test_a_diverged_run_is_left_out():
    obs = sweep(noise=1e-3)
    L = obs.L.copy()
    L[30] *= 1.5
    found = saturating_law_of(replace(obs, L=L))
    assert np.flatnonzero(found.outliers).tolist() == [30]
    assert np.flatnonzero(~found.keep).tolist() == [30]


@pytest.mark.parametrize("q", [1.0, 0.4])
def test_without_d0_the_optimum_is_that_of_the_five_parameter_law(q):
    """q moves no optimum where D0 is zero; the grid that D0 needs finds the same one."""
    theta = np.array([1.7, 400.0, 900.0, 0.34, 0.38, q, 0.0])
    closed = log_N_opt(theta[None, :5], None, np.array([1e21]))[0, 0]
    assert optimum(theta, None, 1e21)[0][0] == pytest.approx(closed, abs=1e-12)
    theta[6] = 1.0  # one token
    assert optimum(theta, None, 1e21)[0][0] == pytest.approx(closed, abs=1e-4)


def test_a_law_without_optimum_is_nan():
    theta = np.array([1.7, 400.0, 1e-300, 0.34, 0.38, 1.0, 1e9])  # tokens cost nothing
    assert np.isnan(optimum(theta, None, 1e21)).all()


def test_the_saturating_law_is_selected_where_it_predicts_larger_budgets_better(monkeypatch):
    """Runs on it: approach 3 improves, and where it is recommended the reason names what moved."""
    obs = sweep(noise=2e-3)
    both = recommended(obs)
    assert not any(SATURATING in text for text in both.reasons)  # approach 2 is recommended
    lone = recommended(replace(obs, budget_flops=np.full(len(obs), np.nan)))
    assert lone.approach == "parametric"
    (reason,) = [text for text in lone.reasons if SATURATING in text]
    assert "The residuals of approach 3's law are" in reason
    assert "of approach 3's weight in N_opt" in reason
    monkeypatch.setattr("chinchilla.recommend.choose.candidate_laws", lambda obs, windows: windows)
    power = recommended(obs)
    for q in ("N", "L"):
        assert both.held_out["parametric"][q] < 0.6 * power.held_out["parametric"][q]


def test_its_forecast_survives_its_file():
    obs = sweep(noise=1e-3)
    found = recommended(replace(obs, budget_flops=np.full(len(obs), np.nan)))
    assert found.N is not None
    assert found.N.names[-1] == SATURATING
    again = RecommendedModel.from_dict(found.to_dict(), "frontier.json")
    assert again.N is not None
    assert again.N.log_at(1e21) == found.N.log_at(1e21)


@pytest.mark.slow
def test_public_sweeps_that_the_law_misses_are_predicted_better_with_it():
    """Ten sweeps without the budgets above an eighth of the largest, predicted there by approach 3."""
    path = public("porian_refinedweb_isoflop.csv")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    errors: dict[str, list[list[float]]] = {"power": [], "both": []}
    for config in dict.fromkeys(row["config"] for row in rows):
        own = [row for row in rows if row["config"] == config]
        columns = {k: [float(r[k]) for r in own] for k in ("N", "D", "L", "C", "budget_flops")}
        obs = Observations.of(**columns)
        truth = minima_of(obs, FitResults.of({}, {}, obs))
        kept = obs.where(obs.budget_flops <= obs.budget_flops.max() / 8 * 1.01)
        fits = FitResults.of({}, {}, kept)
        windows = fit_windows(kept, HOW)
        for name, laws in (("power", windows), ("both", candidate_laws(kept, windows))):
            pairs = errors_of_laws(kept, laws, minima_of(kept, fits), fits.cost, HOW)
            logs = [f.log_at(float(truth.C[-1]), fits.cost) for f in forecasts_of_laws(laws, pairs).values()]  # fmt: skip
            errors[name].append(np.abs(logs - np.log([truth.N[-1], truth.L[-1]])).tolist())
    N, L = (np.mean(errors["both"], axis=0) / np.mean(errors["power"], axis=0)).tolist()
    assert N < 0.75  # .135 for .198
    assert L < 0.7  # 3.7% for 5.8%
