"""Diagnostics of runs whose law, bend, outlier or trend is known because it was put there."""

from dataclasses import replace

import numpy as np
import pytest

from chinchilla.config import FitCommand
from chinchilla.core.errors import FitError, InputError
from chinchilla.core.files import sha256_file
from chinchilla.diagnose.context import Context
from chinchilla.diagnose.curvature import largest_compute, slopes
from chinchilla.diagnose.extrapolation import extrapolation_in_C, extrapolation_in_N, score
from chinchilla.diagnose.findings import VERDICTS, Finding
from chinchilla.diagnose.minima import approach_2_against_3, quadratic
from chinchilla.diagnose.refits import (
    drop_path,
    leave_one_budget_out,
    leave_one_run_out,
    window_path,
)
from chinchilla.diagnose.residuals import residuals
from chinchilla.diagnose.verdicts import ITEMS, Diagnostics, diagnose
from chinchilla.fit import FitResults, fit_all, fit_parametric
from chinchilla.fit.loss_law import named_law
from chinchilla.fit.parametric.approach3 import fit_loss_law
from chinchilla.observations.table import Observations

BUDGETS = (6e18, 2e19, 6e19, 2e20, 6e20, 2e21)


def fitted(
    obs: Observations, n_bootstrap: int = 60, approaches=("isoflop", "parametric")
) -> FitResults:
    command = FitCommand(
        observations="runs.csv",
        out_dir="fits",
        approaches=list(approaches),
        n_bootstrap=n_bootstrap,
    )
    return fit_all(obs, None, command)


def context_of(obs: Observations, n_bootstrap: int = 60, **more) -> Context:
    return Context(obs, fitted(obs, n_bootstrap, **more), 10 * float(obs.C.max()), n_bootstrap)


def least_squares_context(obs: Observations) -> Context:
    """Fitted by least squares, no bootstrap: the standard error of equal errors is then exact."""
    frontier = fit_parametric(obs, n_bootstrap=0, objective="least_squares")
    context = Context(
        obs, FitResults.of({"parametric": frontier}, {}, obs), 10 * float(obs.C.max())
    )
    assert context.loss_settings["objective"] == "least_squares"
    assert context.se_a[1].startswith("equal errors")
    return context


@pytest.fixture(scope="module")
def n_noise() -> float:
    return 0.004  # of ln L, standard deviation


# ------------------------------------------------------------------ a true law


def test_a_true_law_causes_no_warning(isoflop_runs, n_noise):
    """Six budgets of nine sizes on the law, with the counts of N and C not stated."""
    obs = isoflop_runs(BUDGETS, noise=n_noise, seed=1)
    found = diagnose(obs, fitted(obs), n_bootstrap=60)
    assert found.count("warning") == found.count("unavailable") == 0
    assert found.count("passed") >= len(ITEMS) / 2
    assert found.items["conventions"].verdict == "passed"
    assert "n_convention and flop_convention not stated" in found.items["conventions"].note


@pytest.mark.slow
def test_few_sweeps_from_a_true_law_get_any_warning(isoflop_runs, scattered_runs, n_noise):
    """One of the 12 at most: the rate aimed at is one in twenty (scripts/studies/false_warnings.py)."""
    warned = 0
    for seed in range(6):
        for obs in (
            isoflop_runs(BUDGETS[:5], noise=n_noise, seed=seed, half_width=5),
            scattered_runs(noise=n_noise, seed=seed),
        ):
            warned += diagnose(obs, fitted(obs, 200), n_bootstrap=200).count("warning") > 0
    assert warned <= 1


