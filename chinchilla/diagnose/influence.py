"""Which runs carry the answer: approach 3 without each run, each budget, each size.

And what becomes of it when runs leave in order: the highest losses, the largest residuals, the ends
of the range of tokens per parameter, the smallest or largest sizes. Nothing is ever dropped from
the fit itself; these are questions. Moves are judged as `case.py` says. NumPy only.
"""

from typing import Any

import numpy as np

from chinchilla.diagnose.case import Case, Finding, Refits, judged, large, number
from chinchilla.errors import FitError

DROPS = (0, 1, 2, 5, 10, 20, 40, 60)
MOST = 5  # runs listed
ONE_RUN = 0.5  # a single run may move a by this share of its standard error,
FEW_RUNS = 7.0  # or by this over the root of the number of runs: the largest of n is that large
OUTSIDE = 1.28  # standard errors from a to the ends of its 80% interval
MAX_LEFT_OUT = 0.5  # of the runs, for a part that is judged


def leave_one_out(case: Case) -> Finding:
    """a, beta and ln N_opt(C_star) without each run; the jackknife's standard error of a."""
    n = len(case.obs)
    parts = case.refit(~np.eye(n, dtype=bool))
    fitted = np.isfinite(parts.a)
    if not fitted.any():
        raise FitError("no fit without one run converged: too few runs.", "too_few_runs")
    moves = np.where(fitted, np.abs(parts.log_N - case.line(case.law)[1]), -1)
    se, source = case.se_a
    listed = np.argsort(-moves, kind="stable")[:MOST]
    top = [_run(case, parts, int(i)) for i in listed]
    largest = float(np.nanmax(np.abs(parts.move)))
    a = parts.a[fitted]
    jackknife = float(np.sqrt((len(a) - 1) / len(a) * ((a - a.mean()) ** 2).sum()))
    first = top[0]
    runs = [
        {
            "run_id": str(case.obs.run_id[i]),
            "C": float(case.obs.C[i]),
            "N": float(case.obs.N[i]),
            "log_N_opt_move": number(parts.log_N[i] - case.line(case.law)[1]),
        }
        for i in range(n)
    ]
    return judged(
        largest > max(ONE_RUN, FEW_RUNS / np.sqrt(n)) * se,
        f"leaving out one run moves a by at most {largest:.4f} (its standard error is {se:.4f}, "
        f"{source}); it moves N_opt({case.C_star:.3g}) most when it is {first['run_id']}, "
        f"{first['N_opt_change']:+.1%}.",
        "Look at the runs listed, their curves and settings; repeat them with another seed before "
        "trusting the answer.",
        {
            "top": top,
            "largest_move_of_a": largest,
            "jackknife_se_of_a": jackknife,
            "n_fitted": int(fitted.sum()),
            "runs": runs,
        },
    )


def _run(case: Case, parts: Refits, i: int) -> dict[str, Any]:
    obs = case.obs
    return {
        "run_id": str(obs.run_id[i]),
        "C": float(obs.C[i]),
        "N": float(obs.N[i]),
        "D": float(obs.D[i]),
        "L": float(obs.L[i]),
        "residual": float(case.residuals[i]),
        "N_opt_change": float(np.expm1(parts.log_N[i] - case.line(case.law)[1])),
        "a_change": float(parts.move[i]),
        **parts.row(i),
    }


def leave_one_budget_out(case: Case) -> Finding:
    """a, beta and ln N_opt(C_star) without each isoFLOP budget."""
    budgets = case.named_budgets()
    if len(budgets) < 2:
        raise FitError(f"runs name {len(budgets)} budgets; two are needed.", "no_budgets")
    parts = case.refit(np.array([case.budgets != c for c in budgets]))
    rows = [
        {"budget_flops": float(c), "left_out": len(case.obs) - int(parts.n[i]), **parts.row(i)}
        for i, c in enumerate(budgets)
    ]
    return _leave_group_out(case, parts, [f"the budget {c:.3g}" for c in budgets], rows, "budgets")


def leave_one_size_out(case: Case) -> Finding:
    """a, beta and ln N_opt(C_star) without each model size."""
    sizes = np.arange(int(case.size.max()) + 1)
    N = [float(np.median(case.obs.N[case.size == s])) for s in sizes]
    parts = case.refit(np.array([case.size != s for s in sizes]))
    rows = [
        {"N": x, "left_out": len(case.obs) - int(parts.n[i]), **parts.row(i)}
        for i, x in enumerate(N)
    ]
    return _leave_group_out(case, parts, [f"the size {x:.3g}" for x in N], rows, "sizes")


