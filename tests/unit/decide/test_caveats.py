"""What is said under an answer: who leads, and every doubt in one line, on fits made by hand."""

import numpy as np
import pytest

from chinchilla.config import RatesConfig
from chinchilla.decide.answer import FITTED, Ground, for_budget, for_target
from chinchilla.decide.caveats import gather, refuse_if_nothing_fitted
from chinchilla.decide.predict import predictions
from chinchilla.errors import Refusal
from chinchilla.fit.fits import Fits, Refused
from chinchilla.fit.frontier import Frontier, LossLaw, PowerLaw
from chinchilla.fit.loss_law import six_nd_frontier
from chinchilla.shapes import named_shapes

LAW = LossLaw(1.8, 480.0, 2000.0, 0.34, 0.36)
UNSAID = {"flop_convention": "six_nd", "n_convention": "unknown", "loss_kind": "train"}
SPREAD = np.linspace(-0.1, 0.1, 41)  # of ln N over resamples


def line_of(name: str, coefficient: float, exponent: float, spread=SPREAD, **more) -> Frontier:
    """An approach by its line N_opt = coefficient * C^exponent, D_opt = C / (6 N_opt)."""
    samples = [(np.log(coefficient) + spread).tolist(), [exponent] * len(spread)]
    return Frontier(
        name, PowerLaw(coefficient, exponent, samples=samples),
        PowerLaw(1 / (6 * coefficient), 1 - exponent), [], 40, UNSAID, {"interval": "by hand"}, **more,
    )  # fmt: skip


def parametric(shift: float = 0.0, **more) -> Frontier:
    """Approach 3; its resamples' N_opt lie around its own, times exp(shift)."""
    A = LAW.A * np.exp((LAW.alpha + LAW.beta) * (SPREAD + shift))
    constants = [[x] * len(SPREAD) for x in (LAW.E, LAW.B, LAW.alpha, LAW.beta)]
    samples = [constants[0], A.tolist(), *constants[1:]]
    (log_k, a), _, _ = six_nd_frontier(LAW)
    return line_of(
        "parametric", float(np.exp(log_k)), a, law=LAW, law_samples=samples, log_residuals=[0.0], **more
    )  # fmt: skip


def fits_of(*frontiers: Frontier, refused=None, notes=()) -> Fits:
    data = {"n_runs": 40, "C": [1e18, 1e21], "N": [1e8, 5e9], "D": [1e9, 1e11],
            "tokens_per_param": [5.0, 340.0], "notes": list(notes)}  # fmt: skip
    return Fits({f.approach: f for f in frontiers}, refused or {}, data)


def said(fits: Fits, C: float = 1e20, **asked):
    """The leading approach at C, and (kind, text) of every caveat."""
    rows = predictions([C], fits)
    answer = {"law": None, "decisions": []} | asked
    leads, caveats = gather(fits, rows, answer)
    lead = leads[C]
    name = None if lead is None else lead.by.removeprefix("this data, ")
    return name, [(one.kind, one.text) for one in caveats]


def near(factor: float) -> Frontier:
    """Approach 2 whose N_opt is `factor` times that of approach 3."""
    three = parametric()
    return line_of("isoflop", factor * three.N_opt.coefficient, three.N_opt.exponent)


def test_a_sane_answer_inside_of_the_runs_brings_no_caveat():
    assert said(fits_of(parametric(), near(1.0))) == ("parametric", [])


def test_an_answer_outside_of_its_own_interval_does_not_lead_where_another_can():
    name, caveats = said(fits_of(parametric(shift=0.5), near(1.0)))
    assert name == "isoflop"
    ((kind, text), *_) = caveats
    assert kind == "left_out"
    assert "approach 3 (parametric) is left out of the lead: its N_opt 922M" in text
    assert "lies outside of its own 10-90% interval" in text


def test_an_answer_outside_of_its_own_interval_that_is_alone_says_so():
    name, ((kind, text),) = said(fits_of(parametric(shift=-0.5)))
    assert (name, kind) == ("parametric", "outside_own_interval")
    assert "another answer than all of them" in text


@pytest.mark.parametrize("exponent", [1.2, -0.1])
def test_an_exponent_that_cannot_be_leads_nothing(exponent):
    two = line_of("isoflop", 1e9 / 1e20**exponent, exponent)
    name, caveats = said(fits_of(two))
    assert name is None
    assert ("left_out", f"approach 2 (isoflop) is left out of the lead: its exponent of N_opt is "
            f"{exponent}, outside of 0 to 1.") in caveats  # fmt: skip
    assert said(fits_of(two, line_of("envelope", 0.6, 0.46)))[0] == "envelope"


