"""The recommended approach and its answer, on approaches made by hand."""

from dataclasses import replace

import numpy as np
import pytest
from recommended import with_recommendation

from chinchilla.core.errors import Refusal
from chinchilla.fit.loss_law import six_nd_frontier
from chinchilla.fit.result import FitResult, LossLaw, PowerLaw
from chinchilla.fit.results import FailedFit, FitResults
from chinchilla.observations.table import Observations
from chinchilla.recommend import Recommendation, recommendation
from chinchilla.recommend.evaluate import headline

LAW = LossLaw(1.8, 480.0, 2000.0, 0.34, 0.36)
UNSAID = {"flop_convention": "six_nd", "n_convention": "unknown", "loss_kind": "train"}
SPREAD = np.linspace(-0.1, 0.1, 41)  # of ln N over resamples


def line_of(name: str, coefficient: float, exponent: float, spread=SPREAD, **more) -> FitResult:
    """An approach by its line N_opt = coefficient * C^exponent, D_opt = C / (6 N_opt)."""
    samples = [(np.log(coefficient) + spread).tolist(), [exponent] * len(spread)]
    return FitResult(
        name, PowerLaw(coefficient, exponent, samples=samples),
        PowerLaw(1 / (6 * coefficient), 1 - exponent), [], 40, UNSAID, {"interval": "by hand", "window": "all sizes"}, **more,
    )  # fmt: skip


def parametric(shift: float = 0.0, **more) -> FitResult:
    """Approach 3; its resamples' N_opt lie around its own, times exp(shift)."""
    A = LAW.A * np.exp((LAW.alpha + LAW.beta) * (SPREAD + shift))
    constants = [[x] * len(SPREAD) for x in (LAW.E, LAW.B, LAW.alpha, LAW.beta)]
    samples = [constants[0], A.tolist(), *constants[1:]]
    (log_k, a), _, _ = six_nd_frontier(LAW)
    return line_of(
        "parametric", float(np.exp(log_k)), a, law=LAW, law_samples=samples, log_residuals=[0.0], **more
    )  # fmt: skip


def sweep(exponent: float | None = None) -> Observations:
    """Seven budgets of nine sizes with 0.2% noise, on LAW or with minima at 1e9*(C/1e20)^exponent."""
    C = np.repeat(np.geomspace(1e18, 1e21, 7), 9)
    factor = np.tile(np.geomspace(1 / 4, 4, 9), 7)
    if exponent is None:
        (log_k, a), _, _ = six_nd_frontier(LAW)
        N = np.exp(log_k + a * np.log(C)) * factor
        L = LAW(N, C / (6 * N))
    else:
        N = 1e9 * (C / 1e20) ** exponent * factor
        L = 2 + 1e6 * C**-0.35 + 0.05 * np.log(factor) ** 2
    L = L * np.exp(0.002 * np.random.default_rng(0).normal(size=len(N)))
    return Observations.of(N=N, D=C / (6 * N), L=L, budget_flops=C)


RUNS = sweep()


def fits_of(*frontiers: FitResult, refused=None, notes=(), runs=RUNS) -> FitResults:
    """Fits with the recommendation of `runs`."""
    fits = FitResults.of({f.approach: f for f in frontiers}, refused or {}, runs)
    fits.data["notes"] = list(notes)
    return with_recommendation(fits, runs)


def answer(fits: FitResults, C: float = 1e20) -> Recommendation:
    return recommendation(fits, C)


def near(factor: float, name: str = "isoflop") -> FitResult:
    """An approach whose N_opt is `factor` times that of approach 3."""
    three = parametric()
    return line_of(name, factor * three.N_opt.coefficient, three.N_opt.exponent)


def test_an_answer_inside_the_runs_has_no_warning():
    r = answer(fits_of(parametric(), near(1.0)))
    # The law holds, so that approach 3 predicts the larger budgets better than the minima do.
    assert (r.approach, r.disagreement, r.range_only) == ("parametric", "", False)
    (log_k, a), _, _ = six_nd_frontier(LAW)
    assert r.N == pytest.approx(np.exp(log_k + a * np.log(1e20)), rel=0.03)
    assert 6 * r.N * r.D == pytest.approx(1e20)
    assert r.L == pytest.approx(float(LAW(r.N, r.D)), rel=2e-3)


