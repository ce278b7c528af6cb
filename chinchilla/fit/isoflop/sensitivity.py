"""Sensitivity of approach 2: windows, single runs and budgets, unequal C, and minima without a shape.

`leave_out` uses the closed form of leave-one-out fits, residual/(1 - leverage). Only
`akima_minimum` needs SciPy.
"""

from typing import Any

import numpy as np

from chinchilla.fit.isoflop.profile import MIN_SIZES, Parabola, Profile, fit_budget, lines, minima
from chinchilla.fit.loss_law import FlopsPerToken
from chinchilla.fit.numerics import fit_line

WINDOWS_NATS = (0.05, 0.1, 0.15, 0.2, 0.3)  # above each budget's lowest loss
WINDOWS_FACTOR = (2.0, 4.0, 8.0)  # of N on each side of each minimum
# Effects of unequal C on a and N_opt above which a warning is given.
MAX_TILT_A, MAX_TILT_N = 0.01, 0.1


def windows(
    used: list[Profile], exponents: tuple[float, float] | None, cost: FlopsPerToken
) -> list[dict[str, Any]]:
    """Refit to losses near each budget's lowest loss, and to sizes near each minimum.

    A window in nats extends further on the flat side of a profile. A parabola in it is biased,
    by up to 15% of N_opt on noise-free runs of Hoffmann et al.'s law (tests); the exact shape is
    not.
    """
    records = []
    for kind, width in [
        *(("nats", w) for w in WINDOWS_NATS),
        *(("factor", w) for w in WINDOWS_FACTOR),
    ]:
        profiles = []
        for p in used:
            if kind == "nats":
                keep = p.obs.L <= p.obs.L.min() + width
            else:
                keep = np.abs(np.log(p.obs.N) - p.x_opt) <= np.log(width) + 1e-9
            if keep.all():
                profiles.append(p)
            elif len(np.unique(p.obs.N[keep])) >= MIN_SIZES:
                profiles.append(fit_budget(p.obs.where(keep), p.budget, exponents, cost))
        profiles = [p for p in profiles if not p.refused]
        record: dict[str, Any] = {
            "window": kind,
            "width": width,
            "n_budgets": len(profiles),
            "n_runs": sum(len(p.obs) for p in profiles),
            "a": None,
            "coefficient": None,
        }
        if len(profiles) >= 2:
            log_k, a = map(float, lines(minima(profiles)[None], cost)[0, :2])
            record |= {"a": a, "coefficient": float(np.exp(log_k))}
        records.append(record)
    return records


def unequal_flops(used: list[Profile], cost: FlopsPerToken) -> tuple[dict[str, Any], list[str]]:
    """Measure differences of C within budgets and their effect on the minima; warn if it is large.

    A run with more FLOPs has a lower loss, so a parabola is tilted if C rises or falls with N. The
    losses are corrected to one C with the slope of the losses at the minima against ln C. The exact
    shape uses the D of each run and needs no correction.
    """
    ratio = max(float(p.obs.C.max() / p.obs.C.min()) for p in used)
    record: dict[str, Any] = {"max_C_ratio": ratio, "of_N_opt": None, "of_a": None}
    if not isinstance(used[0].shape, Parabola):
        return record, []
    at = minima(used)
    lowest = np.array([(p.columns @ p.c).min() for p in used if p.c is not None])
    slope = float(fit_line(at[:, 0], lowest)[1])  # nats per ln C
    shift = np.array([p.pull @ (slope * (np.log(p.obs.C) - np.log(p.obs.C).mean())) for p in used])
    corrected = at - np.stack([np.zeros(len(used)), shift], axis=1)
    of_a = float(lines(at[None], cost)[0, 1] - lines(corrected[None], cost)[0, 1])
    of_N = np.expm1(shift)
    record |= {"of_N_opt": of_N.tolist(), "of_a": of_a}
    if abs(of_a) <= MAX_TILT_A and np.abs(of_N).max() <= MAX_TILT_N:
        return record, []
    return record, [
        f"C differs inside budgets, by a factor of up to {ratio:.2f}: parabolas attribute this to "
        f"N, which moves N_opt by up to {np.abs(of_N).max():.0%} and a by {of_a:+.3f}. Give runs of one "
        "budget one C."
    ]