@pytest.mark.slow
def test_noise_that_hides_a_relevant_move_is_inconclusive(isoflop_runs):
    """The same runs with ten times the noise: no diagnostic of the law's form may pass."""

    def verdicts(noise: float) -> dict[str, str]:
        obs = isoflop_runs(BUDGETS[:4], noise=noise, seed=4)
        found = diagnose(obs, fitted(obs, 100), n_bootstrap=100)
        for item in found.items.values():
            if item.verdict == "inconclusive":
                assert item.relative_effect >= 1
                assert item.advice
        return {name: item.verdict for name, item in found.items.items()}

    asked = ("windows", "curvature", "approach_2_against_3", "leave_one_out", "extrapolation")
    quiet, loud = verdicts(1e-4), verdicts(0.01)
    assert {quiet[name] for name in asked} == {"passed"}
    assert {loud[name] for name in asked} == {"inconclusive"}


def test_items_are_ordered_by_verdict_and_effect_and_one_comes_first(isoflop_runs, n_noise):
    obs = isoflop_runs(BUDGETS, noise=n_noise, seed=8)
    L = np.where(obs.budget_flops > 1e21, obs.L * 1.05, obs.L)
    found = diagnose(obs := replace(obs, L=L), fitted(obs), n_bootstrap=60)
    order = [(VERDICTS.index(i.verdict), -i.relative_effect) for i in found.items.values()]
    assert order == sorted(order)
    first = next(iter(found.items.values()))
    assert first.verdict == "warning"
    assert found.first.startswith(f"Do this first: {first.advice} (")
    assert sum(found.count(v) for v in VERDICTS) == len(ITEMS)
    assert f"{found.count('warning')} warning" in found.summary


def test_moves_are_as_large_as_expected_of_a_true_law(isoflop_runs, n_noise):
    """Least squares, equal errors: z of the exponent without the last budget, and of the smaller
    half of C, have mean square 1 (over 40 worlds: within a third)."""
    z = []
    for seed in range(40):
        obs = isoflop_runs(BUDGETS, noise=n_noise, seed=seed)
        context = least_squares_context(obs)
        keep = np.array([obs.budget_flops < 2e21, np.median(obs.C) >= obs.C])
        z.append(context.refit(keep).z)
    assert np.sqrt(np.mean(np.square(z), axis=0)) == pytest.approx([1, 1], rel=0.35)


def test_refits_are_fits_of_the_rest(isoflop_runs, n_noise):
    obs = isoflop_runs(BUDGETS, noise=n_noise, seed=3)
    context = context_of(obs)
    rows = leave_one_budget_out(context).values["all"]
    assert [r["budget_flops"] for r in rows] == list(BUDGETS)
    rest = obs.where(obs.budget_flops != BUDGETS[2])
    law, _ = fit_loss_law(rest.N, rest.D, rest.L)
    assert rows[2]["beta"] == pytest.approx(law.beta, rel=1e-6)
    assert rows[2]["a"] == pytest.approx(law.beta / (law.alpha + law.beta), rel=1e-6)
    assert rows[2]["log_N_opt"] == pytest.approx(context.line(law)[1], rel=1e-6)
    assert (rows[2]["n"], rows[2]["left_out"]) == (45, 9)


# ------------------------------------------------------------------ influence


def test_a_stray_run_is_named_first(isoflop_runs, n_noise):
    obs = isoflop_runs(BUDGETS, noise=n_noise, seed=5)
    stray = int(np.argmax(obs.N))
    L = obs.L.copy()
    L[stray] *= 1.10
    item = leave_one_run_out(least_squares_context(replace(obs, L=L)))  # Huber would shrug it off
    top = item.values["top"]
    assert top[0]["run_id"] == obs.run_id[stray]
    assert len(top) == 5
    assert top[0]["residual"] > 0.05
    moves = [abs(r["N_opt_change"]) for r in top]
    assert moves == sorted(moves, reverse=True)
    assert moves[0] > 2 * moves[1]


