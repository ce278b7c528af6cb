"""The report's tables as plain rows: Table 2 beside ours, predictions, frontier points, runs.

Reads frontiers, observations and run results; gives `Table`s that `page` turns into HTML and
`table2_text` into lines for a terminal. Standard library and NumPy: `chinchilla fit` prints from
here without importing matplotlib or torch.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from chinchilla.config import APPROACHES
from chinchilla.core import paper
from chinchilla.core.units import count
from chinchilla.decide.predictions import MAX_FACTOR
from chinchilla.decide.predictions import predictions as predict
from chinchilla.fit.loss_law import named_law, six_nd_frontier
from chinchilla.fit.result import FitResult, PowerLaw
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import SINGLE_EPOCH, Observations
from chinchilla.plan.records import RunResult

PAPER_ROWS = {row.approach: row for row in paper.TABLE_2}
LABELS = {approach: PAPER_ROWS[approach].label for approach in APPROACHES}
SHORT_LABELS = {"envelope": "1 envelope", "isoflop": "2 isoflop", "parametric": "3 parametric"}
RUN_ENDS = "1. Minimum over ends of runs (no curves)"  # approach 1 where runs had none
SHORT_RUN_ENDS = "1 run ends"
MAX_ROWS = 12  # of a list that would otherwise be as long as the envelope's 1500 points


class Cell(NamedTuple):
    """What a reader sees, the number to sort by, and a mark: ours, extrapolated, a run's state."""

    text: str
    value: float | None = None
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """Column heads and rows of equal length."""

    columns: list[str]
    rows: list[list[Cell]]

    @property
    def numeric(self) -> list[bool]:
        """Per column, whether its cells are numbers (they align right)."""
        return [
            any(row[i].value is not None for row in self.rows) for i in range(len(self.columns))
        ]


def name_of(approach: str, fitted: FitResult | None = None, short: bool = False) -> str:
    """What an approach is called in tables, figures and notes.

    Args:
        approach: a key of LABELS; any other name is returned as it is.
        fitted: what it found; approach 1 without curves has another name.
        short: as in a terminal's table.
    """
    if fitted is not None and fitted.settings.get("endpoints_only"):
        return SHORT_RUN_ENDS if short else RUN_ENDS
    return (SHORT_LABELS if short else LABELS).get(approach, approach)


def ratio(x: float) -> str:
    """Tokens per parameter: 0.523, 17.0, 4,812."""
    return f"{x:,.0f}" if x >= 99.95 or x == 0 else f"{x:#.3g}"


def flops(x: float) -> str:
    """FLOPs as they are typed on the command line: 1e18, 2.13e18."""
    if x == 0:
        return "0"
    head, exponent = f"{x:.2e}".split("e")
    return f"{head.rstrip('0').rstrip('.')}e{int(exponent)}"


def exponent(law: PowerLaw) -> str:
    """An exponent with its 80% interval: 0.487 [0.462, 0.534]."""
    if law.p10 is None or law.p90 is None:
        return f"{law.exponent:.3f} (no interval)"
    return f"{law.exponent:.3f} [{law.p10:.3f}, {law.p90:.3f}]"


def _published(value: float, p10: float | None, p90: float | None) -> str:
    return f"{value:.2f}" if p10 is None else f"{value:.2f} [{p10:.3f}, {p90:.3f}]"


def published_lines() -> dict[str, PowerLaw]:
    """The paper's N_opt by each approach; its D_opt is C / (6 N_opt) in all three.

    Approach 1 is the line through Table 3, approach 2 the one through Table A3, approach 3 the
    closed form of equation 4 with the unrounded constants of section D.2.
    """
    (log_coefficient, a), _, _ = six_nd_frontier(named_law("hoffmann"))
    return {
        "envelope": PowerLaw(*paper.N_OPT_TABLE_3),
        "isoflop": PowerLaw(*paper.N_OPT_TABLE_A3_ISOFLOP),
        "parametric": PowerLaw(float(np.exp(log_coefficient)), a),
    }


