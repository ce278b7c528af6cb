"""Warnings that belong under an answer, one line each.

They concern the requested budget (tokens per parameter beyond the runs, a published law far from its own
runs), the fit itself, refused approaches, and how the table was read. `chinchilla.recommend`
decides which approach is recommended. NumPy only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chinchilla.core import paper
from chinchilla.core.units import number
from chinchilla.decide.decision import FITTED
from chinchilla.decide.predictions import beyond
from chinchilla.fit.result import called
from chinchilla.fit.results import FitResults
from chinchilla.recommend import Recommendation

MAX_RATIO_FACTOR = 2.0  # tokens per parameter this many times beyond the runs' are reported


@dataclass(frozen=True)
class AnswerWarning:
    """One warning or note about an answer."""

    kind: str  # beyond_C, beyond_ratio, fit_warning, refused, note
    text: str
    C: float | None = None  # FLOPs of the answer it concerns; None: all answers


def gather(
    fits: FitResults | None, recommended: Sequence[Recommendation], answer: Mapping[str, Any]
) -> list[AnswerWarning]:
    """All warnings, those of single budgets first.

    Args:
        fits: the fits; None for published answers only.
        recommended: the recommendation at each budget.
        answer: law and decisions, as in the JSON of `chinchilla predict`.
    """
    law, decisions = answer["law"], answer["decisions"]
    found: list[AnswerWarning] = []
    # What has N and D, its C, and D/N.
    ratios = [("this answer", r.C, r.ratio) for r in recommended if r.ratio is not None]
    if law is not None and (fits is None or law["name"] != FITTED):
        C_range = paper.LAW_C_RANGE.get(law["name"].removeprefix("law "))
        for C in (place["C"] for place in decisions):
            if factor := beyond(C, C_range):
                end = "largest" if factor > 1 else "smallest"
                text = f"Extrapolation, {law['name']}: {number(factor)}x the {end} C of its runs."
                found.append(AnswerWarning("beyond_C", text, C))
    else:
        ratios += [
            ("the size for serving", place["C"], served["best"]["D"] / served["best"]["N"])
            for place in decisions
            if (served := place.get("inference"))
        ]
    if fits is not None:
        for subject, C, ratio in ratios:
            found += _ratio_outside(C, ratio, fits, subject)
        found += _of_fit(fits)
    return list(dict.fromkeys(found))


def _ratio_outside(C: float, ratio: float, fits: FitResults, subject: str) -> list[AnswerWarning]:
    """A warning if D/N lies outside the runs' by more than MAX_RATIO_FACTOR."""
    if fits.data["tokens_per_param"] is None:  # losses at minima without sizes
        return []
    low, high = fits.data["tokens_per_param"]
    if low / MAX_RATIO_FACTOR <= ratio <= MAX_RATIO_FACTOR * high:
        return []
    end, name = (high, "most") if ratio > high else (low, "fewest")
    text = (
        f"Extrapolation, {subject}: {number(ratio)} tokens per parameter, {number(ratio / end)}x the {name} "
        f"of these runs ({number(end)})."
    )
    return [AnswerWarning("beyond_ratio", text, C)]


def _of_fit(fits: FitResults) -> list[AnswerWarning]:
    """Warnings of the recommended approach, refusals of the others, notes on how the runs were read."""
    warnings = []
    approach = str((fits.recommended or {}).get("approach", ""))
    if approach in fits.fitted:
        texts = fits.fitted[approach].warnings
        warnings = [AnswerWarning("fit_warning", f"{called(approach)}: {text}") for text in texts]
    for name, r in fits.refused.items():
        first = r.reason.split(". ")[0].removesuffix(".")
        warnings.append(
            AnswerWarning("refused", f"{called(name)} was refused ({r.kind}): {first}.")
        )
    return warnings + [AnswerWarning("note", text) for text in fits.data["notes"]]