def test_the_drop_path_drops_by_loss_and_by_residual(isoflop_runs, n_noise):
    obs = isoflop_runs(BUDGETS, noise=n_noise, seed=6)
    values = drop_path(context_of(obs)).values
    for order in ("highest_loss", "largest_residual"):
        assert [r["k"] for r in values[order]] == [0, 1, 2, 5, 10, 20]
        assert [r["n"] for r in values[order]] == [54, 53, 52, 49, 44, 34]
    rest = obs.where(np.argsort(-obs.L)[5:])
    law, _ = fit_loss_law(rest.N, rest.D, rest.L)
    assert values["highest_loss"][3]["beta"] == pytest.approx(law.beta, rel=1e-6)
    assert values["highest_loss"][0]["z"] == 0


@pytest.mark.slow
def test_a_law_that_changes_at_small_models_shows_in_the_windows(isoflop_runs, n_noise):
    """Models under a size lose 4% that no law knows of: windows of N disagree by many deviations."""
    obs = isoflop_runs(BUDGETS, noise=n_noise, seed=7, half_width=8)
    small = np.quantile(obs.N, 0.25) > obs.N
    item = window_path(context_of(replace(obs, L=obs.L * np.where(small, 1.04, 1.0))))
    assert item.verdict == "warning"
    windows = {(r["of"], r["part"]): r for r in item.values["windows"]}
    assert len(windows) == 12
    assert max(abs(r["z"]) for (of, _), r in windows.items() if of == "N") > 2.5
    assert window_path(context_of(obs)).verdict == "passed"


# ------------------------------------------------------------------ curvature


def bent_runs(observe, bend: float) -> Observations:
    """Exact parabolas whose minima follow ln N = 20.5 + .5 u + bend u^2, u = ln C - ln 1e20."""
    C = np.repeat(np.geomspace(1e18, 1e22, 7), 9)
    u = np.log(C / 1e20)
    x = np.tile(np.linspace(-1.4, 1.4, 9), 7)
    N = np.exp(20.5 + 0.5 * u + bend * u**2 + x)
    return observe(N, C / (6 * N), 3 * np.exp(-0.05 * u) + 0.04 * x**2, budget=C)


@pytest.mark.parametrize("bend", [-0.03, 0.0, 0.02])
def test_the_bend_of_the_vertices_is_found_exactly(observe, bend):
    item = quadratic(context_of(bent_runs(observe, bend), approaches=["isoflop"]))
    assert item.values["exponent_change_per_decade"] == pytest.approx(
        2 * bend * np.log(10), abs=1e-9
    )
    assert item.values["exponent_at_middle"] == pytest.approx(0.5, abs=1e-9)
    low, high = item.values["ci95"]
    assert item.verdict == ("passed" if low <= 0 <= high else "warning")
    assert (item.verdict == "passed") == (bend == 0)


def test_slopes_over_thirds_are_those_of_the_points():
    C = np.geomspace(1e18, 1e21, 9)
    N = np.exp(np.where(C < 1e20, 0.6, 0.3) * np.log(C / 1e20))
    rows = slopes(C[::-1], N[::-1])
    assert [r["a"] for r in rows] == pytest.approx([0.6, 0.45, 0.3], abs=0.16)
    assert rows[0]["a"] == pytest.approx(0.6)
    assert rows[2]["a"] == pytest.approx(0.3)


def test_an_exponent_that_falls_with_compute_is_a_drift(observe, isoflop_runs, n_noise):
    """Runs of a law with a second size term, which only small models feel: a falls from .6 to .5."""
    budgets = np.geomspace(1e18, 1e22, 9)
    obs = isoflop_runs(budgets, noise=n_noise / 4, seed=2)
    bent = replace(obs, L=obs.L + 3e6 / obs.N**0.9)
    item = largest_compute(context_of(bent, approaches=["parametric"]))
    assert item.values["drifts"]
    assert item.verdict == "warning"
    a = [r["a"] for r in item.values["cuts"] if r["a"] is not None]
    assert item.advice.startswith("a falls" if a[3] > a[-1] else "a rises")
    straight = largest_compute(context_of(obs, approaches=["parametric"]))
    assert straight.verdict == "passed"


