"""Sentences on how a recommendation was made: the decision, windows, outliers, and what weakens it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from chinchilla.core.units import count
from chinchilla.fit.loss_law import FrontierSolver
from chinchilla.fit.parametric.approach3 import ILL_CONDITIONED
from chinchilla.fit.result import approach_label, target_budget
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import Observations
from chinchilla.recommend.forecast import Forecast
from chinchilla.recommend.held_out import forecast_weights
from chinchilla.recommend.laws import FORMULA, CandidateLaw

MAX_NAMED = 8  # outliers that are listed by name


def by_held_out_errors(
    approach: str, summaries: Mapping[str, Mapping[str, Any]], n_minima: int
) -> str:
    """The decision between approaches 2 and 3.

    Args:
        approach: the recommended one.
        summaries: held-out errors of both, from `summary_of_errors`.
        n_minima: budgets with an IsoFLOP minimum.
    """
    pairs, own = summaries["isoflop"]["n"], error_text(summaries[approach])
    if "parametric" not in summaries or not own:
        return _recommend(approach, f"{n_minima} IsoFLOP minima, which make the fewest assumptions")
    other = "isoflop" if approach == "parametric" else "parametric"
    return _recommend(
        approach,
        f"error {own} over {pairs} forecast{'s' * (pairs > 1)} of the sweep's own larger budgets from its "
        f"smaller ones; {approach_label(other)}: {error_text(summaries[other]) or 'no error could be measured'}",
    )


def by_elimination(approach: str, isoflop_requested: bool, few_minima: bool) -> str:
    """The decision if approach 2 is not usable, or has two minima only."""
    if not isoflop_requested:
        why = "approach 2 was not requested"
    elif few_minima:
        why = "fewer than three budgets have an IsoFLOP minimum"
    else:
        why = "the exponent of N_opt along the IsoFLOP minima is not between 0 and 1"
    texts = {
        "parametric": f"it uses all runs, and {why}",
        "isoflop": "it is the only approach with an answer here, from two minima",
        "envelope": "approaches 2 and 3 have no answer here",
    }
    return _recommend(approach, texts[approach])


def _recommend(approach: str, reason: str) -> str:
    return f"{approach_label(approach).capitalize()} is recommended: {reason}."


def error_text(summary: Mapping[str, Any]) -> str:
    """A summary of held-out errors in words; "" if no error could be measured."""
    known = [(summary[q], name) for q, name in (("N", "N_opt"), ("L", "the loss"))]
    return " and ".join(
        f"{100 * float(np.expm1(e)):.2g}% in {name}" for e, name in known if e is not None
    )


def condition_number(fits: FitResults) -> float:
    """Condition number of approach 3's fit; 1 if unknown."""
    certificate = fits.fitted["parametric"].certificate or {}
    return float(certificate.get("condition_number", 1.0))


def excluded_runs(
    obs: Observations, fits: FitResults, windows: list[CandidateLaw]
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
    windows: list[CandidateLaw],
    outliers: list[dict[str, Any]],
    obs: Observations,
) -> list[str]:
    """What the recommended approach was fitted to, and how reliable it is."""
    texts = []

    def exponent(window: CandidateLaw) -> str:
        """a under the FLOP count of the runs, as approach 3 states it."""
        return f"{FrontierSolver.of(obs).lines(window.law)[0][1]:.3f}"

    if approach == "isoflop" and "isoflop" in fits.fitted:
        texts.append(f"Approach 2 uses {fits.fitted['isoflop'].settings['window']}.")
    elif approach == "isoflop":
        texts.append(
            f"Approach 2 itself was refused ({fits.refused['isoflop'].kind}): parabolas with a minimum near "
            "the edge of the sizes tried are used instead. Train more sizes on both sides."
        )
    if approach == "envelope":
        texts.append(
            "The error of approach 1 cannot be measured on held-out budgets. Its intervals use the errors "
            "of such fits on synthetic curves. Train IsoFLOP budgets for an answer that can be tested."
        )
    if approach == "parametric" and not fits.fitted["parametric"].law_samples:
        texts.append(
            "Approach 3 has no resamples (n_bootstrap=0): the intervals contain the errors of other sweeps, "
            "but not the noise of these runs."
        )
    if len(windows) > 1:
        a = ", ".join(f"{exponent(w)} ({w.name})" for w in windows)
        texts.append(f"Approach 3 by window: a = {a}.")
    if approach == "parametric" and (condition := condition_number(fits)) > ILL_CONDITIONED:
        texts.append(
            f"Approach 3 is ill-conditioned here (condition number {condition:.0f}). Its interval was widened "
            "by the measured error of such fits. Train some sizes at several tokens per parameter."
        )
    if outliers:
        names = list(dict.fromkeys(str(o["run_id"]) for o in outliers))
        shown = ", ".join(names[:MAX_NAMED]) + (", ..." if len(names) > MAX_NAMED else "")
        text = f"{len(names)} of {len(obs)} runs are outliers and were excluded: {shown}."
        if any(o["approach"] == "parametric" for o in outliers):
            text += (
                f" Approach 3 gives a = {exponent(windows[0])} without them and "
                f"{fits.fitted['parametric'].N_opt.exponent:.3f} with all runs."
            )
        texts.append(f"{text} Check whether they diverged.")
    return texts


def saturating_law(
    obs: Observations,
    fits: FitResults,
    laws: list[CandidateLaw],
    forecasts: Mapping[str, Forecast],
    of_windows: Mapping[str, Forecast],
) -> str:
    """How the saturating law, the last of `laws`, changes approach 3's forecasts.

    Args:
        obs: the runs.
        fits: their fits.
        laws: approach 3's candidate laws.
        forecasts: approach 3's forecasts.
        of_windows: the forecasts without the saturating law.
    """
    weight = {q: float(forecast_weights(f.scores, q)[-1]) for q, f in forecasts.items()}
    C = target_budget(obs.C.max())
    N, old_N, L, old_L = (
        float(np.exp(f[q].log_at(C, fits.cost)))
        for q in ("N", "L")
        for f in (forecasts, of_windows)
    )
    return (
        f"The residuals of approach 3's law are {laws[0].misfit:.1%} of the loss, those of {laws[-1].name} "
        f"{FORMULA} {laws[-1].misfit:.1%}. Given its errors on the larger budgets, the latter has "
        f"{weight['N']:.0%} of approach 3's weight in N_opt and {weight['L']:.0%} in the loss. It changes the "
        f"forecast at {C:.3g} FLOPs from N {count(old_N)} to {count(N)} and from loss {old_L:.4g} to {L:.4g}."
    )