@pytest.mark.parametrize("shift", [0.5, -0.5])
def test_the_answer_lies_inside_its_interval_if_the_resamples_exclude_it(shift):
    r = answer(fits_of(parametric(shift=shift)))
    assert r.approach == "parametric"
    for value, interval in ((r.N, r.N_interval80), (r.D, r.D_interval80), (r.L, r.L_interval80)):
        assert interval[0] < value < interval[1]
    r = answer(fits_of(parametric(shift=shift), near(1.0)))
    assert (r.approach, r.disagreement) == ("parametric", "")  # both say 0.92B


@pytest.mark.parametrize("exponent", [1.2, -0.1])
def test_an_exponent_that_cannot_be_is_not_recommended(exponent):
    two, runs = line_of("isoflop", 1e9 / 1e20**exponent, exponent), sweep(exponent)
    alone = fits_of(two, runs=runs)
    assert alone.recommended is None
    with pytest.raises(Refusal, match=r"2 \(isoflop\): its exponent of N_opt is not in \(0, 1\)"):
        recommendation(alone, 1e20)
    r = answer(fits_of(two, line_of("envelope", 0.6, 0.46), runs=runs))
    assert r.approach == "envelope"
    assert r.reasons[0].endswith("is recommended: approaches 2 and 3 have no answer here.")
    r = answer(fits_of(two, parametric(), runs=runs))
    assert r.approach == "parametric"
    assert "the exponent of N_opt along the IsoFLOP minima is not between 0 and 1" in r.reasons[0]


def test_an_approach_that_was_not_requested_is_not_recommended():
    """The runs name budgets, and only approach 3 was fitted."""
    r = answer(fits_of(parametric()))
    assert r.approach == "parametric"
    assert r.reasons[0].endswith("approach 2 was not requested.")
    assert "refused" not in " ".join(r.reasons)


def test_approaches_whose_intervals_do_not_overlap_are_named_with_their_range():
    r = answer(fits_of(parametric(), near(1.0), near(2.0, "envelope")))
    assert r.disagreement.startswith(
        "The approaches disagree beyond their 80% intervals: N_opt from 9"
    )
    assert "; recommended approach 3 (parametric) 9" in r.disagreement
    assert r.disagreement.endswith("), but approach 1 (envelope) 1.84B (1.70B-2.00B).")
    assert headline(r).startswith(r.disagreement)
    assert r.reasons[0] == r.disagreement


def test_an_answer_beyond_the_runs_states_the_factor():
    fits = fits_of(parametric())
    assert answer(fits, C=1.6e22).reasons[-1] == (
        "Extrapolation: 16x the compute of the largest run."
    )
    r = answer(fits, C=1.6e24)
    assert r.range_only
    assert "1,600x the compute of the largest run" in r.reasons[-1]
    assert headline(r).startswith(
        "C = 1.6e+24 FLOPs, 1,600x the compute of the largest run: N between "
    )
    assert f"{r.N / 1e9:.3g}" not in headline(r)
    with pytest.raises(Refusal, match="beyond the largest run"):
        recommendation(fits, 1.1e27)
    r = answer(fits_of(line_of("envelope", 1e6 / 1e20**0.46, 0.46)))
    assert r.reasons[-1].startswith(
        "Extrapolation: 16,666,667 tokens per parameter, 46,562x the most of these runs"
    )


def test_a_fit_without_any_answer_refuses_with_every_reason():
    no_budgets = replace(RUNS, budget_flops=np.full(len(RUNS), np.nan))
    refused = {
        "isoflop": FailedFit("no budget.", "no_budget"),
        "parametric": FailedFit("flat.", "flat"),
    }
    with pytest.raises(
        Refusal, match=r"2 \(isoflop\), no_budget: no budget; approach 3 .*, flat: flat"
    ):
        recommendation(fits_of(refused=refused, runs=no_budgets), 1e20)
