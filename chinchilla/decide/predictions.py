"""N_opt, D_opt and loss at a budget, by each fitted approach and by published laws.

frontier.json keeps approach 3's law of every resample and the residuals of the runs (`ResampledLaws`).
Each of these laws is solved in the same way as the fitted one, so that a value and its interval describe
the same quantity. NumPy only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chinchilla.core import paper
from chinchilla.core.units import number
from chinchilla.decide.allocation import allocate, allocate_each
from chinchilla.fit.loss_law import FlopsPerToken, flops_at, named_law
from chinchilla.fit.result import FitResult
from chinchilla.fit.results import FitResults

_PAPER_RUNS = paper.LAW_C_RANGE["hoffmann"]
PUBLISHED_LINES = {  # N_opt = coefficient * C^exponent, D = C / (6 N_opt); C range of the runs
    "paper, approach 1 (line through Table 3)": (paper.N_OPT_TABLE_3, _PAPER_RUNS),
    "paper, approach 2 (line through Table A3)": (paper.N_OPT_TABLE_A3_ISOFLOP, _PAPER_RUNS),
    "Kaplan 2020 (section D.4)": (paper.N_OPT_KAPLAN, paper.KAPLAN_C_RANGE),
}
MAX_FACTOR = 10.0  # outside the C of its own runs, up to which a published answer is shown
OWN = "this data, "  # prefix of `Prediction.by` for the fits' own approaches
EDGE = 1.01  # a C outside the runs by less than this factor counts as inside
PERCENTILES = (2.5, 10, 90, 97.5)  # a 95% and an 80% interval
MIN_SAMPLES = 20  # resamples needed for an interval


@dataclass(frozen=True)
class Percentiles:
    """The 10th and 90th, and the 2.5th and 97.5th percentile of resampled values."""

    p10: float
    p90: float
    ci95: list[float]

    @classmethod
    def of(cls, values: np.ndarray) -> "Percentiles | None":
        """Of (k,) values without those that are not finite; None if there are too few."""
        values = values[np.isfinite(values)]
        if len(values) < MIN_SAMPLES:
            return None
        low, p10, p90, high = (float(x) for x in np.percentile(values, PERCENTILES))
        return cls(p10, p90, [low, high])


@dataclass(frozen=True)
class ResampledLaws:
    """k laws E, A, B, alpha, beta and the log-residuals of the fit."""

    theta: np.ndarray  # (k, 5)
    residuals: np.ndarray  # (n,) ln L - ln L_hat of each run, multiplied by sqrt(n/(n-5))

    @classmethod
    def of(cls, frontier: FitResult | None) -> "ResampledLaws | None":
        """The laws that a fit of approach 3 keeps; None if there are none."""
        if frontier is None or not frontier.law_samples:
            return None
        n = len(frontier.log_residuals)  # the law has five parameters
        widened = np.array(frontier.log_residuals) * np.sqrt(n / max(n - 5, 1))
        return cls(np.array(frontier.law_samples, float).T, widened)

    def loss(self, N: float | np.ndarray, D: float | np.ndarray) -> np.ndarray:
        """(k,) nats per token at N and D, which may be (k,) themselves."""
        E, A, B, alpha, beta = self.theta.T
        return E + A / N**alpha + B / D**beta

    def measured(self, N: float, D: float, seed: int = 0) -> np.ndarray:
        """(20*k,) losses that a new run may measure: each law's loss with the residual of a run."""
        rng = np.random.default_rng(seed)
        law = np.repeat(self.loss(N, D), 20)
        return law * np.exp(rng.choice(self.residuals, len(law))) if len(self.residuals) else law

    def optima(
        self, C: float, cost: FlopsPerToken | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """N, D and L, (k,) each: every law's best use of C FLOPs; NaN for a law without one."""
        N, D = allocate_each(self.theta, C, cost)
        return N, D, self.loss(N, D)


@dataclass(frozen=True)
class Prediction:
    """Parameters, tokens and loss at C training FLOPs by one source, with 10-90% and 95% bounds."""

    C: float
    by: str  # the approach, or the published law
    N: float
    D: float
    L: float | None = None  # nats per token; None if the source has no loss law
    N_p10: float | None = None
    N_p90: float | None = None
    N_ci95: list[float] | None = None
    D_p10: float | None = None
    D_p90: float | None = None
    D_ci95: list[float] | None = None
    L_p10: float | None = None  # of the law's loss there; a run scatters about it
    L_p90: float | None = None
    L_ci95: list[float] | None = None
    beyond: float | None = None  # C over the largest (or smallest) C fitted; None inside

    @property
    def own(self) -> bool:
        """Whether it comes from the fits, not from a published law."""
        return self.by.startswith(OWN)

    @property
    def factor_outside(self) -> float:
        """How far C lies outside the runs, above or below: 1 or more."""
        return 1.0 if self.beyond is None else max(self.beyond, 1 / self.beyond)


def predictions(
    budgets: Sequence[float],
    fits: FitResults | None = None,
    published: bool = True,
    named: str = "",
) -> list[Prediction]:
    """N_opt and D_opt at each budget: the fitted approaches, then the paper's lines and laws.

    A published answer is included if C lies at most a factor MAX_FACTOR outside the runs behind it;
    `omitted_text` names the others. FLOPs per token are the trend of the fitted runs' own count over N
    (`loss_law.flops_at`). Approach 3 and each of its resampled laws are solved at C. Approaches 1 and 2
    give N by their line and resampled lines, and D is what C buys at that size; they forecast no loss.

    Args:
        budgets: training FLOPs. A fit counts C as its own conventions say; published laws use
            C = 6*N*D.
        fits: the fitted approaches; None for published answers only.
        published: whether to add the published answers.
        named: the published answer that decides ("law besiroglu"): included at any C.

    Raises:
        Refusal: see `allocation.allocate`.
    """
    resampled = None if fits is None else ResampledLaws.of(fits.fitted.get("parametric"))
    rows = []
    for C in budgets:
        if fits is not None:
            rows += [_from_fit(C, name, fits, resampled) for name in fits.fitted]
        if published:
            rows += [row for row in _published(C) if _included(row, named)]
    return rows


def omitted_text(C: float, named: str = "") -> str:
    """Which published answers `predictions` omits at C FLOPs; empty if none."""
    omitted: dict[str, list[str]] = {}
    for row in _published(C):
        if not _included(row, named):
            name = row.by.partition(" (")[0].removeprefix("law ").replace(",", "")
            omitted.setdefault(number(row.factor_outside), []).append(name)
    if not omitted:
        return ""
    listed = "; ".join(f"{', '.join(names)} ({factor}x)" for factor, names in omitted.items())
    return f"not shown, over {MAX_FACTOR:g}x outside the compute of their runs: {listed}."


def _included(row: Prediction, named: str) -> bool:
    return row.factor_outside <= MAX_FACTOR or row.by == named


def _published(C: float) -> list[Prediction]:
    """Every published line and law at C = 6*N*D."""
    rows = []
    for by, ((coefficient, exponent), C_range) in PUBLISHED_LINES.items():
        N = coefficient * C**exponent
        rows.append(Prediction(C, by, N, C / (6 * N), beyond=beyond(C, C_range)))
    for name in paper.LOSS_LAWS:
        best = allocate(named_law(name), C)
        outside = beyond(C, paper.LAW_C_RANGE.get(name))
        rows.append(Prediction(C, f"law {name}", best.N, best.D, best.L, beyond=outside))
    return rows


def _from_fit(C: float, name: str, fits: FitResults, resampled: ResampledLaws | None) -> Prediction:
    frontier, cost = fits.fitted[name], fits.cost
    samples: dict[str, np.ndarray] = {}
    L = None
    if frontier.law is not None:
        best = allocate(frontier.law, C, cost)
        N, D, L = best.N, best.D, float(frontier.law(best.N, best.D))
        if resampled is not None:
            samples = dict(zip("NDL", resampled.optima(C, cost), strict=True))
    else:
        N = float(frontier.N_opt(C))
        D = float(C / flops_at(N, cost))
        lines = frontier.N_opt.all_at(C)
        samples = {"N": lines, "D": C / flops_at(lines, cost)}
    bounds = {
        f"{quantity}_{key}": value
        for quantity, values in samples.items()
        if (percentiles := Percentiles.of(values)) is not None
        for key, value in vars(percentiles).items()
    }
    return Prediction(C, f"{OWN}{name}", N, D, L, **bounds, beyond=beyond(C, fits.data.get("C")))


def beyond(C: float, C_range: Sequence[float] | None) -> float | None:
    """C over the nearest end of the range that was fitted; None inside or if it is unknown."""
    if C_range is None:
        return None
    if C > EDGE * C_range[1]:
        return C / C_range[1]
    return C / C_range[0] if C < C_range[0] / EDGE else None
