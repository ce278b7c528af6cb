"""Compare corpora, as Appendix C of Hoffmann et al. (2022): do their frontiers differ?

The input is fits with the runs they were made from, the output a record of plain values: `compare.json`.
Intervals of differences use the resamples stored in the fits: every resample of one corpus is combined
with every resample of the other, because the runs of two sweeps are independent. Losses in nats per token
are not comparable across tokenizers, bits per byte are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chinchilla.config.fit import APPROACHES
from chinchilla.core.errors import InputError
from chinchilla.fit.result import approach_label
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import Observations
from chinchilla.recommend.evaluate import default_budget, headline, recommendation

PREFERENCE = ("isoflop", "parametric", "envelope")  # Appendix C uses approach 2
MAX_RESAMPLES = 1_000  # of each corpus, so a million differences
CONVENTIONS = ("flop_convention", "n_convention", "loss_kind")
NOT_REQUESTED = "not requested"
VERDICTS = {  # of a difference of exponents
    "differ": "they differ (the 95% interval excludes 0)",
    "may differ": "they may differ (the 80% interval excludes 0, the 95% interval does not)",
    "not distinguishable": "no significant difference (the 80% interval includes 0)",
    "no interval": "no interval: a fit has too few resamples (n_bootstrap)",
}


@dataclass(frozen=True)
class Side:
    """One corpus: its fits, the final losses they were made from, and what is known of its tokens."""

    name: str
    folder: str
    fits: FitResults
    finals: Observations
    bits_per_nat: float | None = None  # bits per byte for one nat per token, on the validation text
    data_ids: tuple[str, ...] = ()
    vocab_sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Exponents:
    """One approach on one corpus; a and b with [p10, p90], None if there is no fit."""

    approach: str
    corpus: str
    a: float | None
    a_interval: list[float] | None
    b: float | None
    b_interval: list[float] | None
    n_runs: int | None
    refused: str = ""  # why there is no fit


@dataclass(frozen=True)
class Difference:
    """The exponent a of the second corpus minus that of the first, by one approach."""

    approach: str
    first: str
    second: str
    value: float
    interval: list[float] | None  # [p10, p90]
    ci95: list[float] | None
    verdict: str  # a key of VERDICTS


@dataclass(frozen=True)
class Lowest:
    """The best run of a corpus at a shared budget."""

    budget_flops: float
    corpus: str
    N: float
    D: float
    L: float  # nats per token
    bits_per_byte: float | None


@dataclass(frozen=True)
class Comparison:
    """The result of `chinchilla compare`."""

    corpora: list[dict[str, Any]]
    conventions: dict[str, str]
    exponents: list[Exponents]
    differences: list[Difference]
    lowest: list[Lowest]
    notes: list[str]
    # The recommended answer of each corpus at one budget, ten times the smallest of their largest C.
    recommended: list[dict[str, Any]] = field(default_factory=list)
    schema: int = 4

    @property
    def approach(self) -> str | None:
        """The approach to quote: the first in PREFERENCE that was fitted to every corpus."""
        for approach in PREFERENCE:
            rows = [e for e in self.exponents if e.approach == approach]
            if rows and all(e.a is not None for e in rows):
                return approach
        return None


def compare(sides: Sequence[Side]) -> Comparison:
    """Exponents, recommended answers and losses of two or more corpora; differences are from the first.

    Raises:
        InputError: their runs count FLOPs or parameters in different ways, or hold different losses.
    """
    conventions, notes = _conventions(sides)
    known = ({float(b) for b in s.finals.budget_labels if np.isfinite(b)} for s in sides)
    budgets = sorted(set.intersection(*known))
    first, *others = sides
    differences = [
        _difference(approach, first, other)
        for approach in APPROACHES
        if all(approach in s.fits.fitted for s in sides)
        for other in others
    ]
    C = min(default_budget(s.fits) for s in sides)
    answers = {s.name: recommendation(s.fits, C) for s in sides if s.fits.recommended is not None}
    return Comparison(
        corpora=[_corpus(s) for s in sides],
        conventions=conventions,
        exponents=[_exponents(a, s) for a in APPROACHES for s in sides],
        differences=differences,
        lowest=[_lowest(s, b) for b in budgets for s in sides],
        notes=notes + _notes(sides),
        recommended=[
            {"corpus": name, "answer": headline(r), **r.to_dict()} for name, r in answers.items()
        ],
    )


def _conventions(sides: Sequence[Side]) -> tuple[dict[str, str], list[str]]:
    """The conventions of all corpora, and a note where one is not stated and assumed to be the others'."""
    conventions, notes = {}, []
    for name in CONVENTIONS:
        known = {s.name: x for s in sides if (x := getattr(s.finals, name)) != "unknown"}
        if len(set(known.values())) > 1:
            listed = ", ".join(f"{x} in {corpus}" for corpus, x in known.items())
            advice = "Fit both with the same loss=" if name == "loss_kind" else "Count both alike"
            raise InputError(f"{name} differs ({listed}): they are not comparable. {advice}.")
        conventions[name] = next(iter(known.values()), "unknown")
        if known and len(known) < len(sides):
            silent = ", ".join(s.name for s in sides if s.name not in known)
            notes.append(f"{name} of {silent} is not stated: assumed to be {conventions[name]}.")
    return conventions, notes


