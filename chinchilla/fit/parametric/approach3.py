"""Approach 3 of Hoffmann et al. (2022), section 3.3: a parametric loss fitted to all final losses.

`solver` finds the law; this module turns it into a FitResult, with intervals from refits to resampled runs.
"""

from typing import Any

import numpy as np

from chinchilla.config.fit import N_BOOTSTRAP, Objective, check_settings
from chinchilla.core.errors import FitError
from chinchilla.fit import bootstrap
from chinchilla.fit.loss_law import FrontierSolver
from chinchilla.fit.parametric.solver import OBJECTIVES, Laws, fit_loss_law, refit_loss_law
from chinchilla.fit.result import FitResult, LossLaw, OptimalPoint, conventions
from chinchilla.observations.checks import MISFIT, check_falling, check_signal, repeats, robust_sd
from chinchilla.observations.table import Observations, observations_of

__all__ = ["Laws", "fit_loss_law", "fit_parametric", "refit_loss_law"]

OUTLIER = 6.0  # robust standard deviations of log-residuals
SAME_A = 2e-3  # outliers that move a by less are not reported
MAX_COST_ERROR = 5e-4  # of FLOPs per token, between runs of one size
MIN_C_RANGE = 1.5  # the largest C over the smallest
# Condition number above which a is typically wrong by .05 (33 on the published points). Where the law is
# off by about .5% of the loss, the median error of a is .013 below 100, .033 at 150 to 200, .047 at 200 to
# 300, .11 at 500 to 1000 and .19 at 1000 to 3000, where 44% of the fits lie over .05 outside their 80%
# interval (scripts/studies/condition_number.py). Whole public sweeps have 15 to 136; restricted to a narrow range
# of D/N they have 195 to 500, and a is off by .1 to .2.
ILL_CONDITIONED = 200.0


