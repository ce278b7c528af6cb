"""N_opt, D_opt and loss at a budget, by fitted frontiers and by published laws."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chinchilla import paper
from chinchilla.fit.fits import Fits
from chinchilla.fit.frontier import Frontier
from chinchilla.fit.loss_law import (
    FlopsPerToken,
    named_law,
    numeric_frontier,
    six_nd_frontier,
)


@dataclass(frozen=True)
class Prediction:
    """One answer: parameters, tokens and loss at C training FLOPs, with 10-90% bounds."""

    C: float
    by: str  # the approach, or the published law
    N: float
    D: float
    L: float | None = None  # nats per token; None where the source has no loss law
    N_p10: float | None = None
    N_p90: float | None = None
    D_p10: float | None = None
    D_p90: float | None = None
    beyond: float | None = None  # C over the largest C fitted, when that is above 1


def predictions(budgets: Sequence[float], fits: Fits | None = None) -> list[Prediction]:
    """N_opt and D_opt at each budget: our approaches first, then the paper's lines and laws.

    Every answer costs what was asked. Approaches 1 and 2 give N by their line, and D is what C
    buys at that size; approach 3 is solved at C itself. FLOPs per token at a size are read from
    the fitted runs, continued smoothly where C lies outside them.

    Args:
        budgets: training FLOPs. A fit counts C as its own conventions say; published laws take
            C = 6*N*D.
        fits: what was fitted; None for the published answers alone.
    """
    rows = []
    for C in budgets:
        if fits is not None:
            largest = float(fits.data["C"][1])
            rows += [_from_fit(C, name, f, fits.cost, largest) for name, f in fits.fitted.items()]
        lines = {
            "paper, approach 1 (Table 3)": paper.N_OPT_TABLE_3,
            "paper, approach 2 (Table A3)": paper.N_OPT_TABLE_A3_ISOFLOP,
        }
        for by, (coefficient, exponent) in lines.items():
            N = coefficient * C**exponent
            rows.append(Prediction(C, by, N, C / (6 * N)))
        rows += [_from_law(C, name) for name in paper.LOSS_LAWS]
    return rows


def _from_fit(
    C: float, approach: str, frontier: Frontier, cost: FlopsPerToken | None, largest: float | None
) -> Prediction:
    def tokens(N: float) -> float:
        per_token = 6 * N if cost is None else np.exp(cost.log_and_slope(np.log(N))[0])
        return float(C / per_token)

    N = float(frontier.N_opt(C))
    if frontier.law is not None and cost is not None:
        N = float(numeric_frontier(frontier.law, cost, np.array([C]))[0][0])
    D = tokens(N)
    low, high = (float(x) for x in frontier.N_opt.band(C))
    known = not np.isnan(low)
    L = None if frontier.law is None else float(frontier.law(N, D))
    beyond = C / largest if largest and C > 1.01 * largest else None
    return Prediction(
        C, f"this data, {approach}", N, D, L,
        N_p10=low if known else None, N_p90=high if known else None,
        D_p10=tokens(high) if known else None, D_p90=tokens(low) if known else None, beyond=beyond,
    )  # fmt: skip


def _from_law(C: float, name: str) -> Prediction:
    law = named_law(name)
    (log_k, a), (log_m, b), _ = six_nd_frontier(law)
    N, D = float(np.exp(log_k) * C**a), float(np.exp(log_m) * C**b)
    return Prediction(C, f"law {name}", N, D, float(law(N, D)))
