"""Trends of the residuals."""

from dataclasses import replace

import numpy as np
import pytest
from diagnosed import context_of, unresampled_context

from chinchilla.diagnose.residuals import residuals


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
    assert arched.values["trend_per_decade"]["C"]["t_curve"] < -3


def test_residuals_of_least_squares_have_no_linear_zone(scattered_runs):
    item = residuals(unresampled_context(scattered_runs(noise=0.004)))
    assert "share_in_linear_zone" not in item.values
    assert "Huber" not in item.message
