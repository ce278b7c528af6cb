"""Approach 3 on parts of the range: without the highest losses, and in windows of D/N and of N.

A law that holds over the whole range gives the same answer on each part, up to noise. NumPy only.
"""

from typing import Any

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.diagnose.context import Context
from chinchilla.diagnose.findings import Finding, combined, finding, judge
from chinchilla.diagnose.influence import times

DROPS = (0, 1, 2, 5, 10, 20, 40, 60)
MAX_LEFT_OUT = 0.5  # of the runs
UNITS = {"tokens_per_parameter": "tokens per parameter", "N": "parameters"}
_ADVICE = (
    "One law does not hold over the whole range. Fit the window of tokens per parameter and of sizes "
    "that you will use, and state it with the answer."
)
_UNCLEAR = (
    "Add runs inside the range of tokens per parameter that you will use: its parts hold too few runs "
    "to check that one law holds over it."
)


def windows(context: Context) -> Finding:
    """Both paths below as one diagnostic."""
    return combined({"drop_path": drop_path, "window_path": window_path}, context)


def drop_path(context: Context) -> Finding:
    """a and beta without the k highest losses, and without the k largest residuals.

    Only the first path is judged: residuals are selected by the fit itself, so that their z is no
    test.
    """
    obs, n = context.obs, len(context.obs)
    ks = [k for k in DROPS if k <= MAX_LEFT_OUT * n]
    orders = {
        "highest_loss": np.argsort(-obs.L, kind="stable"),
        "largest_residual": np.argsort(-np.abs(context.residuals), kind="stable"),
    }
    values: dict[str, Any] = {}
    refits = {}
    for name, order in orders.items():
        keep = np.ones((len(ks), n), bool)
        for i, k in enumerate(ks):
            keep[i, order[:k]] = False
        refits[name] = context.refit(keep)
        values[name] = [{"k": k, **refits[name].row(i)} for i, k in enumerate(ks)]
    parts = refits["highest_loss"]
    path = ", ".join(
        f"{k}: {a:.3f}" if np.isfinite(a) else f"{k}: no fit"
        for k, a in zip(ks, parts.a, strict=True)
    )
    some = np.arange(len(ks)) > 0  # without none, nothing moves
    if not np.isfinite(parts.a[some]).any():
        raise FitError(f"a without the k highest losses: {path}.", "too_few_runs")
    judgement = judge(parts.log_N_move[some], parts.expected_log_N[some], parts.freedom[some])
    judgement = judgement.unclear_if(not np.isfinite(parts.a).all())
    i = judgement.index + 1
    return finding(
        judgement,
        f"a without the k highest losses: {path}; without {ks[i]} of them N_opt({context.C_star:.3g}) "
        f"changes by {np.expm1(parts.log_N_move[i]):+.0%} ({times(parts.log_N_z[i])}).",
        _ADVICE,
        values,
        if_unclear=_UNCLEAR,
    )


def window_path(context: Context) -> Finding:
    """a and beta inside windows of tokens per parameter, and of N."""
    obs = context.obs
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
    parts = context.refit(np.array(keeps))
    rows = [row | parts.row(i) for i, row in enumerate(rows)]
    fitted = [r for r in rows if r["a"] is not None]
    if not fitted:
        raise FitError("no window of these runs can be fitted: too few runs.", "too_few_runs")
    judgement = judge(parts.log_N_move, parts.expected_log_N, parts.freedom)
    i, lost = judgement.index, len(rows) - len(fitted)
    row = rows[i]
    message = (
        f"a is {min(r['a'] for r in fitted):.3f} to {max(r['a'] for r in fitted):.3f} over "
        f"{len(fitted)} windows of tokens per parameter and of N; in {row['low']:.3g} to "
        f"{row['high']:.3g} {UNITS[row['of']]} it is {parts.a[i]:.3f}, and "
        f"N_opt({context.C_star:.3g}) changes by {np.expm1(parts.log_N_move[i]):+.0%} "
        f"({times(parts.log_N_z[i])})"
    )
    return finding(
        judgement,
        message + (f"; {lost} windows have too few runs for a fit." if lost else "."),
        _ADVICE,
        {"windows": rows},
        if_unclear=_UNCLEAR,
    )
