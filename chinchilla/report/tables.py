"""The tables of the report: Table 2, predictions, points of the frontiers, runs.

Fits, observations and run results in, `Table` records out. `chinchilla fit` prints Table 2 from here,
so this module must import without SciPy, matplotlib and torch.
"""

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from chinchilla.config import APPROACHES
from chinchilla.core import paper
from chinchilla.core.table import NONE, Cell, Table, cell
from chinchilla.core.units import count
from chinchilla.decide.predictions import MAX_FACTOR
from chinchilla.decide.predictions import predictions as predict
from chinchilla.fit.loss_law import named_law, six_nd_frontier
from chinchilla.fit.result import FitResult, PowerLaw, target_budget
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import Observations
from chinchilla.plan.records import RunResult

PAPER_ROWS = {row.approach: row for row in paper.TABLE_2}
LABELS = {"envelope": "1 envelope", "isoflop": "2 isoflop", "parametric": "3 parametric"}
RUN_ENDS = "1 final losses"  # approach 1 without training curves
loss = "{:.4f}".format  # nats per token
MAX_ROWS = 12  # budgets in the table of predictions


def name_of(approach: str, fitted: FitResult | None = None) -> str:
    """The label of an approach in tables, figures and notes; any other name is returned unchanged."""
    if fitted is not None and fitted.settings.get("endpoints_only"):
        return RUN_ENDS
    return LABELS.get(approach, approach)


def ratio(x: float) -> str:
    """Tokens per parameter: 0.523, 17.0, 4,812."""
    return f"{x:,.0f}" if x >= 99.95 or x == 0 else f"{x:#.3g}"


def flops(x: float) -> str:
    """FLOPs as they are typed on the command line: 1e18, 2.13e18."""
    if x == 0:
        return "0"
    head, exponent = f"{x:.2e}".split("e")
    return f"{head.rstrip('0').rstrip('.')}e{int(exponent)}"


def bounds(
    interval: Sequence[float | None] | None,
    show: Callable[[float], str] = "{:.3f}".format,
    without: str = NONE,
) -> str:
    """An interval as 0.462 to 0.534; `without` if there is none."""
    low, high = interval or (None, None)
    return without if low is None or high is None else f"{show(low)} to {show(high)}"


def with_interval(
    x: float,
    interval: Sequence[float | None] | None,
    show: Callable[[float], str],
    without: str = "",
) -> str:
    """A number with its interval, as 0.487 [0.462, 0.534]; followed by `without` if it has none."""
    low, high = interval or (None, None)
    return show(x) + (without if low is None or high is None else f" [{show(low)}, {show(high)}]")


def exponent(law: PowerLaw, digits: int = 3) -> str:
    """An exponent with its 80% interval: 0.487 [0.462, 0.534]."""
    show = f"{{:.{digits}f}}".format
    return with_interval(law.exponent, (law.p10, law.p90), show, " (no interval)")


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
    """C and the paper's N_opt by approach, where C is within a factor MAX_FACTOR of its runs."""
    low, high = paper.LAW_C_RANGE["hoffmann"]
    near = C[(low / MAX_FACTOR <= C) & (high * MAX_FACTOR >= C)]
    return {name: (near, line(near)) for name, line in published_lines().items() if len(near)}


def table2(fits: FitResults) -> Table:
    """Table 2: the exponents of each approach, ours above the paper's; the state of one without a fit."""
    table = Table(
        ["Approach", "", "a", "b", "Runs"],
        caption="Exponents of N_opt ~ C^a and D_opt ~ C^b. Brackets: 80% intervals (10th to 90th "
        "percentile), ours over resampled runs, the paper's over 100 fits to 80% of its data.",
        left=("Approach", ""),
        n_names=2,
    )
    for approach, published in PAPER_ROWS.items():
        fitted = fits.fitted.get(approach)
        label = name_of(approach, fitted)
        if fitted is not None:
            laws = [Cell(exponent(x), x.exponent, "ours") for x in (fitted.N_opt, fitted.D_opt)]
            table.add_row(label, "ours", *laws, Cell(str(fitted.n_runs), fitted.n_runs))
        elif approach in APPROACHES:
            state = Cell("refused" if approach in fits.refused else "not fitted", None, "muted")
            table.add_row(label, "ours", state, state, NONE)
        theirs = LABELS.get(approach, published.label)  # Kaplan et al. have no row of ours
        table.add_row(
            "" if theirs == label else theirs,
            "paper",
            *(
                Cell(f"{x:.2f}" if low is None else f"{x:.2f} [{low:.3f}, {high:.3f}]", x)
                for x, low, high in (
                    (published.a, published.a_p10, published.a_p90),
                    (published.b, published.b_p10, published.b_p90),
                )
            ),
            NONE,
        )
    return table


