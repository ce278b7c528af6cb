"""Lower envelopes of curves."""

import numpy as np
import pytest

from chinchilla.fit.envelope.approach1 import fit_envelope
from chinchilla.fit.envelope.curves import read_curves
from chinchilla.fit.envelope.lower_envelope import curve_envelopes


@pytest.mark.parametrize("seed", range(8))
def test_the_envelope_never_rises_and_lies_above_no_curve(demo_sweep, seed):
    """At every C of the envelope no loss reached with as many FLOPs or fewer is lower, with noise of .3%."""
    obs = demo_sweep(seed, noise=0.003)
    fit = fit_envelope(obs, n_bootstrap=0)
    C, L = (np.array(fit.details["envelope"][name]) for name in ("C", "L"))
    assert np.all(np.diff(L) < 0)
    curves, _ = read_curves(obs)
    lowest = np.minimum.accumulate(curves.L.min(axis=0))
    assert np.all(np.interp(np.log(C), np.log(curves.C), lowest) >= L * (1 - 1e-9))
    measured = obs.C >= curves.C[0]
    for C_on, L_on in zip(C, L, strict=True):
        cheaper = obs.L[measured & (obs.C <= C_on * (1 - 1e-9))]
        assert not len(cheaper) or L_on <= cheaper.min() * (1 + 1e-3)


def test_the_longest_run_of_a_budget_does_not_win_for_being_the_longest(demo_sweep):
    """The third best of five sizes of a budget ends a step later than the rest, 2% beyond."""
    obs = demo_sweep(horizons=False)
    budget = np.unique(obs.budget_flops)[2]
    of_budget = np.flatnonzero(obs.budget_flops == budget)
    last = of_budget[obs.is_final[of_budget]]
    third = obs.run_id[last[np.argsort(obs.L[last])[2]]]
    for name in ("C", "D"):
        getattr(obs, name)[obs.run_id == third] *= 1.02
    curves, _ = read_curves(obs)
    found = curve_envelopes(curves)(np.arange(len(curves.N)))
    around = (budget * 0.99 < found.C) & (budget * 1.03 > found.C)
    assert np.any(around)
    assert obs.N[obs.run_id == third][0] not in found.N[around]
