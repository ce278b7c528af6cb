"""What approach 2's answer hangs on: windows, single runs and budgets, the shape assumed.

All cheap: `leave_out` takes each run out in closed form, by its residual over 1 - leverage. NumPy only.
"""

from typing import Any

import numpy as np

from chinchilla.fit.isoflop.profile import MIN_SIZES, Parabola, Profile, fit_budget, lines, minima
from chinchilla.fit.loss_law import FlopsPerToken

WINDOWS_NATS = (0.05, 0.1, 0.15, 0.2, 0.3)  # above each budget's lowest loss
MAX_TILT_A, MAX_TILT_N = 0.01, 0.1  # what unequal C may do to a and to N_opt before it is said
WINDOWS_FACTOR = (2.0, 4.0, 8.0)  # either way of each minimum


def windows(
    used: list[Profile], exponents: tuple[float, float] | None, cost: FlopsPerToken
) -> list[dict[str, Any]]:
    """The same fit on losses near each budget's lowest, and on sizes near each minimum.

    A window in nats reaches further on the flat side of a profile: a parabola in it has a bias of its
    own, up to 15% of N_opt on noise-free runs of Hoffmann et al.'s law (tests), which the exact shape
    has not.
    """
    asked = [("nats", w) for w in WINDOWS_NATS] + [("factor", w) for w in WINDOWS_FACTOR]
    found = []
    for kind, width in asked:
        kept = []
        for p in used:
            if kind == "nats":
                keep = p.obs.L <= p.obs.L.min() + width
            else:
                keep = np.abs(np.log(p.obs.N) - p.x_opt) <= np.log(width) + 1e-9
            if keep.all():
                kept.append(p)
            elif len(np.unique(p.obs.N[keep])) >= MIN_SIZES:
                kept.append(fit_budget(p.obs.where(keep), p.budget, exponents, cost))
        kept = [p for p in kept if not p.refused]
        answer: dict[str, Any] = {
            "window": kind,
            "width": width,
            "n_budgets": len(kept),
            "n_runs": sum(len(p.obs) for p in kept),
            "a": None,
            "coefficient": None,
        }
        if len(kept) >= 2:
            log_k, a = map(float, lines(minima(kept)[None], cost)[0, :2])
            answer |= {"a": a, "coefficient": float(np.exp(log_k))}
        found.append(answer)
    return found


def unequal_flops(used: list[Profile], cost: FlopsPerToken) -> tuple[dict[str, Any], list[str]]:
    """How far C differs inside the budgets, and what that does to the minima; said where it matters.

    A run that spent more ends lower, so that C rising or falling with N tilts a parabola. The losses
    are levelled to one C by the slope of the minima' losses in ln C. The exact shape counts each run
    at its own D and needs no levelling.
    """
    ratio = max(float(p.obs.C.max() / p.obs.C.min()) for p in used)
    said: dict[str, Any] = {"max_C_ratio": ratio, "of_N_opt": None, "of_a": None}
    if not isinstance(used[0].shape, Parabola):
        return said, []
    at = minima(used)
    lowest = np.array([(p.columns @ p.c).min() for p in used if p.c is not None])
    slope = float(np.polyfit(at[:, 0], lowest, 1)[0])  # nats per ln C
    away = [np.log(p.obs.C) - np.log(p.obs.C).mean() for p in used]
    shift = np.array([p.pull @ (slope * x) for p, x in zip(used, away, strict=True)])
    moved = at - np.stack([np.zeros(len(used)), shift], axis=1)
    of_a = float(lines(at[None], cost)[0, 1] - lines(moved[None], cost)[0, 1])
    said |= {"of_N_opt": np.expm1(shift).tolist(), "of_a": of_a}
    if abs(of_a) <= MAX_TILT_A and np.abs(said["of_N_opt"]).max() <= MAX_TILT_N:
        return said, []
    return said, [
        f"C differs inside budgets, by a factor of up to {ratio:.2f}: parabolas take that for an "
        f"effect of N, which moves N_opt by up to {np.abs(said['of_N_opt']).max():.0%} and a by "
        f"{of_a:+.3f}. Give runs of one budget one C."
    ]


