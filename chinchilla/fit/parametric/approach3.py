"""Approach 3 of Hoffmann et al. (2022), section 3.3: a parametric loss fitted to all final losses.

The law is found by `loss_fit`; this module turns it into a FitResult, with intervals from refits of
resampled runs and, beside them, the other ways to an interval. NumPy only: no torch.
"""

from typing import Any

import numpy as np

from chinchilla.config.fit import Method, Objective, Resampling, check_settings
from chinchilla.core.errors import FitError
from chinchilla.fit import bootstrap
from chinchilla.fit.arguments import takes_tables
from chinchilla.fit.loss_law import FrontierSolver, six_nd_frontier
from chinchilla.fit.parametric.intervals import compare
from chinchilla.fit.parametric.paper_search import fit_by_search
from chinchilla.fit.parametric.solver import OBJECTIVES, Laws, fit_loss_law, refit_loss_law
from chinchilla.fit.parametric.windows import about_misfit
from chinchilla.fit.result import FitResult, LossLaw, conventions
from chinchilla.observations.checks import MISFIT, check_falling, check_signal, repeats, robust_sd
from chinchilla.observations.table import Observations

__all__ = ["Laws", "fit_loss_law", "fit_parametric", "refit_loss_law"]

OUTLIER = 6.0  # robust standard deviations of log-residuals
MANY = 0.1  # share of outliers beyond which they are a second population
SAME_A = 2e-3  # a moved by less is not moved
MIN_C_RANGE = 1.5  # the largest C over the smallest
# Condition number (33 on the published points) above which a is typically wrong by .05. Where the law is
# off by about .5% of the loss, the median error of a is .013 below 100, .033 at 150 to 200, .047 at 200 to
# 300, .11 at 500 to 1000 and .19 at 1000 to 3000, where 44% of the fits lie over .05 outside their 80%
# interval (scripts/condition_number.py). Whole public sweeps have 15 to 136; cut to a narrow range of D/N
# they have 195 to 500 and a is off by .1 to .2.
ILL_CONDITIONED = 200.0


@takes_tables
def fit_parametric(
    obs: Observations,
    *,
    huber_delta: float = 1e-3,
    objective: Objective = "huber",
    method: Method = "newton",
    n_bootstrap: int = 1_000,
    seed: int = 0,
    resampling: Resampling = "bayesian",
    target_flops: float = 0.0,
    compare_intervals: bool = True,
) -> FitResult:
    """Approach 3: the loss law of all final losses, and its frontier.

    N_opt and D_opt are the closed form where C = 6*N*D on every row; else a line through the exact
    optima over the observed range of C, with FLOPs per token read from the runs
    (details["six_nd"] gives the closed form beside it).

    Args:
        obs: final losses; of curves only the last points are used.
        huber_delta: where the Huber loss turns linear, in log-loss.
        objective: huber, lad or least_squares, of log-residuals.
        method: newton, or paper: L-BFGS from the paper's 4500 starts (huber; minutes). The
            intervals come from Newton refits either way.
        n_bootstrap: resamples of runs; 0 for no interval.
        seed: of the resampling.
        resampling: how runs are drawn or weighted: a key of `bootstrap.RESAMPLINGS`.
        target_flops: C at which `FitResult.intervals` compare N_opt; 0 = ten times the largest C.
        compare_intervals: whether to find `FitResult.intervals`; never with n_bootstrap=0.

    Raises:
        FitError: see `fit_loss_law`.
        InputError: a setting that cannot be.
    """
    check_settings(
        huber_delta=huber_delta,
        objective=objective,
        method=method,
        resampling=resampling,
        target_flops=target_flops,
        n_bootstrap=n_bootstrap,
        seed=seed,
    )
    obs.check_distinct()
    obs = obs.finals()
    if obs.C.max() < MIN_C_RANGE * obs.C.min():
        raise FitError(
            f"approach 3 needs runs of different cost: all spent {obs.C.min():.3g} to "
            f"{obs.C.max():.3g} FLOPs, which says nothing about growth. Add a second budget."
        )
    check_falling(obs, "approach 3")
    check_signal(obs, "approach 3")
    how: dict[str, Any] = {"huber_delta": huber_delta, "objective": objective}
    if method == "paper":
        law, certificate = fit_by_search(obs.N, obs.D, obs.L, huber_delta)
    else:
        law, certificate = fit_loss_law(obs.N, obs.D, obs.L, None, **how)
    frame = FrontierSolver.of(obs)
    counts = bootstrap.draw(resampling, obs, n_bootstrap, seed)
    laws = refit_loss_law(obs.N, obs.D, obs.L, counts, law, **how)
    samples = frame.all_lines(laws.theta)
    N_line, D_line = frame.lines(law)
    r = np.log(obs.L / law(obs.N, obs.D))
    N_opt, D_opt, fitted, warnings = bootstrap.power_laws(
        N_line, D_line, samples, 10 * float(obs.C.max()), float(np.sqrt(np.mean(r**2)))
    )
    kept = np.zeros((0, 5))
    if N_opt.samples:
        kept = laws.theta[np.isfinite(samples).all(axis=1)]
        law = LossLaw(law.E, law.A, law.B, law.alpha, law.beta, _intervals(kept))
    if certificate["bound_hits"]:
        warnings.append(f"at a bound: {'; '.join(certificate['bound_hits'])}.")
    if certificate["condition_number"] > ILL_CONDITIONED:
        warnings.append(
            f"ill-conditioned: the condition number is {certificate['condition_number']:.3g} (limit "
            f"{ILL_CONDITIONED:g}), where a = {N_opt.exponent:.3f} is typically wrong by .05 or more, even if "
            "its interval is narrower. Train some sizes at several tokens per parameter; until then prefer "
            "approach 2."
        )
    outliers, said = _outliers(obs, law, frame, how)
    warnings += said + repeats(obs)
    (log_kN, a), (log_kD, b), G = six_nd_frontier(law)
    details: dict[str, Any] = {
        "six_nd": {
            "G": G,
            "a": a,
            "b": b,
            "N_coefficient": float(np.exp(log_kN)),
            "D_coefficient": float(np.exp(log_kD)),
        },
        "corr_lnN_lnD": float(np.corrcoef(np.log(obs.N), np.log(obs.D))[0, 1]),
        "tokens_per_parameter": [float((obs.D / obs.N).min()), float((obs.D / obs.N).max())],
        "bootstrap": fitted,
        "outliers": outliers,
    }
    if frame.cost is not None:
        details["flops_per_token_max_error"] = frame.cost.max_error
        if (spread := _cost_spread(obs)) > 1e-3:
            warnings.append(
                f"FLOPs per token are not one function of N: C/D is up to "
                f"{spread:.1%} apart at one size (different sequence lengths, or C counted in two ways?)."
            )
    return FitResult(
        approach="parametric",
        N_opt=N_opt,
        D_opt=D_opt,
        points=frame.points(law),
        n_runs=len(obs),
        conventions=conventions(obs),
        settings={
            "huber_delta": huber_delta if objective == "huber" else None,
            "objective": OBJECTIVES[objective],
            "method": "L-BFGS from the paper's 4500 starts"
            if method == "paper"
            else "variable-projection starts, semi-smooth Newton",
            "frontier": "closed form, C = 6*N*D"
            if frame.cost is None
            else "exact optima over the observed C, FLOPs per token from the runs' own C/D; a line",
            "n_bootstrap": n_bootstrap,
            "seed": seed,
            "resampling": resampling,
            "interval": bootstrap.method(n_bootstrap, seed, "law refitted to each", resampling),
        },
        law=law,
        law_samples=[_seven_digits(row) for row in kept.T] if len(kept) else [],
        log_residuals=_seven_digits(r),
        certificate=certificate,
        intervals=compare(obs, law, frame, {resampling: laws}, how, target_flops, seed)
        if compare_intervals
        else [],
        details=details,
        warnings=warnings,
    )