# ------------------------------------------------------------------ extrapolation


def test_score_is_the_error_of_ln_loss(scattered_runs, law):
    obs = scattered_runs()
    assert score(law, obs)["mae"] == pytest.approx(0, abs=1e-15)
    high = score(law, replace(obs, L=obs.L / 1.02))
    assert high == {
        "mae": pytest.approx(np.log(1.02)), "bias": pytest.approx(np.log(1.02)), "n": len(obs)
    }  # fmt: skip


@pytest.mark.parametrize("item", [extrapolation_in_C, extrapolation_in_N])
def test_an_exact_law_predicts_exactly_and_beats_a_power_law_in_c(isoflop_runs, item):
    found = item(context_of(isoflop_runs(BUDGETS), n_bootstrap=0))
    assert found.verdict == "passed"
    for row in found.values["windows"][1:]:
        assert row["held_out"]["mae"] < 1e-6
        assert row["power_law_in_C"]["mae"] > 1e-3
    cuts = [row["held_out"]["n"] for row in found.values["windows"]]
    assert cuts == sorted(cuts, reverse=True)


def test_losses_that_stop_falling_beyond_the_window_are_missed(isoflop_runs, n_noise):
    """A floor under the loss that only the largest budget meets: predicted too low, and said so."""
    obs = isoflop_runs(BUDGETS, noise=n_noise, seed=8)
    L = np.where(obs.budget_flops > 1e21, obs.L * 1.05, obs.L)
    found = extrapolation_in_C(context_of(replace(obs, L=L)))
    last = found.values["windows"][-1]
    assert found.verdict == "warning"
    assert last["held_out"]["bias"] == pytest.approx(-np.log(1.05), abs=0.01)
    assert last["previous_window"]["n"] == last["held_out"]["n"] == 9


# ------------------------------------------------------------------ agreement, residuals


def test_approach_2_on_a_law_is_approach_2_on_its_losses(isoflop_runs):
    """Exact losses: no misfit. Off-centre grids bias the minima, and that is said to be theirs."""
    found = approach_2_against_3(
        context_of(isoflop_runs(BUDGETS, half_width=8, off_centre=1.5), n_bootstrap=60)
    )
    assert found.verdict == "passed"
    v = found.values
    assert v["a_isoflop"] == pytest.approx(v["a_isoflop_of_law"], abs=1e-6)
    for row in v["budgets"]:
        assert row["log_difference"] == pytest.approx(0, abs=1e-6)
        assert row["N_measured"] > 1.005 * row["N_opt_of_law"]


@pytest.mark.slow
def test_profiles_that_the_law_cannot_follow_are_a_misfit(observe):
    """Minima on a curve, where those of a law lie on a line."""
    obs = bent_runs(observe, -0.03)
    noisy = replace(obs, L=obs.L * np.exp(1e-4 * np.random.default_rng(0).normal(size=len(obs))))
    assert approach_2_against_3(context_of(noisy)).verdict == "warning"


def test_residuals_report_their_spread_and_a_trend_put_there(isoflop_runs):
    obs = isoflop_runs(np.geomspace(1e18, 1e22, 12), noise=0.004, seed=9)
    plain = residuals(context_of(obs, 0, approaches=["parametric"]))
    assert plain.verdict == "passed"
    assert plain.values["sd"] == pytest.approx(0.004, rel=0.2)
    assert plain.values["kurtosis"] == pytest.approx(3, abs=1)
    u = np.log10(obs.C / 1e20)
    arch = replace(obs, L=obs.L * np.exp(-0.03 * u**2))
    arched = residuals(context_of(arch, 0, approaches=["parametric"]))
    assert arched.verdict == "warning"
    assert arched.values["trend_per_decade"]["C"]["t_bend"] < -3


# ------------------------------------------------------------------ what cannot be had, and the file


