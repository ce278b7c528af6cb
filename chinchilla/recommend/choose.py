"""Choose the recommended approach. No other module decides this.

Approach 2 is recommended by default, because its minima make the fewest assumptions. Approach 3 replaces
it if it predicted the sweep's own larger budgets clearly better: its held-out errors of N_opt and of the
loss are both below SWITCH times those of approach 2, over at least MIN_HELD_OUT forecasts. With fewer
than three budgets that have a minimum, approach 3 is recommended if it could be fitted, then approach 2,
then approach 1. On 13 public sweeps approach 3 was off by a factor of two where its held-out errors
showed it (docs/fitting.md).
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chinchilla.config import FitCommand
from chinchilla.fit import fit_all
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import Observations
from chinchilla.recommend import reasons
from chinchilla.recommend.forecast import (
    Forecast,
    RecommendedModel,
    forecasts_of_envelope,
    forecasts_of_laws,
    forecasts_of_minima,
    summary_of_errors,
)
from chinchilla.recommend.held_out import errors_of_laws, errors_of_minima
from chinchilla.recommend.isoflop_minima import Minima, minima_of
from chinchilla.recommend.laws import CandidateLaw, candidate_laws, fit_windows

SWITCH = 0.8  # approach 3's held-out error over approach 2's, below which approach 3 is recommended
MIN_HELD_OUT = 10  # held-out forecasts needed to prefer approach 3 to approach 2
MIN_MINIMA = 3  # budgets with a minimum that make approach 2 the default
# Minima from which approach 2 forecasts the loss itself; with fewer, approach 3 does.
MIN_OWN_LOSS = 4
RULE = (
    f"Approach 2 is the default; approach 3 replaces it only if both of its errors are below {SWITCH:g} times "
    f"those of approach 2, over at least {MIN_HELD_OUT} forecasts."
)
PREFERENCE = ("parametric", "isoflop", "envelope")  # with fewer than MIN_MINIMA


def fit_and_recommend(
    finals: Observations,
    curves: Observations | None,
    command: FitCommand,
    stage: Callable[[str], None] = lambda name: None,
) -> FitResults:
    """Fit every approach that `command` asks for, and choose the recommendation.

    Args:
        finals: final losses.
        curves: points along the runs for approach 1; None uses the curves in `finals`, if any.
        command: approaches and their settings.
        stage: called with the name of each stage as it begins.
    """
    fits = fit_all(finals, curves, command, stage)
    stage("fit: held-out errors of the recommendation")
    settings = {"huber_delta": command.huber_delta, "objective": command.objective}
    model = choose(finals.finals(), fits, settings)
    return fits if model is None else dataclasses.replace(fits, recommended=model.to_dict())


@dataclass(frozen=True)
class Candidates:
    """What each approach could recommend, and how well it predicted the sweep's own larger budgets."""

    minima: Minima
    windows: list[CandidateLaw]  # approach 3's law on each window; empty without approach 3
    laws: list[CandidateLaw]  # the windows and, last, the saturating law if it is needed
    forecasts: dict[str, dict[str, Forecast]]  # by approach and quantity
    summaries: dict[str, dict[str, Any]]  # by approach: `summary_of_errors`; not of approach 1
    of_windows: dict[str, Forecast]  # approach 3's forecasts without the saturating law


def choose(
    obs: Observations, fits: FitResults, settings: Mapping[str, Any]
) -> RecommendedModel | None:
    """The recommended model of these fits; None if no approach has a usable answer.

    Args:
        obs: (n,) the final losses that were fitted.
        fits: the fitted approaches.
        settings: huber_delta and objective of approach 3.
    """
    if not fits.fitted:
        return None
    candidates = candidates_of(obs, fits, dict(settings))
    decision = decide(
        candidates.forecasts, candidates.summaries, len(candidates.minima), _isoflop_requested(fits)
    )
    if decision is None:
        return None
    approach, reason = decision
    return _explained(approach, reason, candidates, obs, fits)


