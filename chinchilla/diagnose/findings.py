"""Verdicts of the diagnostics, and the rule that decides between them.

A diagnostic measures how far something moves the recommended answer: ln N_opt at C_star, or the
logarithm of the predicted loss. RELEVANT holds the smallest move worth acting on. Every move has an
error: the standard deviation that noise alone would give it if the law held exactly. The verdicts are

    warning       a move is larger than both the relevant size and what noise explains
    inconclusive  the error is so large that a relevant move would not stand out from the noise
    passed        neither: a relevant move would have been detected and was not
    unavailable   the diagnostic needs runs or a fit that are missing

NumPy only: this module must import without torch.
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
MAX_SD = float(np.log(2.0))  # of ln N_opt; the linearised error of a refit is unreliable beyond it
MAX_FACTOR = 100.0  # largest factor in N_opt that is printed
MIN_FREEDOM = 3.0  # smallest degrees of freedom used in `threshold`
MORE_RUNS = "Add runs, or repeat runs with other seeds, to reduce the noise."

PART_KEYS = ("verdict", "message", "effect", "effect_unit")  # of each part of a combined finding

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
        note: a remark without a verdict; empty if none.
        kind: the reason for `unavailable` in one word, for programs; else empty.
        values: the numbers, described in `verdicts.py`.
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

        An unknown effect counts as infinite for a warning, and as one relevant move otherwise.
        """
        if self.effect is None:
            return float("inf") if self.verdict == "warning" else 1.0
        return abs(self.effect) / RELEVANT.get(self.effect_unit, 1.0)

    @property
    def rank(self) -> tuple[int, float]:
        """Sort key: warnings first, then the largest effect."""
        return VERDICTS.index(self.verdict), -self.relative_effect


@dataclass(frozen=True)
class Judgement:
    """The verdict on several moves, with the move that decided it."""

    verdict: str
    index: int  # of the deciding move with the largest effect
    effect: float | None
    deciding: np.ndarray  # (k,) bool: the moves that alone would give this verdict

    def inconclusive_if(self, incomplete: bool) -> "Judgement":
        """Replace `passed` by `inconclusive` with an unknown effect if moves are missing."""
        if not incomplete or self.verdict != "passed":
            return self
        return replace(self, verdict="inconclusive", effect=None)

    def at_last(self, moves: np.ndarray) -> "Judgement":
        """For a warning, select the last deciding move: for parts that grow towards all runs."""
        if self.verdict != "warning":
            return self
        index = int(np.flatnonzero(self.deciding)[-1])
        return replace(self, index=index, effect=float(abs(moves[index])))


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
    max_sd: float = MAX_SD,
    typical: Callable[[np.ndarray], float] = np.median,
    n_moves: int = 0,
) -> Judgement:
    """Apply the rule in the module header to several moves of one quantity.

    Args:
        moves: (k,) moves of ln N_opt at C_star or of ln L; NaN for a move that is not judged.
        sd: (k,) standard deviation of each move if the law holds.
        freedom: (k,) or scalar, degrees of freedom of the errors.
        unit: LOG_N or LOG_L.
        max_sd: a move with a larger error causes no warning.
        typical: reduces the errors to the one that decides whether a relevant move could be detected;
            np.min if one precise move is sufficient.
        n_moves: number of independent moves; 0 = all. Moves of nested parts are correlated, so that
            fewer count.

    Raises:
        FitError: no move is finite (too_few_runs).
    """
    moves, sd = np.asarray(moves, float), np.asarray(sd, float)
    known = np.isfinite(moves) & np.isfinite(sd)
    if not known.any():
        raise FitError("none of the refits could be made: too few runs.", "too_few_runs")
    size = np.where(known, np.abs(moves), 0.0)
    relevant = RELEVANT[unit]
    precise = known & (sd <= max_sd)
    limit = threshold(n_moves or int(precise.sum()), freedom)
    significant = precise & (size > limit * sd) & (size > relevant)
    if significant.any():
        index = int(np.argmax(np.where(significant, size, -1)))
        return Judgement("warning", index, float(size[index]), significant)
    visible = known & (VISIBLE * sd <= relevant)
    detectable = VISIBLE * float(typical(sd[known]))
    unclear = visible & (size > relevant)
    if detectable > relevant or unclear.any():
        deciding = unclear if unclear.any() else known
        index = int(np.argmax(np.where(deciding, size, -1)))
        effect = max(detectable, float((unclear * size).max()))
        return Judgement("inconclusive", index, effect, deciding)
    index = int(np.argmax(np.where(visible, size, -1)))
    return Judgement("passed", index, float(size[index]), visible)


