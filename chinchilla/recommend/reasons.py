"""Sentences on how a recommendation was made: windows, outliers, and what weakens it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from chinchilla.core.units import count
from chinchilla.fit.parametric.approach3 import ILL_CONDITIONED
from chinchilla.fit.result import LossLaw
from chinchilla.fit.results import FitResults
from chinchilla.observations.checks import robust_sd
from chinchilla.observations.table import Observations
from chinchilla.recommend.forecast import Forecast
from chinchilla.recommend.held_out import forecast_weights
from chinchilla.recommend.laws import FORMULA, CandidateLaw, SaturatingLaw, WindowFit

MIN_WEIGHT = 0.05  # of the saturating law, below which its weight is called negligible
MAX_NAMED = 8  # outliers that are listed by name


def condition_number(fits: FitResults) -> float:
    """Condition number of approach 3's fit; 1 if unknown."""
    certificate = fits.fitted["parametric"].certificate or {}
    return float(certificate.get("condition_number", 1.0))


def excluded_runs(
    obs: Observations, fits: FitResults, windows: list[WindowFit]
) -> list[dict[str, Any]]:
    """Runs that the recommendation excludes as outliers, by approach."""
    rows: list[dict[str, Any]] = []
    if "isoflop" in fits.fitted:
        outliers = fits.fitted["isoflop"].details.get("window", {}).get("outliers", [])
        rows += [
            {"approach": "isoflop", **{k: o[k] for k in ("run_id", "N", "L")}} for o in outliers
        ]
    for window in windows[:1]:
        for i in np.flatnonzero(window.outliers):
            run = {"run_id": str(obs.run_id[i]), "N": float(obs.N[i]), "L": float(obs.L[i])}
            rows.append({"approach": "parametric", **run})
    return rows


def evidence(
    approach: str,
    fits: FitResults,
    windows: list[WindowFit],
    outliers: list[dict[str, Any]],
    n_runs: int,
) -> list[str]:
    """What the recommended approach was fitted to, and how reliable it is."""
    texts = []
    if approach == "isoflop" and "isoflop" in fits.fitted:
        texts.append(f"Approach 2 uses {fits.fitted['isoflop'].settings['window']}.")
    elif approach == "isoflop":
        texts.append(
            f"Approach 2 itself was refused ({fits.refused['isoflop'].kind}): parabolas with a minimum near "
            "the edge of the sizes tried are used instead. Train more sizes on both sides."
        )
    if approach == "envelope":
        texts.append(
            "No held-out budget measures the error of approach 1. Its intervals use the errors of such "
            "fits on synthetic curves. Train IsoFLOP budgets for an answer that can be tested."
        )
    if approach == "parametric" and not fits.fitted["parametric"].law_samples:
        texts.append(
            "Approach 3 has no resamples (n_bootstrap=0): the intervals contain the errors of other sweeps, "
            "but not the noise of these runs."
        )
    if len(windows) > 1:
        a = ", ".join(f"{_exponent(w.law):.3f} ({w.name})" for w in windows)
        texts.append(f"Approach 3 by window: a = {a}.")
    if approach == "parametric" and (condition := condition_number(fits)) > ILL_CONDITIONED:
        texts.append(
            f"Approach 3 is ill-conditioned here (condition number {condition:.0f}). Its interval was widened "
            "by the measured error of such fits. Train some sizes at several tokens per parameter."
        )
    if outliers:
        names = list(dict.fromkeys(str(o["run_id"]) for o in outliers))
        shown = ", ".join(names[:MAX_NAMED]) + (", ..." if len(names) > MAX_NAMED else "")
        text = f"{len(names)} of {n_runs} runs are outliers and were excluded: {shown}."
        parametric = fits.fitted.get("parametric")
        if parametric is not None and any(o["approach"] == "parametric" for o in outliers):
            text += (
                f" Approach 3 gives a = {_exponent(windows[0].law):.3f} without them and "
                f"{parametric.N_opt.exponent:.3f} with all runs."
            )
        texts.append(f"{text} Check whether they diverged.")
    return texts


def _exponent(law: LossLaw) -> float:
    return law.beta / (law.alpha + law.beta)


def saturating_law(
    obs: Observations,
    fits: FitResults,
    laws: list[CandidateLaw],
    windows: list[WindowFit],
    forecasts: Mapping[str, Forecast],
    without: Mapping[str, Forecast],
) -> list[str]:
    """How the saturating law changes approach 3's forecast; empty if it was not fitted.

    Args:
        obs: the runs.
        fits: their fits.
        laws: approach 3's candidate laws.
        windows: those with five parameters.
        forecasts: approach 3's forecasts.
        without: the forecasts without the saturating law.
    """
    if not laws or not isinstance(laws[-1], SaturatingLaw):
        return []
    law = laws[-1]
    r = np.log(obs.L / windows[0].law(obs.N, obs.D))[windows[0].keep]
    text = (
        f"Approach 3's law misses its runs by {robust_sd(r):.1%} of the loss, {law.name} "
        f"{FORMULA} by {law.misfit:.1%}"
    )
    if len(laws) == 1:
        return [f"{text}; only the latter is used (approach3_law=saturating)."]
    weight = {q: float(forecast_weights(f.scores, q)[-1]) for q, f in forecasts.items()}
    if max(weight.values()) < MIN_WEIGHT:
        return [f"{text}; its errors on the larger budgets make its weight negligible."]
    C = float(f"{10 * obs.C.max():.2g}")
    N, old_N, L, old_L = (
        float(np.exp(f[q].log_at(C, fits.cost))) for q in ("N", "L") for f in (forecasts, without)
    )
    return [
        f"{text}. By its errors on the larger budgets it has {weight['N']:.0%} of approach 3's weight in "
        f"N_opt and {weight['L']:.0%} in the loss. It changes the forecast at {C:.3g} FLOPs from N "
        f"{count(old_N)} to {count(N)} and from loss {old_L:.4g} to {L:.4g}."
    ]
