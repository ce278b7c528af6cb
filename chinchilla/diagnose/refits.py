"""Approach 3 on parts of the runs: without each run, budget and size, and on parts of the range.

A law that holds gives the same answer on each part, up to noise. The fit itself always uses all runs.
The moves are judged as `findings.py` describes, against the moves that noise alone would cause
(`context.py`).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.core.units import change, count, number
from chinchilla.diagnose.context import Context
from chinchilla.diagnose.findings import Finding, judge
from chinchilla.observations.checks import N_PARAMETERS

MAX_SD = float(np.log(2.0))  # of ln N_opt; the linearised error of a refit is unreliable beyond it
DROPPED = (1, 2, 5, 10, 20, 40, 60)  # highest losses left out
MAX_LEFT_OUT = 0.5  # of the runs
WINDOWS = {  # name -> quantiles of the range
    "middle 80%": (0.1, 0.9),
    "middle 50%": (0.25, 0.75),
    "lower half": (0, 0.5),
    "upper half": (0.5, 1),
    "upper 75%": (0.25, 1),
    "lower 75%": (0, 0.75),
}
_RANGE_ADVICE = (
    "One law does not hold over the whole range. Fit the window of tokens per parameter and of sizes "
    "that you will use, and state it with the answer."
)
_RANGE_INCONCLUSIVE = (
    "Add runs inside the range of tokens per parameter that you will use: the parts hold too few runs "
    "to check that one law holds over it."
)


def judged_refits(
    context: Context,
    keep: np.ndarray,
    parts: Sequence[dict[str, Any]],
    *,
    words: tuple[str, str],
    advice: str,
    if_inconclusive: str,
    n_moves: int = 0,
    need_all: bool = False,
) -> Finding:
    """The verdict on refits of parts of the runs.

    Args:
        context: the runs.
        keep: (k, n) the runs of each part.
        parts: each part as JSON; its "name" is the words after "without" in "without the budget 1e19".
        words: the parts together, as in "without one of 9 budgets", and the word before a name.
        advice: what to do about a warning; {} is replaced by the name of the part.
        if_inconclusive: what to do if the noise is too large.
        n_moves: for parts that grow towards all runs, the number of independent moves; else 0.
        need_all: whether the diagnostic is inconclusive if a part could not be fitted.

    Returns:
        The finding; values: rows, one for each part.
    """
    refits = context.refit(keep)
    judgement = judge(
        refits.log_N_move,
        refits.log_N_sd,
        refits.n - N_PARAMETERS,
        max_sd=MAX_SD,
        n_moves=n_moves,
        nested=n_moves > 0,
    )
    i = judgement.index
    name, move, sd = parts[i]["name"], refits.log_N_move[i], refits.log_N_sd[i]
    message = (
        f"a is {context.a:.3f} on all runs and {np.nanmin(refits.a):.3f} to {np.nanmax(refits.a):.3f} "
        f"{words[0]}. {words[1].capitalize()} {name} it is {refits.a[i]:.3f}, and "
        f"N_opt({context.C_star:.3g}) changes by {change(float(np.expm1(move)))} "
        f"({abs(move) / max(sd, 1e-300):.1f} SD of noise)."
    )
    n_lost = int((~refits.fitted).sum())
    if n_lost:
        message += f" Parts with too few runs for a fit: {n_lost} of {len(parts)}."
    rows = [{**part, **refits.row(k)} for k, part in enumerate(parts)]
    found = judgement.finding(message, advice.format(name), {"rows": rows}, if_inconclusive)
    if n_lost and need_all and found.verdict == "passed":
        return replace(found, verdict="inconclusive", advice=if_inconclusive, effect=None)
    return found


# ------------------------------------------------------------------ leave one out


def leave_one_run_out(context: Context) -> Finding:
    """Approach 3 without each run."""
    obs = context.obs
    numbers = np.column_stack([obs.C, obs.N, obs.D, context.residuals]).tolist()
    parts = [
        {"name": f"run {run_id}", "C": C, "N": N, "D": D, "residual": residual}
        for run_id, (C, N, D, residual) in zip(obs.run_id, numbers, strict=True)
    ]
    return _leave_out(context, ~np.eye(len(obs), dtype=bool), parts, "run")


def leave_one_budget_out(context: Context) -> Finding:
    """Approach 3 without each IsoFLOP budget."""
    budgets = context.named_budgets()
    if len(budgets) < 2:
        raise FitError(f"the runs have {len(budgets)} IsoFLOP budgets and two are needed.")
    parts = [{"name": f"the budget {C:.3g}", "C": C} for C in budgets.tolist()]
    return _leave_out(context, context.obs.budget_labels != budgets[:, None], parts, "budget")


def leave_one_size_out(context: Context) -> Finding:
    """Approach 3 without each model size."""
    keep = context.size != np.arange(context.size.max() + 1)[:, None]
    sizes = [float(np.median(context.obs.N[~row])) for row in keep]
    parts = [{"name": f"the size {count(N)}", "N": N} for N in sizes]
    return _leave_out(context, keep, parts, "size")


def _leave_out(
    context: Context, keep: np.ndarray, parts: Sequence[dict[str, Any]], group: str
) -> Finding:
    return judged_refits(
        context,
        keep,
        parts,
        words=(f"without one of {len(parts)} {group}s", "without"),
        advice="Check the loss curves and settings of {}, repeat or add runs near it, and state N_opt "
        "with and without it.",
        if_inconclusive=f"Add {group}s: with {len(parts)}, noise hides how much the fit depends on one "
        "of them.",
        need_all=True,
    )


# ------------------------------------------------------------------ parts of the range


def drop_path(context: Context) -> Finding:
    """Approach 3 without the k highest losses."""
    obs = context.obs
    dropped = [k for k in DROPPED if k <= MAX_LEFT_OUT * len(obs)]
    rank = np.argsort(np.argsort(-obs.L, kind="stable"))  # 0 for the highest loss
    return judged_refits(
        context,
        rank >= np.array(dropped)[:, None],
        [
            {"name": f"the {k} highest losses" if k > 1 else "the highest loss", "k": k}
            for k in dropped
        ],
        words=("without the highest losses", "without"),
        advice=_RANGE_ADVICE,
        if_inconclusive=_RANGE_INCONCLUSIVE,
        need_all=True,
    )


def window_path(context: Context) -> Finding:
    """Approach 3 inside windows of tokens per parameter, and of N."""
    obs = context.obs
    keep, parts = [], []
    for of, x, show in (("D/N", obs.D / obs.N, number), ("N", obs.N, count)):
        for part, shares in WINDOWS.items():
            low, high = np.quantile(x, shares).tolist()
            keep.append((low <= x) & (x <= high))
            name = f"{of} from {show(low)} to {show(high)}"
            parts.append({"name": name, "window": f"{of}: {part}", "low": low, "high": high})
    return judged_refits(
        context,
        np.array(keep),
        parts,
        words=(f"in {len(parts)} windows of D/N and of N", "with"),
        advice=_RANGE_ADVICE,
        if_inconclusive=_RANGE_INCONCLUSIVE,
    )