def _leave_group_out(
    case: Case, parts: Refits, names: list[str], rows: list[dict[str, Any]], plural: str
) -> Finding:
    if not np.isfinite(parts.a).any():
        raise FitError(f"the runs cannot be fitted with one of their {plural} left out.", "refits")
    worst = int(np.nanargmax(np.abs(parts.z)))
    farthest = int(np.nanargmax(np.abs(parts.move)))
    lost = int((~np.isfinite(parts.a)).sum())
    says = (
        f"a is {case.a:.3f} with all runs and {np.nanmin(parts.a):.3f} to "
        f"{np.nanmax(parts.a):.3f} without one of {len(rows)} {plural}; farthest without "
        f"{names[farthest]}, {parts.a[farthest]:.3f} ({_times(parts.z[farthest])})"
    )
    if worst != farthest:
        says += f"; oddest without {names[worst]} ({_times(parts.z[worst])})"
    if lost:
        says += f"; without {lost} of them there is no fit"
    order = np.argsort(-np.abs(np.nan_to_num(parts.z)), kind="stable")[:MOST]
    odd = (np.abs(parts.z) > large(len(rows))) & (np.abs(parts.move) > OUTSIDE * case.se_a[0])
    return judged(
        bool(odd.any() or lost),
        says + ".",
        f"The answer hangs on {names[farthest]}: check those runs, add runs beside them, and quote a "
        "with and without.",
        {"all": rows, "top": [rows[int(i)] for i in order]},
    )


def _times(z: float) -> str:
    return f"{abs(z):.1f} times what a true law would show"


def drop_path(case: Case) -> Finding:
    """a and beta when the k highest losses, or the k largest residuals of all runs' law, leave."""
    obs, n = case.obs, len(case.obs)
    ks = [k for k in DROPS if k <= MAX_LEFT_OUT * n]
    orders = {
        "highest_loss": np.argsort(-obs.L, kind="stable"),
        "largest_residual": np.argsort(-np.abs(case.residuals), kind="stable"),
    }
    values: dict[str, Any] = {}
    moved: list[tuple[float, str]] = []
    for name, order in orders.items():
        keep = np.ones((len(ks), n), bool)
        for i, k in enumerate(ks):
            keep[i, order[:k]] = False
        parts = case.refit(keep)
        values[name] = [{"k": k, **parts.row(i)} for i, k in enumerate(ks)]
        if name == "highest_loss":  # residuals choose themselves: their z is not a test
            found = [
                (abs(z), f"{k}: {a:.3f}") for k, z, a in zip(ks, parts.z, parts.a, strict=True)
            ]
            moved = [pair for pair in found if np.isfinite(pair[0])]
            lost = [k for k, a in zip(ks, parts.a, strict=True) if not np.isfinite(a)]
            path = ", ".join(
                f"{k}: {a:.3f}" if np.isfinite(a) else f"{k}: no fit"
                for k, a in zip(ks, parts.a, strict=True)
            )
    if not moved:
        raise FitError(f"a with the k highest losses left out: {path}.", "too_few_runs")
    worst = max(moved)
    return judged(
        worst[0] > large(len(moved)) or bool(lost),
        f"a with the k highest losses left out: {path}; at most {_times(worst[0])} "
        f"(k = {worst[1].partition(':')[0]}).",
        "The smallest-compute runs pull the exponent: the form does not hold over the whole range. "
        "State which runs are in, and quote a along this path.",
        values,
    )


def window_path(case: Case) -> Finding:
    """a and beta inside windows of tokens per parameter, and of N."""
    obs = case.obs
    rows: list[dict[str, Any]] = []
    keeps = []
    for name, x in (("tokens_per_parameter", obs.D / obs.N), ("N", obs.N)):
        q10, q25, q50, q75, q90 = np.quantile(x, (0.1, 0.25, 0.5, 0.75, 0.9))
        low, high = float(x.min()), float(x.max())
        for part, (left, right) in {
            "middle 80%": (q10, q90),
            "middle 50%": (q25, q75),
            "lower half": (low, q50),
            "upper half": (q50, high),
            "without the lowest quarter": (q25, high),
            "without the highest quarter": (low, q75),
        }.items():
            keeps.append((left <= x) & (x <= right))
            rows.append({"of": name, "part": part, "low": float(left), "high": float(right)})
    parts = case.refit(np.array(keeps))
    rows = [row | parts.row(i) for i, row in enumerate(rows)]
    fitted = [r for r in rows if r["a"] is not None]
    if not fitted:
        raise FitError("no window of these runs can be fitted: too few runs.", "too_few_runs")
    lost = len(rows) - len(fitted)
    worst = max(fitted, key=lambda r: abs(r["z"]))
    what = {"tokens_per_parameter": "tokens per parameter", "N": "parameters"}
    says = (
        f"a is {min(r['a'] for r in fitted):.3f} to {max(r['a'] for r in fitted):.3f} over "
        f"{len(fitted)} windows of tokens per parameter and of N; oddest in {worst['low']:.3g} to "
        f"{worst['high']:.3g} {what[worst['of']]}, {worst['a']:.3f} "
        f"({_times(worst['z'])})"
    )
    return judged(
        abs(worst["z"]) > large(len(fitted)),
        says + (f"; {lost} windows hold no fit." if lost else "."),
        "One law does not hold over this range: fit the window that you mean to use, and say so.",
        {"windows": rows},
    )
