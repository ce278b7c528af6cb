"""The recommendation at one budget: N, D and loss with 80% intervals, and the reasons for it."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from chinchilla.core.errors import InputError, Refusal
from chinchilla.core.units import count, number
from chinchilla.fit.loss_law import flops_at
from chinchilla.fit.result import RANGE_TOLERANCE, LossLaw, approach_label, target_budget
from chinchilla.fit.results import FitResults
from chinchilla.recommend.forecast import LAW, Estimate, Forecast, RecommendedModel
from chinchilla.recommend.laws import optimum

# Factors outside the runs: beyond 1,000 (rounded up) only a range is stated, beyond a million nothing.
RANGE_ONLY = 1.01e3
REFUSED = 1.01e6
MIN_SAMPLES = 10  # resamples needed for a standard deviation
DEFAULT_SHAPE = (0.34, 0.34)  # alpha and beta for costs of departures if no law was fitted
MAX_RATIO_FACTOR = 2.0  # tokens per parameter this many times beyond those of the runs are reported


@dataclass(frozen=True)
class Recommendation:
    """How to spend C training FLOPs.

    N in parameters, D in tokens, L in nats per token, each with an 80% interval. N and D are None if only
    losses at minima are known, L if no loss could be forecast. If `range_only` is set, C is more than
    1,000 times beyond the data and only the intervals are meaningful.
    """

    C: float
    approach: str
    N: float | None
    D: float | None
    L: float | None
    N_interval80: list[float] | None
    D_interval80: list[float] | None
    L_interval80: list[float] | None
    beyond: float  # C over the largest C of the runs
    range_only: bool = False
    disagreement: str = ""  # names the approaches whose 80% intervals of N_opt do not overlap
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


def default_budget(fits: FitResults) -> float:
    """The budget answered if none is given."""
    return target_budget(fits.data["C"][1])


def recommendation(fits: FitResults, C: float) -> Recommendation:
    """The recommended answer at C FLOPs.

    Args:
        fits: from `chinchilla fit`.
        C: training FLOPs, counted as the runs count them.

    Raises:
        Refusal: no approach has an answer, C lies too far beyond the data, or no optimum exists there.
    """
    C = _check_budget(C)
    model = _recommended(fits)
    low, high = fits.data["C"]
    outside = max(C / high, low / C)
    if outside > REFUSED:
        side = "largest" if C > high else "smallest"
        raise Refusal(
            f"C = {C:.3g} FLOPs is a factor of {number(outside)} beyond the {side} run, and the limit is a "
            "factor of a million. Give a budget nearer to the runs."
        )
    N, L = _estimate(fits, model, "N", C), _estimate(fits, model, "L", C)
    D, disagreement = None, ""
    if N is not None:
        if not np.isfinite(N.value):
            raise Refusal(
                f"the recommended law has no optimum at {C:.3g} FLOPs. Give a budget nearer to the runs."
            )
        D = Estimate(*(float(C / flops_at(x, fits.cost)) for x in (N.value, N.high, N.low)))
        disagreement = _disagreement(fits, model, C, N)
    return Recommendation(
        C=C,
        approach=model.approach,
        N=N.value if N else None,
        D=D.value if D else None,
        L=L.value if L else None,
        N_interval80=N.interval if N else None,
        D_interval80=D.interval if D else None,
        L_interval80=L.interval if L else None,
        beyond=float(C / high),
        range_only=outside > RANGE_ONLY,
        disagreement=disagreement,
        reasons=[
            *([disagreement] if disagreement else []),
            *model.reasons,
            *_extrapolation(C, D.value / N.value if N and D else None, fits, model),
        ],
    )


def _recommended(fits: FitResults) -> RecommendedModel:
    """The recommended model, or Refusal with the reasons why no approach has an answer."""
    if (model := fits.recommended_model) is not None:
        return model
    reasons = [
        f"{approach_label(name)}: its exponent of N_opt is not in (0, 1)" for name in fits.fitted
    ]
    reasons += [
        f"{approach_label(name)}, {r.kind}: {r.reason.rstrip('.')}"
        for name, r in fits.refused.items()
    ]
    raise Refusal(
        f"no approach has an answer for these runs ({'; '.join(reasons)}). Correct or extend the runs, or "
        "use a published law (law=NAME)."
    )


def _check_budget(C: Any) -> float:
    """C as a number of FLOPs, or InputError."""
    is_number = isinstance(C, int | float | np.integer | np.floating) and not isinstance(C, bool)
    if not is_number or not 0 < C < np.inf:
        raise InputError(f"C={C!r} is not a positive finite number of FLOPs, such as 1e21.")
    return float(C)


def _estimate(
    fits: FitResults, model: RecommendedModel, quantity: str, C: float
) -> Estimate | None:
    """The forecast of N or L at C with its interval; None without a forecast."""
    f = model.N if quantity == "N" else model.L
    if f is None:
        return None
    sd = _resampled_sd(fits, model, f, C)
    return f.at(C, model.beyond(C), fits.cost, sd)


def _resampled_sd(fits: FitResults, model: RecommendedModel, f: Forecast, C: float) -> float:
    """Standard deviation of a forecast's logarithm at C over the resampled runs; 0 if unknown.

    Approach 3 has a law and approach 1 a line for each resample. Other forecasts have the covariance of
    their parameters instead.
    """
    logs = np.empty(0)
    if f.kind == LAW:
        three = fits.fitted.get("parametric")
        if three is not None and three.law_samples:
            log_N, log_L = optimum(np.array(three.law_samples, float).T, fits.cost, C)
            logs = log_N if f.quantity == "N" else log_L
    elif model.approach == "envelope" and f.quantity == "N" and "envelope" in fits.fitted:
        logs = np.log(fits.fitted["envelope"].N_opt.all_at(C))
    logs = logs[np.isfinite(logs)]
    return float(np.std(logs, ddof=1)) if len(logs) >= MIN_SAMPLES else 0.0


def _disagreement(fits: FitResults, model: RecommendedModel, C: float, N: Estimate) -> str:
    """Name the approaches whose own 80% interval of N_opt does not overlap the recommended one."""
    others = []
    for name, result in fits.fitted.items():
        if name == model.approach:
            continue
        if (law := result.law) is not None:
            samples = np.array(result.law_samples or np.empty((5, 0)), float).T
            laws = np.vstack([[law.E, law.A, law.B, law.alpha, law.beta], samples])
            logs = optimum(laws, fits.cost, C)[0]
        else:
            logs = np.log([result.N_opt(C), *result.N_opt.all_at(C)])
        value, samples = logs[0], logs[1:][np.isfinite(logs[1:])]
        if len(samples) < MIN_SAMPLES or not np.isfinite(value):
            continue
        low, high = np.percentile(samples, (10, 90))
        ends = min(low, value), max(high, value)  # all resamples may lie on one side of the value
        e = Estimate(*np.exp([value, *ends]).tolist())
        if e.low > N.high or e.high < N.low:
            others.append((e, name))
    if not others:
        return ""
    values = [N.value, *(e.value for e, _ in others)]

    def listed(e: Estimate, name: str) -> str:
        return f"{approach_label(name)} {count(e.value)} ({count(e.low)}-{count(e.high)})"

    return (
        f"The approaches disagree beyond their 80% intervals: N_opt from {count(min(values))} to "
        f"{count(max(values))}; recommended {listed(N, model.approach)}, but "
        f"{', '.join(listed(e, name) for e, name in others)}."
    )


def _extrapolation(
    C: float, ratio: float | None, fits: FitResults, model: RecommendedModel
) -> list[str]:
    """How far C, or D/N of the answer, lies outside the runs; empty inside."""
    texts, (low, high) = [], fits.data["C"]
    if C > RANGE_TOLERANCE * high:
        texts.append(f"Extrapolation: {number(C / high)}x the compute of the largest run.")
    elif C < low / RANGE_TOLERANCE:
        texts.append(f"Extrapolation: {number(low / C)}x below the compute of the smallest run.")
    if max(C / high, low / C) > RANGE_ONLY:
        texts[-1] += (
            " The runs do not support an answer this far away; only the range is meaningful."
        )
    largest = model.C_range[1]
    if model.approach == "isoflop" and min(C, high) > 1.3 * largest:
        texts.append(
            f"The largest budget with a minimum has {largest:.3g} FLOPs, {number(C / largest)}x less: the "
            "intervals widen from there."
        )
    least, most = fits.data.get("tokens_per_param") or (0.0, np.inf)
    if ratio is not None and not least / MAX_RATIO_FACTOR <= ratio <= MAX_RATIO_FACTOR * most:
        end, name = (most, "most") if ratio > most else (least, "fewest")
        texts.append(
            f"Extrapolation: {number(ratio)} tokens per parameter, {number(ratio / end)}x the {name} of these "
            f"runs ({number(end)})."
        )
    return texts


def headline(r: Recommendation) -> str:
    """The recommendation in one line."""
    parts = []
    for name, value, ends, unit in (
        ("N", r.N, r.N_interval80, ""),
        ("D", r.D, r.D_interval80, " tokens"),
        ("loss", r.L, r.L_interval80, ""),
    ):
        if value is None or ends is None:
            continue
        if r.range_only:
            low, high = (f"{x:.3g}" if name == "loss" else _one_digit(x) for x in ends)
            parts.append(f"{name} between {low} and {high}{unit}")
        else:
            x, low, high = (f"{y:.4f}" if name == "loss" else count(y) for y in (value, *ends))
            parts.append(f"{name} {x}{unit} ({low}-{high})")
    if r.range_only:
        return (
            f"C = {r.C:.3g} FLOPs, {number(r.beyond)}x the compute of the largest run: {', '.join(parts)} (80%). "
            "The runs do not support more than this range."
        )
    if r.ratio is not None:
        parts.insert(2, f"{r.ratio:,.3g} tokens per parameter")
    text = (
        f"C = {r.C:.3g} FLOPs: {', '.join(parts)}; 80% intervals, by {approach_label(r.approach)}."
    )
    return f"{r.disagreement} {text}".strip()


def _one_digit(x: float) -> str:
    """A count rounded to one digit."""
    return count(float(f"{x:.1g}")).replace(".00", "").replace(".0", "")


def budget_for(fits: FitResults, L: float) -> tuple[float, list[float | None]]:
    """The budget at which the recommended forecast reaches a loss, and its 80% interval.

    Args:
        fits: from `chinchilla fit`.
        L: nats per token.

    Returns:
        C, and the C at which the lower and the upper end of the loss interval reach L; None if an end
        does not reach it within a million times the runs' range.

    Raises:
        Refusal: the forecast does not reach it there.
    """
    model = _recommended(fits)
    if model.L is None:
        raise Refusal(
            "no loss could be forecast from these runs, so no budget for a loss can be stated. Give "
            "law=NAME of a published law."
        )
    low, high = model.C_range
    C = np.exp(np.linspace(np.log(low / 1e3), np.log(high * REFUSED), 600))
    losses = [e for c in C if (e := _estimate(fits, model, "L", float(c)))]

    def reached_at(values: list[float]) -> float | None:
        y = np.minimum.accumulate(np.array(values))
        if not y[-1] < L < y[0]:
            return None
        return float(np.exp(np.interp(-L, -y, np.log(C))))

    at = reached_at([x.value for x in losses])
    if at is None:
        raise Refusal(
            f"a loss of {L:.6g} nats per token is not reached by the recommended forecast between "
            f"{C[0]:.2g} and {C[-1]:.2g} FLOPs ({losses[0].value:.4g} to {losses[-1].value:.4g}). Give a "
            "loss in between."
        )
    return at, [reached_at([x.low for x in losses]), reached_at([x.high for x in losses])]


def local_law(fits: FitResults, C: float) -> LossLaw | None:
    """The loss law that has the recommended N, D, L and slope of L at C, for costs of departures.

    With alpha and beta of approach 3 near the optimum, A*N^-alpha = beta*p*X and B*D^-beta = alpha*X
    with X = -(dL/dlnC)/(alpha*beta) make N the best size at C and give the slope of the loss along the
    frontier. p = dlnc/dlnN, where c is the FLOPs per token. E takes the rest of the loss. None if N or L
    is not forecast, or if no such law exists.
    """
    model = fits.recommended_model
    if model is None or model.N is None or model.L is None:
        return None
    log_N, log_L = model.N.log_at(C, fits.cost), model.L.log_at(C, fits.cost)
    N, L = float(np.exp(log_N)), float(np.exp(log_L))
    D = float(C / flops_at(N, fits.cost))
    p = 1.0 if fits.cost is None else float(fits.cost.trend_and_slope(np.array(log_N))[1])
    alpha, beta = model.shape or DEFAULT_SHAPE
    X = -L * model.L.slope(C, fits.cost) / (alpha * beta)
    E = L - (beta * p + alpha) * X
    if not (X > 0 and E >= 0 and np.isfinite(D)):
        return None
    return LossLaw(E, beta * p * X * N**alpha, alpha * X * D**beta, alpha, beta)