def test_approaches_whose_intervals_do_not_overlap_are_set_side_by_side():
    _, ((kind, text),) = said(fits_of(parametric(), near(2.0)))
    assert kind == "approaches_disagree"
    assert text.startswith("approach 2 (isoflop) says N 1.")
    assert ", approach 3 (parametric) 922M (" in text
    assert text.endswith("their 10-90% do not overlap.")


def test_what_the_fit_said_is_said_again():
    """Warnings of the approach that leads, refusals with their kind, notes of the runs."""
    two = line_of("isoflop", 0.6, 0.46, warnings=["a line through two budgets."])
    refused = {"envelope": Refused("only 1 size. Train more sizes.", "too_few_sizes")}
    fits = fits_of(
        parametric(warnings=["5 runs miss the law."]), two, refused=refused, notes=["C=4ND"]
    )
    _, caveats = said(fits)
    told = [one for one in caveats if one[0] != "approaches_disagree"]
    assert told == [
        ("fit_warning", "approach 3 (parametric): 5 runs miss the law."),
        ("refused", "approach 1 (envelope) was refused (too_few_sizes): only 1 size."),
        ("note", "C=4ND"),
    ]


def test_an_answer_beyond_the_runs_says_how_far():
    _, ((kind, text),) = said(fits_of(parametric()), C=1.6e24)
    assert kind == "beyond_C"
    assert (
        text == "this answer lies at 1,600 times the largest C of these runs: none of them saw it."
    )
    _, caveats = said(fits_of(line_of("envelope", 1e6 / 1e20**0.46, 0.46)))
    (text,) = (text for kind, text in caveats if kind == "beyond_ratio")
    assert "this answer has 16,666,667 tokens per parameter, 49,020 times the most" in text


def law_answer(fits: Fits | None, law: str = "", **asked) -> dict:
    ground = Ground.of(fits, law)
    assert ground is not None
    told: dict = {"law": {"name": ground.name}, "decisions": []}
    if L := asked.get("target_loss"):
        told["target"] = for_target(ground, L, RatesConfig(), asked.get("inference_tokens", 0.0))
    if C := asked.get("C"):
        served = asked.get("inference_tokens", 0.0)
        told["decisions"] = [for_budget(ground, C, named_shapes(), RatesConfig(), served)]
    return told


def test_a_size_for_serving_beyond_the_tokens_per_parameter_seen_says_so():
    fits = fits_of(parametric())
    _, ((kind, text),) = said(fits, **law_answer(fits, C=1e20, inference_tokens=1e15))
    assert kind == "beyond_ratio"
    assert text.startswith("the size for serving has ")
    assert "times the most of these runs (340): none of them saw it." in text


@pytest.mark.parametrize(("loss", "end"), [(1.95, "largest"), (6.0, "smallest")])
def test_a_target_loss_beyond_the_runs_says_how_far(loss, end):
    fits = fits_of(parametric(warnings=["5 runs miss the law."]))
    answer = law_answer(fits, target_loss=loss)
    assert answer["law"]["name"] == FITTED
    assert answer["target"]["interval"] == "by hand"
    _, caveats = gather(fits, [], answer)
    assert f"loss {loss:g} lies at " in caveats[0].text
    assert f"times the {end} C of these runs" in caveats[0].text
    assert caveats[-1].kind == "fit_warning"


def test_a_published_law_carried_far_says_how_far():
    _, (one,) = gather(None, [], law_answer(None, "hoffmann", target_loss=1.9))
    assert one.text.startswith(
        "loss 1.9 by law hoffmann lies at 76.9 times the largest C of its runs"
    )


def test_a_fit_without_any_answer_refuses_with_every_reason():
    refused = {
        "isoflop": Refused("no budget.", "no_budget"),
        "parametric": Refused("flat.", "flat"),
    }
    with pytest.raises(
        Refusal, match=r"2 \(isoflop\), no_budget: no budget; approach 3 .*, flat: flat"
    ):
        refuse_if_nothing_fitted(fits_of(refused=refused), "fits")
    refuse_if_nothing_fitted(fits_of(parametric(), refused=refused), "fits")
    refuse_if_nothing_fitted(None, "")
