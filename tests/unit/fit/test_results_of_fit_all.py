"""fit_all: the observations that each approach gets, and the file."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from chinchilla.config import FitCommand
from chinchilla.fit import FITS, FitResults, fit_all


@pytest.fixture
def command(tmp_path):
    return FitCommand(observations="runs.csv", out_dir=str(tmp_path), n_bootstrap=20)


def test_three_approaches_agree_on_runs_drawn_from_one_law(isoflop_runs, law, command):
    fits = fit_all(isoflop_runs(np.geomspace(6e18, 3e21, 9)), None, command)
    assert list(fits.fitted) == ["envelope", "isoflop", "parametric"]
    assert fits.refused == {}
    for fit in fits.fitted.values():
        assert fit.N_opt.exponent == pytest.approx(law.beta / (law.alpha + law.beta), abs=0.02)
        assert fit.conventions.keys() == {"flop_convention", "n_convention", "loss_kind"}
        assert fit.settings["interval"].endswith(", 20 resamples")
        assert fit.n_runs == 81


def test_a_refused_approach_does_not_stop_the_others(scattered_runs, command):
    fits = fit_all(scattered_runs(), None, command)
    assert "parametric" in fits.fitted
    assert fits.refused.keys() == {"envelope", "isoflop"}
    assert fits.refused["envelope"].kind == "no_overlap"
    assert "no run has a budget" in fits.refused["isoflop"].reason


def test_curves_go_to_the_envelope_and_their_ends_to_the_others(scattered_runs, observe, command):
    ends = scattered_runs()
    D = np.concatenate([0.5 * ends.D, ends.D])
    N, L = np.tile(ends.N, 2), np.concatenate([1.3 * ends.L, ends.L])
    curves = observe(N, D, L, run_id=np.tile(ends.run_id, 2))
    mixed = fit_all(curves, None, command).fitted
    apart = fit_all(ends, curves, command).fitted
    assert mixed["parametric"].law.alpha == pytest.approx(apart["parametric"].law.alpha)
    assert mixed["parametric"].n_runs == len(ends)
    assert mixed.get("envelope") == apart.get("envelope")


def test_only_the_given_approaches_are_fitted(scattered_runs, command):
    command.approaches = ["parametric"]
    fits = fit_all(scattered_runs(), None, command)
    assert list(fits.fitted) == ["parametric"]
    assert not fits.refused


def test_fits_and_refusals_survive_their_file(isoflop_runs, scattered_runs, command, tmp_path):
    for obs in (isoflop_runs([1e19, 1e20, 1e21], noise=1e-3), scattered_runs()):
        fits = fit_all(obs, None, command)
        fits.save(tmp_path / "frontier.json")
        assert FitResults.load(tmp_path) == fits


def test_fits_import_without_torch_hydra_or_matplotlib():
    code = (
        "import sys, chinchilla.fit; "
        "print([m for m in ('torch', 'hydra', 'omegaconf', 'matplotlib', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("approach", FITS)
def test_every_approach_warns_of_repeated_data(isoflop_runs, approach):
    """The two runs with the most tokens read more than there are."""
    obs = isoflop_runs((1e19, 1e20, 1e21), noise=1e-3)
    once = FITS[approach](obs, n_bootstrap=0)
    assert not [text for text in once.warnings if "repeat data" in text]
    again = replace(obs, unique_tokens=np.minimum(obs.D, np.sort(obs.D)[-3]))
    (message,) = [t for t in FITS[approach](again, n_bootstrap=0).warnings if "repeat data" in t]
    assert message.startswith("2 of 27 runs repeat data, up to 2 epochs"), message
    assert "unique_tokens=U repeated_runs=" in message
    mixed = replace(again, max_epochs=6.34 * obs.D / obs.D.max())
    (message,) = [t for t in FITS[approach](mixed, n_bootstrap=0).warnings if "repeat data" in t]
    assert "up to 6.34 epochs of the most repeated source" in message
