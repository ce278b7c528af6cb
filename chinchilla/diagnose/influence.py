"""Approach 3 without each run, each budget and each size.

No run is ever dropped from the fit itself. The moves are judged as `findings.py` describes, against
what a law that holds would show (`context.py`). NumPy only.
"""

from typing import Any

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.diagnose.context import Context, Refits
from chinchilla.diagnose.findings import Finding, combined, finding, judge, number

LISTED = 5  # runs or groups listed


def leave_one_out(context: Context) -> Finding:
    """a, beta and ln N_opt(C_star) without each run, each budget and each size."""
    return combined(
        {
            "runs": leave_one_run_out,
            "budgets": leave_one_budget_out,
            "sizes": leave_one_size_out,
        },
        context,
    )


def leave_one_run_out(context: Context) -> Finding:
    """a, beta and ln N_opt(C_star) without each run; the jackknife's standard error of a."""
    n = len(context.obs)
    parts = context.refit(~np.eye(n, dtype=bool))
    fitted = np.isfinite(parts.a)
    if not fitted.any():
        raise FitError("no fit without one run converged: too few runs.", "too_few_runs")
    judgement = judge(parts.log_N_move, parts.expected_log_N, parts.freedom)
    order = np.argsort(-np.where(fitted, np.abs(parts.log_N_move), -1), kind="stable")[:LISTED]
    top = [_run(context, parts, int(i)) for i in order]
    largest = float(np.nanmax(np.abs(parts.move)))
    a = parts.a[fitted]
    jackknife = float(np.sqrt((len(a) - 1) / len(a) * ((a - a.mean()) ** 2).sum()))
    runs = [
        {
            "run_id": str(context.obs.run_id[i]),
            "C": float(context.obs.C[i]),
            "N": float(context.obs.N[i]),
            "log_N_opt_move": number(parts.log_N_move[i]),
        }
        for i in range(n)
    ]
    se, source = context.se_a
    first = top[0]
    return finding(
        judgement,
        f"without one run, N_opt({context.C_star:.3g}) changes by at most {first['N_opt_change']:+.1%} "
        f"(run {first['run_id']}), and a by at most {largest:.4f} (standard error {se:.4f}, {source}).",
        f"Check the loss curve and the settings of run {top[0]['run_id']}, and repeat it with another "
        "seed. State N_opt with and without it.",
        {
            "top": top,
            "largest_move_of_a": largest,
            "jackknife_se_of_a": jackknife,
            "n_fitted": int(fitted.sum()),
            "runs": runs,
        },
    )


def _run(context: Context, parts: Refits, i: int) -> dict[str, Any]:
    obs = context.obs
    return {
        "run_id": str(obs.run_id[i]),
        "C": float(obs.C[i]),
        "N": float(obs.N[i]),
        "D": float(obs.D[i]),
        "L": float(obs.L[i]),
        "residual": float(context.residuals[i]),
        "N_opt_change": float(np.expm1(parts.log_N_move[i])),
        "a_change": float(parts.move[i]),
        **parts.row(i),
    }


def leave_one_budget_out(context: Context) -> Finding:
    """a, beta and ln N_opt(C_star) without each isoFLOP budget."""
    budgets = context.named_budgets()
    if len(budgets) < 2:
        raise FitError(
            f"the runs have {len(budgets)} isoFLOP budgets and two are needed.", "no_budgets"
        )
    parts = context.refit(np.array([context.budgets != c for c in budgets]))
    rows = [
        {"budget_flops": float(c), "left_out": len(context.obs) - int(parts.n[i]), **parts.row(i)}
        for i, c in enumerate(budgets)
    ]
    return _group(context, parts, [f"the budget {c:.3g}" for c in budgets], rows, "budgets")


def leave_one_size_out(context: Context) -> Finding:
    """a, beta and ln N_opt(C_star) without each model size."""
    sizes = np.arange(int(context.size.max()) + 1)
    N = [float(np.median(context.obs.N[context.size == s])) for s in sizes]
    parts = context.refit(np.array([context.size != s for s in sizes]))
    rows = [
        {"N": x, "left_out": len(context.obs) - int(parts.n[i]), **parts.row(i)}
        for i, x in enumerate(N)
    ]
    return _group(context, parts, [f"the size {x:.3g}" for x in N], rows, "sizes")


def _group(
    context: Context, parts: Refits, names: list[str], rows: list[dict[str, Any]], plural: str
) -> Finding:
    if not np.isfinite(parts.a).any():
        raise FitError(f"no fit without one of the {plural} can be made.", "too_few_runs")
    lost = int((~np.isfinite(parts.a)).sum())
    judgement = judge(parts.log_N_move, parts.expected_log_N, parts.freedom).unclear_if(lost > 0)
    i = judgement.index
    message = (
        f"a is {context.a:.3f} with all runs and {np.nanmin(parts.a):.3f} to "
        f"{np.nanmax(parts.a):.3f} without one of {len(rows)} {plural}; without {names[i]} it is "
        f"{parts.a[i]:.3f}, and N_opt({context.C_star:.3g}) changes by "
        f"{np.expm1(parts.log_N_move[i]):+.0%} ({times(parts.log_N_z[i])})"
    )
    if lost:
        message += f"; without {lost} of them there are too few runs for a fit"
    order = np.argsort(-np.abs(np.nan_to_num(parts.log_N_z)), kind="stable")[:LISTED]
    return finding(
        judgement,
        message + ".",
        f"Check the runs of {names[i]}, add runs near them, and state N_opt with and without them.",
        {"all": rows, "top": [rows[int(k)] for k in order]},
        if_unclear=f"Add {plural}: with {len(rows)} the noise hides how much the fit depends on one "
        "of them.",
    )


def times(z: float) -> str:
    """A z-score for people."""
    return f"{abs(z):.1f} times the standard deviation expected if the law holds"
