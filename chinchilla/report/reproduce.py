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
from chinchilla.fit.loss_law import named_law, six_nd_frontier
from chinchilla.fit.parametric.paper_search import search
from chinchilla.fit.parametric.solver import fit_loss_law
from chinchilla.fit.result import FitResult
from chinchilla.observations.table import Observations
from chinchilla.report.tables import flops, name_of, published_lines

SIZES = tuple(row[0] for row in paper.TABLE_3)  # parameters of Tables 3 and A3


@dataclass(frozen=True)
class Row:
    """One line of Table 2: exponents with 80% and 95% intervals, ours or the paper's."""

    approach: str
    whose: str  # ours or paper
    data: str
    a: float | None
    a_80: list[float] | None
    a_95: list[float] | None
    b: float | None
    b_80: list[float] | None
    b_95: list[float] | None
    N_at_gopher: float | None  # N_opt at 5.76e23 FLOPs
    note: str = ""


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
    explain: bool = True,
    full_grid: bool = False,
) -> Reproduced:
    """Table 2 from final losses, and from training curves where there are any.

    Args:
        points: final losses; budget_flops names the isoFLOP runs.
        curves: training curves for approach 1; None: final losses only, labelled so.
        drop_highest: number of highest losses excluded from approach 3, five in Besiroglu et al.;
            the fit to all points is shown as well.
        n_bootstrap: resamples of runs.
        seed: of the resampling.
        explain: compute why approach 3 differs from the paper's (half a minute).
        full_grid: also search from all 4,500 starts to convergence (minutes).
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
        for name, frontier in fits.items():
            if name.partition(",")[0] == published.approach:
                label = name_of(published.approach, frontier)
                rows.append(_our_row(label, frontier, len(jobs[name][1].finals())))
        rows.append(_paper_row(published))
    projections: list[Projection] = []
    for table, name, values in (  # values: the paper's C and D of each size
        ("Table 3", "envelope", [row[1:3] for row in paper.TABLE_3]),
        ("Table A3, approach 2", "isoflop", [row[1:3] for row in paper.TABLE_A3]),
        ("Table A3, approach 3", "parametric", [row[3:5] for row in paper.TABLE_A3]),
    ):
        if name in fits:
            projections += _projections(table, fits[name], values)
    ours = fits.get("parametric") if explain else None
    reasons = why_approach_3_differs(kept, points, ours, full_grid)
    settings |= {"drop_highest": drop_highest, "full_grid": full_grid}
    methods = {name: str(fit.settings["interval"]) for name, fit in fits.items()}
    return Reproduced(rows, projections, reasons, settings, refusals, methods)


def _our_row(label: str, f: FitResult, n: int) -> Row:
    data, note = f"{f.n_runs} of {n} runs", ""
    if f.approach == "envelope":
        data = f"curves of {n} runs"
        if f.settings["endpoints_only"]:
            data, note = f"{n} final losses", "no curves: weaker"
    elif f.approach == "isoflop":
        exact = f.settings["exponents"] != "none"
        note = "exact shape" if exact else "parabolas, as in the paper"
    N, D = f.N_opt, f.D_opt
    return Row(
        label, "ours", data,
        N.exponent, _pair(N.p10, N.p90), N.ci95, D.exponent, _pair(D.p10, D.p90), D.ci95,
        float(N(paper.GOPHER_BUDGET)), note,
    )  # fmt: skip


def _paper_row(row: paper.Table2Row) -> Row:
    line = published_lines().get(row.approach)  # Kaplan et al. have none
    N = None if line is None else float(line(paper.GOPHER_BUDGET))
    return Row(
        row.label, "paper", "", row.a, _pair(row.a_p10, row.a_p90), None,
        row.b, _pair(row.b_p10, row.b_p90), None,
        paper.TABLE_3[3][0] if row.approach == "envelope" else N,
    )  # fmt: skip


def _pair(low: float | None, high: float | None) -> list[float] | None:
    return None if low is None or high is None else [low, high]


def _at_gopher(law: str) -> float:
    (log_k, a), _, _ = six_nd_frontier(named_law(law))
    return float(np.exp(log_k + a * np.log(paper.GOPHER_BUDGET)))


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
    kept: Observations, every: Observations, frontier: FitResult | None, full_grid: bool
) -> list[dict[str, Any]]:
    """The reasons, each with numbers computed from these points.

    Args:
        kept: the points approach 3 was fitted to.
        every: all points, outliers included.
        frontier: our approach 3 on `kept`.
        full_grid: whether to search from all 4,500 starts to convergence.
    """
    if frontier is None or frontier.law is None or frontier.certificate is None:
        return []
    N, D, L = kept.N, kept.D, kept.L
    best, lowest = frontier.law, float(frontier.certificate["objective"])
    a = best.beta / (best.alpha + best.beta)
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
    mean = search(N, D, L, converge=False)
    good = mean.objectives <= 1.2 * lowest
    a_ends = mean.theta[good, 4] / (mean.theta[good, 3] + mean.theta[good, 4])
    low, high = np.percentile(a_ends, (5, 95)) if good.any() else (np.nan, np.nan)
    a_mean = mean.law.beta / (mean.law.alpha + mean.law.beta)
    add(
        "mean instead of sum, default tolerances",
        f"with the mean in place of the sum and SciPy's default tolerances, {len(mean.objectives)} searches "
        f"end after {mean.iterations.mean():.0f} steps on average, {mean.said_success.mean():.0%} of them "
        f"with success=True, the best at a = {a_mean:.3f} and those within 20% of the minimum at a from "
        f"{low:.2f} to {high:.2f}",
        n_starts=len(mean.objectives), mean_iterations=float(mean.iterations.mean()),
        said_success=float(mean.said_success.mean()), a=a_mean,
        a_of_ends_within_20_percent=[float(low), float(high)],
    )  # fmt: skip
    exact, rounded = _at_gopher("hoffmann"), _at_gopher("hoffmann_rounded")
    add(
        "rounding",
        f"rounding the exponents to two digits moves N_opt at 5.76e23 FLOPs from {count(exact)} to "
        f"{count(rounded)}",
        N_at_gopher=exact, N_at_gopher_rounded=rounded,
    )  # fmt: skip
    if n_dropped := len(every) - len(kept):
        other, _ = fit_loss_law(every.N, every.D, every.L)
        a_all = other.beta / (other.alpha + other.beta)
        add(
            "outliers",
            f"with the {n_dropped} highest losses included, a is {a_all:.3f} instead of {a:.3f}",
            n_dropped=n_dropped, a=a_all,
        )  # fmt: skip
    if full_grid:
        tight = search(N, D, L)
        add(
            "4500 starts to the end",
            f"of searches from all {len(tight.objectives)} starts to convergence, {tight.share_at_best:.0%} "
            f"reach the minimum and none finds a lower one ({tight.objective:.12g} against {lowest:.12g})",
            objective=tight.objective, share_at_best=tight.share_at_best,
        )  # fmt: skip
    return reasons


def markdown(found: Reproduced) -> str:
    """Tables 2, 3 and A3 as Markdown, ours above the paper's, and why approach 3 differs."""
    lines = ["Table 2: N_opt ~ C^a, D_opt ~ C^b", "", *_table2(found.rows).markdown()]
    for name in dict.fromkeys(p.table for p in found.projections):
        rows = [p for p in found.projections if p.table == name]
        lines += ["", f"{name}: FLOPs and tokens at which a size is optimal", ""]
        lines += _projection_table(rows).markdown()
    for name, reason in found.refusals.items():
        lines += ["", f"{name} refused: {reason}"]
    lines += ["", "Intervals of the paper: 80%, over 100 fits to 80% of the data. Ours:"]
    lines += [f"{name}: {method}." for name, method in found.intervals.items()]
    if found.reasons:
        texts = "; ".join(reason["text"] for reason in found.reasons)
        lines += ["", f"Why approach 3 differs from the paper's: {texts}."]
    return "\n".join(lines) + "\n"


