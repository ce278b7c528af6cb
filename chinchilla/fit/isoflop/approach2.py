"""Approach 2 of Hoffmann et al. (2022), section 3.2: IsoFLOP profiles.

For each budget C a curve in ln N through the final losses; its minimum is N_opt(C), and D_opt is what C
buys at that size. Straight lines in log-log through the minima give the frontier.

The curve is the paper's parabola or the exact shape of a profile under the loss law (`profile.py`).
A parabola's minimum lies beside the optimum where alpha differs from beta: with nine sizes up to 8 times
either way, in the default window, its N_opt at ten times the largest C is 1.9% too large, while the exact shape
has no bias that could be measured (docs/results/coverage.json, scripts/coverage.py). The exact shape is the default; the
parabola stands beside it in details["parabola"], with the shift that the exact shape expects of it.

A run never spends its budget to the last FLOP: tokens come in whole steps. So the points lie at the C
achieved; `budget_flops` alone groups runs and labels the points. How intervals are made, and how well they cover, stands in `isoflop_intervals`.

NumPy only: this module must import without torch.
"""

from typing import Any

import numpy as np

from chinchilla.config.fit import (
    IsoflopInterval,
    IsoflopProfile,
    IsoflopWindow,
    Objective,
    check_settings,
)
from chinchilla.core.errors import FitError
from chinchilla.fit import bootstrap
from chinchilla.fit.arguments import takes_tables
from chinchilla.fit.isoflop.intervals import FAR, method, resampled_lines
from chinchilla.fit.isoflop.profile import (
    MIN_SIDE,
    MIN_SIZES,
    ExactShape,
    Parabola,
    Profile,
    fit_budget,
    lines,
    minima,
)
from chinchilla.fit.isoflop.refusals import akima_line, leave_out, unequal_flops, windows
from chinchilla.fit.isoflop.window import MAX_RESIDUAL, Window, find_window
from chinchilla.fit.loss_law import FlopsPerToken
from chinchilla.fit.parametric.solver import fit_loss_law, one_ray
from chinchilla.fit.result import FitResult, OptimalPoint, conventions
from chinchilla.observations.checks import check_signal, repeats
from chinchilla.observations.table import Observations

MAX_LOG_N = 100.0  # a minimum further out than e^100 parameters is none
MAX_BELOW = 0.01  # of the lowest measured loss: a fitted minimum further below is not measured

PROFILES = {
    "exact": "E + A/N^alpha + B/D^beta through the final losses of each budget, least squares",
    "parabola": "parabola in ln N through final losses, least squares",
}


