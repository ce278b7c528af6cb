"""`chinchilla reproduce table2`: the paper's Tables 2, 3 and A3 from published points and curves.

Observations in, tables and one paragraph out: why approach 3 differs from the printed values, each
reason with numbers computed here. NumPy, and SciPy for the searches that stop early.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from chinchilla.core import paper
from chinchilla.core.errors import FitError
from chinchilla.core.table import Table
from chinchilla.core.units import count
from chinchilla.fit import fit_envelope, fit_isoflop, fit_parametric
from chinchilla.fit.loss_law import named_law
from chinchilla.fit.parametric.paper_search import grid_starts, search
from chinchilla.fit.parametric.solver import fit_loss_law
from chinchilla.fit.result import FitResult, LossLaw, PowerLaw
from chinchilla.observations.table import Observations
from chinchilla.report.tables import LABELS, bounds, flops, name_of, published_lines

SIZES = tuple(row[0] for row in paper.TABLE_3)  # parameters of Tables 3 and A3
EVERY = 43  # one in so many of the paper's 4,500 starts is searched from, spread over all five axes


@dataclass(frozen=True)
class Row:
    """One line of Table 2: exponents with 80% and 95% intervals, ours or the paper's."""

    approach: str
    whose: str  # ours or paper
    data: str
    a: float
    a_80: list[float] | None
    a_95: list[float] | None
    b: float
    b_80: list[float] | None
    b_95: list[float] | None
    N_at_gopher: float | None  # N_opt at 5.76e23 FLOPs


@dataclass(frozen=True)
class Projection:
    """One line of Table 3 or A3: the FLOPs and tokens at which a size is optimal."""

    table: str
    N: float
    C: float
    C_80: list[float] | None
    D: float
    paper_C: float
    paper_D: float


@dataclass(frozen=True)
class Reproduced:
    """The result of `chinchilla reproduce table2`."""

    rows: list[Row]
    projections: list[Projection]
    reasons: list[dict[str, Any]]  # what, its numbers, text
    settings: dict[str, Any]
    refusals: dict[str, str] = field(default_factory=dict)
    intervals: dict[str, str] = field(default_factory=dict)  # by fit, the method


def reproduce(
    points: Observations,
    curves: Observations | None = None,
    drop_highest: int = 5,
    n_bootstrap: int = 4_000,
    seed: int = 0,
) -> Reproduced:
    """Table 2 from final losses, and from training curves where there are any.

    Args:
        points: final losses; budget_flops names the isoFLOP runs.
        curves: training curves for approach 1; None: final losses only, labelled so.
        drop_highest: number of highest losses excluded from approach 3, five in Besiroglu et al.;
            the fit to all points is shown as well.
        n_bootstrap: resamples of runs.
        seed: of the resampling.
    """
    settings = {"n_bootstrap": n_bootstrap, "seed": seed}
    points = points.finals()
    kept = points.where(np.sort(np.argsort(points.L, kind="stable")[: len(points) - drop_highest]))
    fits: dict[str, FitResult] = {}
    refusals: dict[str, str] = {}
    jobs: dict[str, tuple[Callable[..., FitResult], Observations]] = {
        "envelope": (fit_envelope, points if curves is None else curves),
        "isoflop": (partial(fit_isoflop, profile="parabola", window="all"), points),
        "isoflop, exact shape": (fit_isoflop, kept),
        "parametric": (fit_parametric, kept),
        "parametric, all points": (fit_parametric, points),
    }
    if not drop_highest:
        jobs.pop("parametric, all points")
    for name, (fit, obs) in jobs.items():
        try:
            fits[name] = fit(obs, **settings)
        except FitError as error:
            refusals[name] = str(error)
    rows = []
    for published in paper.TABLE_2:
        for name, result in fits.items():
            if name.partition(",")[0] == published.approach:
                label = name_of(published.approach, result)
                rows.append(_our_row(label, result, len(jobs[name][1].finals())))
        rows.append(_paper_row(published))
    projections: list[Projection] = []
    for table, name, values in (  # values: the paper's C and D of each size
        ("Table 3", "envelope", [row[1:3] for row in paper.TABLE_3]),
        ("Table A3, approach 2", "isoflop", [row[1:3] for row in paper.TABLE_A3]),
        ("Table A3, approach 3", "parametric", [row[3:5] for row in paper.TABLE_A3]),
    ):
        if name in fits:
            projections += _projections(table, fits[name], values)
    ours = fits.get("parametric")
    reasons = [] if ours is None else why_approach_3_differs(kept, points, ours)
    settings["drop_highest"] = drop_highest
    methods = {name: str(fit.settings["interval"]) for name, fit in fits.items()}
    return Reproduced(rows, projections, reasons, settings, refusals, methods)


