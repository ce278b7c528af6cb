"""Corpora side by side, as Appendix C of Hoffmann et al. (2022): do their frontiers differ?

Fits with the runs they were made from in, a record of plain values out: `compare.json`. Differences
have intervals from the resamples that the fits keep, every resample of one against every one of the
other: the runs of two sweeps are independent. Losses in nats per token do not compare across
tokenizers, bits per byte do. NumPy only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chinchilla.config.fit import APPROACHES
from chinchilla.core.errors import InputError
from chinchilla.fit.result import FitResult, called
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import Observations
from chinchilla.recommend.evaluate import default_budget, headline, recommendation

LEADS = ("isoflop", "parametric", "envelope")  # Appendix C is approach 2
MOST_RESAMPLES = 1_000  # of each side: a million differences
CONVENTIONS = ("flop_convention", "n_convention", "loss_kind")
NOT_ASKED = "not asked for"
VERDICTS = {  # what the interval of a difference of exponents says
    "differ": "more than their intervals allow (the 95% interval leaves out 0)",
    "may differ": "perhaps more than their intervals allow (the 80% interval leaves out 0, the 95% one holds it)",
    "not told apart": "no more than their intervals allow (the 80% interval holds 0)",
    "no interval": "no interval: a fit keeps no resamples (n_bootstrap=0, or too few could be fitted)",
}


@dataclass(frozen=True)
class Side:
    """One corpus: its fits, the final losses they stand on, and what is known of its tokens."""

    name: str
    folder: str
    fits: FitResults
    finals: Observations
    bits_per_nat: float | None = None  # bits per byte in a nat per token, by the validation text
    data_ids: tuple[str, ...] = ()
    vocab_sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Exponents:
    """One approach on one corpus; a and b with [p10, p90], None where there are none."""

    approach: str
    corpus: str
    a: float | None
    a_interval: list[float] | None
    b: float | None
    b_interval: list[float] | None
    n_runs: int | None
    refused: str = ""  # why there is no answer


@dataclass(frozen=True)
class Difference:
    """The second corpus against the first: a minus a, or N_opt over N_opt at C."""

    approach: str
    first: str
    second: str
    of: str  # a, N_opt
    C: float | None  # FLOPs, of N_opt
    value: float
    interval: list[float] | None  # [p10, p90]
    ci95: list[float] | None
    verdict: str  # a key of VERDICTS


@dataclass(frozen=True)
class Size:
    """N_opt of one approach on one corpus at C, with [p10, p90]."""

    C: float
    approach: str
    corpus: str
    N: float
    interval: list[float] | None


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
    """What `chinchilla compare` found."""

    corpora: list[dict]
    conventions: dict[str, str]
    budgets: list[float]  # shared, FLOPs
    exponents: list[Exponents]
    differences: list[Difference]
    sizes: list[Size]
    lowest: list[Lowest]
    notes: list[str]
    # Each corpus's recommended answer at one budget, ten times the smallest of their largest C.
    recommended: list[dict[str, Any]] = field(default_factory=list)
    schema: int = 2

    @property
    def lead(self) -> str | None:
        """The approach to quote: the first of LEADS that every corpus could be fitted by."""
        for approach in LEADS:
            found = [e for e in self.exponents if e.approach == approach]
            if found and all(e.a is not None for e in found):
                return approach
        return None


def compare(sides: Sequence[Side]) -> Comparison:
    """Exponents, optimal sizes and losses of two corpora or more; differences are from the first.

    Raises:
        InputError: their runs count FLOPs or parameters in two ways, or hold two kinds of loss.
    """
    conventions = _conventions(sides)
    named = [{float(b) for b in s.finals.budget_labels if np.isfinite(b)} for s in sides]
    budgets = sorted(set.intersection(*named))
    at, notes = _places(sides, budgets)
    notes += _unsaid(sides, conventions) + _notes(sides)
    fitted: Mapping[str, list[FitResult]] = {
        a: [s.fits.fitted[a] for s in sides]
        for a in APPROACHES
        if all(a in s.fits.fitted for s in sides)
    }
    differences, sizes = [], []
    for approach, frontiers in fitted.items():
        names = [s.name for s in sides]
        differences += [
            _of_exponents(approach, names[0], name, frontiers[0], f)
            for name, f in zip(names[1:], frontiers[1:], strict=True)
        ]
        for C in at:
            sizes += [_size(approach, n, f, C) for n, f in zip(names, frontiers, strict=True)]
            differences += [
                _of_sizes(approach, names[0], name, frontiers[0], f, C)
                for name, f in zip(names[1:], frontiers[1:], strict=True)
            ]
    return Comparison(
        corpora=[_about(s) for s in sides],
        conventions=conventions,
        budgets=budgets,
        exponents=[_exponents(a, s) for a in APPROACHES for s in sides],
        differences=differences,
        sizes=sizes,
        lowest=[_lowest(s, b) for b in budgets for s in sides],
        notes=notes,
        recommended=_recommended(sides),
    )


def _recommended(sides: Sequence[Side]) -> list[dict[str, Any]]:
    """The recommended answer of every corpus that has one, at the same budget."""
    C = min(default_budget(s.fits) for s in sides)
    return [
        {"corpus": s.name, "answer": headline(r), **r.to_dict()}
        for s in sides
        if s.fits.recommended is not None
        for r in [recommendation(s.fits, C)]
    ]


def _conventions(sides: Sequence[Side]) -> dict[str, str]:
    """How all of them count; what one leaves unsaid counts as the others say."""
    found = {}
    for name in CONVENTIONS:
        said = {s.name: getattr(s.finals, name) for s in sides}
        known = {corpus: x for corpus, x in said.items() if x != "unknown"}
        if len(set(known.values())) > 1:
            told = ", ".join(f"{x} in {corpus}" for corpus, x in known.items())
            cure = "Fit both with one loss=" if name == "loss_kind" else "Count both in one way"
            raise InputError(f"{name} differs ({told}): the two do not compare. {cure}.")
        found[name] = next(iter(known.values()), "unknown")
    return found


def _unsaid(sides: Sequence[Side], conventions: dict[str, str]) -> list[str]:
    """A note for each side about which a convention is only supposed."""
    notes = []
    others = "the other says" if len(sides) == 2 else "others say"
    for side in sides:
        supposed = {
            name: x
            for name, x in conventions.items()
            if x != "unknown" and getattr(side.finals, name) == "unknown"
        }
        if supposed:
            notes.append(
                f"{side.name} does not say its {', '.join(supposed)}: taken to be "
                f"{', '.join(supposed.values())}, as {others}."
            )
    return notes


def _places(sides: Sequence[Side], budgets: list[float]) -> tuple[list[float], list[str]]:
    """C at which sizes are compared: the shared budgets, else ends and middle of the shared range."""
    if budgets:
        return budgets, []
    low = max(float(s.finals.C.min()) for s in sides)
    high = min(float(s.finals.C.max()) for s in sides)
    if low < high:
        return [float(C) for C in np.geomspace(low, high, 3)], [
            "no isoFLOP budget is shared: sizes are compared over the range of C that is."
        ]
    return [], ["no C is shared: sizes are not compared."]


def _notes(sides: Sequence[Side]) -> list[str]:
    notes = []
    ids = [s.data_ids for s in sides]
    for i, side in enumerate(sides):
        if side.data_ids and side.data_ids in ids[:i]:
            notes.append(
                f"{side.name} reads the same tokens as {sides[ids.index(side.data_ids)].name}."
            )
    tables = [s.fits.data.get("observations_sha256") for s in sides]
    for i, side in enumerate(sides):
        if tables[i] and tables[i] in tables[:i]:
            first = sides[tables.index(tables[i])].name
            notes.append(
                f"{side.name} and {first} are fits of the same runs: they are not independent."
            )
        if len(repeating := side.finals.repeating()):
            notes.append(
                f"{len(repeating)} of {len(side.finals)} runs on {side.name} repeat data, up to "
                f"{repeating.most_epochs()}: repeated tokens count as new ones here."
            )
    sizes = [s.vocab_sizes for s in sides]
    if all(sizes) and len(set(sizes)) > 1:
        notes.append(
            f"vocabularies differ ({', '.join(f'{s.name} {max(s.vocab_sizes):,}' for s in sides)}), and N "
            "counts the embedding: that alone moves N_opt."
        )
    return notes


def _about(side: Side) -> dict:
    factor = side.bits_per_nat
    return {
        "name": side.name,
        "folder": side.folder,
        "n_runs": len(side.finals),
        "data_ids": list(side.data_ids),
        "vocab_sizes": list(side.vocab_sizes),
        "bits_per_nat": factor,
        "bytes_per_token": None if factor is None else 1 / (np.log(2) * factor),
        "max_epochs": side.fits.data.get("max_epochs"),
    }


def _pair(low: float | None, high: float | None) -> list[float] | None:
    return None if low is None or high is None else [low, high]


def _exponents(approach: str, side: Side) -> Exponents:
    f = side.fits.fitted.get(approach)
    if f is None:
        refused = side.fits.refused.get(approach)
        why = refused.reason if refused else NOT_ASKED
        return Exponents(approach, side.name, None, None, None, None, None, why)
    N, D = f.N_opt, f.D_opt
    return Exponents(
        approach, side.name, N.exponent, _pair(N.p10, N.p90), D.exponent, _pair(D.p10, D.p90), f.n_runs
    )  # fmt: skip


def _spread(first: np.ndarray, second: np.ndarray) -> tuple[list[float] | None, list[float] | None]:
    """10-90% and 95% of the second's resamples less the first's."""
    if not len(first) or not len(second):
        return None, None
    apart = second[None, :MOST_RESAMPLES] - first[:MOST_RESAMPLES, None]
    low95, p10, p90, high95 = map(float, np.percentile(apart, (2.5, 10, 90, 97.5)))
    return [p10, p90], [low95, high95]


def _verdict(interval: list[float] | None, ci95: list[float] | None, none: float = 0.0) -> str:
    if interval is None or ci95 is None:
        return "no interval"
    if not ci95[0] <= none <= ci95[1]:
        return "differ"
    return "not told apart" if interval[0] <= none <= interval[1] else "may differ"


def _of_exponents(approach: str, first: str, second: str, f: FitResult, g: FitResult) -> Difference:
    one, other = (np.array(x.N_opt.samples[1] if x.N_opt.samples else []) for x in (f, g))
    interval, ci95 = _spread(one, other)
    value = g.N_opt.exponent - f.N_opt.exponent
    return Difference(
        approach, first, second, "a", None, value, interval, ci95, _verdict(interval, ci95)
    )


def _of_sizes(
    approach: str, first: str, second: str, f: FitResult, g: FitResult, C: float
) -> Difference:
    bounds = _spread(np.log(f.N_opt.all_at(C)), np.log(g.N_opt.all_at(C)))
    interval, ci95 = (None if x is None else [float(np.exp(y)) for y in x] for x in bounds)
    ratio = float(g.N_opt(C) / f.N_opt(C))
    return Difference(
        approach, first, second, "N_opt", C, ratio, interval, ci95, _verdict(interval, ci95, 1.0)
    )


def _size(approach: str, corpus: str, f: FitResult, C: float) -> Size:
    low, high = (float(x) for x in f.N_opt.band(C))
    return Size(C, approach, corpus, float(f.N_opt(C)), [low, high] if low == low else None)


def _lowest(side: Side, budget: float) -> Lowest:
    runs = side.finals.where(side.finals.budget_labels == budget)
    i = int(np.argmin(runs.L))
    L = float(runs.L[i])
    bits = None if side.bits_per_nat is None else L * side.bits_per_nat
    return Lowest(budget, side.name, float(runs.N[i]), float(runs.D[i]), L, bits)


def told(found: Comparison) -> str:
    """The recommended answers, the exponents of the approach that all share, and whether they differ."""
    answers = " ".join(f"{r['corpus']}: {r['answer']}" for r in found.recommended)
    lead = found.lead
    if lead is None:
        text = "No approach could be fitted to every corpus: their exponents cannot be compared."
        return f"{answers} {text}".strip()
    said = [
        f"C^{e.a:.2f}"
        + (f" [{e.a_interval[0]:.2f}, {e.a_interval[1]:.2f}]" if e.a_interval else "")
        + f" on {e.corpus}"
        for e in found.exponents
        if e.approach == lead
    ]
    text = f"By {called(lead)} N_opt grows as {' and as '.join(said)}."
    for d in found.differences:
        if d.approach == lead and d.of == "a":
            held = "" if d.interval is None else f" [{d.interval[0]:+.2f}, {d.interval[1]:+.2f}]"
            text += f" {d.second} less {d.first} is {round(d.value, 2) + 0.0:+.2f}{held}: {VERDICTS[d.verdict]}."
    return f"{answers} {text}".strip()