def _table2(rows: Sequence[Row]) -> Table:
    table = Table(
        ["approach", "", "runs", "a", "80%", "95%", "b", "80%", "95%", "N_opt at 5.76e23"]
    )
    above = ""
    for row in rows:
        table.add_row(
            "" if row.whose == "paper" and row.approach == above else row.approach,
            row.whose,
            row.data + (f" ({row.note})" if row.note else ""),
            *(_number(row.a), _range(row.a_80), _range(row.a_95)),
            *(_number(row.b), _range(row.b_80), _range(row.b_95)),
            "" if row.N_at_gopher is None else count(row.N_at_gopher),
        )
        above = row.approach
    return table


def _projection_table(rows: Sequence[Projection]) -> Table:
    table = Table(["N", "C, ours", "80%", "C, paper", "D, ours", "D, paper"])
    for p in rows:
        C, D = (flops(p.C), flops(p.paper_C)), (count(p.D), count(p.paper_D))
        table.add_row(count(p.N), C[0], _range(p.C_80, flops), C[1], *D)
    return table


def _number(x: float | None) -> str:
    return "" if x is None else f"{x:.3f}"


def _range(interval: list[float] | None, show: Callable[[float], str] = "{:.3f}".format) -> str:
    return "" if interval is None else " to ".join(map(show, interval))