def _our_row(label: str, f: FitResult, n: int) -> Row:
    data = f"{f.n_runs} of {n} runs"
    if f.approach == "envelope":
        data = f"{n} final losses (no curves: weaker)"
        if not f.settings["endpoints_only"]:
            data = f"curves of {n} runs"
    elif f.approach == "isoflop":
        exact = f.settings["exponents"] != "none"
        data += " (exact shape)" if exact else " (parabolas, as in the paper)"
    return _row(label, "ours", data, f.N_opt, f.D_opt, float(f.N_opt(paper.GOPHER_BUDGET)))


def _paper_row(row: paper.Table2Row) -> Row:
    N = None  # Kaplan et al. have none
    if row.approach == "envelope":
        N = paper.TABLE_3[3][0]
    elif row.approach in published_lines():
        N = float(published_lines()[row.approach](paper.GOPHER_BUDGET))
    laws = PowerLaw(1.0, row.a, row.a_p10, row.a_p90), PowerLaw(1.0, row.b, row.b_p10, row.b_p90)
    return _row(LABELS.get(row.approach, row.label), "paper", "", *laws, N)


def _row(approach: str, whose: str, data: str, N: PowerLaw, D: PowerLaw, at: float | None) -> Row:
    a_80, b_80 = (None if x.p10 is None or x.p90 is None else [x.p10, x.p90] for x in (N, D))
    return Row(approach, whose, data, N.exponent, a_80, N.ci95, D.exponent, b_80, D.ci95, at)


def _projections(
    table: str, f: FitResult, published: Sequence[tuple[float, ...]]
) -> Iterator[Projection]:
    for N, (paper_C, paper_D) in zip(SIZES, published, strict=True):
        C = (N / f.N_opt.coefficient) ** (1 / f.N_opt.exponent)
        bounds = None
        if f.N_opt.samples:
            log_k, a = np.asarray(f.N_opt.samples)
            bounds = np.exp(np.percentile((np.log(N) - log_k) / a, (10, 90))).tolist()
        yield Projection(table, N, float(C), bounds, float(C / (6 * N)), paper_C, paper_D)


def why_approach_3_differs(
    kept: Observations, every: Observations, ours: FitResult
) -> list[dict[str, Any]]:
    """The reasons, each with numbers computed from these points.

    Args:
        kept: the points approach 3 was fitted to.
        every: all points, outliers included.
        ours: approach 3 on `kept`.
    """
    assert ours.law is not None
    assert ours.certificate is not None
    N, D, L = kept.N, kept.D, kept.L
    lowest, a = float(ours.certificate["objective"]), _exponent(ours.law)
    r = np.abs(np.log(named_law("hoffmann")(N, D) / L))
    published = float((np.minimum(r, 1e-3) * (r - np.minimum(r, 1e-3) / 2)).sum())
    reasons: list[dict[str, Any]] = []

    def add(what: str, text: str, **numbers: Any) -> None:
        reasons.append({"what": what, **numbers, "text": text})

    add(
        "minimum",
        f"the minimum of the sum of Huber losses is at a = {a:.3f}; at the printed constants (a = .457) "
        f"the sum is {published / lowest - 1:.0%} higher",
        objective=lowest, objective_published=published, a=a,
    )  # fmt: skip
    mean = search(N, D, L, converge=False, starts=grid_starts()[::EVERY])
    lowest_ends = mean.theta[np.argsort(mean.objectives)[:10]]
    ends = (lowest_ends[:, 4] / lowest_ends[:, 3:].sum(axis=1)).tolist()
    add(
        "mean instead of sum, default tolerances",
        f"with the mean in place of the sum and SciPy's default tolerances, searches from "
        f"{len(mean.objectives)} of the paper's 4,500 starts end after {mean.iterations.mean():.0f} steps on "
        f"average; {mean.said_success.mean():.0%} of them report success=True, and the ten lowest objectives "
        f"have a from {min(ends):.2f} to {max(ends):.2f}",
        n_starts=len(mean.objectives), mean_iterations=float(mean.iterations.mean()),
        said_success=float(mean.said_success.mean()), a=_exponent(mean.law), a_of_ten_lowest=ends,
    )  # fmt: skip
    exact, rounded = (
        float(named_law(name).optimum(paper.GOPHER_BUDGET).N)
        for name in ("hoffmann", "hoffmann_rounded")
    )
    add(
        "rounding",
        f"rounding the exponents to two digits moves N_opt at 5.76e23 FLOPs from {count(exact)} to "
        f"{count(rounded)}",
        N_at_gopher=exact, N_at_gopher_rounded=rounded,
    )  # fmt: skip
    if n_dropped := len(every) - len(kept):
        a_all = _exponent(fit_loss_law(every.N, every.D, every.L)[0])
        add(
            "outliers",
            f"with the {n_dropped} highest losses included, a is {a_all:.3f} instead of {a:.3f}",
            n_dropped=n_dropped, a=a_all,
        )  # fmt: skip
    return reasons


