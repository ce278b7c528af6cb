"""Approach 3 on parts of the runs: without each run, budget and size, and on parts of the range.

A law that holds gives the same answer on each part, up to noise. The fit itself always uses all runs.
The moves are judged as `findings.py` describes, against the moves that noise alone would cause
(`context.py`). NumPy only.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.diagnose.context import Context, Refits
from chinchilla.diagnose.findings import Finding, finding, number

LISTED = 5  # runs or groups listed
DROPPED = (0, 1, 2, 5, 10, 20, 40, 60)  # highest losses left out
MAX_LEFT_OUT = 0.5  # of the runs
WINDOWS = {  # name -> quantiles of the range
    "middle 80%": (0.1, 0.9),
    "middle 50%": (0.25, 0.75),
    "lower half": (0, 0.5),
    "upper half": (0.5, 1),
    "without the lowest quarter": (0.25, 1),
    "without the highest quarter": (0, 0.75),
}
UNITS = {"tokens_per_parameter": "tokens per parameter", "N": "parameters"}
_ADVICE = (
    "One law does not hold over the whole range. Fit the window of tokens per parameter and of sizes "
    "that you will use, and state it with the answer."
)
_INCONCLUSIVE = (
    "Add runs inside the range of tokens per parameter that you will use: the parts hold too few runs "
    "to check that one law holds over it."
)


# ------------------------------------------------------------------ leave one out


def leave_one_run_out(context: Context) -> Finding:
    """a, beta and ln N_opt(C_star) without each run, and the jackknife's standard error of a."""
    obs, n = context.obs, len(context.obs)
    parts = context.refit(~np.eye(n, dtype=bool))
    if not parts.fitted.any():
        raise FitError("no fit without one run converged: too few runs.", "too_few_runs")
    runs = [
        {"run_id": run_id, "C": C, "N": N, "log_N_opt_move": number(move)}
        for run_id, C, N, move in zip(
            map(str, obs.run_id), obs.C.tolist(), obs.N.tolist(), parts.log_N_move, strict=True
        )
    ]
    size = np.where(parts.fitted, np.abs(parts.log_N_move), -1)
    top = [
        {
            **runs[i],
            "D": float(obs.D[i]),
            "L": float(obs.L[i]),
            "residual": float(context.residuals[i]),
            "N_opt_change": float(np.expm1(parts.log_N_move[i])),
            "a_change": float(parts.move[i]),
            **parts.row(i),
        }
        for i in np.argsort(-size, kind="stable")[:LISTED].tolist()
    ]
    a = parts.a[parts.fitted]
    largest = float(np.nanmax(np.abs(parts.move)))
    se, source = context.se_a
    return finding(
        parts.judge(),
        f"without one run, N_opt({context.C_star:.3g}) changes by at most {top[0]['N_opt_change']:+.1%} "
        f"(run {top[0]['run_id']}) and a by at most {largest:.4f} (standard error {se:.4f}, {source}).",
        f"Check the loss curve and the settings of run {top[0]['run_id']}, and repeat it with another "
        "seed. State N_opt with and without it.",
        {
            "top": top,
            "largest_move_of_a": largest,
            "jackknife_se_of_a": float(np.sqrt(len(a) - 1) * a.std()),
            "n_fitted": len(a),
            "runs": runs,
        },
    )


def leave_one_budget_out(context: Context) -> Finding:
    """a, beta and ln N_opt(C_star) without each IsoFLOP budget."""
    budgets = context.named_budgets()
    if len(budgets) < 2:
        raise FitError(
            f"the runs have {len(budgets)} IsoFLOP budgets and two are needed.", "no_budgets"
        )
    keep = np.array([context.budgets != c for c in budgets])
    return _leave_group_out(context, keep, "budget", "budget_flops", budgets.tolist())


def leave_one_size_out(context: Context) -> Finding:
    """a, beta and ln N_opt(C_star) without each model size."""
    index = np.arange(int(context.size.max()) + 1)
    sizes = [float(np.median(context.obs.N[context.size == i])) for i in index]
    keep = np.array([context.size != i for i in index])
    return _leave_group_out(context, keep, "size", "N", sizes)


