"""Warnings of a fit under every answer from it."""

from chinchilla.decide.warnings import fit_warnings
from chinchilla.fit.result import FitResult, PowerLaw
from chinchilla.fit.results import FailedFit, FitResults


def approach(name: str, warning: str) -> FitResult:
    line = PowerLaw(0.6, 0.46)
    return FitResult(name, line, line, [], 40, {}, {}, warnings=[warning])


def test_warnings_of_the_recommended_approach_refusals_and_notes_are_repeated():
    fits = FitResults(
        {
            "isoflop": approach("isoflop", "a line through two budgets."),
            "parametric": approach("parametric", "5 runs miss the law."),
        },
        {"envelope": FailedFit("only 1 size. Train more sizes.", "too_few_sizes")},
        {"notes": ["C=4ND"]},
        recommended={"approach": "parametric"},
    )
    assert [(one.kind, one.text) for one in fit_warnings(fits)] == [
        ("fit_warning", "approach 3 (parametric): 5 runs miss the law."),
        ("refused", "approach 1 (envelope) was refused (too_few_sizes): only 1 size."),
        ("note", "C=4ND"),
    ]
