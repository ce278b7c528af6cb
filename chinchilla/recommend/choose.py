"""Which approach is recommended, and why: the only place that decides it.

Approach 2, whose minima assume the least, is recommended unless approach 3 predicted the sweep's own
larger budgets clearly better (error of N_opt and of the loss both below SWITCH of approach 2's, over at
least MIN_PAIRS forecasts). Without three budgets that have a minimum approach 3 is recommended where it
could be fitted, then approach 2, then approach 1. On 13 public sweeps this rule was never worse than
approach 2 alone and avoided approach 3 where it missed by a factor of two (docs/fitting.md). NumPy only.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from chinchilla.config import FitCommand
from chinchilla.fit import fit_all
from chinchilla.fit.doubts import robust_sd
from chinchilla.fit.fits import Fits
from chinchilla.fit.frontier import called
from chinchilla.fit.isoflop import parabolas_of
from chinchilla.fit.parametric import ILL_CONDITIONED
from chinchilla.observations import Observations
from chinchilla.recommend.candidates import (
    LawReading,
    law_readings,
    laws_of,
    lines_of,
    losses_of,
    pairs_of_laws,
    pairs_of_minima,
)
from chinchilla.recommend.forecast import MIN_LOSS, Member, Minima, saturating
from chinchilla.recommend.held_out import (
    LARGEST,
    Pair,
    combined,
    error_scale,
    scores,
    weights_of,
)
from chinchilla.recommend.model import Forecast, RecommendedModel
from chinchilla.recommend.richer import FORMULA, RicherLaw
from chinchilla.units import count

SWITCH = 0.8  # approach 3's held-out error over approach 2's, below which approach 3 is recommended
MIN_PAIRS = 10  # held-out forecasts that a choice against approach 2 needs
MIN_MINIMA = 3  # budgets with a minimum that make approach 2 the default
OWN_LOSS = 4  # minima from which the loss is E + K*C^-g; with fewer, the law's where there is one
# Condition number of approach 3 -> standard deviation of a where the law is off by half a percent:
# the median errors that scripts/condition_number.py measured, over .6745.
ERROR_OF_A = {100.0: 0.02, 175.0: 0.05, 250.0: 0.07, 400.0: 0.09, 750.0: 0.16, 2000.0: 0.27}
MIN_SAID = 0.05  # weight of the richer law from which its effect is stated
REACH = 0.35  # ln N beyond the sizes tried, within which the minimum of a parabola is measured


def fit_table(
    finals: Observations,
    curves: Observations | None,
    command: FitCommand,
    stage: Callable[[str], None] = lambda name: None,
) -> Fits:
    """Every approach that `command` asks for, and the recommendation.

    Args:
        finals: final losses.
        curves: points along the runs for approach 1; None = whatever curves `finals` holds.
        command: approaches and their settings.
        stage: told the name of each stage as it begins.
    """
    fits = fit_all(finals, curves, command, stage)
    stage("fit: held-out errors of the recommendation")
    how = {"huber_delta": command.huber_delta, "objective": command.objective}
    model = choose(finals.finals(), fits, how, command.approach3_law)
    return fits if model is None else dataclasses.replace(fits, recommended=model.to_dict())


def choose(
    obs: Observations, fits: Fits, how: Mapping[str, Any], approach3_law: str = "auto"
) -> RecommendedModel | None:
    """The recommended model of these fits; None where every approach was refused.

    Args:
        obs: (n,) the final losses that were fitted.
        fits: what the approaches found.
        how: huber_delta and objective of approach 3.
        approach3_law: auto (a richer law beside the paper's where that misses the runs), power (never),
            or saturating (the richer law alone).
    """
    minima = minima_of(obs, fits)
    pairs: dict[str, dict[str, list[Pair]]] = {}
    readings: list[LawReading] = []
    laws: list[LawReading | RicherLaw] = []
    if len(minima):
        pairs["isoflop"] = pairs_of_minima(minima)
    if "parametric" in fits.fitted:
        readings = law_readings(obs, dict(how))
        laws = laws_of(obs, readings, approach3_law)
        if laws:
            pairs["parametric"] = pairs_of_laws(obs, laws, minima, fits.cost, dict(how))
    parts: dict[str, dict[str, Forecast]] = {}
    asked = "isoflop" in fits.fitted or "isoflop" in fits.refused
    if len(minima) >= 2 and asked:
        parts["isoflop"] = of_minima(minima, pairs["isoflop"])
    if laws:
        parts["parametric"] = forecasts_of_laws(laws, pairs["parametric"], _condition(fits))
    if "envelope" in fits.fitted:
        parts["envelope"] = _of_envelope(fits)
    held_out: dict[str, dict[str, Any]] = {
        name: scored(parts[name], pairs[name])
        for name in ("isoflop", "parametric")
        if name in parts
    }
    usable = {name: f for name, f in parts.items() if _plausible(f, obs)}
    no_two = "under three budgets have an IsoFLOP minimum"
    if len(minima) >= MIN_MINIMA:
        no_two = "the exponent of N_opt along the IsoFLOP minima is not between 0 and 1"
    if not asked:
        no_two = "approach 2 was not asked for"
    lead, why = _lead(usable, held_out, len(minima), no_two)
    if not lead:
        return None
    chosen = dict(usable[lead])
    if lead == "isoflop" and len(minima) < OWN_LOSS and "parametric" in parts:
        chosen["L"] = parts["parametric"]["L"]
    if lead == "isoflop":
        C_range = [float(minima.C[0]), float(minima.C[-1])]
    else:
        C_range = [float(obs.C.min()), float(obs.C.max())]
    outliers = _outliers(obs, fits, readings)
    law = _near_optimum(readings)
    return RecommendedModel(
        approach=lead,
        C_range=C_range,
        N=chosen["N"],
        L=chosen.get("L"),
        reasons=[
            why,
            *_evidence(lead, fits, readings, outliers, len(obs)),
            *_about_richer(obs, fits, laws, readings, parts, pairs),
        ],
        outliers=outliers,
        held_out=held_out,
        shape=None if law is None else [law.law.alpha, law.law.beta],
    )


def minima_of(obs: Observations, fits: Fits) -> Minima:
    """The minima of the IsoFLOP profiles in approach 2's window, C rising.

    Of parabolas, which assume no law, and of every profile whose minimum lies within REACH of the sizes
    tried. Approach 2 itself leaves out a profile whose minimum has fewer than two sizes on a side; it
    measures N_opt and the loss all the same, and the held-out errors say how well.
    """
    found = []
    for budget in parabolas_of(obs, str(fits.command.get("isoflop_window", "auto"))):
        x, c = np.log(budget["N"]), budget["coefficients"]
        if c is None or not c[2] > 0:
            continue
        at = float(-c[1] / (2 * c[2]))
        if x.min() - REACH < at < x.max() + REACH:
            loss = float(c[0] + c[1] * at + c[2] * at**2)
            found.append((float(budget["C"]), float(np.exp(at)), loss))
    if not found:
        return Minima(*(np.empty(0) for _ in "CNL"))
    return Minima(*(np.array(column, float) for column in zip(*sorted(found), strict=True)))


def _forecast(
    quantity: str,
    kind: str,
    members: Mapping[str, Member],
    pairs: Sequence[Pair],
) -> Forecast:
    found = scores(pairs)
    own = [found.get(name, LARGEST if pairs else 0.0) for name in members]
    weight = dict(zip(members, weights_of(own, quantity).tolist(), strict=True))
    return Forecast(
        quantity=quantity,
        kind=kind,
        names=list(members),
        scores=own,
        members=[m.parameters for m in members.values()],
        covariances=[m.covariance for m in members.values() if m.covariance],
        error=error_scale(
            combined(pairs, weight), quantity, _rate(kind, members) if quantity == "L" else 0.0
        ),
    )


def _rate(kind: str, members: Mapping[str, Member]) -> float:
    """g, with which the loss at the optimum approaches its asymptote as C^-g: the mean over members."""
    rows = [m.parameters for m in members.values()]
    if kind == "saturating":
        return float(np.mean([row[2] for row in rows]))
    return float(np.mean([row[5] * row[3] * row[4] / (row[3] + row[4]) for row in rows]))


def of_minima(minima: Minima, pairs: Mapping[str, list[Pair]]) -> dict[str, Forecast]:
    """Approach 2: N_opt along lines, the loss along E + K*C^-g."""
    found = {}
    if lines := lines_of(minima):
        found["N"] = _forecast("N", "line", lines, pairs["N"])
    if losses := losses_of(minima):
        found["L"] = _forecast("L", "saturating", losses, pairs["L"])
    return found


def _condition(fits: Fits) -> float:
    """Condition number of approach 3's fit; 1 where it is not known."""
    certificate = fits.fitted["parametric"].certificate or {}
    return float(certificate.get("condition_number", 1.0))


def forecasts_of_laws(
    laws: Sequence[LawReading | RicherLaw], pairs: Mapping[str, list[Pair]], condition: float = 1.0
) -> dict[str, Forecast]:
    """Approach 3: the law of each window and the richer law, weighted by their held-out errors.

    Of runs that hardly tell N from D apart, a misfit of half a percent moves a further than any
    resampling shows: the error scale of N_opt is then at least what ERROR_OF_A measured.
    """
    members = {r.name: Member(r.theta, []) for r in laws}
    found = {q: _forecast(q, "law", members, pairs[q]) for q in ("N", "L")}
    least = float(np.interp(np.log(condition), np.log(list(ERROR_OF_A)), list(ERROR_OF_A.values())))
    error = found["N"].error
    wider = dataclasses.replace(error, scale=max(error.scale, least))
    return {**found, "N": dataclasses.replace(found["N"], error=wider)}


def _of_envelope(fits: Fits) -> dict[str, Forecast]:
    """Approach 1: its line, and E + K*C^-g through its envelope."""
    frontier = fits.fitted["envelope"]
    law = frontier.N_opt
    row = [float(np.log(law.coefficient)), law.exponent]
    found = {"N": _forecast("N", "line", {"the envelope": Member(row, [])}, [])}
    C, N, L = (np.array([getattr(p, name) for p in frontier.points], float) for name in "CNL")
    if len(C) >= MIN_LOSS:
        loss = saturating(Minima(C, N, L), np.inf)
        found["L"] = _forecast("L", "saturating", {"the envelope": loss}, [])
    return found


def scored(parts: Mapping[str, Forecast], pairs: Mapping[str, list[Pair]]) -> dict[str, Any]:
    """Held-out errors of an approach's weighted forecasts."""
    found: dict[str, Any] = {"n": max(len(pairs["N"]), len(pairs["L"]))}
    for quantity in ("N", "L"):
        score = None
        if quantity in parts and pairs[quantity]:
            f = parts[quantity]
            weight = dict(zip(f.names, weights_of(f.scores, quantity).tolist(), strict=True))
            score = scores(combined(pairs[quantity], weight)).get("")
        found[quantity] = score
    return found


def _plausible(parts: Mapping[str, Forecast], obs: Observations) -> bool:
    """Whether N_opt rises with C, and not faster than C, in the runs' own range."""
    if "N" not in parts:
        return False
    f = parts["N"]
    if f.kind == "law":
        return True  # alpha and beta are positive: the exponent lies between 0 and 1
    a = float(weights_of(f.scores, "N") @ np.array(f.members)[:, 1])
    return 0 < a < 1


def _lead(
    usable: Mapping[str, Mapping[str, Forecast]],
    held_out: Mapping[str, dict[str, Any]],
    n_minima: int,
    no_two: str,
) -> tuple[str, str]:
    """The approach recommended, and the reason in a sentence; "" where none can be.

    `no_two` says why approach 2 is not recommended where its minima cannot be used.
    """
    if "isoflop" in usable and n_minima >= MIN_MINIMA:
        errors = held_out["isoflop"]
        if "parametric" not in usable or errors["N"] is None:
            n = f"{n_minima} IsoFLOP minima"
            return (
                "isoflop",
                f"{called('isoflop').capitalize()} is recommended: {n}, which assume the least.",
            )
        other = held_out["parametric"]
        known = other["N"] is not None and other["L"] is not None and errors["n"] >= MIN_PAIRS
        better = known and all(other[q] < SWITCH * errors[q] for q in ("N", "L"))
        lead, rest = ("parametric", "isoflop") if better else ("isoflop", "parametric")
        return lead, (
            f"{called(lead).capitalize()} is recommended: over {errors['n']} forecast{'s' * (errors['n'] > 1)} of the "
            f"sweep's own larger budgets from its smaller ones, {_errors(held_out[lead])}; {called(rest)}: "
            f"{_errors(held_out[rest])}."
        )
    for name, why in (
        ("parametric", f"it uses all runs, and {no_two}"),
        ("isoflop", "it is the only approach with an answer here, from two minima"),
        ("envelope", "approaches 2 and 3 have no answer here"),
    ):
        if name in usable:
            return name, f"{called(name).capitalize()} is recommended: {why}."
    return "", ""


def _errors(held_out: Mapping[str, Any]) -> str:
    """Held-out errors in words."""
    known = [(held_out[q], of) for q, of in (("N", "N_opt"), ("L", "the loss"))]
    parts = [f"{100 * float(np.expm1(e)):.2g}% in {of}" for e, of in known if e is not None]
    return f"error {' and '.join(parts)}" if parts else "no error could be measured"


def _near_optimum(readings: list[LawReading]) -> LawReading | None:
    """The law of the narrowest window: what describes the runs near the optimum."""
    return readings[-1] if readings else None


def _outliers(obs: Observations, fits: Fits, readings: list[LawReading]) -> list[dict[str, Any]]:
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


def _evidence(
    lead: str, fits: Fits, readings: list[LawReading], outliers: list[dict[str, Any]], n_runs: int
) -> list[str]:
    """What the recommendation was made from: the window, windows of approach 3, outliers."""
    said = []
    if lead == "isoflop" and "isoflop" in fits.fitted:
        said.append(f"Approach 2 uses {fits.fitted['isoflop'].settings['window']}.")
    elif lead == "isoflop":
        said.append(
            "Approach 2 itself is refused, because too few minima have two sizes on each side: parabolas "
            "whose minimum lies near the sizes tried stand in for it. Train more sizes on both sides."
        )
    if len(readings) > 1:
        a = ", ".join(f"{r.law.beta / (r.law.alpha + r.law.beta):.3f} ({r.name})" for r in readings)
        said.append(f"Approach 3 by window, a = {a}.")
    if lead == "parametric" and (condition := _condition(fits)) > ILL_CONDITIONED:
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
        said.append(text + " Check whether they diverged.")
    return said


def _about_richer(
    obs: Observations,
    fits: Fits,
    laws: Sequence[LawReading | RicherLaw],
    readings: list[LawReading],
    parts: Mapping[str, Mapping[str, Forecast]],
    pairs: Mapping[str, Mapping[str, list[Pair]]],
) -> list[str]:
    """What the richer law changes in approach 3's forecast; nothing where none was fitted."""
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
    now, before = parts["parametric"], forecasts_of_laws(readings, pairs["parametric"])
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
