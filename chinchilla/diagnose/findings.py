"""Verdicts of the diagnostics, and the rule that decides between them.

A diagnostic measures by how much something would move the recommended answer: ln N_opt at C_star, or
the logarithm of the predicted loss. `relevant(unit)` is the smallest move worth acting on. Every move
has an error: one standard deviation of the move that a law which holds exactly would show from noise
alone. The verdicts are

    warning       a move is larger than both the relevant size and what noise explains
    cannot_tell   the error is so large that a relevant move would not stand out from the noise
    passed        neither: a relevant move would have been seen and was not
    unavailable   the diagnostic needs runs or a fit that are missing

NumPy only: this module must import without torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any, TypeVar

import numpy as np

from chinchilla.core.errors import FitError

VERDICTS = ("warning", "cannot_tell", "passed", "unavailable")  # in order of display
LOG_N = "ln N_opt at C_star"
LOG_L = "ln L"
RELEVANT = {LOG_N: float(np.log(1.25)), LOG_L: 0.01}  # the smallest move worth acting on
FALSE_WARNINGS = 0.01  # chance that one family of moves warns although the law holds
VISIBLE = 2.0  # a relevant move is visible if it is this many standard deviations of noise
MAX_SD = float(np.log(2.0))  # of ln N_opt: beyond it the linearised error of a refit is unreliable
MAX_FACTOR = 100.0  # of N_opt, for people: a larger effect says only that nothing is known
MIN_FREEDOM = 3.0  # degrees of freedom of a part, for its threshold

_Input = TypeVar("_Input")


@dataclass(frozen=True)
class Finding:
    """The result of one diagnostic.

    Attributes:
        verdict: one of VERDICTS.
        message: what was found, with its numbers; the reason for `unavailable`.
        advice: what to do; empty where nothing needs to be done.
        effect: for `warning` and `passed` the move of the recommended answer that was found, for
            `cannot_tell` the move that could not have been seen; None if it is unknown.
        effect_unit: LOG_N or LOG_L.
        note: a remark that is no judgement; empty if none.
        kind: the reason for `unavailable` in one word, for programs; else empty.
        values: the numbers, described in the module that made them.
    """

    verdict: str
    message: str
    advice: str = ""
    effect: float | None = 0.0
    effect_unit: str = LOG_N
    note: str = ""
    kind: str = ""
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def relative_effect(self) -> float:
        """`effect` in multiples of the smallest relevant move.

        An unknown effect counts as infinite in a warning, and as one relevant move otherwise.
        """
        if self.effect is None:
            return float("inf") if self.verdict == "warning" else 1.0
        return abs(self.effect) / RELEVANT.get(self.effect_unit, 1.0)

    @property
    def rank(self) -> tuple[int, float]:
        """Sort key: warnings first, then the largest effect."""
        return VERDICTS.index(self.verdict), -self.relative_effect


def threshold(n_moves: int, freedom: np.ndarray | float) -> np.ndarray:
    """|z| that the largest of several moves exceeds with probability FALSE_WARNINGS.

    Bonferroni's bound over `n_moves`, two-sided, with the quantile of Student's t by its expansion in
    1/freedom (Abramowitz and Stegun 26.7.5).

    Args:
        n_moves: moves that are compared with the threshold.
        freedom: degrees of freedom of the error; at least MIN_FREEDOM is used.
    """
    z = NormalDist().inv_cdf(1 - FALSE_WARNINGS / (2 * max(n_moves, 1)))
    nu = np.maximum(np.asarray(freedom, float), MIN_FREEDOM)
    return z + (z**3 + z) / (4 * nu) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * nu**2)


@dataclass(frozen=True)
class Judgement:
    """The verdict on several moves, the index of the decisive one, its effect, and all that decided."""

    verdict: str
    index: int
    effect: float | None
    deciding: np.ndarray  # (k,) bool: the moves for which the verdict would be the same

    def unclear_if(self, lost: bool) -> "Judgement":
        """`cannot_tell`, of unknown effect, instead of `passed` if moves are missing."""
        if not lost or self.verdict != "passed":
            return self
        return replace(self, verdict="cannot_tell", effect=None)

    def at_last(self, moves: np.ndarray) -> "Judgement":
        """A warning with the last of the deciding moves, for parts that grow towards all runs."""
        if self.verdict != "warning":
            return self
        index = int(np.flatnonzero(self.deciding)[-1])
        return replace(self, index=index, effect=float(abs(moves[index])))


def judge(
    moves: np.ndarray,
    sd: np.ndarray,
    freedom: np.ndarray | float,
    unit: str = LOG_N,
    max_sd: float = MAX_SD,
    typical: Callable[[np.ndarray], float] = np.median,
    n_moves: int = 0,
) -> Judgement:
    """Apply the rule of the module header to several moves of one quantity.

    Args:
        moves: (k,) moves of ln N_opt at C_star or of ln L; NaN where there is none.
        sd: (k,) standard deviation of each under a law that holds.
        freedom: (k,) or scalar; degrees of freedom of the errors.
        unit: LOG_N or LOG_L.
        max_sd: a move with a larger error causes no warning.
        typical: of the errors, the one that decides whether a relevant move could be seen: np.min
            where one precise move suffices.
        n_moves: independent moves that the largest is one of; 0 = all. Moves of nested parts are
            correlated, so that fewer count.

    Returns:
        The verdict. `index` is the move with the largest effect among those that decided.

    Raises:
        FitError: no move is finite (too_few_runs).
    """
    moves, sd = np.asarray(moves, float), np.asarray(sd, float)
    known = np.isfinite(moves) & np.isfinite(sd)
    if not known.any():
        raise FitError("none of the refits could be made: too few runs.", "too_few_runs")
    size = np.where(known, np.abs(moves), 0.0)
    relevant = RELEVANT[unit]
    judged = known & (sd <= max_sd)
    limit = threshold(n_moves or int(judged.sum()), freedom)
    odd = judged & (size > limit * sd) & (size > relevant)
    if odd.any():
        index = int(np.argmax(np.where(odd, size, -1)))
        return Judgement("warning", index, float(size[index]), odd)
    visible = known & (VISIBLE * sd <= relevant)
    blurred = VISIBLE * float(typical(sd[known]))
    unclear = visible & (size > relevant)
    if blurred > relevant or unclear.any():
        index = int(np.argmax(np.where(unclear, size, -1) if unclear.any() else size))
        effect = max(blurred, float((unclear * size).max()))
        return Judgement("cannot_tell", index, effect, unclear if unclear.any() else known)
    index = int(np.argmax(np.where(visible, size, -1)))
    return Judgement("passed", index, float(size[index]), visible)


def finding(
    judgement: Judgement,
    message: str,
    advice: str,
    values: dict[str, Any],
    *,
    unit: str = LOG_N,
    if_unclear: str = "",
) -> Finding:
    """A Finding with the advice that belongs to its verdict.

    Args:
        judgement: the verdict and its effect.
        message: what was found.
        advice: what to do about a warning.
        values: the numbers.
        unit: of the effect.
        if_unclear: what to do if the noise is too large to tell.
    """
    todo = {"warning": advice, "cannot_tell": if_unclear or MORE_RUNS}.get(judgement.verdict, "")
    return Finding(judgement.verdict, message, todo, judgement.effect, unit, values=values)


MORE_RUNS = (
    "Add runs, or repeat runs with other seeds, until the noise is small enough to see such a move."
)


def combined(
    parts: Mapping[str, Callable[[_Input], Finding]], context: _Input, one_question: bool = False
) -> Finding:
    """One Finding from several related diagnostics.

    The verdict, message, advice and effect are those of the part with the highest rank; the message
    ends with the verdicts of the others. `values` maps each part to its verdict, message, effect and
    values.

    Args:
        parts: the diagnostics by name.
        context: their argument.
        one_question: whether the parts measure one thing in several ways, so that one that passed
            outranks one that cannot tell, and of those that cannot tell the most sensitive counts.

    Raises:
        FitError: no part could be computed; the reason is that of the first.
    """
    found: dict[str, Finding] = {}
    refused: dict[str, FitError] = {}
    for name, part in parts.items():
        try:
            found[name] = part(context)
        except FitError as error:
            refused[name] = error
    if not found:
        raise next(iter(refused.values()))
    ranks = {name: one.rank for name, one in found.items()}
    if one_question:
        if any(one.verdict == "passed" for one in found.values()):
            ranks = {n: r for n, r in ranks.items() if found[n].verdict != "cannot_tell"}
        elif not any(one.verdict == "warning" for one in found.values()):
            ranks = {
                n: (r[0], np.inf if found[n].effect is None else -r[1]) for n, r in ranks.items()
            }
    first = min(ranks, key=lambda name: ranks[name])
    others = [
        f"{called(name)} {called(one.verdict)}" for name, one in found.items() if name != first
    ] + [f"{called(name)} unavailable" for name in refused]
    message = f"{called(first)}: {found[first].message}"
    if others:
        message += f" Others: {', '.join(others)}."
    values: dict[str, Any] = {
        name: {
            "verdict": one.verdict,
            "message": one.message,
            "effect": one.effect,
            "effect_unit": one.effect_unit,
            **one.values,
        }
        for name, one in found.items()
    }
    for name, reason in refused.items():
        values[name] = {"verdict": "unavailable", "message": str(reason), "kind": reason.kind}
    return replace(found[first], message=message, values=values)


def called(name: str) -> str:
    """A name of a diagnostic or a verdict, for people."""
    return name.replace("_", " ")


def described(item: Finding) -> str:
    """The effect of a finding for people; empty where there is none to state."""
    if item.verdict == "unavailable" or item.effect == 0:
        return ""
    if item.effect is None:
        return "effect: unknown"
    if item.effect_unit == LOG_N:
        large = abs(item.effect) > np.log(MAX_FACTOR)
        factor = f"over {MAX_FACTOR:g}" if large else f"{np.exp(abs(item.effect)):.3g}"
        size = f"a factor {factor} in N_opt"
    else:
        size = f"{abs(item.effect):.2%} of the loss"
    before = {
        "warning": "effect:",
        "cannot_tell": "hidden by noise: up to",
        "passed": "effect: at most",
    }
    return f"{before[item.verdict]} {size}"


def first_sentence(text: str) -> str:
    """The first sentence of a reason, without its full stop."""
    return text.partition(". ")[0].removesuffix(".")


def number(x: float) -> float | None:
    """A float for JSON: None for NaN and infinity."""
    return float(x) if np.isfinite(x) else None
