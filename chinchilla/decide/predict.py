"""N_opt, D_opt and loss at a budget, by fitted frontiers and by published laws."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chinchilla import paper
from chinchilla.decide.options import allocate
from chinchilla.decide.resampled import Percentiles, ResampledLaws
from chinchilla.fit.fits import Fits
from chinchilla.fit.frontier import Frontier
from chinchilla.fit.loss_law import FlopsPerToken, named_law, numeric_frontier

PUBLISHED_LINES = {  # N_opt = coefficient * C^exponent, D = C / (6 N_opt)
    "paper, approach 1 (Table 3)": paper.N_OPT_TABLE_3,
    "paper, approach 2 (Table A3)": paper.N_OPT_TABLE_A3_ISOFLOP,
    "Kaplan 2020 (section D.4)": paper.N_OPT_KAPLAN,
}
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


def predictions(
    budgets: Sequence[float],
    fits: Fits | None = None,
    resampled: ResampledLaws | None = None,
    published: bool = True,
) -> list[Prediction]:
    """N_opt and D_opt at each budget: our approaches first, then the paper's lines and laws.

    Every answer costs what was asked. Approaches 1 and 2 give N by their line, and D is what C
    buys at that size; approach 3 is solved at C itself. FLOPs per token at a size are read from
    the fitted runs, continued smoothly where C lies outside them. The loss of approaches 1 and 2
    is that of approach 3's law at their N and D, where it was fitted.

    Args:
        budgets: training FLOPs. A fit counts C as its own conventions say; published laws take
            C = 6*N*D.
        fits: what was fitted; None for the published answers alone.
        resampled: approach 3's resampled laws, for intervals of the loss.
        published: whether to add the published answers.
    """
    rows = []
    for C in budgets:
        if fits is not None:
            rows += [_from_fit(C, name, fits, resampled) for name in fits.fitted]
        if published:
            for by, (coefficient, exponent) in PUBLISHED_LINES.items():
                N = coefficient * C**exponent
                own = paper.LAW_C_RANGE["hoffmann"] if by.startswith("paper") else None
                rows.append(Prediction(C, by, N, C / (6 * N), beyond=_beyond(C, own)))
            rows += [_from_law(C, name) for name in paper.LOSS_LAWS]
    return rows


def _from_fit(C: float, name: str, fits: Fits, resampled: ResampledLaws | None) -> Prediction:
    frontier, cost = fits.fitted[name], fits.cost

    def tokens(N: float) -> float:
        return float(C / (6 * N if cost is None else np.exp(cost.log_and_slope(np.log(N))[0])))

    N = _size(C, frontier, cost)
    D = tokens(N)
    (p10, p90), (low, high) = (
        tuple(float(x) for x in frontier.N_opt.band(C, *ends)) for ends in ((10, 90), (2.5, 97.5))
    )
    known = not np.isnan(low)
    law = fits.fitted["parametric"].law if "parametric" in fits.fitted else None
    spread = None
    if resampled is not None and frontier.law is not None:
        spread = Percentiles.of(np.array([best.L for best in resampled.optima(C, cost)]))
    elif resampled is not None:
        spread = Percentiles.of(resampled.loss(N, D))
    return Prediction(
        C,
        f"this data, {name}",
        N,
        D,
        None if law is None else float(law(N, D)),
        N_p10=p10 if known else None,
        N_p90=p90 if known else None,
        N_ci95=[low, high] if known else None,
        D_p10=tokens(p90) if known else None,
        D_p90=tokens(p10) if known else None,
        D_ci95=[tokens(high), tokens(low)] if known else None,
        L_p10=spread.p10 if spread else None,
        L_p90=spread.p90 if spread else None,
        L_ci95=spread.ci95 if spread else None,
        beyond=_beyond(C, fits.data.get("C")),
    )


def _size(C: float, frontier: Frontier, cost: FlopsPerToken | None) -> float:
    """N_opt at C: solved on the law where there is one, else by the line."""
    if frontier.law is not None and cost is not None:
        return float(numeric_frontier(frontier.law, cost, np.array([C]))[0][0])
    return float(frontier.N_opt(C))


def _from_law(C: float, name: str) -> Prediction:
    best = allocate(named_law(name), C)
    return Prediction(
        C, f"law {name}", best.N, best.D, best.L, beyond=_beyond(C, paper.LAW_C_RANGE.get(name))
    )


def _beyond(C: float, covered: Sequence[float] | None) -> float | None:
    """How far C lies outside of what was fitted, as a factor; None inside."""
    if covered is None:
        return None
    if C > EDGE * covered[1]:
        return C / covered[1]
    return C / covered[0] if C < covered[0] / EDGE else None
