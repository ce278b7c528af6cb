"""Approach 1 of Hoffmann et al. (2022), section 3.1: the lower envelope of training curves.

Each size is trained to several horizons with a cosine matched to each. Every curve is smoothed and read as a
function of FLOPs (`curves.py`). At 1500 log-spaced C the lowest loss over all runs is taken, with the size N
that reached it and the tokens D seen by then. Straight lines in log-log through these points give N_opt and
D_opt.

Ends. The runs of one budget end at C values that differ by up to one step; `curves.py` extends them to
one C. The envelope never rises with C (`lower_envelope.py`).

Edges. C where the best size may lie outside the sizes tried are censored: all C below the last win of the
smallest size and above the first win of the largest, and all up to the last win of a size while no larger
one has a curve. They are shown but not fitted. (Dropping points by size instead would cut the steps of the
envelope on one side and tilt the line.)

Steps. The envelope is a staircase in N, and least squares through m whole steps gives a*(1 - 1/m^2):
-.03 with six sizes, of which four are inside. Where the best size changes from one to the next, the optimum is
halfway between them. The line therefore goes through the mid-points of the steps, connected by straight
pieces and weighted evenly in ln C. details["staircase"] holds the line through all points.

Readings. details["readings"] holds a and b by the last 15% of each run, where losses of matched schedules are
not pessimistic, by the lower convex hull of (ln C, ln L) and by all points; a warning names those outside the
95% interval. `tail_share` is the share of the envelope in the last 15% (paper, footnote 4: all of it).

On 200 sweeps of curves that end on a known law (docs/results/coverage.json) the mean error of a is +.004 to
-.018. Resamples of runs lose sizes, so that intervals are conservative with few sizes.

Without curves an endpoint envelope is used: the best final loss among runs of about equal C
(bins of a factor 1.25), where no cheaper bin has a better one. NumPy only: no torch.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from chinchilla.config.fit import EnvelopeSchedule, check_settings
from chinchilla.core.errors import FitError
from chinchilla.fit import bootstrap
from chinchilla.fit.arguments import accepts_tables
from chinchilla.fit.envelope.curves import MIN_SIZES, SAME_END, TAIL, Curves, read_curves, smooth
from chinchilla.fit.envelope.lines import LINES, disagreement, envelope_lines, readings_of
from chinchilla.fit.envelope.lower_envelope import (
    Envelope,
    check_competition,
    curve_envelopes,
    endpoint_envelopes,
)
from chinchilla.fit.result import FitResult, OptimalPoint, conventions
from chinchilla.observations.checks import check_signal, repeats
from chinchilla.observations.table import Observations

__all__ = ["fit_envelope", "smooth"]

ENDS = f"curves of one budget, or that end within {SAME_END - 1:.0%} of one C, are extended to the longest"
MIN_TAIL_SHARE = 0.85  # share of envelope points in tails below which a warning is given
FEW_SIZES = 16  # sizes on the envelope below which the width of the steps dominates the interval


@accepts_tables
def fit_envelope(
    obs: Observations,
    *,
    schedule: EnvelopeSchedule = "matched",
    smooth_steps: float = 10.0,
    envelope_points: int = 1_500,
    n_bootstrap: int = 400,
    seed: int = 0,
) -> FitResult:
    """Fit approach 1: lines through the lower envelope of the training curves.

    Args:
        obs: points along curves. With one point per run the endpoint envelope is used, which is
            weaker and labelled so.
        schedule: of the learning rate: "matched" if it decays to the end of each run, or "constant",
            which uses whole curves. Without curves it has no effect.
        smooth_steps: Gaussian window in points of a curve (the paper: 10 steps); at most a
            twentieth of the curve. Validation losses are not smoothed.
        envelope_points: log-spaced FLOP values.
        n_bootstrap: resamples of whole runs; 0 for no interval.
        seed: of the resampling.

    Returns:
        A FitResult with details["envelope"] (C, N, D, L, censored; thinned for the figure),
        details["tail_share"], details["staircase"] (the lines through all points),
        details["readings"] (a and b by other readings of the curves), and the refusals of runs that
        could not be read as curves.

    Raises:
        FitError: fewer than three sizes on the uncensored envelope (too_few_sizes); at no C three
            sizes with a curve, or final losses of too few sizes at about the same C (no_overlap);
            final losses with one D/N (one_ray).
        InputError: an invalid setting.
    """
    check_settings(
        schedule=schedule,
        smooth_steps=smooth_steps,
        envelope_points=envelope_points,
        n_bootstrap=n_bootstrap,
        seed=seed,
    )
    sizes = len(np.unique(obs.N))
    if sizes < MIN_SIZES:
        raise FitError(
            f"approach 1 needs {MIN_SIZES} model sizes and these runs have {sizes}. Train more.",
            "too_few_sizes",
        )
    curves: Curves | None = None
    refusals: list[str] = []
    envelope_of: Callable[[np.ndarray], Envelope]
    if obs.has_curves:
        smooth_steps = 0.0 if obs.loss_kind == "validation" else smooth_steps
        curves, refusals = read_curves(obs, smooth_steps, envelope_points, schedule)
        n_runs, through = len(curves.N), "steps"
        envelope_of = curve_envelopes(curves, curves.L)
    else:
        smooth_steps = 0.0
        check_signal(obs, "approach 1")
        check_competition(obs)
        n_runs, through = len(obs), "points"
        envelope_of = endpoint_envelopes(obs)

    envelope = envelope_of(np.arange(n_runs))
    lines = envelope_lines(envelope, through)
    samples = np.full((n_bootstrap, 4), np.nan)
    for i, counts in enumerate(bootstrap.draw_counts(n_runs, n_bootstrap, seed)):
        try:
            samples[i] = np.ravel(envelope_lines(envelope_of(np.flatnonzero(counts)), through))
        except FitError:
            continue
    N_opt, D_opt, bootstrap_counts, warnings = bootstrap.power_laws(
        *lines, samples, bootstrap.FAR * float(obs.C.max()), _scatter(envelope, lines[0])
    )

    details, of_envelope = _describe(envelope, curves is not None)
    warnings += of_envelope
    if curves is not None:
        of_tails, tail_warnings = _tails(curves, envelope, schedule)
        readings = readings_of(curves, envelope)
        details |= {**of_tails, "readings": readings}
        warnings += tail_warnings + disagreement(readings, N_opt)
    points = envelope.where(envelope.thinned)
    points = points.where(~points.censored)
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
            **({} if curves is None else {"schedule": schedule, "ends": ENDS}),
            "smooth_steps": smooth_steps,
            "envelope_points": len(envelope.C) if curves is None else envelope_points,
            "interpolation": "none" if curves is None else "linear in ln C",
            "line": LINES[through],
            "n_bootstrap": n_bootstrap,
            "seed": seed,
            "interval": bootstrap.method("pairs", n_bootstrap),
        },
        details={**details, "bootstrap": bootstrap_counts},
        refusals=refusals,
        warnings=warnings + repeats(obs),
    )


def _scatter(envelope: Envelope, line: tuple[float, float]) -> float:
    """Root mean square of ln N of the uncensored envelope about the line of N_opt."""
    used = envelope.where(~envelope.censored)
    log_k, a = line
    return float(np.sqrt(np.mean((np.log(used.N) - log_k - a * np.log(used.C)) ** 2)))


def _describe(envelope: Envelope, has_curves: bool) -> tuple[dict[str, Any], list[str]]:
    """Details and warnings of an envelope."""
    used = envelope.where(~envelope.censored)
    sizes = len(np.unique(used.N))
    staircase = [
        {"coefficient": float(np.exp(log_k)), "exponent": exponent}
        for log_k, exponent in envelope_lines(envelope, "points")
    ]
    shown = envelope.where(envelope.thinned)
    details: dict[str, Any] = {
        "censored_share": float(envelope.censored.mean()),
        "sizes_on_envelope": sizes,
        "C_range": [float(used.C.min()), float(used.C.max())],
        "staircase": dict(zip(("N_opt", "D_opt"), staircase, strict=True)),
        "envelope": {
            name: getattr(shown, name).tolist() for name in ("C", "N", "D", "L", "censored")
        },
    }
    warnings = []
    if not has_curves:
        warnings.append(
            "no training curves given: approach 1 used final losses only, which is weaker than the paper's "
            "method. Give the curves (one row per point, sharing a run_id), curves=FILE."
        )
    if details["censored_share"] > 0:
        warnings.append(
            f"{details['censored_share']:.0%} of the envelope was not fitted: a better size may lie "
            "outside the sizes tried there."
        )
    if sizes < FEW_SIZES:
        warnings.append(
            f"{sizes} sizes on the envelope: the interval is conservative, because resamples lose sizes (its "
            "nominal 80% contains the truth in 89% of sweeps or more). Add sizes between."
        )
    return details, warnings


def _tails(curves: Curves, envelope: Envelope, schedule: str) -> tuple[dict[str, Any], list[str]]:
    """The share of the envelope in the last part of runs, with a warning if it is small."""
    if schedule != "matched":
        return {}, []
    used = envelope.where(~envelope.censored)
    share = float((used.C >= TAIL * curves.C_end[used.run] * (1 - 1e-9)).mean())
    warnings = []
    if curves.one_horizon:
        warnings.append(
            f"every curve ends at D={curves.D_end.max():.3g}: if the learning rate decays to its end, all "
            "smaller C are mid-run. If it is constant, use envelope_schedule=constant, which also uses C "
            "below the end of the cheapest run."
        )
    elif share < MIN_TAIL_SHARE:
        warnings.append(
            f"only {share:.0%} of the envelope lies in the last {1 - TAIL:.0%} of a run (the paper: all): in "
            "mid-run the learning rate is still high and the loss pessimistic. Add horizons between "
            "the ones trained."
        )
    return {"tail_share": share}, warnings
