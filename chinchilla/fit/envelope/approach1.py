"""Approach 1 of Hoffmann et al. (2022), section 3.1: the lower envelope of training curves.

Fixed sizes, each trained to several horizons with a cosine matched to each. Every curve is smoothed
and read as a function of FLOPs (`curves.py`); at 1500 log-spaced C the lowest loss over all runs is
taken, with the size N that reached it and the tokens D seen by then. Straight lines in log-log through
these.

Ends. The runs of one budget end at C values that differ by up to one step; `curves.py` extends them to
one C. The envelope never rises with C (`lower_envelope.py`): C where every curve lies above a loss that
fewer FLOPs have reached is left out. Without these two rules, the ends moved by up to half a step move a by
.106 (root mean square, the demo's design on a known law); with them by .0085.

Edges. A smaller size can only be better at smaller C, so that C where no smaller size has been tried
yet and won, or no larger one later on, are censored: a better size may lie outside. All C below the
last win of the smallest size and above the first win of the largest are shown but not fitted, and so are
those up to the last win of a size while no larger one has a curve yet. (Dropping the points by size
instead would cut the steps of the envelope on one side and turn the line.)

Steps. The envelope is a staircase in N, and least squares through m whole steps finds a*(1 - 1/m^2):
-.03 with six sizes, of which four are inside. At the C where two sizes change places the best size
lies halfway between them, so the line goes through the middles of the risers, joined by straight
pieces and weighted evenly in ln C. The plain staircase stands in details["staircase"].

Tails. With a decaying learning rate a loss in mid-run is pessimistic, so the envelope should touch
curves near their ends only: `tail_share` says how far it does (paper, footnote 4: all of it in the last
15%). part="tail" lets nothing else in; part="hull" takes the points that the lower convex hull of
(ln C, ln L) touches, one per run. details["readings"] holds a and b by each; a warning names those that
lie outside the 95% interval.

Schedules. schedule="constant" is for rates that do not decay: whole curves count, also below the end of the
cheapest run.

What remains, over 200 sweeps of curves that end on a known law (docs/results/coverage.json; 6 to 24 sizes
over a factor 100 in N, 5 to 160 tokens per parameter): a is off by +.004 to -.018 on average. A bootstrap
over runs takes sizes away, which moves an envelope more than noise does, so that the interval is
conservative with few sizes: the 80% interval held a in 89.5-100% of sweeps, with 24 sizes and uneven noise in
70.5%; the 95% interval in 92.5-100%. Tails alone are off by -.001 to -.010, and their 80% interval held a in
87-100%. The hull touches few runs: a is off by -.02 to -.06, which its interval does not cover (95% held in
78-100%).

Without curves an endpoint envelope stands in: the best final loss among runs of about equal C
(bins of a factor 1.25), where no cheaper bin has a better one. NumPy only: no torch.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from chinchilla.config.fit import EnvelopePart, EnvelopeSchedule, check_settings
from chinchilla.core.errors import FitError
from chinchilla.fit import bootstrap
from chinchilla.fit.arguments import takes_tables
from chinchilla.fit.envelope.curves import (
    MIN_SIZES,
    SAME_END,
    SCHEDULES,
    TAIL,
    Curves,
    read_curves,
    smooth,
)
from chinchilla.fit.envelope.lines import LINES, THROUGH, disagreement, envelope_lines, readings_of
from chinchilla.fit.envelope.lower_envelope import (
    Envelope,
    check_competition,
    curve_envelopes,
    endpoint_envelopes,
)
from chinchilla.fit.result import FitResult, OptimalPoint, conventions
from chinchilla.observations.checks import check_signal, repeats
from chinchilla.observations.table import Observations

__all__ = ["SCHEDULES", "fit_envelope", "smooth"]

ENDS = f"curves of one budget, or that end within {SAME_END - 1:.0%} of one C, are extended to the longest"
MIN_TAIL_SHARE = 0.85  # warn below this share of envelope points in tails
FEW_SIZES = 16  # under so many on the envelope the steps' width is most of the interval


@takes_tables
def fit_envelope(
    obs: Observations,
    *,
    part: EnvelopePart = "all",
    schedule: EnvelopeSchedule = "matched",
    smooth_steps: float = 10.0,
    envelope_points: int = 1_500,
    n_bootstrap: int = 400,
    seed: int = 0,
) -> FitResult:
    """Approach 1: lines through the lower envelope of the training curves.

    Args:
        obs: points along curves; with one point per run, the endpoint envelope is taken, which is
            weaker and labelled so.
        part: of the curves, which may enter: "all"; "tail", the last 15% of each run's FLOPs; "hull",
            where the lower convex hull of (ln C, ln L) touches them.
        schedule: of the learning rate, a key of SCHEDULES: "constant" lets whole curves enter where
            the rate never decays; without curves it changes nothing.
        smooth_steps: Gaussian window in points of a curve (the paper: 10 steps); at most a
            twentieth of the curve. Validation losses are not smoothed.
        envelope_points: log-spaced FLOP values.
        n_bootstrap: resamples of whole runs; 0 for no interval.
        seed: of the resampling.

    Returns:
        A FitResult with details["envelope"] (C, N, D, L, censored; thinned for the figure),
        details["tail_share"], details["staircase"] (the lines without the mending of steps),
        details["readings"] (a and b by other readings of the curves), and the refusals of runs that
        could not be read as curves.

    Raises:
        FitError: fewer than three sizes on the uncensored envelope (too_few_sizes); at no C three
            sizes with a curve, or ends of runs of which too few sizes have about the same C, or
            part="tail" of curves that end at one D (no_overlap); ends of runs with one D/N (one_ray).
        InputError: a setting that cannot be.
    """
    check_settings(
        part=part,
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
    endpoints_only = not obs.has_curves
    window = 0.0 if endpoints_only or obs.loss_kind == "validation" else smooth_steps
    refusals: list[str] = []
    curves: Curves | None = None
    envelope_of: Callable[[np.ndarray], Envelope]
    if endpoints_only:
        n_runs = len(obs)
        check_signal(obs, "approach 1")
        check_competition(obs)
        envelope_of = endpoint_envelopes(obs, part)
        through = "runs" if part == "hull" else "points"
    else:
        curves, refusals = read_curves(obs, window, envelope_points, schedule)
        if part == "tail" and curves.one_horizon:
            raise FitError(
                f"every curve ends at D={curves.D_end.max():.3g}, so that the last 15% of runs of "
                "different sizes lie at different C: the line would follow the sizes and not the "
                "losses. Use envelope_part=all, with envelope_schedule=constant if the learning rate "
                "does not decay.",
                "no_overlap",
            )
        n_runs = len(curves.N)
        envelope_of = curve_envelopes(curves, part)
        through = THROUGH[part]
    everything = envelope_of(np.arange(n_runs))
    lines = envelope_lines(everything, through)
    counts = bootstrap.draw_counts(n_runs, n_bootstrap, seed)
    samples = np.full((n_bootstrap, 4), np.nan)
    for i, row in enumerate(counts):
        try:
            samples[i] = np.ravel(envelope_lines(envelope_of(np.flatnonzero(row)), through))
        except FitError:
            continue
    N_opt, D_opt, bootstrap_counts, warnings = bootstrap.power_laws(
        *lines, samples, 10 * float(obs.C.max()), _scatter(everything, lines[0])
    )
    details, more_warnings = _describe(everything, curves is not None)
    if curves is not None:
        more_details, of_curves = _of_curves(curves, everything, part, schedule)
        readings = readings_of(curves, part, everything)
        details |= {**more_details, "readings": readings}
        more_warnings += of_curves + disagreement(readings, part, N_opt)
    if part == "hull":
        more_warnings.append(
            "the hull touches few runs: on curves of a known law its a is .02 to .06 too small, which "
            "its interval does not cover. For comparison only."
        )
    kept = everything.where(everything.thinned)
    kept = kept.where(~kept.censored)
    return FitResult(
        approach="envelope",
        N_opt=N_opt,
        D_opt=D_opt,
        points=[
            OptimalPoint(float(C), float(N), float(D), float(L))
            for C, N, D, L in zip(kept.C, kept.N, kept.D, kept.L, strict=True)
        ],
        n_runs=n_runs,
        conventions=conventions(obs),
        settings={
            "endpoints_only": endpoints_only,
            "part": part,
            **({} if endpoints_only else {"schedule": schedule, "ends": ENDS}),
            "smooth_steps": window,
            "envelope_points": envelope_points if not endpoints_only else len(everything.C),
            "interpolation": "none" if endpoints_only else "linear in ln C",
            "line": LINES[through],
            "n_bootstrap": n_bootstrap,
            "seed": seed,
            "interval": bootstrap.method(
                n_bootstrap, seed, "envelope taken anew over each; conservative"
            ),
        },
        details={**details, "bootstrap": bootstrap_counts},
        refusals=refusals,
        warnings=warnings + more_warnings + repeats(obs),
    )


def _scatter(envelope: Envelope, line: tuple[float, float]) -> float:
    """Root mean square of ln N of the uncensored envelope about (ln coefficient, exponent) of N_opt."""
    used = envelope.where(~envelope.censored)
    log_k, a = line
    return float(np.sqrt(np.mean((np.log(used.N) - log_k - a * np.log(used.C)) ** 2)))


def _describe(envelope: Envelope, has_curves: bool) -> tuple[dict[str, Any], list[str]]:
    """Details and warnings of an envelope of training curves, or of run ends."""
    used = envelope.where(~envelope.censored)
    sizes = len(np.unique(used.N))
    stairs = [
        {"coefficient": float(np.exp(log_k)), "exponent": exponent}
        for log_k, exponent in envelope_lines(envelope, "points")
    ]
    shown = envelope.where(envelope.thinned)
    details: dict[str, Any] = {
        "censored_share": float(envelope.censored.mean()),
        "sizes_on_envelope": sizes,
        "C_range": [float(used.C.min()), float(used.C.max())],
        "staircase": dict(zip(("N_opt", "D_opt"), stairs, strict=True)),
        "envelope": {
            name: getattr(shown, name).tolist() for name in ("C", "N", "D", "L", "censored")
        },
    }
    warnings = []
    if not has_curves:
        warnings.append(
            "an envelope of run ends, not of training curves: weaker than the paper's approach 1. "
            "Give the curves (one row per point, sharing a run_id) for the real one."
        )
    if details["censored_share"] > 0:
        warnings.append(
            f"{details['censored_share']:.0%} of the envelope was not fitted: a better size may lie "
            "outside, below or above the sizes tried there."
        )
    if sizes < FEW_SIZES:
        warnings.append(
            f"{sizes} sizes on the envelope: its interval says how the answer hangs on single runs "
            "and is wider than noise alone would make it (its 80% hold the truth in 89% and more). Add "
            "sizes between."
        )
    return details, warnings


def _of_curves(
    curves: Curves, envelope: Envelope, part: str, schedule: str
) -> tuple[dict[str, Any], list[str]]:
    """Details and warnings of how far an envelope of training curves consists of ends of runs."""
    details: dict[str, Any] = {}
    warnings = []
    used = envelope.where(~envelope.censored)
    if schedule == "matched":
        tail = used.C >= TAIL * curves.C_end[used.run] * (1 - 1e-9)
        details["tail_share"] = share = float(tail.mean())
        if curves.one_horizon:
            warnings.append(
                f"every curve ends at D={curves.D_end.max():.3g}: where the learning rate decays to "
                "there, a smaller C is always mid-run. If it is constant, use "
                "envelope_schedule=constant; C below the end of the cheapest run then counts as well."
            )
        elif share < MIN_TAIL_SHARE:
            warnings.append(
                f"only {share:.0%} of the envelope lies in the last "
                f"{1 - TAIL:.0%} of a run (the paper: all): in mid-run the learning rate is still "
                "high and the loss pessimistic. Add horizons between the ones trained."
            )
    if part == "tail":
        C = envelope.C
        of_run = (TAIL * curves.C_end[:, None] <= C) & (curves.C_end[:, None] >= C)
        details["tails_at_C"] = float(of_run.sum(axis=0).mean())
        if details["tails_at_C"] < MIN_SIZES:
            warnings.append(
                f"on average {details['tails_at_C']:.1f} runs have their last 15% at a C: which run "
                "happens to end there decides, not the loss. Add horizons, or use envelope_part=all."
            )
    return details, warnings