def published_near(C: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """C and the paper's N_opt by approach, where C is at most MAX_FACTOR times outside of its runs."""
    low, high = paper.LAW_C_RANGE["hoffmann"]
    near = C[(low / MAX_FACTOR <= C) & (high * MAX_FACTOR >= C)]
    return {name: (near, line(near)) for name, line in published_lines().items() if len(near)}


def table2(frontiers: Mapping[str, FitResult], refusals: Mapping[str, str]) -> Table:
    """Table 2's exponents, ours beside the paper's; refused and absent approaches are said so."""
    rows = []
    for approach, published in PAPER_ROWS.items():
        ours = frontiers.get(approach)
        if ours is not None:
            a, b = (Cell(exponent(law), law.exponent, "ours") for law in (ours.N_opt, ours.D_opt))
        else:
            a = b = Cell(_absent(approach, refusals), None, "muted")
        differs = "; ours: over ends of runs" if name_of(approach, ours) == RUN_ENDS else ""
        rows.append(
            [
                Cell(f"{published.label}{differs}"),
                a,
                Cell(_published(published.a, published.a_p10, published.a_p90), published.a),
                b,
                Cell(_published(published.b, published.b_p10, published.b_p90), published.b),
                Cell(str(ours.n_runs), ours.n_runs) if ours else Cell("–", None, "muted"),
            ]
        )
    return Table(["Approach", "a, ours", "a, paper", "b, ours", "b, paper", "Runs"], rows)


def _absent(approach: str, refusals: Mapping[str, str]) -> str:
    if approach in refusals:
        return "refused"
    return "not fitted" if approach in APPROACHES else "–"


def table2_text(fits: FitResults, width: int = 80) -> str:
    """Table 2 beside ours for a terminal, then why an approach was refused.

    Args:
        fits: what `chinchilla fit` found.
        width: columns of the terminal; the table itself needs 64.
    """
    frontiers, refusals = fits.fitted, {a: r.reason for a, r in fits.refused.items()}
    rows = [("", "", "a  (N_opt ~ C^a)", "b  (D_opt ~ C^b)")]
    for approach, row in zip(PAPER_ROWS, table2(frontiers, refusals).rows, strict=True):
        if approach in APPROACHES:
            ours = name_of(approach, frontiers.get(approach), short=True)
            theirs = name_of(approach, short=True)
            rows.append((ours, "ours", row[1].text, row[3].text))
            rows.append(("" if ours == theirs else theirs, "paper", row[2].text, row[4].text))
        else:
            rows.append(("Kaplan 2020", "", row[2].text, row[4].text))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        "  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    for approach, f in frontiers.items():
        if f.N_opt.p10 is not None:
            said = f"[{name_of(approach, f, short=True)}] {f.settings.get('interval', 'interval not stated')}"
            lines += textwrap.wrap(said, max(width, 40), subsequent_indent="  ")
    for approach, reason in refusals.items():
        said = f"{SHORT_LABELS.get(approach, approach)} refused: {reason}"
        lines += textwrap.wrap(said, max(width, 40), subsequent_indent="  ")
    return "\n".join(lines)


def intervals(frontiers: Mapping[str, FitResult]) -> Table:
    """Every approach's interval of a, and the other ways to it that were compared."""
    rows = []
    for approach, f in frontiers.items():
        name = Cell(name_of(approach, f))
        if f.N_opt.p10 is not None:
            method = Cell(f"used: {f.settings.get('interval', 'not stated')}", None, "text")
            pairs = ([f.N_opt.p10, f.N_opt.p90], f.N_opt.ci95)
            rows.append([name, method, *map(_pair, pairs), Cell("–"), Cell("–")])
        sizes = {i.method: i for i in f.intervals if i.of == "N_opt"}
        for i in (i for i in f.intervals if i.of == "a"):
            N = sizes.get(i.method)
            at = Cell("–") if N is None or N.C is None else Cell(flops(N.C), N.C)
            both = (
                Cell("–") if N is None or N.ci95 is None else Cell(" to ".join(map(count, N.ci95)))
            )
            rows.append([
                name, Cell(i.method, None, "text"), _pair([i.p10, i.p90]), _pair(i.ci95), at, both,
            ])  # fmt: skip
    return Table(["Approach", "Method", "a, 80%", "a, 95%", "C, FLOPs", "N_opt at C, 95%"], rows)


def _pair(bounds: Sequence[float | None] | None) -> Cell:
    low, high = bounds or (None, None)
    return Cell("–") if low is None or high is None else Cell(f"{low:.3f} to {high:.3f}", low)


def tried_budgets(finals: Observations | None, frontiers: Mapping[str, FitResult]) -> list[float]:
    """The isoFLOP budgets of the runs; without any, the ends and middle of the FLOPs covered."""
    named = finals.budget_flops if finals is not None else np.zeros(0)
    budgets = sorted({float(c) for c in named[~np.isnan(named)]})
    if not budgets:
        C = [p.C for f in frontiers.values() for p in f.points]
        if not C and finals is not None:
            C = list(finals.C)
        budgets = [float(c) for c in np.geomspace(min(C), max(C), 3)] if C else []
    return _thinned(budgets)


def _thinned(items: Sequence) -> list:
    """At most MAX_ROWS of a sequence, evenly spaced, both ends kept."""
    if len(items) <= MAX_ROWS:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, MAX_ROWS).round().astype(int)]


def predictions(fits: FitResults, budgets: Sequence[float]) -> Table:
    """N_opt and D_opt at each budget and one decade beyond the last, with 80% intervals.

    The numbers are those of `chinchilla predict`: `fit.predict.predictions`.
    """
    asked = [*budgets, 10 * max(budgets)] if budgets else []
    rows = []
    for p in predict(asked, fits, published=False):
        approach = p.by.removeprefix("this data, ")
        loss = Cell("–") if p.L is None else Cell(f"{p.L:.3f}", p.L)
        rows.append(
            [
                Cell(flops(p.C), p.C),
                Cell(name_of(approach, fits.fitted.get(approach))),
                Cell(_with_band(p.N, p.N_p10, p.N_p90), p.N),
                Cell(_with_band(p.D, p.D_p10, p.D_p90), p.D),
                Cell(ratio(p.D / p.N), p.D / p.N),
                loss,
                Cell("covered") if p.beyond is None else Cell("extrapolated", None, "extrapolated"),
            ]
        )
    columns = ["C, FLOPs", "Approach", "N_opt", "D_opt, tokens", "D/N", "L, nats/token", "Range"]
    return Table(columns, rows)


