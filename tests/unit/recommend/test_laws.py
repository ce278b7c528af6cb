"""The saturating law: fitted where the five-parameter law misses, selected by held-out errors."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from public_data import public

from chinchilla.config import FitCommand
from chinchilla.core.errors import InputError
from chinchilla.fit import FitResults, fit_all
from chinchilla.fit.loss_law import log_N_opt
from chinchilla.fit.parametric.solver import fit_loss_law
from chinchilla.observations.table import Observations
from chinchilla.recommend.choose import choose
from chinchilla.recommend.forecast import Forecast, RecommendedModel, forecasts_of_laws
from chinchilla.recommend.held_out import error_scale, errors_of_laws
from chinchilla.recommend.isoflop_minima import minima_of
from chinchilla.recommend.laws import (
    candidate_laws,
    fit_saturating_law,
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


def everything(obs: Observations) -> np.ndarray:
    return np.ones(len(obs), bool)


def recommended(obs: Observations, approach3_law: str) -> RecommendedModel:
    command = FitCommand(
        observations="-", out_dir="-", n_bootstrap=0, approaches=["isoflop", "parametric"]
    )
    found = choose(obs, fit_all(obs, None, command), HOW, approach3_law)
    assert found is not None
    return found


def test_runs_on_the_law_give_it_back():
    """Noise of .1%: losses within .2% at the optima of 10 and 100 times the largest C, N_opt within 10%."""
    obs = sweep(noise=1e-3)
    law, _ = fit_loss_law(obs.N, obs.D, obs.L)
    found = fit_saturating_law(obs, law, everything(obs))
    assert found is not None
    assert found.misfit < 1.5e-3
    for times in (10, 100):
        (x,), (y,) = optimum(found.theta, None, times * BUDGETS[-1])
        (x_true,), (y_true,) = optimum(TRUE, None, times * BUDGETS[-1])
        assert x == pytest.approx(x_true, abs=0.1)
        assert y == pytest.approx(y_true, abs=2e-3)


def test_a_law_that_holds_needs_no_saturating_law():
    """Runs on the five-parameter law with noise of .3%: nothing is fitted, unless it is asked for."""
    obs = sweep(np.array([1.7, 400.0, 400.0, 0.34, 0.28, 1.0, 0.0]), noise=3e-3)
    law, _ = fit_loss_law(obs.N, obs.D, obs.L)
    assert fit_saturating_law(obs, law, everything(obs)) is None
    asked = fit_saturating_law(obs, law, everything(obs), always=True)
    assert asked is not None
    assert log_loss(np.array(asked.theta), np.log(obs.N), np.log(obs.D)) == pytest.approx(
        np.log(law(obs.N, obs.D)), abs=5e-3
    )
    assert recommended(obs, "auto") == recommended(obs, "power")


def test_under_thirty_runs_have_no_saturating_law():
    obs = sweep(n_sizes=11).where(np.arange(66) % 11 % 3 == 0)
    law, _ = fit_loss_law(obs.N, obs.D, obs.L)
    assert len(obs) < 30
    assert fit_saturating_law(obs, law, everything(obs), always=True) is None


def test_a_diverged_run_is_left_out():
    obs = sweep(noise=1e-3)
    L = obs.L.copy()
    L[30] *= 1.5
    obs = Observations.of(N=obs.N, D=obs.D, L=L, C=obs.C, budget_flops=obs.budget_flops)
    law, _ = fit_loss_law(obs.N, obs.D, obs.L)
    found = fit_saturating_law(obs, law, everything(obs))
    assert found is not None
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


def test_the_saturating_law_is_selected_where_it_predicts_larger_budgets_better():
    """Runs on it: approach 3 improves, and where it is recommended the reason names what moved."""
    obs = sweep(noise=2e-3)
    auto, power = recommended(obs, "auto"), recommended(obs, "power")
    assert not any(
        "the saturating law" in text for text in auto.reasons
    )  # approach 2 is recommended
    lone = recommended(replace(obs, budget_flops=np.full(len(obs), np.nan)), "auto")
    assert lone.approach == "parametric"
    (said,) = [text for text in lone.reasons if "the saturating law" in text]
    assert "misses its runs by" in said
    assert "of approach 3's weight in N_opt" in said
    assert not any("the saturating law" in text for text in power.reasons)
    for q in ("N", "L"):
        assert auto.held_out["parametric"][q] < 0.6 * power.held_out["parametric"][q]


def test_it_can_be_used_alone_and_survives_its_file():
    """approach3_law=saturating: the recommendation of three budgets is its own, as a file keeps it."""
    obs = sweep(noise=1e-3)
    fits = fit_all(obs, None, FitCommand(observations="-", out_dir="-", approaches=["parametric"], n_bootstrap=0))  # fmt: skip
    obs = Observations.of(N=obs.N, D=obs.D, L=obs.L, C=obs.C * (1 + 0.2 * np.sin(np.arange(len(obs)))))  # fmt: skip
    found = choose(obs, fits, HOW, "saturating")
    assert found is not None
    assert found.approach == "parametric"
    assert found.N is not None
    assert found.N.names == ["the saturating law"]
    value = found.to_dict()
    again = RecommendedModel.from_dict(value, "frontier.json")
    assert again.N is not None
    assert again.N.log_at(1e21) == found.N.log_at(1e21)
    value["N"]["members"][0] = value["N"]["members"][0][:5]
    with pytest.raises(InputError, match="members and scores do not match"):
        RecommendedModel.from_dict(value, "frontier.json")


def test_a_member_without_optimum_is_ignored():
    none = [1.7, 400.0, 1e-300, 0.34, 0.38, 1.0, 1e9]
    forecast = Forecast("N", "law", ["a", "b"], [0.1, 0.1], [none, list(TRUE)], [], error_scale([], "N"))  # fmt: skip
    assert forecast.log_at(1e21) == pytest.approx(optimum(TRUE, None, 1e21)[0][0])


def test_an_unknown_law_is_refused():
    with pytest.raises(InputError, match="approach3_law='farseer': choose one of auto, power"):
        FitCommand(observations="-", out_dir="-", approach3_law="farseer")


@pytest.mark.slow
def test_public_sweeps_that_the_law_misses_are_predicted_better_with_it():
    """Ten sweeps without the budgets above an eighth of the largest, predicted there by approach 3."""
    path = public("porian_refinedweb_isoflop.csv")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    errors: dict[str, list[list[float]]] = {"power": [], "auto": []}
    for name in dict.fromkeys(row["config"] for row in rows):
        own = [row for row in rows if row["config"] == name]
        columns = {k: [float(r[k]) for r in own] for k in ("N", "D", "L", "C", "budget_flops")}
        obs = Observations.of(**columns)
        truth = minima_of(obs, FitResults.of({}, {}, obs))
        kept = obs.where(obs.budget_flops <= obs.budget_flops.max() / 8 * 1.01)
        fits = FitResults.of({}, {}, kept)
        for law, found in errors.items():
            laws = candidate_laws(kept, fit_windows(kept, HOW), law)
            pairs = errors_of_laws(kept, laws, minima_of(kept, fits), fits.cost, HOW)
            logs = [f.log_at(float(truth.C[-1]), fits.cost) for f in forecasts_of_laws(laws, pairs).values()]  # fmt: skip
            found.append(np.abs(logs - np.log([truth.N[-1], truth.L[-1]])).tolist())
    N, L = (np.mean(errors["auto"], axis=0) / np.mean(errors["power"], axis=0)).tolist()
    assert N < 0.75  # .135 for .198
    assert L < 0.7  # 3.7% for 5.8%
