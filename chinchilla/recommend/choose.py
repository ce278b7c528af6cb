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
from typing import Any

import numpy as np

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
    held_out_summary,
)
from chinchilla.recommend.held_out import (
    HeldOut,
    errors_of_laws,
    errors_of_minima,
    forecast_weights,
)
from chinchilla.recommend.isoflop_minima import minima_of
from chinchilla.recommend.laws import SATURATING, CandidateLaw, candidate_laws, fit_windows

SWITCH = 0.8  # approach 3's held-out error over approach 2's, below which approach 3 is recommended
MIN_HELD_OUT = 10  # held-out forecasts needed to prefer approach 3 to approach 2
MIN_MINIMA = 3  # budgets with a minimum that make approach 2 the default
# Minima from which approach 2 forecasts the loss itself; with fewer, approach 3 does.
MIN_OWN_LOSS = 4


def fit_table(
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

    # Candidates of each approach, their errors on the sweep's own larger budgets, and the forecasts that
    # these errors weight.
    forecasts: dict[str, dict[str, Forecast]] = {}
    held_out: dict[str, dict[str, HeldOut]] = {}
    windows: list[CandidateLaw] = []
    laws: list[CandidateLaw] = []
    minima = minima_of(obs, fits)
    isoflop_requested = "isoflop" in fits.fitted or "isoflop" in fits.refused
    if isoflop_requested and len(minima) >= 2:
        held_out["isoflop"] = errors_of_minima(minima)
        forecasts["isoflop"] = forecasts_of_minima(minima, held_out["isoflop"])
    if "parametric" in fits.fitted:
        windows = fit_windows(obs, dict(settings))
        laws = candidate_laws(obs, windows)
    if laws:
        held_out["parametric"] = errors_of_laws(obs, laws, minima, fits.cost, dict(settings))
        condition = reasons.condition_number(fits)
        forecasts["parametric"] = forecasts_of_laws(laws, held_out["parametric"], condition)
    if "envelope" in fits.fitted:
        forecasts["envelope"] = forecasts_of_envelope(fits)
    errors = {name: held_out_summary(forecasts[name], held_out[name]) for name in held_out}

    # The decision.
    usable = {name for name, f in forecasts.items() if "N" in f and _exponent_is_plausible(f["N"])}
    if "isoflop" in usable and len(minima) >= MIN_MINIMA:
        better = _approach_3_is_better(errors["isoflop"], errors.get("parametric"))
        approach = "parametric" if better else "isoflop"
        reason = reasons.by_held_out_errors(approach, errors, len(minima))
    else:
        order = ("parametric", "isoflop", "envelope")
        approach = next((name for name in order if name in usable), "")
        if not approach:
            return None
        reason = reasons.by_elimination(approach, isoflop_requested, len(minima) < MIN_MINIMA)

    # The forecasts of the recommended approach, and the reasons for it.
    chosen = forecasts[approach]
    C_range = [float(obs.C.min()), float(obs.C.max())]
    if approach == "isoflop":
        C_range = [float(minima.C[0]), float(minima.C[-1])]
        if len(minima) < MIN_OWN_LOSS and "parametric" in forecasts:
            chosen = {**chosen, "L": forecasts["parametric"]["L"]}
    outliers = reasons.excluded_runs(obs, fits, windows)
    texts = [reason, *reasons.evidence(approach, fits, windows, outliers, len(obs))]
    if approach == "parametric" and laws[-1].name == SATURATING:
        without = forecasts_of_laws(windows, held_out["parametric"], condition)
        texts.append(reasons.saturating_law(obs, fits, laws, forecasts["parametric"], without))
    nearest = windows[-1].law if windows else None  # the narrowest window, nearest to the optimum
    return RecommendedModel(
        approach=approach,
        C_range=C_range,
        N=chosen["N"],
        L=chosen.get("L"),
        reasons=texts,
        outliers=outliers,
        held_out=errors,
        shape=None if nearest is None else [nearest.alpha, nearest.beta],
    )


def _exponent_is_plausible(f: Forecast) -> bool:
    """Whether N_opt rises with C, and not faster than C; always true of laws, whose alpha and beta are positive."""
    if f.kind == "law":
        return True
    return bool(0 < forecast_weights(f.scores, "N") @ np.array(f.members)[:, 1] < 1)


def _approach_3_is_better(two: Mapping[str, Any], three: Mapping[str, Any] | None) -> bool:
    """Whether approach 3 predicted the larger budgets clearly better, by summaries of held-out errors."""
    if three is None or two["n"] < MIN_HELD_OUT:
        return False
    pairs = [(two[q], three[q]) for q in ("N", "L")]
    return all(b is not None and b < SWITCH * a for a, b in pairs)
