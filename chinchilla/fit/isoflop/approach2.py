"""Approach 2 of Hoffmann et al. (2022), section 3.2: IsoFLOP profiles.

For each budget C, a curve in ln N is fitted to the final losses. Its minimum is N_opt(C), and
D_opt(C) is the number of tokens that C FLOPs allow at that size. Straight lines through the minima
in log-log coordinates give the frontier.

The curve is the exact shape of a profile under the loss law (the default) or the paper's parabola
(`profile.py`), whose minimum is biased where alpha differs from beta: with nine sizes up to 8 times larger
and smaller, in the default window, its N_opt at ten times the largest C is 1.9% too large
(docs/results/coverage.json).

A run has a whole number of steps, so that it does not spend its budget exactly. The points are
therefore at the C spent; `budget_flops` only groups the runs and labels the points. `intervals.py`
computes the intervals.
"""

from typing import Any

import numpy as np

from chinchilla.config.fit import (
    N_BOOTSTRAP,
    IsoflopProfile,
    IsoflopWindow,
    Objective,
    check_settings,
)
from chinchilla.core.errors import FitError
from chinchilla.fit import bootstrap
from chinchilla.fit.isoflop.intervals import METHOD, resampled_lines
from chinchilla.fit.isoflop.profile import Profile, fit_budget, lines, minima
from chinchilla.fit.isoflop.window import MAX_RESIDUAL, Window, find_window
from chinchilla.fit.loss_law import FlopsPerToken
from chinchilla.fit.numerics import fit_line
from chinchilla.fit.parametric.solver import check_ratios, fit_loss_law
from chinchilla.fit.result import FitResult, LossLaw, OptimalPoint, conventions
from chinchilla.observations.checks import check_signal, repeats
from chinchilla.observations.table import Observations, observations_of

PROFILES = {
    "exact": "E + A/N^alpha + B/D^beta through the final losses of each budget, least squares",
    "parabola": "parabola in ln N through final losses, least squares",
}


