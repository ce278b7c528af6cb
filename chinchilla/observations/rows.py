"""Array functions on the rows of a table: ends of runs, copies, IsoFLOP budgets."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from chinchilla.core.errors import InputError
from chinchilla.core.units import is_rounded, same_values

BUDGET_TOLERANCE = 0.02  # relative spread of C within a budget
BUDGET_GAP = 3.0  # distance to the next C, in spreads of the budget
BUDGET_MIN_SIZES = 3  # distinct N of a budget
BUDGET_MIN_SHARE = 0.5  # of the runs; with fewer in groups of equal C, the groups may be chance


def run_ids(run_id: np.ndarray) -> np.ndarray:
    """(n,) an integer per name, in order of appearance (`np.unique` would sort the names)."""
    ids: dict[str, int] = {}
    return np.array([ids.setdefault(name, len(ids)) for name in run_id.tolist()], int)


def final_rows(run_id: np.ndarray, D: np.ndarray) -> np.ndarray:
    """(n,) bool, the row with the most tokens of each run."""
    ids = run_ids(run_id)
    order = np.lexsort((D, ids))
    runs = ids[order]
    final = np.zeros(len(D), bool)
    final[order] = np.append(runs[1:] != runs[:-1], True)[: len(D)]
    return final


def check_distinct(
    run_id: np.ndarray, D: np.ndarray, L: np.ndarray, table: str, row: Callable[[int], str]
) -> None:
    """Refuse two rows of one run at the same D.

    `row(i)` names row i of `table` in the message.

    Raises:
        InputError: naming both rows.
    """
    tokens, runs = same_values(D), run_ids(run_id)
    order = np.lexsort((tokens, runs))
    same = (np.diff(tokens[order]) == 0) & (np.diff(runs[order]) == 0)
    if not same.any():
        return
    k = int(np.argmin(np.where(same, order[1:], len(D))))
    i, j = int(order[k]), int(order[k + 1])
    where = f"{table} {row(j)}".strip()
    raise InputError(
        f"{where}: the same run as {row(i)} (run_id={run_id[j]}, D={D[j]}; losses {L[i]:.6g} and {L[j]:.6g}). "
        "A run that is counted twice narrows every interval: give each seed a run_id of its own, or remove one "
        "of the rows."
    )


def find_copies(
    run_id: np.ndarray, values: Sequence[np.ndarray], others: Sequence[Any]
) -> np.ndarray:
    """Find rows that repeat an earlier row, and runs that repeat an earlier run under another name.

    A row is a copy if all its columns equal those of an earlier row of its run. A run is a copy if
    each of its rows equals, but for run_id, a row of one earlier run. That requires losses that are
    not rounded (`is_rounded`): different runs may well share a rounded loss.

    Args:
        run_id: (n,) names.
        values: (n,) each: C, N, D and L, in this order.
        others: (n,) each: all other columns but run_id.

    Returns:
        (n,) the earlier row that a row repeats; -1 if it repeats none.
    """
    copy_of = np.full(len(run_id), -1)
    ids = np.stack([same_values(x) for x in values])
    _, content, n_equal = np.unique(ids, axis=1, return_inverse=True, return_counts=True)
    content = content.reshape(-1)
    is_shared = n_equal[content] > 1
    if not is_shared.any():
        return copy_of
    rows_of: dict[str, dict[Hashable, int]] = {}  # run -> content of a row -> row
    for i, (name, number) in enumerate(zip(run_id.tolist(), content.tolist(), strict=True)):
        key: Hashable = (number, *(str(column[i]) for column in others)) if is_shared[i] else i
        first = rows_of.setdefault(name, {}).setdefault(key, i)
        copy_of[i] = first if first != i else -1
    may_repeat = is_shared & ~is_rounded(values[-1])
    runs_with: dict[Hashable, dict[str, None]] = {}  # content of a row -> earlier runs that have it
    for name, rows in rows_of.items():
        original = None
        if may_repeat[list(rows.values())].all():
            fewest, *rest = sorted((runs_with.get(key, {}) for key in rows), key=len)
            original = next((run for run in fewest if all(run in runs for runs in rest)), None)
        for key, i in rows.items():
            if original is not None:
                copy_of[i] = rows_of[original][key]
            elif is_shared[i]:
                runs_with.setdefault(key, {})[name] = None
    return copy_of


def equal_budgets(C: np.ndarray, N: np.ndarray) -> np.ndarray:
    """Assign IsoFLOP budgets to runs of equal C.

    Runs form a budget if their C differ by at most BUDGET_TOLERANCE, the next C is further away
    than that and than BUDGET_GAP times their spread, and they have BUDGET_MIN_SIZES sizes. No
    budget is assigned unless BUDGET_MIN_SHARE of the runs have one.

    Returns:
        (n,) FLOPs; NaN for runs of no budget.
    """
    order = np.argsort(C, kind="stable")
    log_C = np.log(C[order])
    sizes = same_values(N)[order]
    starts = np.flatnonzero(np.append(True, np.diff(log_C) > np.log1p(BUDGET_TOLERANCE)))
    ends = np.append(starts[1:], len(C))
    budget = np.full(len(C), np.nan)
    for i, j in zip(starts, ends, strict=True):
        spread = log_C[j - 1] - log_C[i]
        before = log_C[i] - log_C[i - 1] if i else np.inf
        after = log_C[j] - log_C[j - 1] if j < len(C) else np.inf
        clear = min(before, after) > BUDGET_GAP * spread and spread <= np.log1p(BUDGET_TOLERANCE)
        if clear and len(np.unique(sizes[i:j])) >= BUDGET_MIN_SIZES:
            budget[order[i:j]] = _round_budget(float(C[order[i]]), float(C[order[j - 1]]))
    few = np.count_nonzero(np.isfinite(budget)) < BUDGET_MIN_SHARE * len(C)
    return np.full(len(C), np.nan) if few else budget


def _round_budget(low: float, high: float) -> float:
    """The number with the fewest digits within 1% of all C from `low` to `high`."""
    if low == high:
        return low
    margin = 1 + BUDGET_TOLERANCE / 2
    candidates = (float(f"{(low * high) ** 0.5:.{digits}g}") for digits in range(1, 17))
    return next((c for c in candidates if low / margin <= c <= high * margin), low)


def repeats_per_configuration(
    N: np.ndarray, D: np.ndarray, unique_tokens: np.ndarray
) -> np.ndarray:
    """(k,) number of runs of each (N, D, unique_tokens) that has more than one run."""
    ids = np.stack([same_values(x) for x in (N, D, np.nan_to_num(unique_tokens))])
    counts = np.unique(ids, axis=1, return_counts=True)[1]
    return counts[counts > 1]


def best_of_each(N: np.ndarray, D: np.ndarray, L: np.ndarray) -> np.ndarray:
    """(n,) bool, the run of the lowest loss of each (N, D); of equal losses the first."""
    n, d = same_values(N), same_values(D)
    order = np.lexsort((L, d, n))  # stable: of equal losses the first row comes first
    new = np.append(True, (np.diff(n[order]) != 0) | (np.diff(d[order]) != 0))
    best = np.zeros(len(L), bool)
    best[order] = new[: len(L)]
    return best
