"""Approach 3 of Hoffmann et al. (2022), section 3.3: a parametric loss fitted to all final losses.

`solver` finds the law; this module turns it into a FitResult, with intervals from refits to resampled
runs. NumPy only: this module must import without torch.
"""

from typing import Any

import numpy as np

from chinchilla.config.fit import Objective, Resampling, check_settings
from chinchilla.core.errors import FitError
from chinchilla.fit import bootstrap
from chinchilla.fit.arguments import accepts_tables
from chinchilla.fit.loss_law import FrontierSolver, six_nd_frontier
from chinchilla.fit.parametric.solver import OBJECTIVES, Laws, fit_loss_law, refit_loss_law
from chinchilla.fit.parametric.windows import misfit_warning
from chinchilla.fit.result import FitResult, LossLaw, conventions
from chinchilla.observations.checks import MISFIT, check_falling, check_signal, repeats, robust_sd
from chinchilla.observations.table import Observations

__all__ = ["Laws", "fit_loss_law", "fit_parametric", "refit_loss_law"]

OUTLIER = 6.0  # robust standard deviations of log-residuals
MANY = 0.1  # share of outliers above which they are a second population
SAME_A = 2e-3  # outliers that move a by less are not reported
MIN_C_RANGE = 1.5  # the largest C over the smallest
# Condition number above which a is typically wrong by .05 (33 on the published points). Where the law is
# off by about .5% of the loss, the median error of a is .013 below 100, .033 at 150 to 200, .047 at 200 to
# 300, .11 at 500 to 1000 and .19 at 1000 to 3000, where 44% of the fits lie over .05 outside their 80%
# interval (scripts/studies/condition_number.py). Whole public sweeps have 15 to 136; restricted to a narrow range
# of D/N they have 195 to 500, and a is off by .1 to .2.
ILL_CONDITIONED = 200.0


@accepts_tables
def fit_parametric(
    obs: Observations,
    *,
    huber_delta: float = 1e-3,
    objective: Objective = "huber",
    n_bootstrap: int = 1_000,
    seed: int = 0,
    resampling: Resampling = "bayesian",
) -> FitResult:
    """Fit approach 3: the loss law of all final losses, and its frontier.

    N_opt and D_opt have a closed form where C = 6*N*D on every row. Otherwise they are straight lines
    through the exact optima over the observed range of C, with FLOPs per token from the runs
    (details["six_nd"] holds the closed form as well).

    Args:
        obs: final losses; of curves only the last points are used.
        huber_delta: where the Huber loss turns linear, in log-loss.
        objective: huber, lad or least_squares, of log-residuals.
        n_bootstrap: resamples of runs; 0 for no interval.
        seed: of the resampling.
        resampling: how runs are drawn or weighted: a key of `bootstrap.RESAMPLINGS`.

    Raises:
        FitError: see `fit_loss_law`.
        InputError: an invalid setting.
    """
    how: dict[str, Any] = {"huber_delta": huber_delta, "objective": objective}
    check_settings(resampling=resampling, n_bootstrap=n_bootstrap, seed=seed, **how)
    obs.check_distinct()
    obs = obs.finals()
    if obs.C.max() < MIN_C_RANGE * obs.C.min():
        raise FitError(
            f"approach 3 needs runs of different cost: all spent {obs.C.min():.3g} to "
            f"{obs.C.max():.3g} FLOPs, so growth with C is unknown. Add a second budget."
        )
    check_falling(obs, "approach 3")
    check_signal(obs, "approach 3")

    law, certificate = fit_loss_law(obs.N, obs.D, obs.L, None, **how)
    residuals = np.log(obs.L / law(obs.N, obs.D))

    solver = FrontierSolver.of(obs)
    weights = bootstrap.draw(resampling, obs, n_bootstrap, seed)
    refits = refit_loss_law(obs.N, obs.D, obs.L, weights, law, **how)
    samples = solver.all_lines(refits.theta)
    N_opt, D_opt, counts, warnings = bootstrap.power_laws(
        *solver.lines(law),
        samples,
        bootstrap.FAR * float(obs.C.max()),
        float(np.sqrt(np.mean(residuals**2))),
    )
    law_samples = np.zeros((0, 5))
    if N_opt.samples:
        law_samples = refits.theta[np.isfinite(samples).all(axis=1)]
        law = LossLaw(law.E, law.A, law.B, law.alpha, law.beta, _intervals(law_samples))

    if certificate["bound_hits"]:
        warnings.append(f"at a bound: {'; '.join(certificate['bound_hits'])}.")
    if certificate["condition_number"] > ILL_CONDITIONED:
        warnings.append(
            f"ill-conditioned: the condition number is {certificate['condition_number']:.3g} (limit "
            f"{ILL_CONDITIONED:g}), where a = {N_opt.exponent:.3f} is typically wrong by .05 or more, even if "
            "its interval is narrower. Train some sizes at several tokens per parameter; until then prefer "
            "approach 2."
        )
    outliers, of_outliers = _outliers(obs, law, solver, how)
    of_cost = [] if solver.cost is None else _cost_warnings(obs)
    warnings += of_outliers + repeats(obs) + of_cost
    return FitResult(
        approach="parametric",
        N_opt=N_opt,
        D_opt=D_opt,
        points=solver.points(law),
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
            "resampling": resampling,
            "interval": bootstrap.method(resampling, n_bootstrap),
        },
        law=law,
        law_samples=[bootstrap.seven_digits(row) for row in law_samples.T]
        if len(law_samples)
        else [],
        log_residuals=bootstrap.seven_digits(residuals),
        certificate=certificate,
        details={
            "six_nd": _six_nd(law),
            "corr_lnN_lnD": float(np.corrcoef(np.log(obs.N), np.log(obs.D))[0, 1]),
            "tokens_per_parameter": [float((obs.D / obs.N).min()), float((obs.D / obs.N).max())],
            "bootstrap": counts,
            "outliers": outliers,
            **({} if solver.cost is None else {"flops_per_token_max_error": solver.cost.max_error}),
        },
        warnings=warnings,
    )


