"""What a reader has to know before acting on a prediction: which approach leads, and each doubt, a line.

An approach leads whose answer can be: exponents of N_opt and D_opt between 0 and 1, N_opt inside of
its own interval. The doubts are those that the fit had, and those that only the question brings up:
budgets, tokens per parameter and losses beyond the runs, approaches that contradict each other. NumPy
only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from chinchilla import paper
from chinchilla.decide.answer import FITTED
from chinchilla.decide.predict import OURS, Prediction, beyond
from chinchilla.errors import Refusal
from chinchilla.fit.fits import Fits
from chinchilla.fit.frontier import called
from chinchilla.records import count_label
from chinchilla.units import number

ORDER = ("parametric", "isoflop", "envelope")  # whose answer is given first
FAR_RATIO = 2.0  # tokens per parameter this many times beyond the runs' are said
SLACK = 1.001  # N_opt this little outside of its interval is rounding


@dataclass(frozen=True)
class Caveat:
    """One doubt, for programs and for people."""

    kind: str
    text: str
    C: float | None = None  # FLOPs of the answer it is about; None: of all


def gather(
    fits: Fits | None, rows: Sequence[Prediction], answer: Mapping[str, Any]
) -> tuple[dict[float, Prediction | None], list[Caveat]]:
    """Whose answer leads at each budget, and every caveat, those of single budgets first.

    Args:
        fits: what was fitted; None: published answers alone.
        rows: predictions at every budget.
        answer: law, decisions and target as `chinchilla predict format=json` gives them.
    """
    leads: dict[float, Prediction | None] = {}
    said: list[Caveat] = []
    if fits is not None:
        for C in dict.fromkeys(row.C for row in rows):
            ours = {row.by.removeprefix(OURS): row for row in rows if row.C == C and row.ours}
            leads[C], why = _leading(ours, fits)
            said += why
            if (row := leads[C]) is not None:
                said += [] if _outside_own_interval(row) else _loss_outside(row)
                said += _beyond_C(C, row.beyond, "this answer", "these runs")
                said += _beyond_ratio(C, {"N": row.N, "D": row.D}, fits, "this answer")
            said += _contradictions(ours)
    said += _of_decisions(answer, fits)
    if fits is not None:
        names = [row.by.removeprefix(OURS) for row in leads.values() if row is not None]
        if not rows and "parametric" in fits.fitted:  # a target loss alone stands on approach 3
            names = ["parametric"]
        said += _of_fit(fits, names)
    return leads, list(dict.fromkeys(said))


def refuse_if_nothing_fitted(fits: Fits | None, where: str) -> None:
    """Say why a fit has no answer at all.

    Raises:
        Refusal: every approach was refused.
    """
    if fits is None or fits.fitted:
        return
    why = "; ".join(
        f"{called(name)}, {r.kind}: {r.reason.rstrip('.')}" for name, r in fits.refused.items()
    )
    raise Refusal(
        f"frontier={where}: every approach was refused, so these runs answer nothing ({why}). Give "
        "law=NAME to decide by a published law."
    )


def _leading(ours: Mapping[str, Prediction], fits: Fits) -> tuple[Prediction | None, list[Caveat]]:
    """The first approach in ORDER whose answer can be; what was passed over, and why."""
    said, doubtful = [], []
    for name in (name for name in ORDER if name in ours):
        row, frontier = ours[name], fits.fitted[name]
        out = f"{called(name)} is left out of the lead: its"
        wrong = [
            f"exponent of {of} is {law.exponent:.3g}, outside of 0 to 1"
            for of, law in (("N_opt", frontier.N_opt), ("D_opt", frontier.D_opt))
            if not 0 <= law.exponent <= 1
        ]
        if wrong:
            said.append(Caveat("left_out", f"{out} {wrong[0]}."))
        elif off := _outside_own_interval(row):
            doubtful.append((row, Caveat("left_out", f"{out} {off}.", row.C)))
        else:
            return row, said + [caveat for _, caveat in doubtful]
    if not doubtful:
        return None, said
    row = doubtful[0][0]
    text = (
        f"{_outside_own_interval(row)}: resamples of these runs give another answer than all of "
        "them do. Add runs before using either."
    )
    return row, [*said, Caveat("outside_own_interval", text, row.C)]


def _outside_own_interval(row: Prediction) -> str:
    """N_opt and its interval in words where it does not hold it, else nothing."""
    if row.N_p10 is None or row.N_p90 is None:
        return ""
    if row.N_p10 / SLACK <= row.N <= row.N_p90 * SLACK:
        return ""
    return f"N_opt {_count(row.N)} lies outside of its own 10-90% interval, {_interval(row)}"


def _loss_outside(row: Prediction) -> list[Caveat]:
    """Whether the loss lies outside of its own interval: few runs decide the law there."""
    if row.L is None or row.L_p10 is None or row.L_p90 is None:
        return []
    if row.L_p10 / SLACK <= row.L <= row.L_p90 * SLACK:
        return []
    text = (
        f"its loss {row.L:.4f} lies outside of its own 10-90% interval, {row.L_p10:.4f} to "
        f"{row.L_p90:.4f}: resamples of these runs give another law than all of them do."
    )
    return [Caveat("outside_own_interval", text, row.C)]


def _interval(row: Prediction) -> str:
    assert row.N_p10 is not None
    assert row.N_p90 is not None
    return f"{_count(row.N_p10)} to {_count(row.N_p90)}"


def _count(x: float) -> str:
    return count_label(x).upper()


def _contradictions(ours: Mapping[str, Prediction]) -> list[Caveat]:
    """Pairs of approaches whose 80% intervals of N_opt do not overlap."""
    known = [
        (called(name), row, row.N_p10, row.N_p90)
        for name, row in sorted(ours.items(), key=lambda item: -ORDER.index(item[0]))
        if row.N_p10 is not None and row.N_p90 is not None
    ]
    said = []
    for (one, a, a_low, a_high), (two, b, b_low, b_high) in combinations(known, 2):
        if a_low <= b_high * SLACK and b_low <= a_high * SLACK:
            continue
        text = (
            f"{one} says N {_count(a.N)} ({_interval(a)}), {two} "
            f"{_count(b.N)} ({_interval(b)}): their 10-90% do not overlap."
        )
        said.append(Caveat("approaches_disagree", text, a.C))
    return said


def _of_decisions(answer: Mapping[str, Any], fits: Fits | None) -> list[Caveat]:
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
    text = f"{what} lies at {number(factor)} times the {end} C of {runs}: none of them saw it."
    return [Caveat("beyond_C", text, C)]


def _beyond_ratio(C: float, place: Mapping[str, float], fits: Fits, what: str) -> list[Caveat]:
    """Whether D/N lies outside of the runs' by over FAR_RATIO."""
    low, high = fits.data["tokens_per_param"]
    ratio = place["D"] / place["N"]
    if low / FAR_RATIO <= ratio <= FAR_RATIO * high:
        return []
    end, name = (high, "most") if ratio > high else (low, "fewest")
    text = (
        f"{what} has {number(ratio)} tokens per parameter, {number(ratio / end)} times the {name} of these "
        f"runs ({number(end)}): none of them saw it."
    )
    return [Caveat("beyond_ratio", text, C)]


def _of_fit(fits: Fits, leading: Sequence[str]) -> list[Caveat]:
    """What the fit said: warnings of the approaches that lead, refusals, notes of the runs."""
    said = [
        Caveat("fit_warning", f"{called(name)}: {text}")
        for name in dict.fromkeys(leading)
        for text in fits.fitted[name].warnings
    ]
    for name, r in fits.refused.items():
        first = r.reason.split(". ")[0].removesuffix(".")
        said.append(Caveat("refused", f"{called(name)} was refused ({r.kind}): {first}."))
    return said + [Caveat("note", text) for text in fits.data["notes"]]
