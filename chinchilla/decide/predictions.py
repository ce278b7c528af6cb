"""N_opt, D_opt and loss at a budget, by each fitted approach and by published laws.

frontier.json keeps approach 3's law of every resample. Each of these laws is solved in the same way as
the fitted one, so that a value and its interval describe the same quantity.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chinchilla.core import paper
from chinchilla.decide.allocation import allocate
from chinchilla.fit.loss_law import flops_at, log_N_opt, named_law
from chinchilla.fit.result import RANGE_TOLERANCE
from chinchilla.fit.results import FitResults

_PAPER_RUNS = paper.LAW_C_RANGE["hoffmann"]
PUBLISHED_LINES = {  # N_opt = coefficient * C^exponent, D = C / (6 N_opt); C range of the runs
    "paper, approach 1 (line through Table 3)": (paper.N_OPT_TABLE_3, _PAPER_RUNS),
    "paper, approach 2 (line through Table A3)": (paper.N_OPT_TABLE_A3_ISOFLOP, _PAPER_RUNS),
    "Kaplan 2020 (section D.4)": (paper.N_OPT_KAPLAN, paper.KAPLAN_C_RANGE),
}
MAX_FACTOR = 10.0  # outside the C of its own runs, up to which a published answer is shown
OWN = "this data, "  # prefix of `Prediction.by` for the fits' own approaches
MIN_SAMPLES = 20  # resamples needed for an interval


def interval(values: np.ndarray, level: float = 80.0) -> list[float] | None:
    """The central interval of resampled values that are finite; None if there are too few."""
    values = values[np.isfinite(values)]
    if len(values) < MIN_SAMPLES:
        return None
    ends: list[float] = np.percentile(values, (50 - level / 2, 50 + level / 2)).tolist()
    return ends


def resampled_losses(
    samples: Sequence[Sequence[float]] | np.ndarray, N: float | np.ndarray, D: float | np.ndarray
) -> np.ndarray:
    """(k,) nats per token at N and D by k laws, given as rows E, A, B, alpha, beta (`FitResult.law_samples`)."""
    E, A, B, alpha, beta = np.asarray(samples, float)
    return np.asarray(E + A / N**alpha + B / D**beta)


@dataclass(frozen=True)
class Prediction:
    """Parameters, tokens and loss at C training FLOPs by one source, with 80% intervals."""

    C: float
    by: str  # the approach, or the published law
    N: float
    D: float
    L: float | None = None  # nats per token; None if the source has no loss law
    N_interval80: list[float] | None = None
    D_interval80: list[float] | None = None
    L_interval80: list[float] | None = None  # of the law's loss there; a run scatters about it
    beyond: float | None = None  # C over the largest (or smallest) C fitted; None inside

    @property
    def own(self) -> bool:
        """Whether it comes from the fits, not from a published law."""
        return self.by.startswith(OWN)


def predictions(
    budgets: Sequence[float],
    fits: FitResults | None = None,
    published: bool = True,
    named: str = "",
) -> list[Prediction]:
    """N_opt and D_opt at each budget: the fitted approaches, then the paper's lines and laws.

    A published answer is included if C lies at most a factor MAX_FACTOR outside the runs behind it. FLOPs
    per token are the trend of the fitted runs' own count over N (`loss_law.flops_at`). Approach 3 and each
    of its resampled laws are solved at C. Approaches 1 and 2 give N by their line and resampled lines, and
    D is what C buys at that size; they forecast no loss.

    Args:
        budgets: training FLOPs. A fit counts C as its own conventions say; published laws use
            C = 6*N*D.
        fits: the fitted approaches; None for published answers only.
        published: whether to add the published answers.
        named: the published answer that decides ("law besiroglu"): included at any C.

    Raises:
        Refusal: see `allocation.allocate`.
    """
    rows = []
    for C in budgets:
        if fits is not None:
            rows += [_from_fit(C, name, fits) for name in fits.fitted]
        if published:
            rows += _published(C, named)
    return rows


def _published(C: float, named: str) -> list[Prediction]:
    """Published lines and laws with runs near C, at C = 6*N*D."""

    def near(by: str, C_range: Sequence[float] | None) -> bool:
        factor = beyond(C, C_range) or 1.0
        return max(factor, 1 / factor) <= MAX_FACTOR or by == named

    rows = []
    for by, ((coefficient, exponent), C_range) in PUBLISHED_LINES.items():
        if near(by, C_range):
            N = coefficient * C**exponent
            rows.append(Prediction(C, by, N, C / (6 * N), beyond=beyond(C, C_range)))
    for name in paper.LOSS_LAWS:
        by, runs = f"law {name}", paper.LAW_C_RANGE.get(name)
        if near(by, runs):
            best = allocate(named_law(name), C)
            rows.append(Prediction(C, by, best.N, best.D, best.L, beyond=beyond(C, runs)))
    return rows


def _from_fit(C: float, name: str, fits: FitResults) -> Prediction:
    """One approach at C; its intervals are those of its resampled lines or laws."""
    result, cost = fits.fitted[name], fits.cost
    L, L_interval = None, None
    if result.law is not None:
        best = allocate(result.law, C, cost)
        N, D, L, N_samples = best.N, best.D, best.L, np.empty(0)
        if result.law_samples:
            laws = np.array(result.law_samples, float)
            N_samples = np.exp(log_N_opt(laws.T, cost, np.array([C]))[:, 0])
            L_interval = interval(resampled_losses(laws, N_samples, C / flops_at(N_samples, cost)))
    else:
        N, N_samples = float(result.N_opt(C)), result.N_opt.all_at(C)
        D = float(C / flops_at(N, cost))
    return Prediction(
        C=C,
        by=f"{OWN}{name}",
        N=N,
        D=D,
        L=L,
        N_interval80=interval(N_samples),
        D_interval80=interval(C / flops_at(N_samples, cost)),
        L_interval80=L_interval,
        beyond=beyond(C, fits.data.get("C")),
    )


def beyond(C: float, C_range: Sequence[float] | None) -> float | None:
    """C over the nearest end of the range that was fitted; None inside or if it is unknown."""
    if C_range is None:
        return None
    if C > RANGE_TOLERANCE * C_range[1]:
        return C / C_range[1]
    return C / C_range[0] if C < C_range[0] / RANGE_TOLERANCE else None