def candidates_of(obs: Observations, fits: FitResults, settings: dict[str, Any]) -> Candidates:
    """Forecasts of each fitted approach, weighted by their errors on the sweep's own larger budgets."""
    forecasts: dict[str, dict[str, Forecast]] = {}
    summaries: dict[str, dict[str, Any]] = {}
    minima = minima_of(obs, fits)
    if _isoflop_requested(fits) and len(minima) >= 2:
        errors = errors_of_minima(minima)
        forecasts["isoflop"] = forecasts_of_minima(minima, errors)
        summaries["isoflop"] = summary_of_errors(forecasts["isoflop"], errors)
    windows = fit_windows(obs, settings) if "parametric" in fits.fitted else []
    laws = candidate_laws(obs, windows)
    of_windows: dict[str, Forecast] = {}
    if laws:
        errors = errors_of_laws(obs, laws, minima, fits.cost, settings)
        condition = reasons.condition_number(fits)
        forecasts["parametric"] = forecasts_of_laws(laws, errors, condition)
        summaries["parametric"] = summary_of_errors(forecasts["parametric"], errors)
        of_windows = forecasts_of_laws(windows, errors, condition)
    if "envelope" in fits.fitted:
        forecasts["envelope"] = forecasts_of_envelope(fits)
    return Candidates(minima, windows, laws, forecasts, summaries, of_windows)


def decide(
    forecasts: Mapping[str, Mapping[str, Forecast]],
    summaries: Mapping[str, Mapping[str, Any]],
    n_minima: int,
    isoflop_requested: bool,
) -> tuple[str, str] | None:
    """The recommended approach and the sentence that gives the reason; None if none is usable.

    Args:
        forecasts: by approach and quantity.
        summaries: held-out errors by approach.
        n_minima: budgets with an IsoFLOP minimum.
        isoflop_requested: whether approach 2 was asked for.
    """
    usable = [name for name in PREFERENCE if _is_usable(forecasts.get(name, {}))]
    if "isoflop" in usable and n_minima >= MIN_MINIMA:
        better = _approach_3_is_better(summaries["isoflop"], summaries.get("parametric"))
        approach = "parametric" if better else "isoflop"
        reason = reasons.by_held_out_errors(approach, summaries, n_minima)
        default = approach == "isoflop" and summaries["isoflop"]["n"] and "parametric" in summaries
        return approach, f"{reason} {RULE}" if default else reason
    if not usable:
        return None
    few_minima = n_minima < MIN_MINIMA
    return usable[0], reasons.by_elimination(usable[0], isoflop_requested, few_minima)


def _explained(
    approach: str, reason: str, candidates: Candidates, obs: Observations, fits: FitResults
) -> RecommendedModel:
    """The model of the approach that was decided for, with all its reasons."""
    minima, windows, laws = candidates.minima, candidates.windows, candidates.laws
    forecasts = candidates.forecasts[approach]
    C_range = [float(obs.C.min()), float(obs.C.max())]
    if approach == "isoflop":
        C_range = [float(minima.C[0]), float(minima.C[-1])]
        if len(minima) < MIN_OWN_LOSS and "parametric" in candidates.forecasts:
            forecasts = {**forecasts, "L": candidates.forecasts["parametric"]["L"]}
    outliers = reasons.excluded_runs(obs, fits, windows)
    texts = [reason, *reasons.evidence(approach, fits, windows, outliers, obs)]
    if approach == "parametric" and laws[-1].is_saturating:
        texts.append(reasons.saturating_law(obs, fits, laws, forecasts, candidates.of_windows))
    nearest = windows[-1].law if windows else None  # the narrowest window, nearest to the optimum
    return RecommendedModel(
        approach=approach,
        C_range=C_range,
        N=forecasts["N"],
        L=forecasts.get("L"),
        reasons=texts,
        outliers=outliers,
        held_out=candidates.summaries,
        shape=None if nearest is None else [nearest.alpha, nearest.beta],
    )


def _isoflop_requested(fits: FitResults) -> bool:
    return "isoflop" in fits.fitted or "isoflop" in fits.refused


def _is_usable(forecasts: Mapping[str, Forecast]) -> bool:
    """Whether N_opt is forecast with an exponent in (0, 1)."""
    return "N" in forecasts and forecasts["N"].implausible_exponent() is None


def _approach_3_is_better(two: Mapping[str, Any], three: Mapping[str, Any] | None) -> bool:
    """Whether approach 3 predicted the larger budgets clearly better, by `summary_of_errors`."""
    if three is None or two["n"] < MIN_HELD_OUT:
        return False
    pairs = [(two[q], three[q]) for q in ("N", "L")]
    return all(b is not None and b < SWITCH * a for a, b in pairs)
