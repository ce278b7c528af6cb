"""Which approach is recommended, and why: the only place that decides it.

Approach 2, whose minima assume the least, is recommended unless approach 3 predicted the sweep's own
larger budgets clearly better (error of N_opt and of the loss both below SWITCH of approach 2's, over at
least MIN_PAIRS forecasts). Without three budgets that have a minimum approach 3 is recommended where it
could be fitted, then approach 2, then approach 1. On 13 public sweeps approach 3 missed by a factor of two
where its held-out errors said so (docs/fitting.md).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from chinchilla.config import FitCommand
from chinchilla.fit import fit_all
from chinchilla.fit.isoflop.approach2 import parabolas_of
from chinchilla.fit.isoflop.profile import Profile
from chinchilla.fit.result import called
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import Observations
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
from chinchilla.recommend.held_out import LARGEST, Pair, combined, error_scale, scores, weights_of
from chinchilla.recommend.model import Forecast, RecommendedModel
from chinchilla.recommend.reasons import about_richer, condition_of, evidence, outliers_of
from chinchilla.recommend.richer import RicherLaw

SWITCH = 0.8  # approach 3's held-out error over approach 2's, below which approach 3 is recommended
MIN_PAIRS = 10  # held-out forecasts that a choice against approach 2 needs
MIN_MINIMA = 3  # budgets with a minimum that make approach 2 the default
OWN_LOSS = 4  # minima from which the loss is E + K*C^-g; with fewer, the law's where there is one
# Refusals of approach 2 after which its parabolas still measure minima.
AT_THE_EDGE = ("vertex_at_edge", "vertex_outside")
# Error scales where approach 1 is recommended, which no held-out budget measured: on synthetic curves
# whose law is known N_opt was off by 25% and the loss by up to 2% at ten times the largest C.
ENVELOPE_ERROR = {"N": 0.15, "L": 0.008}
# Condition number of approach 3 -> standard deviation of a where the law is off by half a percent:
# the median errors that scripts/condition_number.py measured, over .6745.
ERROR_OF_A = {100.0: 0.02, 175.0: 0.05, 250.0: 0.07, 400.0: 0.09, 750.0: 0.16, 2000.0: 0.27}
REACH = 0.35  # ln N beyond the sizes tried, within which the minimum of a parabola is measured


def fit_table(
    finals: Observations,
    curves: Observations | None,
    command: FitCommand,
    stage: Callable[[str], None] = lambda name: None,
) -> FitResults:
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
    obs: Observations, fits: FitResults, how: Mapping[str, Any], approach3_law: str = "auto"
) -> RecommendedModel | None:
    """The recommended model of these fits; None where every approach was refused.

    Args:
        obs: (n,) the final losses that were fitted.
        fits: what the approaches found.
        how: huber_delta and objective of approach 3.
        approach3_law: auto (a richer law beside the paper's where that misses the runs), power (never),
            or saturating (the richer law alone).
    """
    if not fits.fitted:
        return None
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
        parts["parametric"] = forecasts_of_laws(laws, pairs["parametric"], condition_of(fits))
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
    outliers = outliers_of(obs, fits, readings)
    law = _near_optimum(readings)
    before = None  # approach 3's forecasts without the richer law, where that can matter
    if lead == "parametric":
        before = forecasts_of_laws(readings, pairs["parametric"], condition_of(fits))
    return RecommendedModel(
        approach=lead,
        C_range=C_range,
        N=chosen["N"],
        L=chosen.get("L"),
        reasons=[
            why,
            *evidence(lead, fits, readings, outliers, len(obs)),
            *(
                about_richer(obs, fits, laws, readings, parts["parametric"], before)
                if before
                else []
            ),
        ],
        outliers=outliers,
        held_out=held_out,
        shape=None if law is None else [law.law.alpha, law.law.beta],
    )


def minima_of(obs: Observations, fits: FitResults) -> Minima:
    """The minima of the IsoFLOP profiles in approach 2's window, C rising.

    Of parabolas, which assume no law, and of every profile whose minimum lies within REACH of the sizes
    tried. Approach 2 itself leaves out a profile whose minimum has fewer than two sizes on a side; it
    measures N_opt and the loss all the same, and the held-out errors say how well. Where approach 2 is
    refused for another reason (no signal, flat, losses that rise), there are none.
    """
    refused = fits.refused.get("isoflop")
    if refused is not None and refused.kind not in AT_THE_EDGE:
        return Minima(*(np.empty(0) for _ in "CNL"))
    profiles = parabolas_of(obs, str(fits.command.get("isoflop_window", "auto")))
    noise = _noise(profiles)
    found = []
    for p in profiles:
        x = np.log(p.obs.N)
        if p.c is None or not x.min() - REACH < p.x_opt < x.max() + REACH:
            continue
        powers = np.array([1.0, u := p.x_opt - float(x.mean()), u * u])
        loss = float(powers @ p.c)
        sd_N = noise * loss * float(np.sqrt((p.pull**2).sum()))
        sd_L = noise * float(np.sqrt(((powers @ p.solver) ** 2).sum()))
        C = float(np.exp(np.log(p.obs.C).mean()))
        found.append((C, float(np.exp(p.x_opt)), loss, sd_N, sd_L))
    if not found:
        return Minima(*(np.empty(0) for _ in "CNL"))
    return Minima(*(np.array(column, float) for column in zip(*sorted(found), strict=True)))


def _noise(profiles: Sequence[Profile]) -> float:
    """Standard deviation of the losses about their parabolas, over the loss, pooled over budgets."""
    square, freedom = 0.0, 0
    for p in profiles:
        if p.c is not None and len(p.obs) > 3:
            square += float(((p.residuals / p.obs.L) ** 2).sum())
            freedom += len(p.obs) - 3
    return float(np.sqrt(square / freedom)) if freedom else 0.0


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


def _of_envelope(fits: FitResults) -> dict[str, Forecast]:
    """Approach 1: its line, and E + K*C^-g through its envelope."""
    frontier = fits.fitted["envelope"]
    law = frontier.N_opt
    row = [float(np.log(law.coefficient)), law.exponent]
    found = {"N": _forecast("N", "line", {"the envelope": Member(row, [])}, [])}
    C, N, L = (np.array([getattr(p, name) for p in frontier.points], float) for name in "CNL")
    if len(C) >= MIN_LOSS:
        loss = saturating(Minima(C, N, L), np.inf)
        found["L"] = _forecast("L", "saturating", {"the envelope": loss}, [])
    return {
        q: dataclasses.replace(f, error=dataclasses.replace(f.error, scale=ENVELOPE_ERROR[q]))
        for q, f in found.items()
    }


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
    """The law of the narrowest window that could be fitted: nearest to the runs at the optimum."""
    return readings[-1] if readings else None