@takes_tables
def fit_isoflop(
    obs: Observations,
    *,
    profile: IsoflopProfile = "exact",
    window: IsoflopWindow = "auto",
    interval: IsoflopInterval = "wild",
    huber_delta: float = 1e-3,
    objective: Objective = "huber",
    n_bootstrap: int = 400,
    seed: int = 0,
) -> FitResult:
    """Approach 2: the minimum of each IsoFLOP profile, and lines through the minima.

    Args:
        obs: final losses; of curves only the last points are used. Runs whose budget_flops is NaN
            have no profile, but help to find alpha and beta.
        profile: "exact", with alpha and beta of approach 3 on the same runs (and in each resample on
            what it draws); a parabola where approach 3 cannot answer. Or "parabola", as the paper.
        window: sizes that a profile is fitted to: "auto", "all" (the paper's), or the distance in
            ln N either way of the lowest loss, see `isoflop_window`.
        interval: "wild" or "pairs", see `isoflop_intervals`.
        huber_delta: of the fit that gives alpha and beta (approach 3).
        objective: of that fit: huber, lad or least_squares.
        n_bootstrap: resamples; 0 for no interval.
        seed: of the resampling.

    Returns:
        A FitResult with details: budgets (each profile: budget_flops, run_ids, N, D, L, the parabola's
        coefficients [c0, c1, c2] in powers of ln N and its vertex, the exact shape as a curve, N_opt,
        L_opt, refused and kind: why it was left out, or None); parabola (the paper's lines and
        their shift from the exact shape's); windows; akima; leave_out.

    Raises:
        FitError: no run names a budget (no_budget), there is one alone (one_budget), all runs have one
            D/N (one_ray), losses at the minima rise with C (loss_rises), numbers are not finite (nan), or fewer than two budgets have a minimum (the
            commonest kind of theirs).
        InputError: a setting that cannot be.
    """
    how: dict[str, Any] = {"huber_delta": huber_delta, "objective": objective}
    check_settings(
        profile=profile, window=window, interval=interval, n_bootstrap=n_bootstrap, seed=seed, **how
    )
    finals = obs.finals()
    obs = finals.where(~np.isnan(finals.budget_flops))
    _check(obs)
    check_signal(obs, "approach 2")
    every, near = obs, find_window(obs, str(window))
    obs = every.where(near.keep)
    cost = FlopsPerToken.from_observations(obs)
    # Far from the minima the law holds no better than a profile does: alpha and beta come from the
    # runs that the profiles are fitted to.
    lawful = finals if near.width is None else obs
    exponents, warnings = (None, []) if profile == "parabola" else _exponents(lawful, how)
    plain = _profiles(obs, None, cost)
    profiles = plain if exponents is None else _profiles(obs, exponents, cost)
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
    _check_falling(used)
    found = lines(at[None], cost)[0]
    redrawn = None if exponents is None else lawful
    samples = resampled_lines(used, cost, interval, n_bootstrap, seed, redrawn, how)
    N_opt, D_opt, counts, more = bootstrap.power_laws(
        *_pairs(found), samples, FAR * float(obs.C.max()), _scatter(used)
    )
    warnings += more
    unequal, more = unequal_flops(used, cost)
    warnings += more
    if len(used) == 2:
        warnings.append("a line through two budgets: nothing shows whether it is straight.")
    without = leave_out(used, exponents, cost)
    paper = [p for p in plain if not p.refused]
    details: dict[str, Any] = {
        "budgets": [_record(p, q) for p, q in zip(profiles, plain, strict=True)],
        "parabola": _beside(paper, used, cost, interval, n_bootstrap, seed),
        "window": near.record(every) | _without_window(every, near, exponents, cost),
        "windows": windows(used, exponents, cost),
        "akima": akima_line(used),
        "leave_out": without,
        "bootstrap": counts,
        "unequal_flops": unequal,
        "runs_without_budget": int(len(finals) - len(every)),
    }
    warnings += _excluded(details["window"], N_opt.exponent) + _below_measured(used)
    warnings += _influence(without["run"], N_opt.exponent) + repeats(obs)
    D = at[:, 0] - cost.log_and_slope(at[:, 1])[0]
    points = [
        OptimalPoint(float(np.exp(x[0])), float(np.exp(x[1])), float(np.exp(d)), _loss(p), p.budget)
        for p, x, d in zip(used, at, D, strict=True)
    ]
    shown = "parabola" if exponents is None else "exact"
    return FitResult(
        approach="isoflop",
        N_opt=N_opt,
        D_opt=D_opt,
        points=points,
        n_runs=sum(len(p.obs) for p in used),
        conventions=conventions(obs),
        settings={
            "profile": PROFILES[shown],
            "window": "all sizes"
            if near.width is None
            else f"sizes within a factor of {np.exp(near.width):.3g} of each budget's lowest loss "
            f"({'chosen from the data' if window == 'auto' else 'as asked'})",
            "exponents": "none"
            if exponents is None
            else f"alpha={exponents[0]:.6g}, beta={exponents[1]:.6g}: approach 3 "
            f"(objective={objective}, huber_delta={huber_delta:g}) on the same {len(lawful)} runs; in the interval refitted to those runs with the same draws as the profiles",
            "C_of_a_point": "achieved, by the parabola's own weights"
            if exponents is None
            else "achieved, mean of ln C over the budget's runs",
            "D_of_a_point": "C over FLOPs per token at N_opt, read from the runs' own C/D",
            "min_sizes": MIN_SIZES,
            "min_side": MIN_SIDE,
            "n_bootstrap": n_bootstrap,
            "seed": seed,
            "interval": method(interval, n_bootstrap, seed),
        },
        details=details,
        refusals=refusals,
        warnings=warnings,
    )


def _check(obs: Observations) -> None:
    if not len(obs):
        raise FitError(
            "approach 2 needs runs that share a budget, and no run names one. Fill the column "
            "budget_flops, or plan with grid.budgets.",
            "no_budget",
        )
    one_ray(obs.N, obs.D, "approach 2")
    bad = ~np.isfinite(obs.budget_flops) | (obs.budget_flops <= 0)  # the rest obs checks itself
    if bad.any():
        i = int(np.argmax(bad))
        raise FitError(
            f"run {obs.run_id[i]}: budget_flops={obs.budget_flops[i]} is not a positive finite "
            "number. Mend it, or leave it empty.",
            "nan",
        )