def fit_isoflop(
    obs: Observations | Any,
    *,
    profile: IsoflopProfile = "exact",
    window: IsoflopWindow = "auto",
    huber_delta: float = 1e-3,
    objective: Objective = "huber",
    n_bootstrap: int = N_BOOTSTRAP,
    seed: int = 0,
) -> FitResult:
    """Fit approach 2: the minimum of each IsoFLOP profile, and lines through the minima.

    Args:
        obs: final losses (of curves only the last points are used): Observations, a pandas or polars
            frame, or a dict of arrays. Runs whose budget_flops is NaN have no profile, but contribute
            to alpha and beta.
        profile: "exact", with alpha and beta of approach 3 on the same runs (refitted in each
            resample), or a parabola if approach 3 fails; "parabola" as in the paper.
        window: sizes that a profile is fitted to: "auto" (near the lowest loss, see `window.py`) or
            "all" (the paper's).
        huber_delta: Huber delta of the fit that gives alpha and beta (approach 3).
        objective: objective of that fit: huber, lad or least_squares.
        n_bootstrap: resamples; 0 for no interval.
        seed: seed of the resampling.

    Returns:
        A FitResult with details: budgets (each profile: budget_flops, run_ids, N, L, the fitted curve,
        N_opt, L_opt, and refused and kind: the reason if it is not used, or None) and window (the
        width, and the runs that were excluded).

    Raises:
        FitError: no run has a budget (no_budget), there is only one (one_budget), all runs have one
            D/N (one_ray), losses at the minima rise with C (loss_rises), or fewer than two budgets have
            a minimum (the most common kind of their refusals).
        InputError: an invalid setting.
    """
    how: dict[str, Any] = {"huber_delta": huber_delta, "objective": objective}
    check_settings(profile=profile, window=window, n_bootstrap=n_bootstrap, seed=seed, **how)
    runs = observations_of(obs)
    finals = runs.finals()
    every = finals.where(~np.isnan(finals.budget_flops))
    if not len(every):
        raise FitError(
            "approach 2 needs runs that share a budget, and no run has a budget. Fill the column "
            "budget_flops, or plan with grid.budgets.",
            "no_budget",
        )
    check_ratios(every.N, every.D, "approach 2")
    check_signal(every, "approach 2")
    selection = find_window(every, window)
    obs = every.where(selection.keep)
    cost = FlopsPerToken.from_observations(obs)
    # Far from the minima the law fits no better than a profile, so that alpha and beta come from the
    # runs that the profiles are fitted to.
    law_runs = finals if selection.width is None else obs
    law, warnings = (None, []) if profile == "parabola" else _law(law_runs, how)

    profiles = _profiles(obs, law, cost)
    used = [p for p in profiles if not p.refused]
    refusals = [f"budget {p.budget:.3g}: {p.refused}" for p in profiles if p.refused]
    if len(used) < 2:
        kinds = [p.kind for p in profiles if p.kind]
        raise FitError(
            f"approach 2 needs two budgets with a minimum and has {len(used)} of {len(profiles)}. "
            + " ".join(refusals + ["Add a second budget."] * (len(profiles) < 2)),
            "one_budget" if len(profiles) < 2 else max(sorted(set(kinds)), key=kinds.count),
        )
    at = minima(used)  # (m, 2) ln C and ln N
    _check_falling(used, at[:, 0])

    log_k, a, log_m, b = map(float, lines(at[None], cost)[0])
    resampled = law_runs
    if law is None:  # the profiles alone are resampled
        order = np.lexsort((obs.N, obs.budget_labels))
        resampled = obs.where(order[np.isin(obs.budget_labels[order], [p.budget for p in used])])
    samples = resampled_lines(used, cost, n_bootstrap, seed, law, resampled, how)
    scatter = float(np.sqrt(np.mean(np.concatenate([p.residuals / p.obs.L for p in used]) ** 2)))
    N_opt, D_opt, interval_warnings = bootstrap.power_laws((log_k, a), (log_m, b), samples, scatter)
    warnings += interval_warnings
    if len(used) == 2:
        warnings.append(
            "only two budgets have a minimum, so the curvature of the frontier is unknown. Add a budget."
        )
    warnings += _excluded(every, selection, law, cost, a) + repeats(obs)
    D = np.exp(at[:, 0] - cost.log_cost(at[:, 1]))
    outliers = every.where(selection.outliers)
    return FitResult(
        approach="isoflop",
        N_opt=N_opt,
        D_opt=D_opt,
        points=[
            OptimalPoint(float(np.exp(x[0])), float(np.exp(x[1])), float(d), _loss(p), p.budget)
            for p, x, d in zip(used, at, D, strict=True)
        ],
        n_runs=sum(len(p.obs) for p in used),
        conventions=conventions(obs),
        settings={
            "profile": PROFILES["parabola" if law is None else "exact"],
            "window": "all sizes"
            if selection.width is None
            else f"sizes within a factor of {np.exp(selection.width):.3g} of each budget's lowest loss "
            "(chosen from the data)",
            "exponents": "none"
            if law is None
            else f"alpha={law.alpha:.6g}, beta={law.beta:.6g}: approach 3 (objective={objective}, "
            f"huber_delta={huber_delta:g}) on the same {len(law_runs)} runs, refitted in each resample",
            "n_bootstrap": n_bootstrap,
            "seed": seed,
            "interval": bootstrap.method(METHOD, n_bootstrap),
        },
        details={
            "budgets": [_record(p) for p in profiles],
            "window": {
                "width": selection.width,
                "n_outside": int((~selection.keep & ~selection.outliers).sum()),
                "outliers": [
                    {"run_id": str(run_id), "N": float(N), "L": float(L)}
                    for run_id, N, L in zip(outliers.run_id, outliers.N, outliers.L, strict=True)
                ],
            },
        },
        refusals=refusals,
        warnings=warnings,
        runs=runs,
    )


