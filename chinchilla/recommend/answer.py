"""The recommendation at one budget: N, D and loss with 80% intervals, and the reasons for it."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from chinchilla.core.errors import InputError, Refusal
from chinchilla.core.units import count, number
from chinchilla.fit.loss_law import flops_at, log_N_opt
from chinchilla.fit.result import LossLaw, called
from chinchilla.fit.results import FitResults
from chinchilla.recommend.model import Estimate, Forecast, RecommendedModel
from chinchilla.recommend.richer import optimum

TARGET = 10.0  # times the largest C: the budget asked about where none is named
FAR = (
    1.01e3  # times the largest C beyond which only a range is stated: 1,000, and room for rounding
)
TOO_FAR = 1.01e6  # beyond which nothing is stated unless forced
MIN_SAMPLES = 10  # resamples below which they give no standard deviation
SHAPE = (0.34, 0.34)  # alpha and beta where no law was fitted: what departures cost, to first order


@dataclass(frozen=True)
class Recommendation:
    """What to do with C training FLOPs.

    N in parameters, D in tokens, L in nats per token; intervals hold 80%. N, D are None where only
    losses at minima are known, L where no loss could be forecast. `range_only` marks budgets more than
    1,000 times beyond the data: use the intervals, the value is their middle and no more.
    """

    C: float
    approach: str
    N: float | None
    D: float | None
    L: float | None
    N_interval80: list[float] | None
    D_interval80: list[float] | None
    L_interval80: list[float] | None
    beyond: float  # C over the largest C of the runs; below 1 inside
    range_only: bool = False
    disagreement: str = ""  # approaches whose 80% intervals of N_opt do not overlap, in a sentence
    reasons: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float | None:
        """Tokens per parameter."""
        return None if self.N is None or self.D is None else self.D / self.N

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{headline(self)}\n" + "\n".join(f"  {text}" for text in self.reasons)

    __repr__ = __str__


def model_of(fits: FitResults, where: str = "recommended") -> RecommendedModel | None:
    """The recommended model that fits hold; None where every approach was refused."""
    return None if fits.recommended is None else RecommendedModel.from_dict(fits.recommended, where)


def default_budget(fits: FitResults) -> float:
    """The budget that is answered where none is named: ten times the largest C, to two digits."""
    return float(f"{TARGET * fits.data['C'][1]:.2g}")


def recommendation(fits: FitResults, C: float, force: bool = False) -> Recommendation:
    """The recommended answer at C FLOPs.

    Args:
        fits: of `chinchilla fit`.
        C: training FLOPs, counted as the runs count them.
        force: whether to answer a million times beyond the data and more.

    Raises:
        Refusal: every approach was refused, C lies too far beyond the data, or no optimum exists there.
    """
    C = _budget(C)
    model = model_of(fits)
    if model is None:
        raise Refusal(
            "no approach has an answer for these runs: see the refusals that `chinchilla fit` printed."
        )
    low, high = fits.data["C"]
    beyond, away = C / high, max(C / high, low / C)
    if away > TOO_FAR and not force:
        side = "largest" if C > high else "smallest"
        raise Refusal(
            f"C = {C:.3g} FLOPs lies a factor of {number(away)} beyond the {side} run: these runs say nothing "
            "about it. Ask for less than a factor of a million, or give force=true."
        )
    h = model.beyond(C)
    N = D = L = None
    if model.N is not None:
        N = model.N.at(C, h, fits.cost, _resampled(fits, model, model.N, C))
        if not np.isfinite(N.value):
            raise Refusal(
                f"the recommended law has no optimum at {C:.3g} FLOPs. Ask nearer to the runs."
            )
        D = Estimate(*(float(C / flops_at(x, fits.cost)) for x in (N.value, N.high, N.low)))
    if model.L is not None:
        L = model.L.at(C, h, fits.cost, _resampled(fits, model, model.L, C))
    disagreement = _disagreement(fits, model, C, N)
    return Recommendation(
        C=float(C),
        approach=model.approach,
        N=None if N is None else N.value,
        D=None if D is None else D.value,
        L=None if L is None else L.value,
        N_interval80=None if N is None else N.interval,
        D_interval80=None if D is None else D.interval,
        L_interval80=None if L is None else L.interval,
        beyond=float(beyond),
        range_only=away > FAR,
        disagreement=disagreement,
        reasons=[
            *([disagreement] if disagreement else []),
            *model.reasons,
            *_distance(C, model, (low, high)),
        ],
    )


def _resampled(fits: FitResults, model: RecommendedModel, f: Forecast, C: float) -> float:
    """Standard deviation of the forecast's logarithm over resamples of the runs, where it has some.

    Forecasts through minima carry the covariance of their parameters instead.
    """
    if f.covariances:
        return 0.0
    logs = np.empty(0)
    if f.kind == "law":
        samples = fits.fitted["parametric"].law_samples if "parametric" in fits.fitted else []
        if samples:
            logs = optimum(np.array(samples, float).T, fits.cost, C)[0 if f.quantity == "N" else 1]
    elif f.quantity == "N" and model.approach in fits.fitted:
        logs = np.log(fits.fitted[model.approach].N_opt.all_at(C))
    logs = logs[np.isfinite(logs)]
    return float(np.std(logs, ddof=1)) if len(logs) >= MIN_SAMPLES else 0.0


def _disagreement(fits: FitResults, model: RecommendedModel, C: float, N: Estimate | None) -> str:
    """Other approaches whose own 80% interval of N_opt does not overlap the recommended one."""
    if N is None:
        return ""
    others = []
    for name, frontier in fits.fitted.items():
        if name == model.approach:
            continue
        if frontier.law is not None:
            theta = np.array(frontier.law_samples or np.zeros((5, 0)), float).T
            logs = log_N_opt(theta, fits.cost, np.array([C]))[:, 0]
            law = frontier.law
            row = np.array([[law.E, law.A, law.B, law.alpha, law.beta]])
            value = float(np.exp(log_N_opt(row, fits.cost, np.array([C]))[0, 0]))
        else:
            logs, value = np.log(frontier.N_opt.all_at(C)), float(frontier.N_opt(C))
        logs = logs[np.isfinite(logs)]
        if len(logs) < MIN_SAMPLES or not np.isfinite(value):
            continue
        low, high = (float(x) for x in np.exp(np.percentile(logs, (10, 90))))
        low, high = min(low, value), max(high, value)  # resamples may all lie on one side of it
        if low > N.high or high < N.low:
            others.append((name, value, low, high))
    if not others:
        return ""
    values = [N.value, *(value for _, value, _, _ in others)]
    said = ", ".join(f"{called(n)} {count(v)} ({count(lo)}-{count(hi)})" for n, v, lo, hi in others)
    return (
        f"The approaches disagree beyond their 80% intervals: N_opt from {count(min(values))} to "
        f"{count(max(values))}; recommended {called(model.approach)} {count(N.value)} "
        f"({count(N.low)}-{count(N.high)}), but {said}."
    )


def _budget(C: Any) -> float:
    """C as a number of FLOPs.

    Raises:
        InputError: it is none.
    """
    if isinstance(C, bool | np.bool_) or not isinstance(C, int | float | np.integer | np.floating):
        raise InputError(f"C={C!r} is not a number of FLOPs, such as 1e21.")
    if not 0 < C < np.inf:
        raise InputError(f"C={C} FLOPs is not a positive finite number.")
    return float(C)


def _distance(C: float, model: RecommendedModel, runs: tuple[float, float]) -> list[str]:
    """How far C lies outside of the runs, and what that means."""
    low, high = runs
    said = []
    if max(C / high, low / C) > FAR:
        side = (
            f"{number(C / high)}x the compute of the largest"
            if C > high
            else (f"{number(low / C)}x below the compute of the smallest")
        )
        said.append(
            f"Extrapolation: {side} run. The runs do not support an answer this far away; only the range is "
            "meaningful."
        )
    elif C > 1.01 * high:
        said.append(f"Extrapolation: {number(C / high)}x the compute of the largest run.")
    elif C < low / 1.01:
        said.append(f"Extrapolation: {number(low / C)}x below the compute of the smallest run.")
    anchored = model.C_range[1]
    if model.approach == "isoflop" and C > 1.3 * anchored and high > 1.3 * anchored:
        said.append(
            f"The largest budget with a minimum has {anchored:.3g} FLOPs, {number(C / anchored)}x less: intervals "
            "widen from there."
        )
    return said


def headline(r: Recommendation) -> str:
    """One line to act on."""
    if r.range_only:
        parts = [
            f"{name} between {_rough(x[0])} and {_rough(x[1])}{unit}"
            for name, x, unit in (("N", r.N_interval80, ""), ("D", r.D_interval80, " tokens"))
            if x is not None
        ]
        if r.L_interval80 is not None:
            parts.append(f"loss between {r.L_interval80[0]:.3g} and {r.L_interval80[1]:.3g}")
        return (
            f"C = {r.C:.3g} FLOPs, {number(r.beyond)}x the compute of the largest run: {', '.join(parts)} (80%). "
            "The runs do not support more than this range."
        )
    parts = []
    if r.N is not None and r.D is not None and r.ratio is not None:
        parts = [
            f"N {count(r.N)} ({_between(r.N_interval80)})",
            f"D {count(r.D)} tokens ({_between(r.D_interval80)})",
            f"{r.ratio:,.3g} tokens per parameter",
        ]
    if r.L is not None and r.L_interval80 is not None:
        parts.append(f"loss {r.L:.4f} ({r.L_interval80[0]:.4f}-{r.L_interval80[1]:.4f})")
    text = f"C = {r.C:.3g} FLOPs: {', '.join(parts)}; 80% intervals, by {called(r.approach)}."
    return f"{r.disagreement} {text}" if r.disagreement else text


def _between(interval: list[float] | None) -> str:
    return "no interval" if interval is None else f"{count(interval[0])}-{count(interval[1])}"


def _rough(x: float) -> str:
    """A count to one digit, rounded."""
    return count(float(f"{x:.1g}")).replace(".00", "").replace(".0", "")


def budget_for(fits: FitResults, L: float) -> tuple[float, list[float | None]]:
    """The budget at which the recommended forecast reaches a loss, and its 80% interval.

    Args:
        fits: of `chinchilla fit`.
        L: nats per token.

    Returns:
        C, and [C at which the lower, the upper end of the loss interval reaches L]; None for never
        within a million times the runs' range.

    Raises:
        Refusal: the forecast never reaches it there.
    """
    model = model_of(fits)
    if model is None or model.L is None:
        raise Refusal(
            "no loss could be forecast from these runs, so no budget for a loss can be stated. Give "
            "law=NAME of a published law."
        )
    low, high = model.C_range
    C = np.exp(np.linspace(np.log(low / 1e3), np.log(high * TOO_FAR), 600))
    found = [
        model.L.at(
            float(c), model.beyond(float(c)), fits.cost, _resampled(fits, model, model.L, float(c))
        )
        for c in C
    ]

    def reaches(losses: list[float]) -> float | None:
        y = np.minimum.accumulate(np.array(losses))
        if not y[-1] < L < y[0]:
            return None
        return float(np.exp(np.interp(-L, -y, np.log(C))))

    at = reaches([x.value for x in found])
    if at is None:
        raise Refusal(
            f"a loss of {L:.6g} nats per token is not reached by the recommended forecast between "
            f"{C[0]:.2g} and {C[-1]:.2g} FLOPs ({found[0].value:.4g} to {found[-1].value:.4g}). Ask for a "
            "loss in between."
        )
    return at, [reaches([x.low for x in found]), reaches([x.high for x in found])]


def local_law(fits: FitResults, C: float) -> LossLaw | None:
    """The loss law that has the recommended N, D, L and slope of L at C, for costs of departures.

    With alpha and beta of approach 3 near the optimum, A*N^-alpha = beta*p*X and B*D^-beta = alpha*X
    with X = -(dL/dlnC)/(alpha*beta) make N the best size at C and give the slope of the loss along the
    frontier; p = dlnc/dlnN, c the FLOPs per token; E takes the rest.
    """
    model = model_of(fits)
    if model is None or model.N is None or model.L is None:
        return None
    log_N, log_L = model.N.log_at(C, fits.cost), model.L.log_at(C, fits.cost)
    N, L = float(np.exp(log_N)), float(np.exp(log_L))
    D = float(C / flops_at(N, fits.cost))
    p = 1.0 if fits.cost is None else float(fits.cost.trend_and_slope(np.array(log_N))[1])
    alpha, beta = model.shape or SHAPE
    X = -L * model.L.slope(C, fits.cost) / (alpha * beta)
    E = L - (beta * p + alpha) * X
    if not (X > 0 and E >= 0 and np.isfinite(D)):
        return None
    return LossLaw(E, beta * p * X * N**alpha, alpha * X * D**beta, alpha, beta)