def interval_methods(fits: FitResults) -> dict[str, str]:
    """How the interval of each approach was computed, by its short label."""
    return {
        name_of(approach, f): f.settings["interval"]
        for approach, f in fits.fitted.items()
        if f.N_opt.p10 is not None
    }


def tried_budgets(finals: Observations | None, fitted: Mapping[str, FitResult]) -> list[float]:
    """The IsoFLOP budgets of the runs; without any, the ends and middle of the FLOPs covered."""
    named = np.zeros(0) if finals is None else finals.budget_flops
    budgets = np.unique(named[~np.isnan(named)]).tolist()
    C = [p.C for f in fitted.values() for p in f.points] or ([] if finals is None else finals.C)
    if not budgets and len(C):
        budgets = np.geomspace(min(C), max(C), 3).tolist()
    shown = np.unique(np.linspace(0, len(budgets) - 1, MAX_ROWS).round().astype(int))
    return [budgets[i] for i in shown if budgets]


def predictions(fits: FitResults, budgets: Sequence[float]) -> Table:
    """N_opt and D_opt at each budget and at ten times the last, as `chinchilla predict` gives them."""
    table = Table(
        ["C, FLOPs", "Approach", "N_opt", "D_opt, tokens", "D/N", "L, nats/token", "Range"],
        caption="Predictions at the budgets of the runs and at ten times the largest, with 80% "
        "intervals. L by approach 3's law.",
    )
    shown = [*budgets, target_budget(max(budgets), exact=True)] if budgets else []
    for p in predict(shown, fits, published=False):
        approach = p.by.removeprefix("this data, ")
        table.add_row(
            cell(p.C, flops),
            name_of(approach, fits.fitted.get(approach)),
            Cell(with_interval(p.N, p.N_interval80, count), p.N),
            Cell(with_interval(p.D, p.D_interval80, count), p.D),
            cell(p.D / p.N, ratio),
            cell(p.L, "{:.3f}".format),
            Cell("covered") if p.beyond is None else Cell("extrapolated", None, "extrapolated"),
        )
    return table


def _sizes(N: Iterable[float], D: Iterable[float]) -> dict[str, list[Cell]]:
    pairs = [(float(n), float(d)) for n, d in zip(N, D, strict=True)]
    return {
        "N": [cell(n, count) for n, _ in pairs],
        "D, tokens": [cell(d, count) for _, d in pairs],
        "D/N": [cell(d / n, ratio) for n, d in pairs],
    }


def runs(results: Sequence[RunResult], finals: Observations | None) -> Table:
    """Every run with its state; without results, the rows of the observations."""
    caption = "All runs; click a column head to sort. D: tokens seen. C: FLOPs spent."
    columns: dict[str, list[Cell]] = {}
    if results:
        D = [r.steps_done * r.spec.batch_tokens for r in results]
        columns = {
            "Run": [Cell(r.spec.run_id, None, "id") for r in results],
            "State": [_state(r) for r in results],
            "Budget, FLOPs": [cell(r.spec.budget_flops, flops) for r in results],
            **_sizes([r.spec.N for r in results], D),
            "Training loss": [cell(r.final_loss, loss) for r in results],
            "Validation loss": [_by_set(r.validation_loss) for r in results],
            "Bits/byte": [_by_set(r.bits_per_byte) for r in results],
            "C, FLOPs": [cell(r.flops_spent, flops) for r in results],
            "Steps": [Cell(f"{r.steps_done} of {r.spec.steps}", r.steps_done) for r in results],
            "Peak LR": [cell(r.spec.peak_lr, "{:.3g}".format) for r in results],
        }
    elif finals is not None:
        columns = {
            "Run": [Cell(str(run_id), None, "id") for run_id in finals.run_id],
            "Budget, FLOPs": [cell(None if np.isnan(x) else x, flops) for x in finals.budget_flops],
            **_sizes(finals.N, finals.D),
            "Loss, nats/token": [cell(float(x), loss) for x in finals.L],
            "C, FLOPs": [cell(float(x), flops) for x in finals.C],
        }
    return Table.of(columns, caption)


def _state(r: RunResult) -> Cell:
    reason = textwrap.shorten(r.reason, 160, placeholder=" …")
    return Cell(r.status + (f": {reason}" if reason else ""), None, f"state {r.status}")


def _by_set(values: Mapping[str, float]) -> Cell:
    """The value of one validation set, or of several with their names, sorted by the mean."""
    if len(values) < 2:
        return cell(next(iter(values.values()), None), loss)
    text = ", ".join(f"{name} {x:.4f}" for name, x in values.items())
    return Cell(text, float(np.mean(list(values.values()))))