def _outliers(
    obs: Observations, law: LossLaw, frame: FrontierSolver, how: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Runs that miss the law by far, and a without them: said, never left out."""
    r = np.log(obs.L / law(obs.N, obs.D))
    robust = robust_sd(r)
    far = np.abs(r) > OUTLIER * robust + 1e-9
    found: dict[str, Any] = {"run_ids": [str(x) for x in obs.run_id[far]], "a_without": None}
    said = []
    if robust > MISFIT:
        said.append(about_misfit(obs, robust, lambda law: frame.lines(law)[0][1], how))
    if not far.any():
        return found, said
    without = refit_loss_law(obs.N, obs.D, obs.L, (~far).astype(float)[None], law, **how)
    names = ", ".join(found["run_ids"][:8]) + (", ..." if far.sum() > 8 else "")
    text = f"{far.sum()} of {len(obs)} runs miss the law by over {OUTLIER:g} robust standard deviations ({names})"
    a = frame.lines(law)[0][1]
    if without.converged[0]:
        found["a_without"] = float(frame.all_lines(without.theta)[0, 1])
        if abs(found["a_without"] - a) < SAME_A and far.mean() < MANY:
            return found, said  # in the file, for who looks; it changes nothing
        text += f"; without them a is {found['a_without']:.3f}, with them {a:.3f}"
    do = "Look at their curves before deciding which to believe."
    if far.mean() >= MANY:
        do = (
            "So many are a second population: are these runs of one data set, tokenizer and recipe?"
        )
    return found, [*said, f"{text}. {do}"]


def _intervals(rows: np.ndarray) -> dict[str, list[float]]:
    low_high = np.percentile(rows, bootstrap.PERCENTILES, axis=0).T
    names = ("E", "A", "B", "alpha", "beta")
    return {name: [float(x) for x in pair] for name, pair in zip(names, low_high, strict=True)}


def _seven_digits(values: np.ndarray) -> list[float]:
    return [float(f"{x:.7g}") for x in values]


def _cost_spread(obs: Observations) -> float:
    """Largest relative difference in FLOPs per token between runs of one size."""
    cost = obs.C / obs.D
    sizes = [cost[obs.N == n] for n in np.unique(obs.N)]
    return max(float(c.max() / c.min()) - 1 for c in sizes)