def leave_out(
    used: list[Profile], exponents: tuple[float, float] | None, cost: FlopsPerToken
) -> dict[str, Any]:
    """Fit without each run and without each budget: the range of a, and the largest change.

    `half_width` is half the width of the 95% interval of a without the run that changes a most. A
    bad run would widen the interval.
    """
    at = minima(used)
    a = float(lines(at[None], cost)[0, 1])
    names, budgets, sets = [], [], []
    for k, p in enumerate(used):
        assert p.c is not None
        c = p.c - (p.solver * (p.residuals / (1 - p.leverage))).T  # (n, 3): exact leave-one-out
        moved = np.repeat(at[None], len(p.obs), axis=0)
        moved[:, k] = p.points(c)
        sets.append(moved)
        names += [str(r) for r in p.obs.run_id]
        budgets += [k] * len(p.obs)
    of_runs = _range(lines(np.concatenate(sets), cost)[:, 1], a, names)
    k = budgets[names.index(of_runs["most"])]
    rest = used[k].obs.where(used[k].obs.run_id != of_runs["most"])
    refitted = fit_budget(rest, used[k].budget, exponents, cost)
    of_runs["half_width"] = None
    if not refitted.refused:
        of_runs["half_width"] = 1.96 * _standard_error([*used[:k], refitted, *used[k + 1 :]])
    of_budgets = None
    if len(used) > 2:
        without = [lines(np.delete(at, k, axis=0)[None], cost)[0, 1] for k in range(len(used))]
        of_budgets = _range(np.array(without), a, [p.budget for p in used])
    return {"run": of_runs, "budget": of_budgets}


def _standard_error(profiles: list[Profile]) -> float:
    """Standard error of a, from the HC2 variances of the minima."""
    log_C = minima(profiles)[:, 0]
    dx = log_C - log_C.mean()
    variances = np.array([(p.pull**2 * p.residuals**2 / (1 - p.leverage)).sum() for p in profiles])
    return float(np.sqrt((dx**2 * variances).sum()) / (dx @ dx))


def _range(values: np.ndarray, a: float, names: list[Any]) -> dict[str, Any]:
    """Range of a over `values`, and the name of the one that differs most from a."""
    worst = int(np.where(np.isfinite(values), np.abs(values - a), -1).argmax())
    return {
        "a": [float(np.nanmin(values)), float(np.nanmax(values))],
        "most": names[worst],
        "a_without_it": float(values[worst]),
    }


def akima_line(used: list[Profile]) -> dict[str, Any]:
    """Minima that assume no shape (Porian et al. 2024), and the line through them."""
    N = [akima_minimum(p.obs.N, p.obs.L) for p in used]
    log_C = np.array([np.log(p.obs.C).mean() for p in used])
    log_N = np.log(np.array([np.nan if n is None else n for n in N], float))
    known = np.isfinite(log_N)
    record: dict[str, Any] = {"budgets": [p.budget for p in used], "N": N}
    record |= {"n_budgets": int(known.sum()), "a": None, "coefficient": None}
    if known.sum() >= 2:
        log_k, a = map(float, fit_line(log_C, log_N, known))
        record |= {"a": a, "coefficient": float(np.exp(log_k))}
    return record


def akima_minimum(N: np.ndarray, L: np.ndarray, n_grid: int = 2_000) -> float | None:
    """Size with the lowest loss on Akima's curve of ln L over ln N (Porian et al. 2024).

    Args:
        N: (n,) parameters; losses of equal sizes are averaged.
        L: (n,) final losses, nats per token.
        n_grid: sizes at which the curve is evaluated.

    Returns:
        Parameters; None if the smallest or largest size has the lowest loss, or there are fewer
        than four sizes.
    """
    from scipy.interpolate import Akima1DInterpolator

    sizes, index = np.unique(N, return_inverse=True)
    if len(sizes) < MIN_SIZES:
        return None
    x, y = np.log(sizes), np.bincount(index, np.log(L)) / np.bincount(index)
    at = np.linspace(x[0], x[-1], n_grid)
    best = int(Akima1DInterpolator(x, y)(at).argmin())
    return None if best in (0, n_grid - 1) else float(np.exp(at[best]))
