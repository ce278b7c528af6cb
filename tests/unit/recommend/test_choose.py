"""Which approach is recommended, and what must not change it."""

from dataclasses import replace

import numpy as np
import pytest
from recommended import BUDGETS, best, fitted, inside, starved

from chinchilla.core.errors import Refusal
from chinchilla.observations.table import Observations
from chinchilla.recommend import recommendation
from chinchilla.recommend.choose import decide
from chinchilla.recommend.evaluate import default_budget
from chinchilla.recommend.forecast import LINE, Forecast
from chinchilla.recommend.held_out import HeldOutErrors, error_scale


def test_profiles_that_leave_the_law_do_not_bias_it(isoflop_runs, law):
    """Wide profiles: approach 3 on all runs is off by over a third, the recommendation by under 15%."""
    fits = fitted(starved(isoflop_runs(BUDGETS, n_sizes=15, half_width=30, noise=1e-3)))
    r = recommendation(fits, 1e22)
    N, L = best(law, 1e22)
    assert r.approach == "isoflop"
    assert abs(np.log(float(fits.fitted["parametric"].N_opt(1e22)) / N)) > 0.3
    assert abs(np.log(r.N / N)) < 0.15
    assert abs(np.log(r.L / L)) < 0.01
    assert inside(N, r.N_interval80)
    errors = fits.recommended_model.held_out
    assert errors["isoflop"]["N"] < errors["parametric"]["N"]
    assert "Approach 2 (isoflop) is recommended" in r.reasons[0]
    assert "forecasts of the sweep's own larger budgets" in r.reasons[0]


def test_without_isoflop_budgets_approach_3_answers(scattered_runs, law):
    fits = fitted(scattered_runs(noise=1e-3))
    C = default_budget(fits)
    r = recommendation(fits, C)
    assert r.approach == "parametric"
    N, L = best(law, C)
    assert abs(np.log(r.N / N)) < 0.1
    assert inside(N, r.N_interval80)
    assert inside(L, r.L_interval80)


def test_noise_alone_has_no_answer(isoflop_runs):
    """No approach finds a signal, and nothing stands in for them."""
    runs, refused = isoflop_runs(BUDGETS[:5]), 0
    for seed in range(4):
        noise = np.exp(0.02 * np.random.default_rng(seed).normal(size=len(runs)))
        fits = fitted(replace(runs, L=3 * noise))
        if not fits.fitted:
            refused += 1
            assert fits.recommended is None
            with pytest.raises(Refusal, match="no approach has an answer"):
                recommendation(fits, 1e21)
    assert refused >= 3
    shuffled = replace(runs, L=np.full(len(runs), 3.0))
    assert fitted(shuffled).recommended is None


# What must not matter, by less than the interval: how a table is written, and one absurd run.


def moved(obs: Observations, how) -> float:
    """How far ln N_opt at ten times the largest C moves, over half the width of its 80% interval."""
    before = recommendation(fitted(obs), 1e22)
    after = recommendation(fitted(how(obs)), 1e22)
    return abs(np.log(after.N / before.N)) / (
        np.log(before.N_interval80[1] / before.N_interval80[0]) / 2
    )


def frame(obs: Observations, **changed) -> Observations:
    columns = {n: getattr(obs, n) for n in ("run_id", "budget_flops", "C", "N", "D", "L")}
    return Observations.from_frame({**columns, **changed})


def absurd(obs: Observations, i: int, factor: float) -> Observations:
    L = obs.L.copy()
    L[i] *= factor
    return replace(obs, L=L)


@pytest.mark.parametrize(
    ("how", "most"),
    [
        (lambda o: o.where(np.random.default_rng(1).permutation(len(o))), 1e-6),
        (lambda o: replace(o, budget_flops=o.budget_flops * (1 + 1e-9)), 1e-6),
        (lambda o: replace(o, budget_flops=np.where(o.budget_flops == 1e20, 1.02e20, o.budget_flops)), 1e-6),
        (lambda o: frame(o, run_id=np.concatenate([o.run_id[5:], o.run_id[:5]])), 1e-6),
        (lambda o: Observations.from_frame({
            **{n: np.concatenate([getattr(o, n)] * 2) for n in ("run_id", "budget_flops", "C", "N", "D", "L")}
        }), 1e-6),
        (lambda o: Observations.from_frame(
            {"run_id": o.run_id, "budget": o.budget_flops, "flops": o.C, "Params (M)": o.N / 1e6,
             "Tokens (B)": o.D / 1e9, "loss": o.L},
            columns={"N": "Params (M)", "D": "Tokens (B)"}), 1e-6),
        (lambda o: absurd(o, 22, 0.5), 1.0),
        (lambda o: absurd(o, 0, 2.0), 1.0),
        (lambda o: absurd(o, 58, 1.2), 1.0),
        (lambda o: absurd(o, 58, 0.8), 1.0),
    ],
    ids=["permuted", "1e-9 of a budget", "another label", "other names", "twice", "other units",
         "half the loss", "twice the loss", "largest budget up", "largest budget down"],
)  # fmt: skip
def test_what_must_not_matter_moves_it_by_less_than_its_interval(isoflop_runs, how, most):
    assert moved(isoflop_runs(BUDGETS, noise=3e-3), how) < most


@pytest.mark.parametrize(
    ("two", "three", "n_minima", "approach"),
    [
        ((20, 0.1, 0.01), (20, 0.07, 0.007), 5, "parametric"),
        ((20, 0.1, 0.01), (20, 0.07, 0.009), 5, "isoflop"),  # the loss is not clearly better
        ((20, 0.1, 0.01), (20, None, 0.001), 5, "isoflop"),
        ((9, 0.1, 0.01), (9, 0.01, 0.001), 5, "isoflop"),  # too few forecasts
        ((20, 0.1, 0.01), None, 5, "isoflop"),
        ((0, None, None), (5, None, 0.01), 2, "parametric"),  # too few minima
    ],
)
def test_the_decision_follows_from_held_out_errors_and_the_number_of_minima(
    two, three, n_minima, approach
):
    line = Forecast("N", LINE, ["all"], [0.0], [[0.0, 0.5]], [], error_scale(HeldOutErrors.of(), "N"))  # fmt: skip
    known = {"isoflop": two, "parametric": three}
    summaries = {k: dict(zip(("n", "N", "L"), v, strict=True)) for k, v in known.items() if v}
    decision = decide({name: {"N": line} for name in summaries}, summaries, n_minima, True)
    assert decision is not None
    assert decision[0] == approach
    rule = "Approach 2 is the default; approach 3 replaces it only if both of its errors are below 0.8 times"
    assert (rule in decision[1]) == (approach == "isoflop" and three is not None)
    steep = {"isoflop": {"N": replace(line, members=[[0.0, 1.1]])}}
    assert decide(steep, summaries, n_minima, True) is None