def test_an_unavailable_diagnostic_states_the_reason(scattered_runs, observe, law):
    found = diagnose(obs := scattered_runs(noise=0.003), fitted(obs))
    kinds = {name: item.kind for name, item in found.items.items() if item.verdict == "unavailable"}
    assert kinds == {"approach_2_against_3": "no_isoflop"}
    assert found.items["leave_one_out"].values["budgets"]["kind"] == "no_budgets"
    assert found.items["curvature"].values["quadratic_term"]["kind"] == "no_isoflop"
    assert "no run names one" in found.items["approach_2_against_3"].message
    N = np.geomspace(1e8, 1e10, 12)
    none = diagnose(obs := observe(N, 20 * N, law(N, 20 * N)), fitted(obs))
    assert none.a is None
    assert none.items["identifiability"].verdict == "warning"
    assert none.items["identifiability"].effect is None
    assert next(iter(none.items)) == "identifiability"
    assert {none.items[n].kind for n in ("leave_one_out", "windows", "extrapolation")} == {"no_law"}
    assert "cannot tell N from D" in none.items["windows"].message
    found = diagnose(obs := scattered_runs(noise=0.003), fitted(obs, approaches=["envelope"]))
    assert found.items["identifiability"].verdict == "unavailable"  # approach 3 was not requested


def test_a_case_without_a_law_is_a_typed_error(scattered_runs):
    obs = scattered_runs()
    with pytest.raises(FitError, match="approach 3 was not fitted") as error:
        _ = Context(obs, FitResults({}, {}, {}), 1e22).law
    assert error.value.kind == "no_law"


def test_runs_that_are_not_those_fitted_are_refused(scattered_runs):
    obs = scattered_runs()
    with pytest.raises(InputError, match=r"has 39 runs, but frontier.json was fitted to 40"):
        diagnose(obs.where(np.arange(39)), fitted(obs, 0))


def test_the_file_survives_and_belongs_to_its_frontier(isoflop_runs, n_noise, tmp_path):
    obs = isoflop_runs(BUDGETS[:4], noise=n_noise, seed=1)
    fits = fitted(obs, 20)
    fits.save(tmp_path / "frontier.json")
    assert Diagnostics.beside(tmp_path) is None
    digest = sha256_file(tmp_path / "frontier.json")
    found = diagnose(obs, fits, n_bootstrap=50, frontier_sha256=digest)
    found.save(tmp_path / "diagnostics.json")
    assert Diagnostics.load(tmp_path / "diagnostics.json") == found
    assert Diagnostics.beside(tmp_path) == found
    fitted(obs, 0).save(tmp_path / "frontier.json")
    assert Diagnostics.beside(tmp_path) is None
    (tmp_path / "diagnostics.json").write_text('{"schema": 1}')
    with pytest.raises(InputError, match=r"schema 1 .* Run `chinchilla diagnose` again"):
        Diagnostics.load(tmp_path / "diagnostics.json")
    changed = replace(found, items={"windows": Finding("ok", "x.")})
    changed.save(tmp_path / "diagnostics.json")
    with pytest.raises(InputError, match=r"windows: verdict 'ok' is not one of warning"):
        Diagnostics.load(tmp_path / "diagnostics.json")


def test_losses_exactly_on_a_law_cause_no_warning():
    """Moves by rounding are not moves, whatever their z."""
    law = named_law("hoffmann")
    C = np.repeat(np.geomspace(1e18, 1e21, 7), 7)
    N = np.tile(np.geomspace(0.25, 4, 7), 7) * 0.6 * (C / 6) ** 0.4565
    D = C / 6 / N
    conventions = {"flop_convention": "six_nd", "n_convention": "total"}
    obs = Observations.of(N=N, D=D, L=law(N, D), C=C, budget_flops=C, **conventions)
    command = FitCommand(observations="x", out_dir="x", n_bootstrap=60)
    assert diagnose(obs, fit_all(obs, None, command), n_bootstrap=60).count("warning") == 0
