"""What a recommendation was made from, in sentences: windows, outliers, and what weakens it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chinchilla.core.units import count
from chinchilla.fit.parametric.approach3 import ILL_CONDITIONED
from chinchilla.fit.results import FitResults
from chinchilla.observations.checks import robust_sd
from chinchilla.observations.table import Observations
from chinchilla.recommend.candidates import LawReading
from chinchilla.recommend.held_out import weights_of
from chinchilla.recommend.model import Forecast
from chinchilla.recommend.richer import FORMULA, RicherLaw

MIN_SAID = 0.05  # weight below which the richer law is said to have none


def condition_of(fits: FitResults) -> float:
    """Condition number of approach 3's fit; 1 where it is not known."""
    certificate = fits.fitted["parametric"].certificate or {}
    return float(certificate.get("condition_number", 1.0))


def outliers_of(
    obs: Observations, fits: FitResults, readings: list[LawReading]
) -> list[dict[str, Any]]:
    """Runs that the recommendation leaves out as outliers, by approach."""
    found: list[dict[str, Any]] = []
    if "isoflop" in fits.fitted:
        excluded = fits.fitted["isoflop"].details.get("window", {}).get("outliers", [])
        found += [
            {"approach": "isoflop", **{k: o[k] for k in ("run_id", "N", "L")}} for o in excluded
        ]
    for reading in readings[:1]:
        for i in np.flatnonzero(reading.outliers):
            run = {"run_id": str(obs.run_id[i]), "N": float(obs.N[i]), "L": float(obs.L[i])}
            found.append({"approach": "parametric", **run})
    return found


def evidence(
    lead: str,
    fits: FitResults,
    readings: list[LawReading],
    outliers: list[dict[str, Any]],
    n_runs: int,
) -> list[str]:
    """What the recommendation was made from: the window, windows of approach 3, outliers."""
    said = []
    if lead == "isoflop" and "isoflop" in fits.fitted:
        said.append(f"Approach 2 uses {fits.fitted['isoflop'].settings['window']}.")
    elif lead == "isoflop":
        said.append(
            f"Approach 2 itself is refused ({fits.refused['isoflop'].kind}): parabolas whose minimum lies near "
            "the sizes tried stand in for it. Train more sizes on both sides."
        )
    if lead == "envelope":
        said.append(
            "No held-out budget measures the error of approach 1: its intervals are what such fits were "
            "found to miss by on synthetic curves. Train IsoFLOP budgets for an answer that can be tested."
        )
    if lead == "parametric" and not fits.fitted["parametric"].law_samples:
        said.append(
            "Approach 3 has no resamples (n_bootstrap): the intervals hold what other sweeps show and not "
            "the noise of these runs."
        )
    if len(readings) > 1:
        a = ", ".join(f"{r.law.beta / (r.law.alpha + r.law.beta):.3f} ({r.name})" for r in readings)
        said.append(f"Approach 3 by window, a = {a}.")
    if lead == "parametric" and (condition := condition_of(fits)) > ILL_CONDITIONED:
        said.append(
            f"Approach 3 is ill-conditioned here (condition number {condition:.0f}): its interval is widened "
            "by what such fits were measured to miss by. Train some sizes at several tokens per parameter."
        )
    if outliers:
        names = list(dict.fromkeys(str(o["run_id"]) for o in outliers))
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        text = f"{len(names)} of {n_runs} runs are outliers and were excluded: {shown}."
        parametric = fits.fitted.get("parametric")
        if parametric is not None and any(o["approach"] == "parametric" for o in outliers):
            own = readings[0].law
            without = own.beta / (own.alpha + own.beta)
            text += f" Approach 3 gives a = {without:.3f} without them, {parametric.N_opt.exponent:.3f} with all runs."
        said.append(text + " Look at their curves.")
    return said


def about_richer(
    obs: Observations,
    fits: FitResults,
    laws: Sequence[LawReading | RicherLaw],
    readings: list[LawReading],
    now: Mapping[str, Forecast],
    before: Mapping[str, Forecast],
) -> list[str]:
    """What the richer law changes in approach 3's forecast; nothing where none was fitted.

    Args:
        obs: the runs.
        fits: their fits.
        laws: approach 3's readings with the richer law.
        readings: those of the paper's law alone.
        now: the forecasts with it.
        before: the forecasts without it.
    """
    if not laws or not isinstance(laws[-1], RicherLaw):
        return []
    richer = laws[-1]
    r = np.log(obs.L / readings[0].law(obs.N, obs.D))[readings[0].keep]
    text = (
        f"Approach 3's law misses its runs by {robust_sd(r):.1%} of the loss, {richer.name} "
        f"{FORMULA} by {richer.miss:.1%}"
    )
    if len(laws) == 1:
        return [f"{text}; it alone stands for approach 3 (approach3_law=saturating)."]
    weight = {q: float(weights_of(f.scores, q)[-1]) for q, f in now.items()}
    if max(weight.values()) < MIN_SAID:
        return [f"{text}, but its errors on the larger budgets leave it no weight."]
    C = float(f"{10 * obs.C.max():.2g}")
    N, old_N, L, old_L = (
        float(np.exp(f[q].log_at(C, fits.cost))) for q in ("N", "L") for f in (now, before)
    )
    return [
        f"{text}. By its errors on the larger budgets it has {weight['N']:.0%} of approach 3's weight in "
        f"N_opt and {weight['L']:.0%} in the loss, and moves its forecast at {C:.3g} FLOPs from N "
        f"{count(old_N)} to {count(N)} and from loss {old_L:.4g} to {L:.4g}."
    ]
