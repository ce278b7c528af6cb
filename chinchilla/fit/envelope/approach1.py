"""Approach 1 of Hoffmann et al. (2022), section 3.1: the lower envelope of training curves.

Every curve is smoothed and read as a function of FLOPs (`curves.py`). At 1500 log-spaced C the lowest loss
over all runs is taken, with the size N that reached it and the tokens D seen by then (`lower_envelope.py`).
Straight lines in log-log through these points give N_opt and D_opt.

Edges. C where the best size may lie outside the sizes tried are censored: all C below the last win of the
smallest size and above the first win of the largest, and all up to the last win of a size while no larger
one has a curve. They are shown but not fitted.

Steps. The envelope is a staircase in N, and least squares through m whole steps gives a*(1 - 1/m^2):
-.03 with six sizes, of which four are inside. Where the best size changes from one to the next, the optimum is
halfway between them. The line therefore goes through the mid-points of the steps, connected by straight
pieces and weighted evenly in ln C.

`tail_share` is the share of the envelope in the last 15% of a run (paper, footnote 4: all of it). On 200
sweeps of curves that end on a known law (docs/results/coverage.json) the mean error of a is +.004 to -.018.
Resamples of runs lose sizes, so that intervals are conservative with few sizes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from chinchilla.config.fit import N_BOOTSTRAP, EnvelopeSchedule, check_settings
from chinchilla.core.errors import FitError
from chinchilla.fit import bootstrap
from chinchilla.fit.envelope.curves import MIN_SIZES, SAME_END, TAIL, WINDOW, Curves, read_curves
from chinchilla.fit.envelope.lower_envelope import (
    Envelope,
    check_competition,
    curve_envelopes,
    endpoint_envelopes,
    envelope_lines,
)
from chinchilla.fit.result import FitResult, OptimalPoint, conventions
from chinchilla.observations.checks import check_signal, repeats
from chinchilla.observations.table import Observations, observations_of

MIN_TAIL_SHARE = 0.85  # share of envelope points in tails below which a warning is given


def fit_envelope(
    obs: Observations | Any,
    *,
    schedule: EnvelopeSchedule = "matched",
    n_bootstrap: int = N_BOOTSTRAP,
    seed: int = 0,
) -> FitResult:
    """Fit approach 1: lines through the lower envelope of the training curves.

    Args:
        obs: points along curves: Observations, a pandas or polars frame, or a dict of arrays. With one
            point per run the envelope consists of the best final losses among runs of about equal C,
            which is weaker.
        schedule: of the learning rate: "matched" if it decays to the end of each run, or "constant",
            which uses whole curves. Without curves it has no effect.
        n_bootstrap: resamples of whole runs; 0 for no interval.
        seed: of the resampling.

    Returns:
        A FitResult with details["envelope"] (C, N, D, L, censored; thinned for the figure),
        details["tail_share"] for matched schedules, and the refusals of runs that could not be read as
        curves.

    Raises:
        FitError: fewer than three sizes on the uncensored envelope (too_few_sizes); at no C three
            sizes with a curve, or final losses of too few sizes at about the same C (no_overlap);
            final losses with one D/N (one_ray).
        InputError: an invalid setting.
    """
    check_settings(schedule=schedule, n_bootstrap=n_bootstrap, seed=seed)
    obs = observations_of(obs)
    if (sizes := len(np.unique(obs.N))) < MIN_SIZES:
        raise FitError(
            f"approach 1 needs {MIN_SIZES} model sizes and these runs have {sizes}. Train more.",
            "too_few_sizes",
        )
    curves: Curves | None = None
    refusals: list[str] = []
    envelope_of: Callable[[np.ndarray], Envelope]
    if obs.has_curves:
        curves, refusals = read_curves(obs, schedule)
        n_runs = len(curves.N)
        envelope_of = curve_envelopes(curves)
    else:
        check_signal(obs, "approach 1")
        check_competition(obs)
        n_runs = len(obs)
        envelope_of = endpoint_envelopes(obs)

    envelope = envelope_of(np.arange(n_runs))
    used = envelope.where(~envelope.censored)
    lines = envelope_lines(envelope, obs.has_curves)
    samples = np.full((n_bootstrap, 4), np.nan)
    for i, counts in enumerate(bootstrap.draw_counts(n_runs, n_bootstrap, seed)):
        try:
            samples[i] = np.ravel(
                envelope_lines(envelope_of(np.flatnonzero(counts)), obs.has_curves)
            )
        except FitError:
            continue
    log_k, a = lines[0]
    scatter = float(np.sqrt(np.mean((np.log(used.N) - log_k - a * np.log(used.C)) ** 2)))
    N_opt, D_opt, warnings = bootstrap.power_laws(*lines, samples, scatter)

    shown = envelope.where(envelope.thinned)
    columns = ("C", "N", "D", "L", "censored")
    details: dict[str, Any] = {
        "envelope": {name: getattr(shown, name).tolist() for name in columns}
    }
    if curves is None:
        warnings.append(
            "no training curves given: approach 1 used final losses only, which is weaker than the paper's "
            "method. Give the curves (one row per point, sharing a run_id), curves=FILE."
        )
    if envelope.censored.any():
        warnings.append(
            f"{envelope.censored.mean():.0%} of the envelope was not fitted: a better size may lie outside "
            "the sizes tried there. Train smaller and larger sizes."
        )
    if curves is not None and schedule == "matched":
        share = float((used.C >= TAIL * curves.C_end[used.run] * (1 - 1e-9)).mean())
        details["tail_share"] = share
        warnings += _in_mid_run(curves, share)
    points = shown.where(~shown.censored)
    return FitResult(
        approach="envelope",
        N_opt=N_opt,
        D_opt=D_opt,
        points=[
            OptimalPoint(float(C), float(N), float(D), float(L))
            for C, N, D, L in zip(points.C, points.N, points.D, points.L, strict=True)
        ],
        n_runs=n_runs,
        conventions=conventions(obs),
        settings={
            "endpoints_only": curves is None,
            **({} if curves is None else {"schedule": schedule}),
            "smooth_steps": 0.0 if curves is None or obs.loss_kind == "validation" else WINDOW,
            "line": "through the best runs"
            if curves is None
            else "through the middles of the steps between sizes, evenly in ln C",
            "n_bootstrap": n_bootstrap,
            "seed": seed,
            "interval": bootstrap.method("pairs bootstrap of runs", n_bootstrap),
        },
        details=details,
        refusals=refusals,
        warnings=warnings + repeats(obs),
        runs=obs,
    )


def _in_mid_run(curves: Curves, tail_share: float) -> list[str]:
    """Warn if much of the envelope lies in the middle of runs, where learning rates have not decayed."""
    if curves.D_end.max() <= SAME_END * curves.D_end.min():
        return [
            f"every curve ends at D={curves.D_end.max():.3g}: if the learning rate decays until then, all "
            "losses at smaller C are from the middle of runs. If it is constant, use "
            "envelope_schedule=constant, which also uses C below the end of the cheapest run."
        ]
    if tail_share < MIN_TAIL_SHARE:
        return [
            f"only {tail_share:.0%} of the envelope lies in the last {1 - TAIL:.0%} of a run (the paper: "
            "all): in the middle of a run the learning rate is still high, and the loss is higher than "
            "that of a run that ends there. Train further horizons between the existing ones."
        ]
    return []
