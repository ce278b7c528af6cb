"""Approach 2 of Hoffmann et al. (2022), section 3.2: IsoFLOP profiles.

For each budget C, a parabola in ln N through the final losses; its bottom is N_opt(C). Straight
lines in log-log through the bottoms give the frontier.

A run never spends its budget to the last FLOP: tokens come in whole steps. The parabola is the same
weighted sum of the losses at every N, and the C and D that belong to its bottom are that same sum
of the runs' ln C and ln D. So the points lie at the C achieved, and an error in C common to the
runs moves C and the loss together; `budget_flops` only groups runs and labels the points.

A parabola is not the true shape: where alpha differs from beta its bottom lies beside the optimum,
by (alpha-beta)/6 * m4/m2 in ln N for sizes centred on it (m_k = mean k-th power of ln N/N_opt), the
same at every budget: the coefficient is biased, the exponent is not, if the grids are centred.
NumPy only: this module must import without torch.
"""

from typing import Any

import numpy as np

from chinchilla.errors import FitError
from chinchilla.fit import bootstrap
from chinchilla.fit.frontier import Frontier, OptimalPoint, conventions, line
from chinchilla.observations import Observations

MIN_SIZES = 4  # distinct sizes at a budget
MIN_SIDE = 2  # distinct sizes on each side of the bottom
LOOSE_BUDGET = 0.02  # warn when runs of a budget spent more or less than it by this share


def fit_isoflop(obs: Observations, *, n_bootstrap: int = 400, seed: int = 0) -> Frontier:
    """Approach 2: the bottom of each IsoFLOP profile, and lines through the bottoms.

    Args:
        obs: final losses; of curves only the last points are used. Runs whose budget_flops is NaN
            are left out.
        n_bootstrap: resamples of runs, drawn within each budget; 0 for no interval.
        seed: of the resampling.

    Returns:
        A Frontier whose details["budgets"] holds each profile: budget_flops, run_ids, N, D, L,
        coefficients [c0, c1, c2] of L = c0 + c1*ln N + c2*(ln N)^2, N_opt, L_opt, and refused:
        why it was left out, or None.

    Raises:
        FitError: no run names a budget, or fewer than two budgets have a bottom.
    """
    finals = obs.finals()
    obs = finals.where(np.isfinite(finals.budget_flops))
    if not len(obs):
        raise FitError(
            "approach 2 needs runs that share a budget, and no run names one. Fill the column "
            "budget_flops, or plan with grid.budgets."
        )
    budgets = np.array([float(f"{b:.6g}") for b in obs.budget_flops])  # 1e19 and 0.1e20 are one
    profiles = [_profile(obs.where(budgets == b), b) for b in np.unique(budgets)]
    used = [p for p in profiles if p["refused"] is None]
    refusals = [f"budget {p['budget_flops']:.3g}: {p['refused']}" for p in profiles if p["refused"]]
    if len(used) < 2:
        raise FitError(
            f"approach 2 needs two budgets with a bottom and has {len(used)} of {len(profiles)}. "
            + " ".join(refusals + ["Add a second budget."] * (len(profiles) < 2))
        )
    C, N, D = (np.array([p["bottom"][k] for p in used]) for k in ("C", "N", "D"))
    samples = _resample(obs, budgets, used, n_bootstrap, seed)
    N_opt, D_opt, counts, warnings = bootstrap.power_laws(line(C, N), line(C, D), samples)
    spread = max(float(np.abs(obs.C / budgets - 1).max()), 0.0)
    if spread > LOOSE_BUDGET:
        warnings.append(
            f"runs spent up to {spread:.0%} more or less than the budget that labels them: their C "
            "was counted in another way than the budgets, so no profile is quite at equal FLOPs."
        )
    if len(used) == 2:
        warnings.append("a line through two budgets: nothing shows whether it is straight.")
    bottoms = [p.pop("bottom") for p in profiles]
    points = [
        OptimalPoint(**bottom, budget_flops=p["budget_flops"])
        for p, bottom in zip(profiles, bottoms, strict=True)
        if p["refused"] is None
    ]
    return Frontier(
        approach="isoflop",
        N_opt=N_opt,
        D_opt=D_opt,
        points=points,
        n_runs=sum(len(p["N"]) for p in used),
        conventions=conventions(obs),
        settings={
            "profile": "parabola in ln N through final losses, least squares",
            "C_of_a_point": "achieved, by the parabola's own weights",
            "min_sizes": MIN_SIZES,
            "min_side": MIN_SIDE,
            "n_bootstrap": n_bootstrap,
            "seed": seed,
            "interval": bootstrap.method(
                n_bootstrap,
                seed,
                "drawn within each budget; a budget without a bottom in a resample is left out of "
                "it, and a resample counts when over half of the budgets remain; conservative with few sizes a budget",
            ),
        },
        details={
            "budgets": profiles,
            "bootstrap": counts,
            "max_budget_deviation": spread,
            "runs_without_budget": int(len(finals) - len(obs)),
        },
        refusals=refusals,
        warnings=warnings,
    )