def finding(
    judgement: Judgement,
    message: str,
    advice: str,
    values: dict[str, Any],
    *,
    unit: str = LOG_N,
    if_inconclusive: str = MORE_RUNS,
) -> Finding:
    """A Finding with the advice that belongs to its verdict.

    Args:
        judgement: the verdict and its effect.
        message: the result.
        advice: what to do about a warning.
        values: the numbers.
        unit: of the effect.
        if_inconclusive: what to do if the noise is too large.
    """
    todo = {"warning": advice, "inconclusive": if_inconclusive}.get(judgement.verdict, "")
    return Finding(judgement.verdict, message, todo, judgement.effect, unit, values=values)


def combined(
    parts: Mapping[str, Callable[[_Input], Finding]], context: _Input, one_question: bool = False
) -> Finding:
    """One Finding from several related diagnostics.

    The verdict, message, advice and effect are those of the part with the highest rank. The message ends
    with the verdicts of the others. `values` maps each part to its verdict, message, effect and values.

    Args:
        parts: the diagnostics by name.
        context: their argument.
        one_question: whether the parts measure one thing in several ways. A part that passed then
            outranks one that is inconclusive, and of inconclusive parts the most sensitive counts.

    Raises:
        FitError: no part could be computed; the reason is that of the first.
    """
    results: dict[str, Finding] = {}
    errors: dict[str, FitError] = {}
    for name, part in parts.items():
        try:
            results[name] = part(context)
        except FitError as error:
            errors[name] = error
    if not results:
        raise next(iter(errors.values()))
    ranks = {name: one.rank for name, one in results.items()}
    verdicts = {one.verdict for one in results.values()}
    if one_question and "passed" in verdicts:
        ranks = {n: r for n, r in ranks.items() if results[n].verdict != "inconclusive"}
    elif one_question and "warning" not in verdicts:
        ranks = {
            n: (r[0], np.inf if results[n].effect is None else -r[1]) for n, r in ranks.items()
        }
    first = min(ranks, key=lambda name: ranks[name])
    others = [
        *(f"{called(n)} {called(one.verdict)}" for n, one in results.items() if n != first),
        *(f"{called(n)} unavailable" for n in errors),
    ]
    message = f"{called(first)}: {results[first].message}"
    if others:
        message += f" Others: {', '.join(others)}."
    values: dict[str, Any] = {
        name: {key: getattr(one, key) for key in PART_KEYS} | one.values
        for name, one in results.items()
    }
    for name, reason in errors.items():
        values[name] = {"verdict": "unavailable", "message": str(reason), "kind": reason.kind}
    return replace(results[first], message=message, values=values)


def called(name: str) -> str:
    """The name of a diagnostic or a verdict, for display."""
    return name.replace("_", " ")


def described(item: Finding) -> str:
    """The effect of a finding for display; empty if there is none to state."""
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
    prefix = {
        "warning": "effect:",
        "inconclusive": "noise could hide up to",
        "passed": "effect: at most",
    }
    return f"{prefix[item.verdict]} {size}"


def sd_text(z: float) -> str:
    """A move over the standard deviation that noise alone would give it, for display."""
    return f"{abs(z):.1f} SD of noise"


def number(x: float) -> float | None:
    """A float for JSON: None for NaN and infinity."""
    return float(x) if np.isfinite(x) else None