def _profiles(
    obs: Observations, exponents: tuple[float, float] | None, cost: FlopsPerToken
) -> list[Profile]:
    """One profile a budget, budgets rising: parabolas, or the exact shape where exponents are given."""
    labels = obs.budget_labels
    return [fit_budget(obs.where(labels == b), b, exponents, cost) for b in np.unique(labels)]


def parabolas_of(obs: Observations, window: str = "auto") -> list[Profile]:
    """The parabola of every budget in the window, C rising, with a minimum or without.

    Args:
        obs: (n,) final losses; none where no run names a budget.
        window: as in `fit_isoflop`.
    """
    obs = obs.where(~np.isnan(obs.budget_flops))
    if not len(obs):
        return []
    obs = obs.where(find_window(obs, window).keep)
    return _profiles(obs, None, FlopsPerToken.from_observations(obs))


def _without_window(
    every: Observations, near: Window, exponents: tuple[float, float] | None, cost: FlopsPerToken
) -> dict[str, float | None]:
    """a with the outliers, and a with all sizes: what the choice of runs changes."""

    def a(keep: np.ndarray) -> float | None:
        used = [p for p in _profiles(every.where(keep), exponents, cost) if not p.refused]
        return None if len(used) < 2 else float(lines(minima(used)[None], cost)[0, 1])

    outliers = np.isin(every.run_id, [o["run_id"] for o in near.outliers])
    return {
        "a_with_outliers": a(near.keep | outliers) if outliers.any() else None,
        "a_all_sizes": a(np.ones(len(every), bool)) if not near.keep.all() else None,
    }


def _excluded(window: dict[str, Any], a: float) -> list[str]:
    """The outliers that were left out, and the exponent with them."""
    outliers = window["outliers"]
    if not outliers:
        return []
    names = ", ".join(o["run_id"] for o in outliers[:8]) + (", ..." if len(outliers) > 8 else "")
    with_them = window["a_with_outliers"]
    compared = "" if with_them is None else f"; a = {a:.3f} without them, {with_them:.3f} with them"
    return [
        f"{len(outliers)} runs are outliers of their IsoFLOP profile (residual over {MAX_RESIDUAL:g} "
        f"robust standard deviations) and were excluded: {names}{compared}. Check whether they diverged."
    ]


def _below_measured(used: list[Profile]) -> list[str]:
    """Budgets whose fitted minimum lies far below every loss measured: distant sizes decide it."""
    found = []
    for p in used:
        fitted, lowest = _loss(p), float(p.obs.L.min())
        if lowest - fitted > MAX_BELOW * lowest:
            found.append(f"{p.budget:.3g} (fitted {fitted:.3f}, lowest measured {lowest:.3f})")
    if not found:
        return []
    return [
        f"the fitted minimum lies more than {MAX_BELOW:.0%} below every measured loss at budget "
        f"{', '.join(found)}: runs far from the minimum decide the curve. Use isoflop_window=auto, or "
        "remove diverged runs."
    ]


def _check_falling(used: list[Profile]) -> None:
    """Refuse budgets of which the larger end with the higher loss: more compute cannot harm."""
    at, losses = minima(used)[:, 0], np.array([_loss(p) for p in used])
    if float((at - at.mean()) @ losses) < 0:
        return
    first, last = int(at.argmin()), int(at.argmax())
    raise FitError(
        f"approach 2: the lowest losses rise with C, from {losses[first]:.4g} nats per token at "
        f"{used[first].budget:.3g} FLOPs to {losses[last]:.4g} at {used[last].budget:.3g}. More "
        "compute cannot make the best model worse: are losses and budgets in the right rows, and of "
        "one data set?",
        "loss_rises",
    )


def _exponents(
    finals: Observations, how: dict[str, Any]
) -> tuple[tuple[float, float] | None, list[str]]:
    """alpha and beta of approach 3 on these runs, or why there are none."""
    try:
        law, _ = fit_loss_law(finals.N, finals.D, finals.L, None, **how)
    except FitError as error:
        return None, [
            "parabolas instead of the exact shape, because approach 3 gives no alpha and beta: "
            f"N_opt is biased where they differ. ({error})"
        ]
    return (law.alpha, law.beta), []


