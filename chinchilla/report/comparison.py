"""Corpora side by side: the tables of `chinchilla compare`, its figure and its page.

A `Comparison` and the sides it was made from in; tables for terminal and page, compare.html and
figures/compare_isoflop_curves.png and .svg out.
"""

from collections.abc import Sequence
from pathlib import Path

from chinchilla.config import APPROACHES
from chinchilla.core import paper
from chinchilla.core.files import write_text
from chinchilla.core.units import count
from chinchilla.decide.compare import (
    NOT_REQUESTED,
    VERDICTS,
    Comparison,
    Difference,
    Exponents,
    Side,
    summary,
)
from chinchilla.report import sections
from chinchilla.report.figures import isoflop_curves_side_by_side
from chinchilla.report.page import drawn, render
from chinchilla.report.tables import LABELS, SHORT_LABELS, Cell, Table, flops, ratio

SAME_TOKENIZER = "four isoFLOP profiles a corpus, one tokenizer for both"


def tables_of(found: Comparison) -> dict[str, tuple[str, Table]]:
    """Every table by name, with the sentence above it."""
    names = [c["name"] for c in found.corpora]
    return {
        "exponents": (
            "N_opt grows as C^a, D_opt as C^b. Brackets: 10th and 90th percentile over resampled runs. "
            f"The paper's rows are Table A2's ({SAME_TOKENIZER}), printed without intervals.",
            _exponents(found),
        ),
        "differences": (
            f"Exponent a less that of {names[0]}. Every resample of one corpus against every one of the other.",
            _differences(found),
        ),
        "sizes": (
            f"N_opt at the {'shared budgets' if found.budgets else 'same C'}, with 80% intervals, and over that "
            f"of {names[0]}.",
            _sizes(found, names),
        ),
        "losses": (
            "The best run of each corpus at the shared budgets. Nats per token compare only where the "
            "tokenizer is one; bits per byte do wherever tokenizers lose nothing, and then a difference is also the texts' own.",
            _losses(found),
        ),
    }


def _with_interval(x: float | None, interval: list[float] | None, none: str) -> Cell:
    if x is None:
        return Cell(none, None, "muted")
    held = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else " (no interval)"
    return Cell(f"{x:.3f}{held}", x, "ours")


def _absent(e: Exponents) -> str:
    return "not fitted" if e.refused == NOT_REQUESTED else "refused"


def _exponents(found: Comparison) -> Table:
    rows = []
    for approach in APPROACHES:
        rows += [
            [
                Cell(SHORT_LABELS[approach]),
                Cell(e.corpus),
                _with_interval(e.a, e.a_interval, _absent(e)),
                _with_interval(e.b, e.b_interval, _absent(e)),
                Cell("–") if e.n_runs is None else Cell(str(e.n_runs), e.n_runs),
            ]
            for e in found.exponents
            if e.approach == approach
        ]
        if approach == "isoflop":
            rows += [
                [
                    Cell(SHORT_LABELS[approach], None, "muted"),
                    Cell(f"paper, {row.corpus}", None, "muted"),
                    Cell(f"{row.a:.2f}", row.a),
                    Cell(f"{row.b:.2f}", row.b),
                    Cell("–"),
                ]
                for row in paper.TABLE_A2
            ]
    return Table(["Approach", "Corpus", "a", "b", "Runs"], rows)


def _differences(found: Comparison) -> Table:
    rows = [
        [
            Cell(SHORT_LABELS[d.approach]),
            Cell(d.second),
            Cell(f"{d.value:+.3f}", d.value, "ours"),
            _bounds(d.interval),
            _bounds(d.ci95),
            Cell(VERDICTS[d.verdict], None, "text"),
        ]
        for d in found.differences
        if d.of == "a"
    ]
    return Table(["Approach", "Corpus", "Difference", "80%", "95%", "Verdict"], rows)


def _bounds(interval: list[float] | None) -> Cell:
    if interval is None:
        return Cell("–")
    return Cell(f"{interval[0]:+.3f} to {interval[1]:+.3f}", interval[0])