def _profiles(obs: Observations, law: LossLaw | None, cost: FlopsPerToken) -> list[Profile]:
    """One profile per budget, budgets ascending: parabolas, or the exact shape if a law is given."""
    labels, exponents = obs.budget_labels, None if law is None else (law.alpha, law.beta)
    return [fit_budget(obs.where(labels == b), b, exponents, cost) for b in np.unique(labels)]


def parabolas_of(obs: Observations, window: str = "auto") -> list[Profile]:
    """Fit the parabola of every budget in the window, C ascending, also those without a minimum.

    Args:
        obs: (n,) final losses.
        window: as in `fit_isoflop`.
    """
    obs = obs.where(~np.isnan(obs.budget_flops))
    if not len(obs):
        return []
    obs = obs.where(find_window(obs, window).keep)
    return _profiles(obs, None, FlopsPerToken.from_observations(obs))


def _law(runs: Observations, how: dict[str, Any]) -> tuple[LossLaw | None, list[str]]:
    """Approach 3's law of these runs, or a warning if it fails."""
    try:
        return fit_loss_law(runs.N, runs.D, runs.L, **how)[0], []
    except FitError as error:
        return None, [
            "parabolas were used instead of the exact shape, because approach 3 gives no alpha and "
            f"beta: N_opt is biased if alpha and beta differ. ({error})"
        ]


def _excluded(
    every: Observations, selection: Window, law: LossLaw | None, cost: FlopsPerToken, a: float
) -> list[str]:
    """Warn of the outliers that were excluded, with the exponent with and without them."""
    outliers = every.run_id[selection.outliers]
    if not len(outliers):
        return []
    profiles = _profiles(every.where(selection.keep | selection.outliers), law, cost)
    used = [p for p in profiles if not p.refused]
    compared = ""
    if len(used) >= 2:
        with_them = float(lines(minima(used)[None], cost)[0, 1])
        compared = f"; a = {a:.3f} without them, {with_them:.3f} with them"
    names = ", ".join(outliers[:8]) + (", ..." if len(outliers) > 8 else "")
    return [
        f"{len(outliers)} runs are outliers of their IsoFLOP profile (residual over {MAX_RESIDUAL:g} "
        f"robust standard deviations) and were excluded: {names}{compared}. Check whether they diverged."
    ]


def _check_falling(used: list[Profile], log_C: np.ndarray) -> None:
    """Refuse budgets whose losses at the minima rise with C."""
    losses = np.array([_loss(p) for p in used])
    if fit_line(log_C, losses)[1] * np.ptp(log_C) < 1e-9 * losses.mean():
        return
    first, last = int(log_C.argmin()), int(log_C.argmax())
    raise FitError(
        f"approach 2: the lowest losses rise with C, from {losses[first]:.4g} nats per token at "
        f"{used[first].budget:.3g} FLOPs to {losses[last]:.4g} at {used[last].budget:.3g}. More compute "
        "cannot raise the lowest loss: check that losses and budgets are in the right rows and belong to one "
        "data set.",
        "loss_rises",
    )


def _loss(profile: Profile) -> float:
    """Loss at the minimum, nats per token."""
    assert profile.c is not None
    return float(profile.shape.losses(profile.c, np.array([profile.x_opt]))[0])


def _record(p: Profile) -> dict[str, Any]:
    """Record of a profile for frontier.json."""
    curve = None
    if p.c is not None:
        x = np.linspace(np.log(p.obs.N[0] / 1.15), np.log(p.obs.N[-1] * 1.15), 80)
        curve = {"N": np.exp(x).tolist(), "L": p.shape.losses(p.c, x).tolist()}
    return {
        "budget_flops": p.budget,
        "run_ids": [str(r) for r in p.obs.run_id],
        "N": p.obs.N.tolist(),
        "L": p.obs.L.tolist(),
        "curve": curve,
        "N_opt": None if p.refused else float(np.exp(p.x_opt)),
        "L_opt": None if p.refused else _loss(p),
        "refused": p.refused or None,
        "kind": p.kind or None,
    }