def _with_band(x: float, low: float | None, high: float | None) -> str:
    return count(x) + ("" if low is None or high is None else f" [{count(low)}, {count(high)}]")


def frontier_points(frontiers: Mapping[str, FitResult]) -> Table:
    """The points each line was fitted through; of a long envelope, twelve evenly spaced."""
    rows = [
        [
            Cell(name_of(approach, f)),
            _budget(p.budget_flops),
            Cell(flops(p.C), p.C),
            *_sizes(p.N, p.D),
            Cell(f"{p.L:.4f}", p.L),
        ]
        for approach, f in frontiers.items()
        for p in _thinned(sorted(f.points, key=lambda p: p.C))
    ]
    columns = ["Approach", "Budget, FLOPs", "C, FLOPs", "N", "D, tokens", "D/N", "L, nats/token"]
    return Table(columns, rows)


def runs(results: Sequence[RunResult], finals: Observations | None) -> Table:
    """Every run with its state; of a CSV alone, its rows. Epochs where any run repeats data: its most repeated source's."""
    table = _runs(results, finals)
    epochs = [_epochs(r) for r in results]
    if not results and finals is not None:
        epochs = [None if np.isnan(x) else float(x) for x in finals.epochs]
    if not any(x is not None and x > SINGLE_EPOCH for x in epochs):
        return table
    at = table.columns.index("D/N") + 1
    cells = [Cell("–") if x is None else Cell(f"{x:.3g}", x) for x in epochs]
    rows = [[*row[:at], cell, *row[at:]] for row, cell in zip(table.rows, cells, strict=True)]
    return Table([*table.columns[:at], "Epochs", *table.columns[at:]], rows)


def _epochs(r: RunResult) -> float | None:
    """Passes over the run's most repeated source; None if not recorded."""
    known = list(r.epochs.values())
    if r.unique_tokens:
        known.append(r.steps_done * r.spec.batch_tokens / r.unique_tokens)
    return max([*known, 1.0]) if known else None


def _runs(results: Sequence[RunResult], finals: Observations | None) -> Table:
    if results:
        columns = ["Run", "State", "Budget, FLOPs", "N", "D, tokens", "D/N", "Training loss ± SE"]
        columns += ["Validation loss", "Bits/byte", "C, FLOPs", "Steps", "Peak LR"]
        return Table(columns, [_result_row(r) for r in results])
    columns = ["Run", "Budget, FLOPs", "N", "D, tokens", "D/N", "Loss, nats/token", "C, FLOPs"]
    if finals is None:
        return Table(columns, [])
    names = ("run_id", "budget_flops", "N", "D", "L", "C")
    rows = [
        [
            Cell(str(run_id), None, "id"),
            _budget(None if np.isnan(budget) else float(budget)),
            *_sizes(float(N), float(D)),
            Cell(f"{L:.4f}", float(L)),
            Cell(flops(C), float(C)),
        ]
        for run_id, budget, N, D, L, C in zip(*(getattr(finals, n) for n in names), strict=True)
    ]
    return Table(columns, rows)


def _budget(x: float | None) -> Cell:
    return Cell("–") if x is None else Cell(flops(x), x)


def _sizes(N: float, D: float) -> list[Cell]:
    return [Cell(count(N), N), Cell(count(D), D), Cell(ratio(D / N), D / N)]


def _result_row(r: RunResult) -> list[Cell]:
    spec = r.spec
    steps = f"{r.steps_done}" if r.steps_done == spec.steps else f"{r.steps_done} of {spec.steps}"
    reason = textwrap.shorten(r.reason, 160, placeholder=" …")
    return [
        Cell(spec.run_id, None, "id"),
        Cell(r.status + (f": {reason}" if reason else ""), None, f"state {r.status}"),
        _budget(spec.budget_flops),
        *_sizes(spec.N, r.steps_done * spec.batch_tokens),
        _loss(r.final_loss, r.final_loss_se),
        _by_set(r.validation_loss),
        _by_set(r.bits_per_byte),
        Cell(flops(r.flops_spent), r.flops_spent),
        Cell(steps, r.steps_done),
        Cell(f"{spec.peak_lr:.3g}", spec.peak_lr),
    ]


def _loss(mean: float | None, se: float | None) -> Cell:
    if mean is None:
        return Cell("–")
    return Cell(f"{mean:.4f}" + (f" ± {se:.4f}" if se is not None else ""), mean)


def _by_set(values: Mapping[str, float]) -> Cell:
    """One validation set: its number; several: each with its name, sorted by their mean."""
    if not values:
        return Cell("–")
    if len(values) == 1:
        text = f"{next(iter(values.values())):.4f}"
    else:
        text = ", ".join(f"{name} {x:.4f}" for name, x in values.items())
    return Cell(text, float(np.mean(list(values.values()))))
