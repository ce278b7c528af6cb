"""What a reader has to know before acting on the recommended answer: each warning in one line.

Warnings that only the question brings up (tokens per parameter and losses beyond the runs, a published
law carried beyond its own), those of the fit itself, refusals, and notes of how the table was read.
Which approach is recommended, and why, is decided in `chinchilla.recommend`. NumPy only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chinchilla.core import paper
from chinchilla.core.errors import Refusal
from chinchilla.core.units import number
from chinchilla.decide.answer import FITTED
from chinchilla.decide.predict import beyond
from chinchilla.fit.result import called
from chinchilla.fit.results import FitResults
from chinchilla.recommend import Recommendation

FAR_RATIO = 2.0  # tokens per parameter this many times beyond the runs' are reported


@dataclass(frozen=True)
class Caveat:
    """One doubt, for programs and for people."""

    kind: str
    text: str
    C: float | None = None  # FLOPs of the answer it is about; None: of all


def gather(
    fits: FitResults | None, recommended: Sequence[Recommendation], answer: Mapping[str, Any]
) -> list[Caveat]:
    """Every caveat, those of single budgets first.

    Args:
        fits: what was fitted; None: published answers alone.
        recommended: the recommended answer at each budget.
        answer: law, decisions and target as `chinchilla predict format=json` gives them.
    """
    said: list[Caveat] = []
    if fits is not None:
        for r in recommended:
            if r.N is not None and r.D is not None:
                said += _beyond_ratio(r.C, {"N": r.N, "D": r.D}, fits, "this answer")
    said += _of_decisions(answer, fits)
    if fits is not None:
        said += _of_fit(fits, str((fits.recommended or {}).get("approach", "")))
    return list(dict.fromkeys(said))


def refuse_if_nothing_fitted(fits: FitResults | None, where: str) -> None:
    """Say why a fit has no answer at all.

    Raises:
        Refusal: every approach was refused.
    """
    if fits is None or fits.recommended is not None:
        return
    why = [
        *(f"{called(name)}: its exponent of N_opt is not between 0 and 1" for name in fits.fitted),
        *(f"{called(name)}, {r.kind}: {r.reason.rstrip('.')}" for name, r in fits.refused.items()),
    ]
    raise Refusal(
        f"frontier={where}: no approach has an answer for these runs ({'; '.join(why)}). Give law=NAME "
        "to decide by a published law."
    )


def _of_decisions(answer: Mapping[str, Any], fits: FitResults | None) -> list[Caveat]:
    """Of what the law alone decides: a target loss, sizes for serving, a published law carried far."""
    law, decisions = answer["law"], answer["decisions"]
    if law is None:
        return []
    target = [answer["target"]] if "target" in answer else []
    said: list[Caveat] = []
    if law["name"] != FITTED or fits is None:
        covered = paper.LAW_C_RANGE.get(law["name"].removeprefix("law "))
        for place in (*decisions, *target):
            what = f"loss {place['L']:g}" if place in target else "this answer"
            far = beyond(place["C"], covered)
            said += _beyond_C(place["C"], far, f"{what} by {law['name']}", "its runs")
        return said
    for place in target:
        what, C = f"loss {place['L']:g}", place["C"]
        said += _beyond_C(C, beyond(C, fits.data["C"]), what, "these runs")
        said += _beyond_ratio(C, place, fits, what)
    for place in (*decisions, *target):
        if served := place.get("inference"):
            said += _beyond_ratio(place["C"], served["best"], fits, "the size for serving")
    return said


def _beyond_C(C: float, factor: float | None, what: str, runs: str) -> list[Caveat]:
    """Whether an answer lies outside of the C of the runs, `factor` times their end."""
    if factor is None:
        return []
    end = "largest" if factor > 1 else "smallest"
    text = f"Extrapolation, {what}: {number(factor)}x the {end} C of {runs}."
    return [Caveat("beyond_C", text, C)]


def _beyond_ratio(
    C: float, place: Mapping[str, float], fits: FitResults, what: str
) -> list[Caveat]:
    """Whether D/N lies outside of the runs' by over FAR_RATIO."""
    if fits.data.get("tokens_per_param") is None:  # minima without sizes
        return []
    low, high = fits.data["tokens_per_param"]
    ratio = place["D"] / place["N"]
    if low / FAR_RATIO <= ratio <= FAR_RATIO * high:
        return []
    end, name = (high, "most") if ratio > high else (low, "fewest")
    text = (
        f"Extrapolation, {what}: {number(ratio)} tokens per parameter, {number(ratio / end)}x the {name} "
        f"of these runs ({number(end)})."
    )
    return [Caveat("beyond_ratio", text, C)]


def _of_fit(fits: FitResults, approach: str) -> list[Caveat]:
    """Warnings of the recommended approach, refusals of the others, notes of how the runs were read."""
    said = []
    if approach in fits.fitted:
        texts = fits.fitted[approach].warnings
        said = [Caveat("fit_warning", f"{called(approach)}: {text}") for text in texts]
    for name, r in fits.refused.items():
        first = r.reason.split(". ")[0].removesuffix(".")
        said.append(Caveat("refused", f"{called(name)} was refused ({r.kind}): {first}."))
    return said + [Caveat("note", text) for text in fits.data["notes"]]
