"""Approach 1 on constant learning rates, and its other readings of the same curves."""

import numpy as np
import pytest

from chinchilla.config import FitCommand
from chinchilla.core.errors import FitError, InputError
from chinchilla.fit.envelope.approach1 import fit_envelope
from chinchilla.fit.envelope.lines import disagreement
from chinchilla.fit.loss_law import six_nd_frontier
from chinchilla.fit.result import PowerLaw


@pytest.fixture
def constant_rate(law, observe):
    """22 sizes that all train to one D at a constant rate: every point of a curve lies on the law."""

    def build(tokens, warm_up=1.0):
        sizes = np.geomspace(5e7, 2e9, 22)
        N, D = np.repeat(sizes, len(tokens)), np.tile(tokens, len(sizes))
        L = law(N, D) * np.where(D == tokens[0], warm_up, 1.0)
        run_id = np.repeat([f"run{i:02d}" for i in range(len(sizes))], len(tokens))
        return observe(N, D, L, run_id=run_id, loss_kind="validation")

    return build


DENSE = 2e9 * np.arange(1, 176)  # tokens


def test_constant_rates_give_the_law_by_whole_curves(constant_rate, law):
    """What lies below the end of the cheapest run counts: a factor 40 more in C."""
    obs = constant_rate(DENSE)
    (_, a), (_, b), _ = six_nd_frontier(law)
    fit = fit_envelope(obs, schedule="constant", n_bootstrap=0)
    assert fit.N_opt.exponent == pytest.approx(a, abs=0.01)
    assert fit.D_opt.exponent == pytest.approx(b, abs=0.01)
    assert fit.settings["schedule"] == "constant"
    assert "tail_share" not in fit.details
    assert not any("mid-run" in w for w in fit.warnings)
    matched = fit_envelope(obs, n_bootstrap=0)
    assert min(matched.details["envelope"]["C"]) == pytest.approx(obs.finals().C.min())
    assert fit.details["C_range"][0] < 0.1 * matched.details["C_range"][0]
    assert any("use envelope_schedule=constant" in w for w in matched.warnings)


def test_a_first_point_in_warm_up_before_a_gap_does_not_decide(constant_rate, law):
    """2B, 12B, 22B, ... tokens, the first loss 15% too high: a straight line from there is no curve."""
    tokens = 2e9 + 1e10 * np.arange(35)
    fit = fit_envelope(constant_rate(tokens, warm_up=1.15), schedule="constant", n_bootstrap=0)
    (_, a), _, _ = six_nd_frontier(law)
    assert fit.N_opt.exponent == pytest.approx(a, abs=0.02)
    assert fit.refusals == ["22 runs: points before a gap of over a factor 3 in C were left out."]
    assert min(fit.details["envelope"]["C"]) > 6 * 5e7 * 1.1e10


def test_two_points_far_apart_are_no_curve(constant_rate):
    obs = constant_rate(np.array([1e10, 2e10, 4e10]))
    far = (obs.run_id == "run03") & (obs.D < 4e10)
    obs.D[far] /= 10
    obs.C[far] /= 10
    fit = fit_envelope(obs, schedule="constant", n_bootstrap=0)
    assert fit.n_runs == 21
    assert fit.refusals[0].startswith(
        "run run03: its last two points lie over a factor 3 apart in C"
    )


def test_a_size_that_wins_before_larger_ones_have_a_curve_is_not_fitted(constant_rate):
    """Curves from 1e11 tokens on: at first each size wins where it begins, N ~ C whatever the law."""
    with pytest.raises(FitError, match=r"was left out, because a better size may lie outside"):
        fit_envelope(constant_rate(1e11 * np.arange(1, 6)), schedule="constant", n_bootstrap=0)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(InputError, match=r"envelope_schedule='cosine'.*matched, constant"):
        FitCommand(observations="x.csv", out_dir="x", envelope_schedule="cosine")


@pytest.fixture
def ladders(law, observe):
    """16 sizes, each to six horizons around its best C; `bent` lowers mid-run losses of large sizes."""

    def build(bent=0.0):
        (log_k, a), _, _ = six_nd_frontier(law)
        sizes = np.geomspace(5e7, 5e9, 16)
        best_C = (sizes / np.exp(log_k)) ** (1 / a)
        N = np.repeat(sizes, 6)
        C_end = np.repeat(best_C, 6) * np.tile(2.0 ** np.linspace(-2.5, 2.5, 6), 16)
        done = np.geomspace(0.02, 1, 60)
        D = C_end[:, None] / (6 * N[:, None]) * done
        L = law(N[:, None], D)
        L *= 1 + (0.05 - bent * np.log(N / sizes[0])[:, None]) * (1 - done)
        run_id = np.repeat([f"run{i:03d}" for i in range(len(N))], 60)
        return observe(
            np.repeat(N, 60), D.ravel(), L.ravel(), run_id=run_id, loss_kind="validation"
        )

    return build


def test_readings_of_one_law_agree(ladders, law):
    fit = fit_envelope(ladders(), n_bootstrap=100)
    readings = fit.details["readings"]
    assert readings.keys() == {"steps", "staircase", "tail", "hull"}
    assert readings["steps"]["a"] == fit.N_opt.exponent
    assert readings["steps"]["b"] == fit.D_opt.exponent
    assert readings["staircase"]["a"] == fit.details["staircase"]["N_opt"]["exponent"]
    (_, a), _, _ = six_nd_frontier(law)
    assert all(r["a"] == pytest.approx(a, abs=0.05) for r in readings.values())
    assert not any("disagree" in w for w in fit.warnings)


def test_curves_that_end_at_one_D_have_no_tail_reading(constant_rate):
    """Tails of different sizes lie at different C: the line would be N = C/(6*D) whatever the law."""
    assert "tail" not in fit_envelope(constant_rate(DENSE), n_bootstrap=0).details["readings"]


def test_readings_that_disagree_are_reported(ladders):
    """Mid-run losses that flatter large sizes turn the whole curves' line and not the tails'."""
    fit = fit_envelope(ladders(bent=0.025), n_bootstrap=100)
    tail = fit.details["readings"]["tail"]["a"]
    assert not fit.N_opt.ci95[0] <= tail <= fit.N_opt.ci95[1]
    message = next(w for w in fit.warnings if "readings of the same curves disagree" in w)
    assert f"a={tail:.3f} by the last 15% of each run" in message
    assert f"the middles of the steps, a={fit.N_opt.exponent:.3f}" in message


def test_a_hull_off_by_its_known_bias_is_no_disagreement():
    law = PowerLaw(1.0, 0.5, 0.48, 0.52, [0.47, 0.53])
    message = [
        disagreement({"steps": {"a": 0.5, "b": 0.5}, "hull": {"a": a, "b": 1 - a}}, law)
        for a in (0.42, 0.40)
    ]
    assert message[0] == []
    assert "a=0.400 by the convex hull, outside the 95% interval" in message[1][0]
    assert disagreement({"staircase": {"a": 0.46, "b": 0.5}}, law) != []
    assert disagreement({"staircase": {"a": 0.1, "b": 0.5}}, PowerLaw(1.0, 0.5)) == []
