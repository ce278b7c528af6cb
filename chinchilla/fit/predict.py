"""N_opt, D_opt and loss at a budget, by fitted frontiers and by published laws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from chinchilla import paper
from chinchilla.fit.frontier import Frontier, PowerLaw
from chinchilla.fit.loss_law import named_law, six_nd_frontier


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


def predictions(budgets: Sequence[float], fits: Mapping[str, Frontier]) -> list[Prediction]:
    """N_opt and D_opt at each budget: our approaches first, then the paper's lines and laws.

    Args:
        budgets: training FLOPs. A fit counts C as its own conventions say; published laws take
            C = 6*N*D.
        fits: frontiers by approach.
    """
    rows = []
    for C in budgets:
        rows += [_from_fit(C, name, f) for name, f in fits.items()]
        lines = {
            "paper, approach 1 (Table 3)": paper.N_OPT_TABLE_3,
            "paper, approach 2 (Table A3)": paper.N_OPT_TABLE_A3_ISOFLOP,
        }
        for by, (coefficient, exponent) in lines.items():
            N = coefficient * C**exponent
            rows.append(Prediction(C, by, N, C / (6 * N)))
        rows += [_from_law(C, name) for name in paper.LOSS_LAWS]
    return rows


def _from_fit(C: float, approach: str, frontier: Frontier) -> Prediction:
    N, D = float(frontier.N_opt(C)), float(frontier.D_opt(C))
    N_low, N_high = _band(frontier.N_opt, C)
    D_low, D_high = _band(frontier.D_opt, C)
    L = None if frontier.law is None else float(frontier.law(N, D))
    return Prediction(C, f"this data, {approach}", N, D, L, N_low, N_high, D_low, D_high)


def _from_law(C: float, name: str) -> Prediction:
    law = named_law(name)
    (log_k, a), (log_m, b), _ = six_nd_frontier(law)
    N, D = float(np.exp(log_k) * C**a), float(np.exp(log_m) * C**b)
    return Prediction(C, f"law {name}", N, D, float(law(N, D)))


def _band(line: PowerLaw, C: float) -> tuple[float | None, float | None]:
    low, high = (float(x) for x in line.band(C))
    return (None, None) if np.isnan(low) else (low, high)