def _leave_group_out(
    context: Context, keep: np.ndarray, group: str, key: str, values: list[float]
) -> Finding:
    """Judge refits on the (k, n) runs `keep` that are left without each group; `values` are the groups'."""
    parts = context.refit(keep)
    n_lost = int((~parts.fitted).sum())
    if n_lost == len(values):
        raise FitError(f"no fit without one of the {group}s can be made.", "too_few_runs")
    rows = [
        {key: x, "left_out": len(context.obs) - int(parts.n[i]), **parts.row(i)}
        for i, x in enumerate(values)
    ]
    order = np.argsort(-np.abs(np.nan_to_num(parts.log_N_z)), kind="stable")[:LISTED]
    judgement = parts.judge().inconclusive_if(n_lost > 0)
    i = judgement.index
    name = f"the {group} {values[i]:.3g}"
    message = (
        f"a is {context.a:.3f} with all runs and {_range(parts)} without one of {len(values)} {group}s. "
        f"Without {name} it is {parts.a[i]:.3f}, and {parts.change(i)}."
    )
    if n_lost:
        message += f" Without {n_lost} of them there are too few runs for a fit."
    return finding(
        judgement,
        message,
        f"Check the runs of {name}, add runs near them, and state N_opt with and without them.",
        {"all": rows, "top": [rows[int(k)] for k in order]},
        if_inconclusive=f"Add {group}s: with {len(values)}, noise hides how much the fit depends on one "
        "of them.",
    )


def _range(parts: Refits) -> str:
    return f"{np.nanmin(parts.a):.3f} to {np.nanmax(parts.a):.3f}"


# ------------------------------------------------------------------ parts of the range


def drop_path(context: Context) -> Finding:
    """a and beta without the k highest losses, and without the k largest residuals.

    Only the first path is judged. The fit itself determines the residuals, so their z is not a test.
    """
    obs, n = context.obs, len(context.obs)
    ks = [k for k in DROPPED if k <= MAX_LEFT_OUT * n]

    def refit_without(order: np.ndarray) -> tuple[Refits, list[dict[str, Any]]]:
        keep = np.ones((len(ks), n), bool)
        for i, k in enumerate(ks):
            keep[i, order[:k]] = False
        parts = context.refit(keep)
        return parts, [{"k": k, **parts.row(i)} for i, k in enumerate(ks)]

    parts, by_loss = refit_without(np.argsort(-obs.L, kind="stable"))
    _, by_residual = refit_without(np.argsort(-np.abs(context.residuals), kind="stable"))
    path = path_text([str(k) for k in ks], parts.a)
    some_left_out = np.array(ks) > 0
    if not parts.fitted[some_left_out].any():
        raise FitError(f"a without the k highest losses: {path}.", "too_few_runs")
    judgement = parts.judge(some_left_out).inconclusive_if(not parts.fitted.all())
    i = judgement.index
    return finding(
        judgement,
        f"a without the k highest losses is {path}. Without {ks[i]} of them {parts.change(i)}.",
        _ADVICE,
        {"highest_loss": by_loss, "largest_residual": by_residual},
        if_inconclusive=_INCONCLUSIVE,
    )


def path_text(names: Sequence[str], a: np.ndarray) -> str:
    """The exponent of each part, for display."""
    return ", ".join(
        f"{x:.3f} ({name})" if np.isfinite(x) else f"no fit ({name})"
        for name, x in zip(names, a, strict=True)
    )


def window_path(context: Context) -> Finding:
    """a and beta inside windows of tokens per parameter, and of N."""
    obs = context.obs
    rows: list[dict[str, Any]] = []
    keep = []
    for name, x in (("tokens_per_parameter", obs.D / obs.N), ("N", obs.N)):
        for part, shares in WINDOWS.items():
            low, high = np.quantile(x, shares).tolist()
            keep.append((low <= x) & (x <= high))
            rows.append({"of": name, "part": part, "low": low, "high": high})
    parts = context.refit(np.array(keep))
    rows = [row | parts.row(i) for i, row in enumerate(rows)]
    n_fitted = int(parts.fitted.sum())
    if not n_fitted:
        raise FitError("no window of these runs can be fitted: too few runs.", "too_few_runs")
    judgement = parts.judge()
    i = judgement.index
    message = (
        f"a is {_range(parts)} over {n_fitted} windows of tokens per parameter and of N. In "
        f"{rows[i]['low']:.3g} to {rows[i]['high']:.3g} {UNITS[rows[i]['of']]} it is {parts.a[i]:.3f}, and "
        f"{parts.change(i)}."
    )
    if n_fitted < len(rows):
        message += f" Windows with too few runs for a fit: {len(rows) - n_fitted}."
    return finding(judgement, message, _ADVICE, {"windows": rows}, if_inconclusive=_INCONCLUSIVE)
