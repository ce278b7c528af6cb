"""N_opt, D_opt and loss at a budget, by fitted frontiers and by published laws."""

from collections.abc import Sequence
from dataclasses import dataclass

from chinchilla.core import paper
from chinchilla.core.units import number
from chinchilla.decide.allocation import allocate
from chinchilla.decide.bootstrap_laws import Percentiles, ResampledLaws
from chinchilla.fit.loss_law import flops_at, named_law
from chinchilla.fit.results import FitResults

_PAPER_RUNS = paper.LAW_C_RANGE["hoffmann"]
PUBLISHED_LINES = {  # N_opt = coefficient * C^exponent, D = C / (6 N_opt); C of the runs behind it
    "paper, approach 1 (line through Table 3)": (paper.N_OPT_TABLE_3, _PAPER_RUNS),
    "paper, approach 2 (line through Table A3)": (paper.N_OPT_TABLE_A3_ISOFLOP, _PAPER_RUNS),
    "Kaplan 2020 (section D.4)": (paper.N_OPT_KAPLAN, paper.KAPLAN_C_RANGE),
}
CARRIED = 10.0  # factor outside of its own runs' C up to which a published answer is shown
OURS = "this data, "  # how predictions name the fits' own approaches
EDGE = 1.01  # C this much beyond the runs still counts as covered


@dataclass(frozen=True)
class Prediction:
    """One answer: parameters, tokens and loss at C training FLOPs, with 10-90% and 95% bounds."""

    C: float
    by: str  # the approach, or the published law
    N: float
    D: float
    L: float | None = None  # nats per token; None where the source has no loss law
    N_p10: float | None = None
    N_p90: float | None = None
    N_ci95: list[float] | None = None
    D_p10: float | None = None
    D_p90: float | None = None
    D_ci95: list[float] | None = None
    L_p10: float | None = None  # of the law's loss there; a run scatters about it
    L_p90: float | None = None
    L_ci95: list[float] | None = None
    beyond: float | None = None  # C over the largest (or smallest) C fitted, when outside of them

    @property
    def ours(self) -> bool:
        """Whether it is an answer of the fits, not a published one."""
        return self.by.startswith(OURS)


def predictions(
    budgets: Sequence[float],
    fits: FitResults | None = None,
    published: bool = True,
    asked: str = "",
) -> list[Prediction]:
    """N_opt and D_opt at each budget: our approaches first, then the paper's lines and laws.

    A published answer is given where C lies inside of the runs behind it, or outside by at most a
    factor of CARRIED, which `beyond` then states; `left_out` names the others.

    Every answer costs what was asked, FLOPs per token being the trend of the fitted runs' own
    count over N (`loss_law.flops_at`). Approach 3 is solved at C itself, and so is the law of each
    resample for its intervals. Approaches 1 and 2 give N by their line, with its resampled lines,
    and D is what C buys at that size; they forecast no loss by themselves.

    Args:
        budgets: training FLOPs. A fit counts C as its own conventions say; published laws take
            C = 6*N*D.
        fits: what was fitted; None for the published answers alone.
        published: whether to add the published answers.
        asked: the published answer that the person decides by ("law besiroglu"): given at any C.

    Raises:
        Refusal: see `options.allocate`.
    """
    resampled = None if fits is None else ResampledLaws.of(fits.fitted.get("parametric"))
    rows = []
    for C in budgets:
        if fits is not None:
            rows += [_from_fit(C, name, fits, resampled) for name in fits.fitted]
        if published:
            rows += [row for row in _published(C) if _near(row) or row.by == asked]
    return rows


def left_out(C: float, asked: str = "") -> str:
    """Which published answers `predictions` leaves out at C FLOPs, and why; empty for none."""
    far: dict[str, list[str]] = {}
    for row in _published(C):
        if not _near(row) and row.by != asked:
            name = row.by.partition(" (")[0].removeprefix("law ").replace(",", "")
            far.setdefault(number(_factor(row)), []).append(name)
    if not far:
        return ""
    told = "; ".join(f"{', '.join(names)} ({factor}x)" for factor, names in far.items())
    return f"not shown, over {CARRIED:g}x outside of their runs: {told}."


def _published(C: float) -> list[Prediction]:
    """Every published line and law at C = 6*N*D."""
    rows = []
    for by, ((coefficient, exponent), covered) in PUBLISHED_LINES.items():
        N = coefficient * C**exponent
        rows.append(Prediction(C, by, N, C / (6 * N), beyond=beyond(C, covered)))
    return rows + [_from_law(C, name) for name in paper.LOSS_LAWS]


def _factor(row: Prediction) -> float:
    """How far outside of its runs an answer lies, above or below: 1 or more."""
    return 1.0 if row.beyond is None else max(row.beyond, 1 / row.beyond)


def _near(row: Prediction) -> bool:
    return _factor(row) <= CARRIED


def _from_fit(C: float, name: str, fits: FitResults, resampled: ResampledLaws | None) -> Prediction:
    frontier, cost = fits.fitted[name], fits.cost
    L_of: Percentiles | None = None
    if frontier.law is not None:
        best = allocate(frontier.law, C, cost)
        N, D = best.N, best.D
        N_of = D_of = None
        if resampled is not None:
            N_of, D_of, L_of = (Percentiles.of(x) for x in resampled.optima(C, cost))
    else:
        N = float(frontier.N_opt(C))
        D = float(C / flops_at(N, cost))
        lines = frontier.N_opt.all_at(C)
        N_of, D_of = Percentiles.of(lines), Percentiles.of(C / flops_at(lines, cost))
    bounds = {
        f"{of}_{key}": value
        for of, spread in (("N", N_of), ("D", D_of), ("L", L_of))
        if spread is not None
        for key, value in vars(spread).items()
    }
    L = None if frontier.law is None else float(frontier.law(N, D))
    outside = beyond(C, fits.data.get("C"))
    return Prediction(C, f"{OURS}{name}", N, D, L, **bounds, beyond=outside)


def _from_law(C: float, name: str) -> Prediction:
    best = allocate(named_law(name), C)
    return Prediction(
        C, f"law {name}", best.N, best.D, best.L, beyond=beyond(C, paper.LAW_C_RANGE.get(name))
    )


def beyond(C: float, covered: Sequence[float] | None) -> float | None:
    """How far C lies outside of what was fitted, as a factor; None inside."""
    if covered is None:
        return None
    if C > EDGE * covered[1]:
        return C / covered[1]
    return C / covered[0] if C < covered[0] / EDGE else None