def _sizes(found: Comparison, names: Sequence[str]) -> Table:
    rows: dict[tuple[float, str], list[Cell]] = {}
    for s in sorted(found.sizes, key=lambda s: s.C):
        held = f" [{count(s.interval[0])}, {count(s.interval[1])}]" if s.interval else ""
        head = [Cell(flops(s.C), s.C), Cell(SHORT_LABELS[s.approach])]
        rows.setdefault((s.C, s.approach), head).append(Cell(count(s.N) + held, s.N))
    for d in found.differences:
        if d.C is not None:
            rows[d.C, d.approach].append(_times(d))
    over = [f"{name} / {names[0]}" for name in names[1:]]
    return Table(["C, FLOPs", "Approach", *names, *over], list(rows.values()))


def _times(d: Difference) -> Cell:
    held = f" [{ratio(d.interval[0])}, {ratio(d.interval[1])}]" if d.interval else ""
    return Cell(ratio(d.value) + held, d.value)


def _losses(found: Comparison) -> Table:
    rows = [
        [
            Cell(flops(x.budget_flops), x.budget_flops),
            Cell(x.corpus),
            Cell(count(x.N), x.N),
            Cell(count(x.D), x.D),
            Cell(ratio(x.D / x.N), x.D / x.N),
            Cell(f"{x.L:.4f}", x.L),
            Cell("–")
            if x.bits_per_byte is None
            else Cell(f"{x.bits_per_byte:.4f}", x.bits_per_byte),
        ]
        for x in found.lowest
    ]
    columns = ["Budget, FLOPs", "Corpus", "N", "D, tokens", "D/N", "Nats/token", "Bits/byte"]
    return Table(columns, rows)


def write_comparison(out_dir: Path, sides: Sequence[Side], found: Comparison) -> Path:
    """Write compare.html and its figure into `out_dir`.

    Returns:
        The path of compare.html.
    """
    known = [s.bits_per_nat for s in sides if s.bits_per_nat is not None]
    factors = known if len(known) == len(sides) else None
    panels = [(s.name, s.fits.fitted.get("isoflop"), s.finals) for s in sides]
    unit = (
        "Bits per byte, all panels to one scale: nats per token do not compare across tokenizers."
        if factors
        else "Each panel has its own axis in nats per token, which do not compare across tokenizers; bits "
        "per byte are not known of every corpus here."
    )
    caption = (
        f"A panel for each corpus, one axis of sizes, each budget in one colour. {unit} Stars: the minima "
        "of the shapes fitted. Hollow points and a dashed line: a budget that was refused; it has no star, "
        "and the dotted line through the stars passes it by. Look for minima that move right at another pace. After figure A2 of the paper."
    )
    alt = "Final loss against parameters, one panel a corpus, one fitted IsoFLOP curve for each budget."
    figures = drawn(
        out_dir / "figures",
        [("compare_isoflop_curves", "IsoFLOP curves side by side", isoflop_curves_side_by_side(panels, factors), caption, alt)],
    )  # fmt: skip
    tables = tables_of(found)
    refused = [
        (f"{e.corpus} · {LABELS[e.approach]}", e.refused)
        for e in found.exponents
        if e.refused not in ("", NOT_REQUESTED)
    ]
    page = render(
        "compare.html.j2",
        title=" and ".join(s.name for s in sides),
        headline=summary(found),
        facts=[(s.name, _fact(s)) for s in sides],
        figures=figures,
        tables=tables,
        refusals=refused,
        notes=[
            *(("Comparison", text) for text in found.notes),
            *(
                (f"{s.name} · {who}", text)
                for s in sides
                for who, text in sections.notes([], s.fits)
            ),
        ],
        conventions=sections.conventions([], sides[0].finals, {}),
        environment=sections.environment([], {"folders": [s.folder for s in sides]}),
    )
    write_text(out_dir / "compare.html", page)
    return out_dir / "compare.html"


def _fact(side: Side) -> str:
    said = [
        f"{len(side.finals)} runs",
        f"C {flops(float(side.finals.C.min()))} to {flops(float(side.finals.C.max()))}",
    ]
    if side.vocab_sizes:
        said.append(f"vocabulary {', '.join(f'{v:,}' for v in side.vocab_sizes)}")
    if side.bits_per_nat is not None:
        said.append(f"{1 / (side.bits_per_nat * 0.6931471805599453):.3f} bytes a token")
    if side.data_ids:
        said.append(f"data_id {', '.join(side.data_ids)}")
    if len(again := side.finals.repeating()):
        said.append(f"up to {again.most_epochs()}")
    return "; ".join(said)
