"""Corpora side by side: the tables and the figure of `chinchilla compare`."""

from collections.abc import Sequence
from pathlib import Path

from chinchilla.config import APPROACHES
from chinchilla.core import paper
from chinchilla.core.files.writing import make_dirs
from chinchilla.core.table import NONE, Cell, Table, cell
from chinchilla.core.units import count
from chinchilla.decide.compare import NOT_REQUESTED, VERDICTS, Comparison, Side
from chinchilla.fit.result import PowerLaw
from chinchilla.plots.style import save_figure
from chinchilla.report.figures import isoflop_curves_side_by_side
from chinchilla.report.tables import (
    LABELS,
    bounds,
    exponent,
    flops,
    loss,
    ratio,
)

FIGURE = "compare_isoflop_curves"
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
        n_names=2,
    )
    for approach in APPROACHES:
        label = LABELS[approach]
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
        caption=f"Exponent a minus that of {found.corpora[0]['name']}. Intervals combine every "
        "resample of one corpus with every resample of the other.",
        n_names=2,
        dispensable=("95%",),
    )
    for d in found.differences:
        table.add_row(
            LABELS[d.approach],
            d.second,
            cell(d.value, "{:+.3f}".format, "ours"),
            bounds(d.interval, "{:+.3f}".format),
            bounds(d.ci95, "{:+.3f}".format),
            Cell(VERDICTS[d.verdict], None, "text"),
        )
    return table


def _losses(found: Comparison) -> Table:
    table = Table(
        ["Budget, FLOPs", "Corpus", "N", "D, tokens", "D/N", "Nats/token", "Bits/byte"],
        caption="The best run of each corpus at the shared budgets. Nats per token are comparable only "
        "with the same tokenizer, bits per byte with any lossless tokenizer; both also depend on the "
        "text.",
        n_names=2,
        dispensable=("D/N",),
    )
    for x in found.lowest:
        table.add_row(
            cell(x.budget_flops, flops), x.corpus, cell(x.N, count), cell(x.D, count),
            cell(x.D / x.N, ratio), cell(x.L, loss), cell(x.bits_per_byte, loss),
        )  # fmt: skip
    return table


def save_figure_of(sides: Sequence[Side], folder: Path) -> Path | None:
    """Draw the IsoFLOP curves of the corpora side by side.

    Returns:
        The PNG, beside which there is an SVG; None if no run names a budget.
    """
    known = [s.bits_per_nat for s in sides if s.bits_per_nat is not None]
    panels = [(s.name, s.fits.fitted.get("isoflop"), s.finals) for s in sides]
    figure = isoflop_curves_side_by_side(panels, known if len(known) == len(sides) else None)
    if figure is None:
        return None
    make_dirs(folder)
    save_figure(figure, folder, FIGURE)
    return folder / f"{FIGURE}.png"