def fit_parametric(
    obs: Observations | Any,
    *,
    huber_delta: float = 1e-3,
    objective: Objective = "huber",
    n_bootstrap: int = N_BOOTSTRAP,
    seed: int = 0,
) -> FitResult:
    """Fit approach 3: the loss law of all final losses, and its frontier.

    N_opt and D_opt have a closed form where C = 6*N*D on every row. Otherwise they are straight lines
    through the exact optima over the observed range of C, with FLOPs per token from the runs.

    Args:
        obs: final losses (of curves only the last points are used): Observations, a pandas or polars
            frame, or a dict of arrays.
        huber_delta: where the Huber loss turns linear, in log-loss.
        objective: huber, lad or least_squares, of log-residuals.
        n_bootstrap: resamples of runs; 0 for no interval.
        seed: of the resampling.

    Returns:
        A FitResult with law, certificate and details["outliers"]: the run_ids, and a without them.

    Raises:
        FitError: see `fit_loss_law`.
        InputError: an invalid setting.
    """
    how: dict[str, Any] = {"huber_delta": huber_delta, "objective": objective}
    check_settings(n_bootstrap=n_bootstrap, seed=seed, **how)
    runs = observations_of(obs)
    runs.check_distinct()
    obs = runs.finals()
    if obs.C.max() < MIN_C_RANGE * obs.C.min():
        raise FitError(
            f"approach 3 needs runs of different cost: all spent {obs.C.min():.3g} to "
            f"{obs.C.max():.3g} FLOPs, so growth with C is unknown. Add a second budget."
        )
    check_falling(obs, "approach 3")
    check_signal(obs, "approach 3")

    law, certificate = fit_loss_law(obs.N, obs.D, obs.L, **how)
    residuals = np.log(obs.L / law(obs.N, obs.D))

    solver = FrontierSolver.of(obs)
    weights = bootstrap.random_weights(len(obs), n_bootstrap, seed)
    refits = refit_loss_law(obs.N, obs.D, obs.L, weights, law, **how)
    samples = solver.all_lines(refits.theta)
    scatter = float(np.sqrt(np.mean(residuals**2)))
    N_opt, D_opt, warnings = bootstrap.power_laws(*solver.lines(law), samples, scatter)
    law_samples: list[list[float]] = []
    if N_opt.samples:
        fitted = refits.theta[np.isfinite(samples).all(axis=1)]  # (k, 5)
        law_samples = [bootstrap.seven_digits(row) for row in fitted.T]

    if certificate["bound_hits"]:
        warnings.append(f"at a bound: {'; '.join(certificate['bound_hits'])}.")
    if certificate["condition_number"] > ILL_CONDITIONED:
        warnings.append(
            f"ill-conditioned: the condition number is {certificate['condition_number']:.3g} (limit "
            f"{ILL_CONDITIONED:g}), where a = {N_opt.exponent:.3f} is typically wrong by .05 or more, even if "
            "its interval is narrower. Train some sizes at several tokens per parameter."
        )
    outliers, of_outliers = _outliers(obs, law, solver, how)
    warnings += _misfit(robust_sd(residuals)) + of_outliers + repeats(obs)
    if solver.cost is not None and (off := solver.cost.max_error) > MAX_COST_ERROR:
        warnings.append(
            f"FLOPs per token are not a function of N: C/D of one size differs from its mean by up to {off:.1%}. "
            "Check sequence lengths and how C was counted."
        )
    return FitResult(
        approach="parametric",
        N_opt=N_opt,
        D_opt=D_opt,
        points=[OptimalPoint(*map(float, row)) for row in solver.points(law)],
        n_runs=len(obs),
        conventions=conventions(obs),
        settings={
            "huber_delta": huber_delta if objective == "huber" else None,
            "objective": OBJECTIVES[objective],
            "method": "variable-projection starts, semi-smooth Newton",
            "frontier": "closed form, C = 6*N*D"
            if solver.cost is None
            else "line through the exact optima over the observed C, FLOPs per token from the runs' own C/D",
            "n_bootstrap": n_bootstrap,
            "seed": seed,
            "interval": bootstrap.method("Bayesian bootstrap of runs, Student's t", n_bootstrap),
        },
        law=law,
        law_samples=law_samples,
        log_residuals=bootstrap.seven_digits(residuals),
        certificate=certificate,
        details={"outliers": outliers},
        warnings=warnings,
        runs=runs,
    )


def _misfit(sd: float) -> list[str]:
    """Warn if the residuals of ln L have a large robust standard deviation."""
    if sd <= MISFIT:
        return []
    return [
        f"the law fits these runs badly: its residuals have a robust standard deviation of {sd:.1%} of the "
        "loss; for runs of one data set and recipe it is usually below 1%. Check that all runs share one "
        "data set, tokenizer, recipe and loss. If they do, fit a window of tokens per parameter, "
        "tokens_per_param=LOW,HIGH."
    ]


def _outliers(
    obs: Observations, law: LossLaw, solver: FrontierSolver, how: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Outliers and a without them, and a warning about them; no run is excluded."""
    r = np.log(obs.L / law(obs.N, obs.D))
    far = np.abs(r) > OUTLIER * robust_sd(r) + 1e-9
    record: dict[str, Any] = {"run_ids": [str(x) for x in obs.run_id[far]], "a_without": None}
    if not far.any():
        return record, []
    without = refit_loss_law(obs.N, obs.D, obs.L, (~far).astype(float)[None], law, **how)
    names = ", ".join(record["run_ids"][:8]) + (", ..." if far.sum() > 8 else "")
    compared = ""
    a = solver.lines(law)[0][1]
    if without.converged[0]:
        record["a_without"] = a_without = float(solver.all_lines(without.theta)[0, 1])
        if abs(a_without - a) < SAME_A:
            return record, []
        compared = f"; without them a is {a_without:.3f}, with them {a:.3f}"
    return record, [
        f"{far.sum()} of {len(obs)} runs are outliers (residual over {OUTLIER:g} robust standard "
        f"deviations): {names}{compared}. Check whether they diverged, or have another data set or recipe."
    ]