def _exponent(law: LossLaw) -> float:
    """a under C = 6ND."""
    return law.beta / (law.alpha + law.beta)


def tables(found: Reproduced) -> list[Table]:
    """Tables 2, 3 and A3, ours above the paper's."""
    projected = dict.fromkeys(p.table for p in found.projections)
    return [
        _table2(found.rows),
        *(_projection_table(name, found.projections) for name in projected),
    ]


def notes(found: Reproduced) -> list[str]:
    """Refusals, how intervals were computed, and why approach 3 differs: paragraphs."""
    paragraphs = [f"{name} refused: {reason}" for name, reason in found.refusals.items()]
    intervals = ["Intervals of the paper: 80%, over 100 fits to 80% of the data. Ours:"]
    intervals += [f"{name}: {method}." for name, method in found.intervals.items()]
    paragraphs.append("\n".join(intervals))
    if found.reasons:
        texts = "; ".join(reason["text"] for reason in found.reasons)
        paragraphs.append(f"Why approach 3 differs from the paper's: {texts}.")
    return paragraphs


def markdown(found: Reproduced) -> str:
    """The tables as Markdown, and the notes."""
    paragraphs = [f"{table.caption}\n\n{chr(10).join(table.markdown())}" for table in tables(found)]
    return "\n\n".join([*paragraphs, *notes(found)]) + "\n"


def _table2(rows: Sequence[Row]) -> Table:
    table = Table(
        ["approach", "", "runs", "a", "a, 80%", "a, 95%", "b", "b, 80%", "b, 95%", "N_opt at 5.76e23"],
        caption="Table 2: N_opt ~ C^a, D_opt ~ C^b",
        left=("approach", "", "runs"),
        n_names=3,
        dispensable=("a, 95%", "b, 95%", "b, 80%", "a, 80%", "b"),
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row.approach,
            row.whose,
            row.data,
            *(f"{row.a:.3f}", bounds(row.a_80, without=""), bounds(row.a_95, without="")),
            *(f"{row.b:.3f}", bounds(row.b_80, without=""), bounds(row.b_95, without="")),
            "" if row.N_at_gopher is None else count(row.N_at_gopher),
        )
    return table


def _projection_table(name: str, projections: Sequence[Projection]) -> Table:
    table = Table(
        ["N", "C, ours", "C, 80%", "C, paper", "D, ours", "D, paper"],
        caption=f"{name}: FLOPs and tokens at which a size is optimal",
        left=(),
        dispensable=("C, 80%",),
    )
    for p in projections:
        if p.table == name:
            C, D = (flops(p.C), flops(p.paper_C)), (count(p.D), count(p.paper_D))
            table.add_row(count(p.N), C[0], bounds(p.C_80, flops, ""), C[1], *D)
    return table
