"""The functions of the notebook API: fit, diagnose and simulate.

    import chinchilla

    obs = chinchilla.Observations.from_frame(df)
    fits = chinchilla.fit(obs)
    fits.predict([1e21, 1e22])

They correspond to the commands of the same names, take settings as keyword arguments, and return records
instead of writing files. NumPy and SciPy only: this module must import without torch.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from chinchilla.config import FitCommand
from chinchilla.config.checks import require_not_negative, require_whole
from chinchilla.config.fit import (
    Approach,
    Approach3Law,
    EnvelopeSchedule,
    IsoflopProfile,
    IsoflopWindow,
    Objective,
)
from chinchilla.core.errors import InputError
from chinchilla.diagnose.verdicts import Diagnostics
from chinchilla.diagnose.verdicts import diagnose as run_diagnostics
from chinchilla.fit.loss_law import named_law
from chinchilla.fit.result import LossLaw
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import Observations, observations_of
from chinchilla.recommend import fit_table

MAX_SIZES = 10_000  # of a budget: a larger number is a model size
HALF_WIDTH = 4.0  # sizes from N_opt / 4 to 4 * N_opt
IN_MEMORY = "(in memory)"  # what frontier.json holds instead of the path of a table


def fit(
    obs: Observations | Any = None,
    curves: Observations | Any = None,
    *,
    approaches: Sequence[Approach] = ("envelope", "isoflop", "parametric"),
    n_bootstrap: int = 1_000,
    seed: int = 0,
    tokens_per_param: Sequence[float] = (),
    best: bool = False,
    isoflop_window: IsoflopWindow = "auto",
    isoflop_profile: IsoflopProfile = "exact",
    objective: Objective = "huber",
    huber_delta: float = 1e-3,
    envelope_schedule: EnvelopeSchedule = "matched",
    approach3_law: Approach3Law = "auto",
) -> FitResults:
    """Fit all approaches to a table of runs and recommend an answer, as `chinchilla fit`.

    Args:
        obs: final losses: Observations, a pandas or polars frame, or a dict of arrays with the columns
            N, D (or C) and L under any name that `Observations.from_frame` knows. May be left out
            where `curves` are given.
        curves: points along the runs, for approach 1; rows of one run share a run_id.
        approaches: which of the paper's three to fit.
        n_bootstrap: resamples for the intervals; 0 for none.
        seed: of the resampling.
        tokens_per_param: the smallest and the largest D/N of the runs to keep; empty keeps all.
        best: whether to keep only the lowest loss of each (N, D).
        isoflop_window: approach 2: sizes used, "auto" (near each budget's lowest loss) or "all".
        isoflop_profile: approach 2: "exact", or "parabola" as the paper.
        objective: approach 3: "huber", "lad" or "least_squares", of log-residuals.
        huber_delta: approach 3: where the Huber loss turns linear.
        envelope_schedule: approach 1: learning rates that decay to the end of each run ("matched"), or
            "constant".
        approach3_law: of approach 3 in the recommendation: "auto" (adds a law with two
            more parameters if the paper's misses the runs), "power" (the paper's alone) or "saturating"
            (the other alone).

    Returns:
        FitResults. The first line of its text is the recommended answer at ten times the largest C; `predict` gives
        others. Approaches without an answer are in `refused`.

    Raises:
        InputError: a table or setting is invalid.
    """
    command = FitCommand(
        observations=IN_MEMORY,
        out_dir=IN_MEMORY,
        approaches=[*approaches],
        n_bootstrap=n_bootstrap,
        seed=seed,
        tokens_per_param=[*tokens_per_param],
        best=best,
        isoflop_window=isoflop_window,
        isoflop_profile=isoflop_profile,
        objective=objective,
        huber_delta=huber_delta,
        envelope_schedule=envelope_schedule,
        approach3_law=approach3_law,
    )
    finals, along = _tables(obs, curves)
    if best:
        finals = finals.best()
        along = None if along is None else along.where(np.isin(along.run_id, finals.run_id))
    if tokens_per_param:
        finals = finals.within(tokens_per_param)
        along = None if along is None else along.within(tokens_per_param)
    return fit_table(finals, along, command)


def _tables(obs: Any, curves: Any) -> tuple[Observations, Observations | None]:
    """Final losses, completed by the ends of the curves; and the curves."""
    if obs is None and curves is None:
        raise InputError("fit() needs runs: give observations or a data frame, or curves=.")
    if curves is None:
        return observations_of(obs), None
    along = observations_of(curves)
    if not along.has_curves:
        raise InputError(
            "curves: no two rows share a run_id, so there is no curve. Give final losses as the first "
            "argument."
        )
    none = along.where(np.zeros(len(along), bool))
    return (none if obs is None else observations_of(obs)).completed_by(along), along


def diagnose(
    fits: FitResults | Observations | Any,
    obs: Observations | Any = None,
    *,
    budget_flops: float = 0.0,
    n_bootstrap: int = 400,
    seed: int = 0,
) -> Diagnostics:
    """Run every diagnostic of fits, as `chinchilla diagnose`.

    Args:
        fits: from `fit` or `FitResults.load`. Observations or a data frame are fitted first.
        obs: the observations that were fitted; None uses those that the fits know.
        budget_flops: FLOPs at which moves of N_opt are stated; 0 is ten times the largest C.
        n_bootstrap: resamples of runs for the IsoFLOP minima; 0 for no intervals.
        seed: of the resampling.

    Raises:
        InputError: the runs are unknown, or are not those of the fits.
    """
    if not isinstance(fits, FitResults):
        fits = fit(fits)
    runs = fits.observations() if obs is None else observations_of(obs)
    return run_diagnostics(runs, fits, C_star=budget_flops, n_bootstrap=n_bootstrap, seed=seed)


def simulate(
    law: LossLaw | str = "hoffmann",
    budgets: Sequence[float] = (1e19, 3e19, 1e20, 3e20, 1e21),
    sizes: int | tuple[int, float] | Any = (9, HALF_WIDTH),
    noise: float = 3e-3,
    seed: int = 0,
) -> Observations:
    """Observations drawn from a law, with C = 6*N*D: a sweep with a known answer.

    Args:
        law: the law, or the name of a published one.
        budgets: (k,) training FLOPs.
        sizes: the number of sizes per budget and the half-width as a factor: (9, 4.0) is nine sizes
            from N_opt/4 to 4*N_opt, evenly in ln N; a number alone takes the factor 4. Or explicit
            parameter counts: a list for all budgets, or (k, n), a row for each.
        noise: standard deviation of ln L.
        seed: of the noise.

    Raises:
        InputError: a budget, size or noise is invalid.
    """
    law = named_law(law) if isinstance(law, str) else law
    C = np.atleast_1d(np.asarray(budgets, float))
    if C.ndim != 1 or not len(C) or not (np.isfinite(C) & (C > 0)).all():
        raise InputError(f"budgets={budgets}: give training FLOPs above 0, such as [1e19, 1e20].")
    require_not_negative("noise", noise)
    require_whole("seed", seed)
    N = _sizes_of(law, C, sizes)
    C = np.broadcast_to(C[:, None], N.shape).ravel()
    N = N.ravel()
    D = C / (6 * N)
    scatter = np.exp(noise * np.random.default_rng(seed).normal(size=len(N)))
    obs = Observations.of(
        N=N,
        D=D,
        L=law(N, D) * scatter,
        C=C,
        budget_flops=C,
        flop_convention="six_nd",
        n_convention="total",
    )
    note = f"simulated: {law}; noise {noise:g} of ln L, seed {seed}."
    return dataclasses.replace(obs, notes=(*obs.notes, note))


def _sizes_of(law: LossLaw, C: np.ndarray, sizes: Any) -> np.ndarray:
    """(k, n) parameters of the runs of each budget."""
    pair = isinstance(sizes, tuple) and len(sizes) == 2 and isinstance(sizes[0], int)
    number, factor = sizes if pair else (sizes, HALF_WIDTH)
    if pair or isinstance(sizes, int):
        if not 1 <= number <= MAX_SIZES or not 1 < factor < np.inf:
            raise InputError(
                f"sizes={sizes}: give the number of sizes per budget and a half-width factor above 1, "
                "such as (9, 4.0), or explicit parameter counts as a list."
            )
        steps = np.geomspace(1 / factor, factor, number) if number > 1 else np.ones(1)
        return np.asarray(law.optimum(C).N)[:, None] * steps
    try:
        N = np.asarray(sizes, float)
    except (TypeError, ValueError):
        N = np.zeros(0)
    if N.ndim == 1:
        N = np.tile(N, (len(C), 1))
    if N.ndim != 2 or len(N) != len(C) or not N.size or not (np.isfinite(N) & (N > 0)).all():
        raise InputError(
            f"sizes must be parameter counts above 0: a list for all budgets, or a row for each of the "
            f"{len(C)} budgets."
        )
    return N
