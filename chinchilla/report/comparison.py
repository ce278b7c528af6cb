"""Corpora side by side: the tables of `chinchilla compare`, its figure and its page.

The input is a `Comparison` with the sides that it compares. The output is tables, compare.html, and
figures/compare_isoflop_curves.png and .svg.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from chinchilla.config import APPROACHES
from chinchilla.core import paper
from chinchilla.core.files import write_text
from chinchilla.core.table import NONE, Cell, Table, cell
from chinchilla.core.units import count
from chinchilla.decide.compare import NOT_REQUESTED, VERDICTS, Comparison, Side, summary
from chinchilla.fit.result import PowerLaw
from chinchilla.report import sections
from chinchilla.report.figures import Drawing, isoflop_curves_side_by_side, saved
from chinchilla.report.page import render
from chinchilla.report.tables import (
    LABELS,
    SHORT_LABELS,
    bounds,
    exponent,
    flops,
    loss,
    ratio,
)

SAME_TOKENIZER = "four IsoFLOP curves for each corpus, one tokenizer for both"


def tables_of(found: Comparison) -> dict[str, Table]:
    """Every table by name."""
    return {
        "exponents": _exponents(found),
        "differences": _differences(found),
        "losses": _losses(found),
    }


def _exponents(found: Comparison) -> Table:
    table = Table(
        ["Approach", "Corpus", "a", "b", "Runs"],
        caption="N_opt grows as C^a, D_opt as C^b. Brackets: 80% intervals (10th to 90th percentile "
        f"over resampled runs). The paper's rows are Table A2's ({SAME_TOKENIZER}), printed without "
        "intervals.",
    )
    for approach in APPROACHES:
        label = SHORT_LABELS[approach]
        for e in found.exponents:
            if e.approach == approach:
                missing = "not fitted" if e.refused == NOT_REQUESTED else "refused"
                exponents = [
                    Cell(missing, None, "muted")
                    if x is None
                    else Cell(exponent(PowerLaw(1.0, x, *(interval or ()))), x, "ours")
                    for x, interval in ((e.a, e.a_interval), (e.b, e.b_interval))
                ]
                table.add_row(label, e.corpus, *exponents, cell(e.n_runs, "{:d}".format))
        for row in paper.TABLE_A2 if approach == "isoflop" else ():
            head = (Cell(text, None, "muted") for text in (label, f"paper, {row.corpus}"))
            table.add_row(*head, *(cell(x, "{:.2f}".format) for x in (row.a, row.b)), NONE)
    return table


def _differences(found: Comparison) -> Table:
    table = Table(
        ["Approach", "Corpus", "Difference", "80%", "95%", "Verdict"],
        caption=f"Exponent a minus that of {found.corpora[0]['name']}. Intervals: every resample of "
        "one corpus against every one of the other.",
    )
    for d in found.differences:
        table.add_row(
            SHORT_LABELS[d.approach],
            d.second,
            cell(d.value, "{:+.3f}".format, "ours"),
            bounds(d.interval, "+"),
            bounds(d.ci95, "+"),
            Cell(VERDICTS[d.verdict], None, "text"),
        )
    return table


def _losses(found: Comparison) -> Table:
    table = Table(
        ["Budget, FLOPs", "Corpus", "N", "D, tokens", "D/N", "Nats/token", "Bits/byte"],
        caption="The best run of each corpus at the shared budgets. Nats per token are comparable only "
        "with the same tokenizer; bits per byte with any lossless one, and then they also differ with "
        "the texts.",
    )
    for x in found.lowest:
        table.add_row(
            cell(x.budget_flops, flops), x.corpus, cell(x.N, count), cell(x.D, count),
            cell(x.D / x.N, ratio), cell(x.L, loss), cell(x.bits_per_byte, loss),
        )  # fmt: skip
    return table


def write_comparison(out_dir: Path, sides: Sequence[Side], found: Comparison) -> Path:
    """Write compare.html and its figure into `out_dir`.

    Returns:
        The path of compare.html.
    """
    known = [s.bits_per_nat for s in sides if s.bits_per_nat is not None]
    factors = known if len(known) == len(sides) else None
    panels = [(s.name, s.fits.fitted.get("isoflop"), s.finals) for s in sides]
    unit = (
        "Bits per byte, all panels to one scale: nats per token are not comparable across tokenizers."
        if factors
        else "Each panel has its own axis in nats per token, which are not comparable across "
        "tokenizers; bits per byte are not known for every corpus here."
    )
    figure = Drawing(
        "compare_isoflop_curves",
        "IsoFLOP curves side by side",
        isoflop_curves_side_by_side(panels, factors),
        f"A panel for each corpus, with one axis of sizes and one colour for each budget. {unit} "
        "Stars: the minima of the fitted shapes. Hollow points and a dashed line: a refused budget; it "
        "has no star, and the dotted line through the stars skips it. Compare how fast the minima move "
        "to the right. After figure A2 of the paper.",
        "Final loss against parameters, one panel for each corpus, one fitted IsoFLOP curve for each "
        "budget.",
    )
    figures = saved(out_dir / "figures", [figure])
    refused = [
        (f"{e.corpus} · {LABELS[e.approach]}", e.refused)
        for e in found.exponents
        if e.refused not in ("", NOT_REQUESTED)
    ]
    notes = [("Comparison", text) for text in found.notes]
    for s in sides:
        notes += [(f"{s.name} · {about}", text) for about, text in sections.notes([], s.fits)]
    page = render(
        "compare.html.j2",
        title=" and ".join(s.name for s in sides),
        headline=summary(found),
        facts=[(s.name, _fact(s)) for s in sides],
        figures=figures,
        tables=tables_of(found),
        refusals=refused,
        notes=notes,
        conventions=sections.conventions([], sides[0].finals, {}),
        environment=sections.environment([], {"folders": [s.folder for s in sides]}),
    )
    write_text(out_dir / "compare.html", page)
    return out_dir / "compare.html"


def _fact(side: Side) -> str:
    facts = [
        f"{len(side.finals)} runs",
        f"C {flops(float(side.finals.C.min()))} to {flops(float(side.finals.C.max()))}",
    ]
    if side.vocab_sizes:
        facts.append(f"vocabulary {', '.join(f'{v:,}' for v in side.vocab_sizes)}")
    if side.bits_per_nat is not None:
        facts.append(f"{1 / (side.bits_per_nat * math.log(2)):.3f} bytes per token")
    if side.data_ids:
        facts.append(f"data_id {', '.join(side.data_ids)}")
    if len(repeating := side.finals.repeating()):
        facts.append(f"up to {repeating.most_epochs()}")
    return "; ".join(facts)
