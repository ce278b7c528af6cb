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
from chinchilla.fit.result import called
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import Observations
from chinchilla.recommend.forecast import (
    Forecast,
    RecommendedModel,
    error_text,
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
from chinchilla.recommend.laws import CandidateLaw, WindowFit, candidate_laws, fit_windows
from chinchilla.recommend.reasons import condition_number, evidence, excluded_runs, saturating_law

SWITCH = 0.8  # approach 3's held-out error over approach 2's, below which approach 3 is recommended
MIN_HELD_OUT = 10  # held-out forecasts needed to prefer approach 3 to approach 2
MIN_MINIMA = 3  # budgets with a minimum that make approach 2 the default
MIN_OWN_LOSS = (
    4  # minima from which approach 2 forecasts the loss itself; with fewer, approach 3 does
)

Forecasts = Mapping[str, Forecast]  # by quantity, N and L


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
    model = choose(finals.finals(), fits, settings, command.approach3_law)
    return fits if model is None else dataclasses.replace(fits, recommended=model.to_dict())


def choose(
    obs: Observations, fits: FitResults, settings: Mapping[str, Any], approach3_law: str = "auto"
) -> RecommendedModel | None:
    """The recommended model of these fits; None if no approach has a usable answer.

    Args:
        obs: (n,) the final losses that were fitted.
        fits: the fitted approaches.
        settings: huber_delta and objective of approach 3.
        approach3_law: auto, power or saturating, see `laws.candidate_laws`.
    """
    if not fits.fitted:
        return None
    settings = dict(settings)
    forecasts: dict[str, Forecasts] = {}
    held_out: dict[str, dict[str, list[HeldOut]]] = {}
    windows: list[WindowFit] = []
    laws: list[CandidateLaw] = []

    # Forecasts of every approach, with their errors on the sweep's own larger budgets.
    minima = minima_of(obs, fits)
    requested = "isoflop" in fits.fitted or "isoflop" in fits.refused
    if len(minima) >= 2 and requested:
        held_out["isoflop"] = errors_of_minima(minima)
        forecasts["isoflop"] = forecasts_of_minima(minima, held_out["isoflop"])
    if "parametric" in fits.fitted:
        windows = fit_windows(obs, settings)
        laws = candidate_laws(obs, windows, approach3_law)
    if laws:
        held_out["parametric"] = errors_of_laws(obs, laws, minima, fits.cost, settings)
        forecasts["parametric"] = forecasts_of_laws(
            laws, held_out["parametric"], condition_number(fits)
        )
    if "envelope" in fits.fitted:
        forecasts["envelope"] = forecasts_of_envelope(fits)
    errors = {name: held_out_summary(forecasts[name], held_out[name]) for name in held_out}

    # The decision.
    usable = {name: f for name, f in forecasts.items() if _exponent_is_plausible(f)}
    approach, reason = _choose_approach(
        usable, errors, len(minima), _why_not_isoflop(requested, len(minima))
    )
    if not approach:
        return None

    # The record.
    chosen = dict(usable[approach])
    C_range = [float(obs.C.min()), float(obs.C.max())]
    if approach == "isoflop":
        C_range = [float(minima.C[0]), float(minima.C[-1])]
        if len(minima) < MIN_OWN_LOSS and "parametric" in forecasts:
            chosen["L"] = forecasts["parametric"]["L"]
    outliers = excluded_runs(obs, fits, windows)
    reasons = [reason, *evidence(approach, fits, windows, outliers, len(obs))]
    if approach == "parametric":
        without = forecasts_of_laws(windows, held_out["parametric"], condition_number(fits))
        reasons += saturating_law(obs, fits, laws, windows, forecasts["parametric"], without)
    nearest = windows[-1].law if windows else None  # the narrowest window, nearest to the optimum
    return RecommendedModel(
        approach=approach,
        C_range=C_range,
        N=chosen["N"],
        L=chosen.get("L"),
        reasons=reasons,
        outliers=outliers,
        held_out=errors,
        shape=None if nearest is None else [nearest.alpha, nearest.beta],
    )


def _exponent_is_plausible(forecasts: Forecasts) -> bool:
    """Whether N_opt rises with C, and not faster than C."""
    if "N" not in forecasts:
        return False
    f = forecasts["N"]
    if f.kind == "law":
        return True  # alpha and beta are positive, so the exponent lies between 0 and 1
    a = float(forecast_weights(f.scores, "N") @ np.array(f.members)[:, 1])
    return 0 < a < 1


def _why_not_isoflop(requested: bool, n_minima: int) -> str:
    """The reason to state if approach 2 is not usable."""
    if not requested:
        return "approach 2 was not requested"
    if n_minima < MIN_MINIMA:
        return "fewer than three budgets have an IsoFLOP minimum"
    return "the exponent of N_opt along the IsoFLOP minima is not between 0 and 1"


def _choose_approach(
    usable: Mapping[str, Forecasts],
    errors: Mapping[str, dict[str, Any]],
    n_minima: int,
    why_not_isoflop: str,
) -> tuple[str, str]:
    """The recommended approach and the reason in a sentence; "" if there is none.

    Args:
        usable: forecasts by approach.
        errors: held-out errors of approaches 2 and 3, from `held_out_summary`.
        n_minima: budgets with an IsoFLOP minimum.
        why_not_isoflop: the reason to state if approach 2 is not usable.
    """
    if "isoflop" in usable and n_minima >= MIN_MINIMA:
        two, three = errors["isoflop"], errors.get("parametric")
        if three is None or two["N"] is None:
            text = f"{n_minima} IsoFLOP minima, which make the fewest assumptions"
            return "isoflop", _recommend("isoflop", text)
        measured = three["N"] is not None and three["L"] is not None and two["n"] >= MIN_HELD_OUT
        if measured and all(three[q] < SWITCH * two[q] for q in ("N", "L")):
            approach, other = "parametric", "isoflop"
        else:
            approach, other = "isoflop", "parametric"
        return approach, _recommend(
            approach,
            f"error {error_text(errors[approach])} over {two['n']} forecast{'s' * (two['n'] > 1)} of the "
            f"sweep's own larger budgets from its smaller ones; {called(other)}: "
            f"{error_text(errors[other]) or 'no error could be measured'}",
        )
    for name, text in (
        ("parametric", f"it uses all runs, and {why_not_isoflop}"),
        ("isoflop", "it is the only approach with an answer here, from two minima"),
        ("envelope", "approaches 2 and 3 have no answer here"),
    ):
        if name in usable:
            return name, _recommend(name, text)
    return "", ""


def _recommend(approach: str, reason: str) -> str:
    return f"{called(approach).capitalize()} is recommended: {reason}."
