"""Verdicts of the diagnostics, and the rule that decides between them.

A diagnostic measures how far something moves the recommended answer: ln N_opt at C_star, or the
logarithm of the predicted loss. RELEVANT holds the smallest move worth acting on. Every move has an
error: the standard deviation that noise alone would give it if the law held exactly. The verdicts are

    warning       a move is larger than both the relevant size and what noise explains
    inconclusive  the error is so large that a relevant move would not stand out from the noise
    passed        neither: a relevant move would have been detected and was not
    unavailable   the diagnostic needs runs or a fit that are missing

This module must import without torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any, TypeVar

import numpy as np

from chinchilla.core.errors import FitError

VERDICTS = ("warning", "inconclusive", "passed", "unavailable")  # in order of display
LOG_N = "ln N_opt at C_star"
LOG_L = "ln L"
RELEVANT = {LOG_N: float(np.log(1.25)), LOG_L: 0.01}  # the smallest move worth acting on
FALSE_WARNINGS = 0.01  # probability that a family of moves causes a warning although the law holds
VISIBLE = 2.0  # standard deviations of noise at which a relevant move can be detected
MAX_FACTOR = 100.0  # largest factor in N_opt that is printed
MIN_FREEDOM = 3.0  # smallest degrees of freedom used in `threshold`
MORE_RUNS = "Add runs, or repeat runs with other seeds, to reduce the noise."
EFFECTS = {  # words before the effect of each verdict
    "warning": "effect:",
    "inconclusive": "noise could hide up to",
    "passed": "effect: at most",
}

_Input = TypeVar("_Input")


@dataclass(frozen=True)
class Finding:
    """The result of one diagnostic.

    Attributes:
        verdict: one of VERDICTS.
        message: the result with its numbers; the reason for `unavailable`.
        advice: what to do; empty if nothing needs to be done.
        effect: for `warning` and `passed` the measured move of the recommended answer, for
            `inconclusive` the move that noise could hide; None if unknown.
        effect_unit: LOG_N or LOG_L.
        values: the numbers, described in `verdicts.py`.
        parts: the findings that this one combines, by name.
    """

    verdict: str
    message: str
    advice: str = ""
    effect: float | None = 0.0
    effect_unit: str = LOG_N
    values: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, "Finding"] = field(default_factory=dict)

    @property
    def relative_effect(self) -> float:
        """`effect` in multiples of the smallest relevant move.

        If the effect is unknown: infinity for a warning, otherwise 1.
        """
        if self.effect is None:
            return float("inf") if self.verdict == "warning" else 1.0
        return abs(self.effect) / RELEVANT.get(self.effect_unit, 1.0)

    @property
    def rank(self) -> tuple[int, float]:
        """Sort key: warnings first, then the largest effect."""
        return VERDICTS.index(self.verdict), -self.relative_effect

    @property
    def effect_text(self) -> str:
        """The effect for display; empty if there is none to state."""
        if self.verdict == "unavailable" or self.effect == 0:
            return ""
        if self.effect is None:
            return "effect: unknown"
        if self.effect_unit == LOG_N:
            large = abs(self.effect) > np.log(MAX_FACTOR)
            factor = f"over {MAX_FACTOR:g}" if large else f"{np.exp(abs(self.effect)):.3g}"
            return f"{EFFECTS[self.verdict]} a factor {factor} in N_opt"
        return f"{EFFECTS[self.verdict]} {abs(self.effect):.2%} of the loss"


@dataclass(frozen=True)
class Judgement:
    """The verdict on several moves, with the move that decided it."""

    verdict: str
    index: int  # of the deciding move with the largest effect
    effect: float | None
    unit: str = LOG_N

    def finding(
        self, message: str, advice: str, values: dict[str, Any], if_inconclusive: str = MORE_RUNS
    ) -> Finding:
        """A Finding with `advice` for a warning, and `if_inconclusive` where noise is too large."""
        todo = {"warning": advice, "inconclusive": if_inconclusive}.get(self.verdict, "")
        return Finding(self.verdict, message, todo, self.effect, self.unit, values=values)


def threshold(n_moves: int, freedom: np.ndarray | float) -> np.ndarray:
    """|z| that the largest of several moves exceeds with probability FALSE_WARNINGS.

    Two-sided Bonferroni bound over `n_moves`, with the quantile of Student's t from its expansion in
    1/freedom (Abramowitz and Stegun 26.7.5).

    Args:
        n_moves: number of moves that are compared with the threshold.
        freedom: degrees of freedom of the error; at least MIN_FREEDOM is used.
    """
    z = NormalDist().inv_cdf(1 - FALSE_WARNINGS / (2 * max(n_moves, 1)))
    nu = np.maximum(np.asarray(freedom, float), MIN_FREEDOM)
    return z + (z**3 + z) / (4 * nu) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * nu**2)


def judge(
    moves: np.ndarray,
    sd: np.ndarray,
    freedom: np.ndarray | float,
    unit: str = LOG_N,
    *,
    max_sd: float = np.inf,
    typical_sd: float | None = None,
    n_moves: int = 0,
    nested: bool = False,
) -> Judgement:
    """Apply the rule in the module header to several moves of one quantity.

    Args:
        moves: (k,) moves of ln N_opt at C_star or of ln L; NaN for a move that is not judged.
        sd: (k,) standard deviation of each move if the law holds.
        freedom: (k,) or scalar, degrees of freedom of the errors.
        unit: LOG_N or LOG_L.
        max_sd: a move with a larger error causes no warning.
        typical_sd: the error that decides whether a relevant move could be detected; None = median.
        n_moves: number of independent moves; 0 = all. Moves of nested parts are correlated, so that
            fewer count.
        nested: the parts grow towards all runs; of several warnings the last one then decides.

    Raises:
        FitError: no move is finite.
    """
    moves, sd = np.asarray(moves, float), np.asarray(sd, float)
    known = np.isfinite(moves) & np.isfinite(sd)
    if not known.any():
        raise FitError("no refit was possible: too few runs. Add runs.")
    size = np.where(known, np.abs(moves), 0.0)
    relevant = RELEVANT[unit]
    precise = known & (sd <= max_sd)
    limit = threshold(n_moves or int(precise.sum()), freedom)
    significant = precise & (size > limit * sd) & (size > relevant)
    if significant.any():
        order = np.arange(len(size)) if nested else size
        index = int(np.argmax(np.where(significant, order, -1)))
        return Judgement("warning", index, float(size[index]), unit)
    visible = known & (VISIBLE * sd <= relevant)
    detectable = VISIBLE * float(np.median(sd[known]) if typical_sd is None else typical_sd)
    unclear = visible & (size > relevant)
    if detectable > relevant or unclear.any():
        deciding = unclear if unclear.any() else known
        index = int(np.argmax(np.where(deciding, size, -1)))
        return Judgement(
            "inconclusive", index, max(detectable, float((unclear * size).max())), unit
        )
    index = int(np.argmax(np.where(visible, size, -1)))
    return Judgement("passed", index, float(size[index]), unit)


def attempted(diagnostic: Callable[[_Input], Finding], context: _Input) -> Finding:
    """The finding of a diagnostic; `unavailable` with the reason if it cannot be computed."""
    try:
        return diagnostic(context)
    except FitError as error:
        return Finding("unavailable", str(error))


def combined(parts: Mapping[str, Finding], one_question: bool = False) -> Finding:
    """One Finding from several related ones.

    The verdict, message, advice and effect are those of the part with the highest rank. The message ends
    with the verdicts of the others.

    Args:
        parts: the findings by name.
        one_question: whether the parts measure one thing in several ways. A part that passed then
            outranks one that is inconclusive, and of inconclusive parts the most sensitive counts.
    """

    def rank(name: str) -> tuple[float, float]:
        verdict, effect = parts[name].rank
        if one_question and parts[name].verdict == "inconclusive":
            return verdict + 1.5, np.inf if parts[name].effect is None else -effect
        return verdict, effect

    first = min(parts, key=rank)
    if parts[first].verdict == "unavailable":
        return next(iter(parts.values()))
    others = [f"{diagnostic_label(n)} {one.verdict}" for n, one in parts.items() if n != first]
    message = f"{diagnostic_label(first)}: {parts[first].message} Others: {', '.join(others)}."
    return replace(parts[first], message=message, parts=dict(parts))


def diagnostic_label(name: str) -> str:
    """The name of a diagnostic for display."""
    return name.replace("_", " ")


def finite(x: float) -> float | None:
    """A float for JSON: None for NaN and infinity."""
    return float(x) if np.isfinite(x) else None