def akima_line(used: list[Profile]) -> dict[str, Any]:
    """Minima that assume no shape (Porian et al. 2024), and the line through them."""
    N = [akima_minimum(p.obs.N, p.obs.L) for p in used]
    log_C = np.array([np.log(p.obs.C).mean() for p in used])
    log_N = np.log(np.array([np.nan if n is None else n for n in N], float))
    seen = np.isfinite(log_N)
    said: dict[str, Any] = {"budgets": [p.budget for p in used], "N": N}
    said |= {"n_budgets": int(seen.sum()), "a": None, "coefficient": None}
    if seen.sum() >= 2:
        a, log_k = np.polyfit(log_C[seen], log_N[seen], 1)
        said |= {"a": float(a), "coefficient": float(np.exp(log_k))}
    return said


def leave_out(
    used: list[Profile], exponents: tuple[float, float] | None, cost: FlopsPerToken
) -> dict[str, Any]:
    """a without each run and without each budget: the range, and what moves it most.

    `half_width` is of the 95% interval that a would have without the run that moves it most: a bad run
    widens the interval of all runs until it covers its own mischief.
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
    said: dict[str, Any] = {"run": _range(lines(np.concatenate(sets), cost)[:, 1], a, names)}
    k = budgets[names.index(said["run"]["most"])]
    p = used[k]
    rest = p.obs.where(p.obs.run_id != said["run"]["most"])
    others = [*used[:k], fit_budget(rest, p.budget, exponents, cost), *used[k + 1 :]]
    known = not others[k].refused
    said["run"]["half_width"] = 1.96 * _standard_error(others) if known else None
    said["budget"] = None
    if len(used) > 2:
        sets = [np.delete(at, k, axis=0)[None] for k in range(len(used))]
        without = np.array([lines(s, cost)[0, 1] for s in sets])
        said["budget"] = _range(without, a, [p.budget for p in used])
    return said


def _standard_error(profiles: list[Profile]) -> float:
    """Of a, from the HC2 variances of the minima."""
    log_C = minima(profiles)[:, 0]
    dx = log_C - log_C.mean()
    variances = np.array([(p.pull**2 * p.residuals**2 / (1 - p.leverage)).sum() for p in profiles])
    return float(np.sqrt((dx**2 * variances).sum()) / (dx @ dx))


def _range(values: np.ndarray, a: float, names: list[Any]) -> dict[str, Any]:
    moves = np.where(np.isfinite(values), np.abs(values - a), -1)
    worst = int(moves.argmax())
    return {
        "a": [float(np.nanmin(values)), float(np.nanmax(values))],
        "most": names[worst],
        "a_without_it": float(values[worst]),
    }


def akima(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Akima's interpolation (1970): a cubic between neighbours, deaf to points further off.

    Args:
        x: (n,) abscissae, rising, n >= 3.
        y: (n,) values.
        at: (m,) where to read the curve, inside x.

    Returns:
        (m,) values; the same as scipy.interpolate.Akima1DInterpolator.
    """
    h = np.diff(x)
    m = np.diff(y) / h
    before, after = 2 * m[0] - m[1], 2 * m[-1] - m[-2]
    m = np.concatenate([[2 * before - m[0], before], m, [after, 2 * after - m[-1]]])  # (n + 3,)
    left, right = np.abs(m[3:] - m[2:-1]), np.abs(m[1:-2] - m[:-3])  # weights of both secants
    flat = left + right <= 1e-9 * max(float((left + right).max()), 1e-300)
    total = np.where(flat, 1.0, left + right)
    slope = np.where(flat, (m[1:-2] + m[2:-1]) / 2, (left * m[1:-2] + right * m[2:-1]) / total)
    i = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    t = at - x[i]
    secant = m[2:-2][i]
    c2 = (3 * secant - 2 * slope[i] - slope[i + 1]) / h[i]
    c3 = (slope[i] + slope[i + 1] - 2 * secant) / h[i] ** 2
    return y[i] + t * (slope[i] + t * (c2 + t * c3))


def akima_minimum(N: np.ndarray, L: np.ndarray, n_grid: int = 2_000) -> float | None:
    """The size with the lowest loss on Akima's curve of ln L over ln N (Porian et al. 2024).

    Args:
        N: (n,) parameters; losses of equal sizes are averaged.
        L: (n,) final losses, nats per token.
        n_grid: sizes at which the curve is read.

    Returns:
        Parameters; None where the lowest is the smallest or largest size, or under four sizes.
    """
    sizes, index = np.unique(N, return_inverse=True)
    if len(sizes) < MIN_SIZES:
        return None
    x, y = np.log(sizes), np.bincount(index, np.log(L)) / np.bincount(index)
    at = np.linspace(x[0], x[-1], n_grid)
    best = int(akima(x, y, at).argmin())
    return None if best in (0, n_grid - 1) else float(np.exp(at[best]))
