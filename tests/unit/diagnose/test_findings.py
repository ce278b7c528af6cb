"""The rule that decides between verdicts, and the text of a Finding."""

from dataclasses import replace

import numpy as np
import pytest

from chinchilla.core.errors import FitError
from chinchilla.diagnose.findings import LOG_L, Finding, attempted, combined, judge, threshold
from chinchilla.diagnose.refits import MAX_SD


@pytest.mark.parametrize(
    ("move", "sd", "verdict"),
    [
        (0.50, 0.05, "warning"),  # relevant, and ten standard deviations
        (0.10, 0.01, "passed"),  # certain, and irrelevant
        (0.05, 0.05, "passed"),  # a relevant move would have been seen
        (0.05, 0.20, "inconclusive"),  # and here it would not
        (0.25, 0.11, "inconclusive"),  # relevant, and not certain
    ],
)
def test_a_move_is_judged_by_its_size_and_by_its_error(move, sd, verdict):
    found = judge(np.array([move, 0.0]), np.array([sd, sd]), 50)
    assert found.verdict == verdict
    expected = {"warning": move, "passed": move, "inconclusive": max(move, 2 * sd)}[verdict]
    assert found.effect == pytest.approx(expected)


def test_a_part_that_passed_decides_for_the_same_question_only():
    def missing(_: None) -> Finding:
        raise FitError("no runs.")

    parts = {
        "blind": Finding("inconclusive", "b.", "add runs.", 2.0),
        "precise": Finding("passed", "p.", effect=0.01),
        "missing": attempted(missing, None),
    }
    one = combined(parts, one_question=True)
    assert (one.verdict, one.effect, one.advice) == ("passed", 0.01, "")
    assert one.message == "precise: p. Others: blind inconclusive, missing unavailable."
    assert one.parts["missing"].message == "no runs."
    assert combined(parts).verdict == "inconclusive"
    del parts["precise"]
    parts["less_blind"] = Finding("inconclusive", "l.", "add runs.", 0.5)
    assert combined(parts, one_question=True).effect == 0.5
    assert combined(parts).effect == 2.0
    assert combined({"missing": parts["missing"]}) == parts["missing"]


def test_effects_are_stated_with_their_unit():
    loss = Finding("warning", "x.", effect=-0.02, effect_unit=LOG_L)
    assert loss.effect_text == "effect: 2.00% of the loss"
    assert loss.relative_effect == pytest.approx(2)
    size = Finding("inconclusive", "x.", effect=np.log(1.25**3))
    assert size.effect_text == "noise could hide up to a factor 1.95 in N_opt"
    assert size.relative_effect == pytest.approx(3)
    assert replace(size, effect=50.0).effect_text.endswith("a factor over 100 in N_opt")
    assert Finding("unavailable", "x.").effect_text == ""


def test_a_move_too_uncertain_for_a_linear_error_causes_no_warning():
    assert judge(np.array([9.0]), np.array([1.0]), 50, max_sd=MAX_SD).verdict == "inconclusive"
    assert (
        judge(np.array([9.0, np.nan]), np.array([0.5, np.nan]), 50, max_sd=MAX_SD).verdict
        == "warning"
    )
    with pytest.raises(FitError, match="too few runs"):
        judge(np.array([np.nan]), np.array([1.0]), 50)


def test_the_threshold_is_exceeded_at_the_stated_rate():
    """Student's t with 8 degrees of freedom, the largest of four: one in a hundred."""
    t = np.random.default_rng(0).standard_t(8, size=(200_000, 4))
    rate = (np.abs(t).max(axis=1) > threshold(4, 8)).mean()
    assert rate == pytest.approx(0.01, rel=0.1)