def _notes(sides: Sequence[Side]) -> list[str]:
    """Notes on shared runs and on vocabularies."""
    notes = []
    tables = [s.fits.data.get("observations_sha256") for s in sides]
    if len(set(tables)) < len(sides) and all(tables):
        notes.append(
            "two corpora are fits of the same runs: they are not independent. Give the fits of "
            "different runs."
        )
    sizes = [s.vocab_sizes for s in sides]
    if all(sizes) and len(set(sizes)) > 1:
        listed = ", ".join(f"{s.name} {max(s.vocab_sizes):,}" for s in sides)
        notes.append(
            f"vocabularies differ ({listed}), and N includes the embedding: this alone changes N_opt."
        )
    return notes


def _corpus(side: Side) -> dict[str, Any]:
    factor = side.bits_per_nat
    return {
        "name": side.name,
        "folder": side.folder,
        "n_runs": len(side.finals),
        "data_ids": list(side.data_ids),
        "vocab_sizes": list(side.vocab_sizes),
        "bytes_per_token": None if factor is None else 1 / (np.log(2) * factor),
    }


def _exponents(approach: str, side: Side) -> Exponents:
    f = side.fits.fitted.get(approach)
    if f is None:
        refused = side.fits.refused.get(approach)
        reason = refused.reason if refused else NOT_REQUESTED
        return Exponents(approach, side.name, None, None, None, None, None, reason)
    intervals = [
        None if law.p10 is None or law.p90 is None else [law.p10, law.p90]
        for law in (f.N_opt, f.D_opt)
    ]
    return Exponents(
        approach, side.name, f.N_opt.exponent, intervals[0], f.D_opt.exponent, intervals[1], f.n_runs
    )  # fmt: skip


def _difference(approach: str, first: Side, second: Side) -> Difference:
    """Of the exponents a: every resample of the second corpus minus every one of the first."""
    laws = [s.fits.fitted[approach].N_opt for s in (first, second)]
    value, interval, ci95, verdict = laws[1].exponent - laws[0].exponent, None, None, "no interval"
    if laws[0].samples and laws[1].samples:
        one, two = (np.array(law.samples[1][:MAX_RESAMPLES]) for law in laws)
        ends = np.percentile(two[None, :] - one[:, None], (2.5, 10, 90, 97.5)).tolist()
        interval, ci95 = [ends[1], ends[2]], [ends[0], ends[3]]
        verdict = "may differ" if ends[0] <= 0 <= ends[3] else "differ"
        if ends[1] <= 0 <= ends[2]:
            verdict = "not distinguishable"
    return Difference(approach, first.name, second.name, value, interval, ci95, verdict)


def _lowest(side: Side, budget: float) -> Lowest:
    runs = side.finals.where(side.finals.budget_labels == budget)
    i = int(np.argmin(runs.L))
    L = float(runs.L[i])
    bits = None if side.bits_per_nat is None else L * side.bits_per_nat
    return Lowest(budget, side.name, float(runs.N[i]), float(runs.D[i]), L, bits)


def summary(comparison: Comparison) -> str:
    """The recommended answers, the exponents by one approach, and whether they differ."""
    sentences = [f"{r['corpus']}: {r['answer']}" for r in comparison.recommended]
    approach = comparison.approach
    if approach is None:
        sentences.append(
            "No approach could be fitted to every corpus: their exponents cannot be compared."
        )
        return " ".join(sentences)
    exponents = [
        f"C^{e.a:.2f}{_bracket(e.a_interval, '.2f')} on {e.corpus}"
        for e in comparison.exponents
        if e.approach == approach
    ]
    sentences.append(f"By {approach_label(approach)} N_opt grows as {' and as '.join(exponents)}.")
    for d in comparison.differences:
        if d.approach == approach:
            value = round(d.value, 2) + 0.0  # no -0.00
            sentences.append(
                f"a({d.second}) - a({d.first}) = {value:+.2f}{_bracket(d.interval, '+.2f')}: "
                f"{VERDICTS[d.verdict]}."
            )
    return " ".join(sentences)


def _bracket(interval: list[float] | None, form: str) -> str:
    return "" if interval is None else f" [{interval[0]:{form}}, {interval[1]:{form}}]"
