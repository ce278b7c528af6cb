"""The functions of the notebook API: fit, diagnose and simulate.

    import chinchilla

    obs = chinchilla.Observations.from_frame(df)
    fits = chinchilla.fit(obs)
    fits.predict([1e21, 1e22])

They correspond to the commands of the same names, take settings as keyword arguments, and return records
instead of writing files. This module must import without torch.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from chinchilla.config import FitCommand
from chinchilla.config.checks import require_number, require_whole
from chinchilla.config.fit import (
    N_BOOTSTRAP,
    Approach,
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
from chinchilla.recommend import fit_and_recommend

MAX_SIZES = 10_000  # of a budget
IN_MEMORY = "(in memory)"  # what frontier.json holds instead of the path of a table


def fit(
    obs: Observations | Any = None,
    curves: Observations | Any = None,
    *,
    approaches: Sequence[Approach] = ("envelope", "isoflop", "parametric"),
    n_bootstrap: int = N_BOOTSTRAP,
    seed: int = 0,
    tokens_per_param: Sequence[float] = (),
    best: bool = False,
    isoflop_window: IsoflopWindow = "auto",
    isoflop_profile: IsoflopProfile = "exact",
    objective: Objective = "huber",
    huber_delta: float = 1e-3,
    envelope_schedule: EnvelopeSchedule = "matched",
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

    Returns:
        FitResults. The first line of its text is the recommended answer at ten times the largest C; `predict` gives
        others. Approaches without an answer are in `refused`.

    Raises:
        InputError: a table or setting is invalid.
    """
    command = FitCommand(
        observations=IN_MEMORY,
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
    )
    along = None if curves is None else observations_of(curves)
    finals = with_ends_of_curves(None if obs is None else observations_of(obs), along)
    return fit_and_recommend(*restricted(finals, along, best, tokens_per_param), command)


def with_ends_of_curves(obs: Observations | None, curves: Observations | None) -> Observations:
    """Final losses, completed by the last points of the curves of other runs.

    Raises:
        InputError: both are None, the curves have one row per run, or the two tables do not fit together.
    """
    if curves is None:
        if obs is None:
            raise InputError("fit() needs runs: give observations or a data frame, or curves=.")
        return obs
    if not curves.has_curves:
        raise InputError(
            "curves: no two rows share a run_id, so there are no curves. Give final losses as observations."
        )
    none = curves.where(np.zeros(len(curves), bool))
    return (none if obs is None else obs).completed_by(curves)


def restricted(
    finals: Observations,
    curves: Observations | None,
    best: bool,
    tokens_per_param: Sequence[float],
) -> tuple[Observations, Observations | None]:
    """The runs, with their curves, of the lowest loss of each (N, D) and of a range of D/N, if asked for."""
    if best:
        finals = finals.best()
    if tokens_per_param:
        finals = finals.within(tokens_per_param)
    if curves is not None and (best or tokens_per_param):
        keep = np.isin(curves.run_id, finals.run_id)
        curves = curves.where(keep) if keep.any() else None
    return finals, curves


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
    n_sizes: int = 9,
    half_width: float = 4.0,
    noise: float = 3e-3,
    seed: int = 0,
) -> Observations:
    """Observations drawn from a law, with C = 6*N*D: a sweep with a known answer.

    Args:
        law: the law, or the name of a published one.
        budgets: (k,) training FLOPs.
        n_sizes: sizes per budget, evenly in ln N.
        half_width: the sizes lie from N_opt / half_width to N_opt * half_width.
        noise: standard deviation of ln L.
        seed: of the noise.

    Raises:
        InputError: a budget, the sizes or the noise are invalid.
    """
    law = named_law(law) if isinstance(law, str) else law
    C = np.atleast_1d(np.asarray(budgets, float))
    if C.ndim != 1 or not len(C) or not (np.isfinite(C) & (C > 0)).all():
        raise InputError(f"budgets={budgets}: give training FLOPs above 0, such as [1e19, 1e20].")
    require_whole("n_sizes", n_sizes)
    if not 1 <= n_sizes <= MAX_SIZES or not 1 < half_width < np.inf:
        raise InputError(
            f"n_sizes={n_sizes}, half_width={half_width}: give a number of sizes from 1 to {MAX_SIZES} and "
            "a factor above 1."
        )
    require_number("noise", noise, at_least=0)
    require_whole("seed", seed)
    require_number("seed", seed, at_least=0)
    steps = np.geomspace(1 / half_width, half_width, n_sizes) if n_sizes > 1 else np.ones(1)
    N = (np.asarray(law.optimum(C).N)[:, None] * steps).ravel()
    C = np.repeat(C, n_sizes)
    D = C / (6 * N)
    L = law(N, D) * np.exp(noise * np.random.default_rng(seed).normal(size=len(N)))
    obs = Observations.of(
        N=N, D=D, L=L, C=C, budget_flops=C, flop_convention="six_nd", n_convention="total"
    )
    note = f"simulated: {law}; noise {noise:g} of ln L, seed {seed}."
    return dataclasses.replace(obs, notes=(*obs.notes, note))