def parabolas(x: np.ndarray, Y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Weighted least-squares parabolas in x, many weightings and several columns at once.

    Args:
        x: (n,) abscissae; centre them first.
        Y: (n, m) columns to fit.
        w: (k, n) weights of each fit.

    Returns:
        (k, 3, m) coefficients, lowest power first; NaN where under three x have weight.
    """
    X = x[:, None] ** np.arange(3)  # (n, 3)
    sizes, index = np.unique(x, return_inverse=True)
    seen = (w @ (index[:, None] == np.arange(len(sizes)))) > 0  # (k, n_sizes)
    enough = seen.sum(-1) >= 3
    M = np.einsum("kn,ni,nj->kij", w, X, X)
    M[~enough] = np.eye(3)
    C = np.linalg.solve(M, np.einsum("kn,ni,nm->kim", w, X, Y))
    C[~enough] = np.nan
    return C


def _profile(obs: Observations, budget: float) -> dict[str, Any]:
    """One budget's runs, its parabola and its bottom, or why it has none."""
    order = np.argsort(obs.N, kind="stable")
    obs = obs.where(order)
    profile: dict[str, Any] = {
        "budget_flops": float(budget),
        "run_ids": [str(r) for r in obs.run_id],
        "N": obs.N.tolist(),
        "D": obs.D.tolist(),
        "L": obs.L.tolist(),
        "coefficients": None,
        "N_opt": None,
        "L_opt": None,
        "refused": None,
        "bottom": None,
    }
    sizes = np.unique(obs.N)
    copies = len(obs) - len(np.unique(np.stack([obs.N, obs.D, obs.L]), axis=1).T)
    if copies:
        profile["refused"] = (
            f"{copies} of {len(obs)} runs repeat another run's N, D and loss exactly. One run "
            "counted twice would narrow the interval: remove the copies."
        )
        return profile
    if len(sizes) < MIN_SIZES:
        profile["refused"] = (
            f"{len(sizes)} model sizes cannot show a valley. Train at least {MIN_SIZES} sizes "
            "around the expected optimum."
        )
        return profile
    x = np.log(obs.N)
    centre = x.mean()
    fit = parabolas(
        x - centre,
        np.stack([obs.L, np.log(obs.C), np.log(obs.D)], axis=1),
        np.ones((1, len(x))),
    )[0]  # (3, 3): powers, columns
    c0, c1, c2 = map(float, fit[:, 0])
    profile["coefficients"] = [c0 - c1 * centre + c2 * centre**2, c1 - 2 * c2 * centre, c2]
    if c2 <= 0:
        profile["refused"] = (
            "the parabola opens downward: the losses have no valley between "
            f"N={sizes[0]:.3g} and N={sizes[-1]:.3g}. Widen grid.models on both sides, and look for "
            "diverged runs."
        )
        return profile
    z = -c1 / (2 * c2)
    N_opt = float(np.exp(centre + z))
    at_bottom = z ** np.arange(3) @ fit
    profile["N_opt"], profile["L_opt"] = N_opt, float(at_bottom[0])
    side = "larger" if N_opt > np.sqrt(sizes[0] * sizes[-1]) else "smaller"
    below, above = int((sizes < N_opt).sum()), int((sizes > N_opt).sum())
    if not sizes[0] < N_opt < sizes[-1]:
        profile["refused"] = (
            f"no minimum between N={sizes[0]:.3g} and N={sizes[-1]:.3g}: the loss still falls "
            f"towards {side} models. Add {side} models to grid.models, or drop this budget."
        )
    elif min(below, above) < MIN_SIDE:
        profile["refused"] = (
            f"the minimum N={N_opt:.3g} has {below} smaller and {above} larger sizes tried; "
            f"{MIN_SIDE} on each side are needed. Add {side} models to grid.models."
        )
    else:
        profile["bottom"] = {
            "C": float(np.exp(at_bottom[1])),
            "N": N_opt,
            "D": float(np.exp(at_bottom[2])),
            "L": float(at_bottom[0]),
        }
    return profile


def _resample(
    obs: Observations,
    budgets: np.ndarray,
    used: list[dict[str, Any]],
    n_bootstrap: int,
    seed: int,
) -> np.ndarray:
    """(n_bootstrap, 4) lines of N_opt and D_opt in each resample; NaN where it has none."""
    counts = bootstrap.draw_counts(len(obs), n_bootstrap, seed, strata=budgets)
    bottoms = np.full((n_bootstrap, len(used), 3), np.nan)  # ln C, ln N, ln D
    for k, profile in enumerate(used):
        rows = budgets == profile["budget_flops"]
        x = np.log(obs.N[rows])
        centre = x.mean()
        columns = np.stack([obs.L[rows], np.log(obs.C[rows]), np.log(obs.D[rows])], axis=1)
        fit = parabolas(x - centre, columns, counts[:, rows])
        with np.errstate(divide="ignore", invalid="ignore"):
            z = -fit[:, 1, 0] / (2 * fit[:, 2, 0])
        good = (fit[:, 2, 0] > 0) & (x.min() < z + centre) & (z + centre < x.max())
        powers = z[:, None] ** np.arange(3)
        at_bottom = np.einsum("kp,kpm->km", powers, fit)
        found = np.stack([at_bottom[:, 1], z + centre, at_bottom[:, 2]], axis=1)
        bottoms[good, k] = found[good]
    samples = np.full((n_bootstrap, 4), np.nan)
    for i, points in enumerate(bottoms):
        left = np.exp(points[np.isfinite(points[:, 0])])
        if len(left) >= 2 and len(left) > len(used) / 2:
            samples[i, :2] = line(left[:, 0], left[:, 1])
            samples[i, 2:] = line(left[:, 0], left[:, 2])
    return samples
