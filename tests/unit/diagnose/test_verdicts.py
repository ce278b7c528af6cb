"""All diagnostics together: verdicts, their order, and diagnostics.json."""

from dataclasses import replace

import numpy as np
import pytest
from diagnosed import BUDGETS, NOISE, fitted

from chinchilla.config import FitCommand
from chinchilla.core.errors import InputError
from chinchilla.core.files.reading import sha256_file
from chinchilla.diagnose.findings import VERDICTS
from chinchilla.diagnose.verdicts import ITEMS, Diagnostics, diagnose
from chinchilla.fit import fit_all
from chinchilla.fit.loss_law import named_law
from chinchilla.observations.table import Observations


def test_a_true_law_causes_no_warning(isoflop_runs):
    """Six budgets of nine sizes on the law, with the counts of N and C not stated."""
    obs = isoflop_runs(BUDGETS, noise=NOISE, seed=1)
    found = diagnose(obs, fitted(obs), n_bootstrap=60)
    assert found.count("warning") == found.count("unavailable") == 0
    assert found.count("passed") >= len(ITEMS) / 2
    assert found.items["conventions"].verdict == "passed"
    assert "n_convention and flop_convention not stated" in found.items["conventions"].message


@pytest.mark.slow
def test_few_sweeps_from_a_true_law_get_any_warning(isoflop_runs, scattered_runs):
    """One of the 12 at most: the rate aimed at is one in twenty (scripts/studies/false_warnings.py)."""
    warned = 0
    for seed in range(6):
        for obs in (
            isoflop_runs(BUDGETS[:5], noise=NOISE, seed=seed, half_width=5),
            scattered_runs(noise=NOISE, seed=seed),
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


def test_items_are_ordered_by_verdict_and_effect_and_one_comes_first(isoflop_runs):
    obs = isoflop_runs(BUDGETS, noise=NOISE, seed=8)
    L = np.where(obs.budget_flops > 1e21, obs.L * 1.05, obs.L)
    found = diagnose(obs := replace(obs, L=L), fitted(obs), n_bootstrap=60)
    order = [(VERDICTS.index(i.verdict), -i.relative_effect) for i in found.items.values()]
    assert order == sorted(order)
    first = next(iter(found.items.values()))
    assert first.verdict == "warning"
    assert found.first.startswith(f"Do this first: {first.advice} (")
    assert sum(found.count(v) for v in VERDICTS) == len(ITEMS)
    assert f"{found.count('warning')} warning" in found.summary


def test_an_unavailable_diagnostic_states_the_reason(scattered_runs, observe, law):
    found = diagnose(obs := scattered_runs(noise=0.003), fitted(obs))
    assert [n for n, item in found.items.items() if item.verdict == "unavailable"] == [
        "approach_2_against_3"
    ]
    parts = found.items["leave_one_out"].parts | found.items["curvature"].parts
    assert parts["budgets"].message == "the runs have 0 IsoFLOP budgets and two are needed."
    assert parts["quadratic_term"].message.startswith("approach 2 was not fitted")
    assert "no run has a budget" in found.items["approach_2_against_3"].message
    N = np.geomspace(1e8, 1e10, 12)
    none = diagnose(obs := observe(N, 20 * N, law(N, 20 * N)), fitted(obs))
    assert none.items["identifiability"].verdict == "warning"
    assert none.items["identifiability"].effect is None
    assert next(iter(none.items)) == "identifiability"
    for name in ("leave_one_out", "windows", "extrapolation"):
        assert "cannot separate the effects of N and D" in none.items[name].message
    found = diagnose(obs := scattered_runs(noise=0.003), fitted(obs, approaches=["envelope"]))
    assert found.items["identifiability"].verdict == "unavailable"  # approach 3 was not requested


def test_runs_that_are_not_those_fitted_are_refused(scattered_runs):
    obs = scattered_runs()
    with pytest.raises(InputError, match=r"has 39 runs, but frontier.json was fitted to 40"):
        diagnose(obs.where(np.arange(39)), fitted(obs, 0))


def test_the_file_survives_and_belongs_to_its_frontier(isoflop_runs, tmp_path):
    obs = isoflop_runs(BUDGETS[:4], noise=NOISE, seed=1)
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