def _six_nd(law: LossLaw) -> dict[str, float]:
    """The closed form under C = 6*N*D."""
    (log_kN, a), (log_kD, b), G = six_nd_frontier(law)
    coefficients = {"N_coefficient": float(np.exp(log_kN)), "D_coefficient": float(np.exp(log_kD))}
    return {"G": G, "a": a, "b": b, **coefficients}


def _outliers(
    obs: Observations, law: LossLaw, solver: FrontierSolver, how: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Outliers, a without them, and warnings about them and about a large misfit; no run is excluded."""
    r = np.log(obs.L / law(obs.N, obs.D))
    robust = robust_sd(r)
    far = np.abs(r) > OUTLIER * robust + 1e-9
    record: dict[str, Any] = {"run_ids": [str(x) for x in obs.run_id[far]], "a_without": None}
    warnings = []
    if robust > MISFIT:
        warnings.append(misfit_warning(obs, robust, lambda law: solver.lines(law)[0][1], how))
    if not far.any():
        return record, warnings
    without = refit_loss_law(obs.N, obs.D, obs.L, (~far).astype(float)[None], law, **how)
    names = ", ".join(record["run_ids"][:8]) + (", ..." if far.sum() > 8 else "")
    compared = ""
    a = solver.lines(law)[0][1]
    if without.converged[0]:
        record["a_without"] = a_without = float(solver.all_lines(without.theta)[0, 1])
        if abs(a_without - a) < SAME_A and far.mean() < MANY:
            return record, warnings
        compared = f"; without them a is {a_without:.3f}, with them {a:.3f}"
    advice = "Check whether they diverged."
    if far.mean() >= MANY:
        advice = (
            "So many outliers are a second population: check that all runs share one data set, tokenizer "
            "and recipe."
        )
    return record, [
        *warnings,
        f"{far.sum()} of {len(obs)} runs are outliers (residual over {OUTLIER:g} robust standard "
        f"deviations): {names}{compared}. {advice}",
    ]


def _cost_warnings(obs: Observations) -> list[str]:
    """Warn where FLOPs per token differ between runs of one size."""
    cost = obs.C / obs.D
    sizes = [cost[obs.N == n] for n in np.unique(obs.N)]
    spread = max(float(c.max() / c.min()) - 1 for c in sizes)
    if spread <= 1e-3:
        return []
    return [
        f"FLOPs per token are not a function of N: C/D differs by up to {spread:.1%} at one size. Check "
        "sequence lengths and how C was counted."
    ]


def _intervals(laws: np.ndarray) -> dict[str, list[float]]:
    """10th and 90th percentile of each parameter over (k, 5) laws."""
    bounds = np.percentile(laws, (10, 90), axis=0).T
    return dict(zip(("E", "A", "B", "alpha", "beta"), bounds.tolist(), strict=True))