def _pairs(found: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    log_k, a, log_m, b = map(float, found)
    return (log_k, a), (log_m, b)


def _scatter(used: list[Profile]) -> float:
    """Root mean square of the residuals of profiles over the losses."""
    return float(np.sqrt(np.mean(np.concatenate([p.residuals / p.obs.L for p in used]) ** 2)))


def _loss(profile: Profile) -> float:
    """Nats per token at a minimum."""
    assert profile.c is not None
    return float(profile.shape.losses(profile.c, np.array([profile.x_opt]))[0])


def _record(p: Profile, plain: Profile) -> dict[str, Any]:
    """A profile for frontier.json; `plain` is the parabola through the same runs."""
    record: dict[str, Any] = {
        "budget_flops": p.budget,
        "run_ids": [str(r) for r in p.obs.run_id],
        "N": p.obs.N.tolist(),
        "D": p.obs.D.tolist(),
        "L": p.obs.L.tolist(),
        "coefficients": None,
        "vertex": _size(plain.x_opt),
        "curve": None,
        "C": float(np.exp(np.log(p.obs.C).mean())),
        "N_opt": _size(p.x_opt),
        "L_opt": _loss(p) if np.isfinite(p.x_opt) else None,
        "refused": p.refused or None,
        "kind": p.kind or None,
    }
    if plain.c is not None:
        c0, c1, c2 = map(float, plain.c)
        m = float(np.log(p.obs.N).mean())
        record["coefficients"] = [c0 - c1 * m + c2 * m**2, c1 - 2 * c2 * m, c2]
    if p.c is not None and isinstance(p.shape, ExactShape):
        x = np.linspace(np.log(p.obs.N[0] / 1.15), np.log(p.obs.N[-1] * 1.15), 80)
        record["curve"] = {"N": np.exp(x).tolist(), "L": p.shape.losses(p.c, x).tolist()}
    return record


def _size(x: float) -> float | None:
    """exp(x) for a file; None where no curve has a minimum, or only at sizes that are no numbers."""
    return float(np.exp(x)) if abs(x) < MAX_LOG_N else None


def _beside(
    paper: list[Profile], used: list[Profile], cost: FlopsPerToken, interval: str, n: int, seed: int
) -> dict[str, Any] | None:
    """The plain parabola's answer, and how far the exact shape says its minima lie off."""
    if len(paper) < 2:
        return None
    found = lines(minima(paper)[None], cost)[0]
    samples = resampled_lines(paper, cost, interval, n, seed)
    C_far = FAR * paper[-1].budget
    try:
        laws = bootstrap.power_laws(*_pairs(found), samples, C_far, _scatter(paper))[:2]
    except FitError:
        return None
    said: dict[str, Any] = {
        name: {key: getattr(law, key) for key in ("coefficient", "exponent", "p10", "p90", "ci95")}
        for name, law in zip(("N_opt", "D_opt"), laws, strict=True)
    }
    said["budgets"] = [p.budget for p in paper]
    said["N"] = np.exp(minima(paper)[:, 1]).tolist()
    said["shift"] = None
    if isinstance(used[0].shape, ExactShape):
        said["shift"] = {
            "budgets": [p.budget for p in used],
            "of_N_opt": [_shift(p) for p in used],  # relative; positive: the parabola says more
        }
    return said


def _shift(p: Profile) -> float | None:
    """Relative error of N at the minimum of a parabola through the fitted exact shape."""
    parabola = Parabola(float(np.log(p.obs.N).mean()))
    c = np.linalg.pinv(parabola.columns(p.obs)) @ (p.columns @ p.c)
    x = float(parabola.minima(c[None])[0])
    return None if np.isnan(x) else float(np.expm1(x - p.x_opt))


def _influence(run: dict[str, Any], a: float) -> list[str]:
    if run["half_width"] is None:
        return []
    if abs(run["a_without_it"] - a) <= max(run["half_width"], bootstrap.MIN_WIDTH):
        return []
    return [
        f"one run decides: without {run['most']} a is {run['a_without_it']:.3f} instead of {a:.3f}, "
        f"further than the 95% interval of the others reaches ({run['half_width']:.3f} each way). "
        "Look at its curve, or repeat it."
    ]
