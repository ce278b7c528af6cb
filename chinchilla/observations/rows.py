"""Rows of a table: ends of runs, copies, isoFLOP budgets that equal C shows. Floor 0: NumPy only."""

from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np

from chinchilla.core.errors import InputError
from chinchilla.core.units import is_rounded, same_values

MAX_ORIGINALS = 8  # earlier runs that a run is compared with, of those that share a row
BUDGET_TOLERANCE = 0.02  # spread of C, relative, inside one budget
BUDGET_GAP = 3.0  # spreads of a budget that its neighbours are away, at least
BUDGET_SIZES = 3  # distinct N of a budget
BUDGET_SHARE = 0.5  # of the runs that lie in such groups, or none is a budget: it would be chance


def final_rows(run_id: np.ndarray, D: np.ndarray) -> np.ndarray:
    """(n,) bool: the row with the most tokens of each run.

    Args:
        run_id: (n,) names.
        D: (n,) tokens.
    """
    codes = run_codes(run_id)
    order = np.lexsort((D, codes))
    runs = codes[order]
    final = np.zeros(len(D), bool)
    final[order] = np.append(runs[1:] != runs[:-1], True)[: len(D)]
    return final


def run_codes(run_id: np.ndarray) -> np.ndarray:
    """(n,) an integer per name, in the order of appearance: sorting names themselves is slow."""
    codes: dict[str, int] = {}
    return np.array([codes.setdefault(name, len(codes)) for name in run_id.tolist()], int)


def check_distinct(
    run_id: np.ndarray, D: np.ndarray, L: np.ndarray, table: str, row: Callable[[int], str]
) -> None:
    """Refuse a run that is counted twice: one run_id at one D, to within 1e-9.

    Args:
        run_id: (n,) names.
        D: (n,) tokens.
        L: (n,) nats per token.
        table: what errors call the table; "" for nothing.
        row: what errors call row i.

    Raises:
        InputError: naming both rows.
    """
    ids = (same_values(D), run_codes(run_id))
    order = np.lexsort(ids)
    same = np.logical_and.reduce([x[order][1:] == x[order][:-1] for x in ids])
    if not same.any():
        return
    k = int(np.argmin(np.where(same, order[1:], len(D))))
    i, j = int(order[k]), int(order[k + 1])
    where, run = f"{table} {row(j)}".strip(), f"run_id={run_id[j]}, D={D[j]}"
    twice = "Counting one run twice would narrow every interval"
    if same_values(L[[i, j]]).any():
        raise InputError(
            f"{where}: the same run as {row(i)} ({run}), with another loss ({L[i]:.6g} and {L[j]:.6g}). "
            f"{twice}: if these are seeds, give each seed a run_id of its own; if one run was logged "
            "twice, remove one row."
        )
    raise InputError(f"{where}: the same run as {row(i)} ({run}). {twice}: remove one.")


def find_copies(
    run_id: np.ndarray, values: Sequence[np.ndarray], others: Sequence[Sequence[object]]
) -> np.ndarray:
    """(n,) the row that each row is a copy of; -1 for rows that are none.

    A row is a copy if all its columns are those of an earlier row of its run. A run is one if each of its
    rows has all columns but run_id of a row of one earlier run, and losses that were not rounded: two
    runs may well share a rounded one.

    Args:
        run_id: (n,) names.
        values: (n,) each: C, N, D and L, in that order.
        others: (n,) each: the other columns but run_id.
    """
    n = len(run_id)
    copy_of = np.full(n, -1)
    ids = [same_values(x) for x in values]
    order = np.lexsort(ids)  # stable: rows of a group stay in order
    same = np.logical_and.reduce([x[order][1:] == x[order][:-1] for x in ids])
    if not same.any():
        return copy_of
    starts = np.flatnonzero(np.append(True, ~same))
    groups = (order[i:j] for i, j in zip(starts, [*starts[1:], n], strict=True) if j - i > 1)
    originals: dict[str, set[str]] = {}  # run -> earlier runs with a row like each of its rows
    met: dict[tuple[str, str], dict[int, int]] = {}  # both -> row -> row of the earlier run
    names = run_id.tolist()
    first: dict[str, int] = {}
    n_rows: dict[str, int] = {}
    for i, name in enumerate(names):
        first.setdefault(name, i)
        n_rows[name] = n_rows.get(name, 0) + 1
    precise = ~is_rounded(values[-1])
    for group in groups:
        by_content: dict[tuple[object, ...], dict[str, int]] = {}
        rows = sorted(group.tolist(), key=lambda i: (first[names[i]], i))
        for i in rows:
            earlier = by_content.setdefault(tuple(str(column[i]) for column in others), {})
            name = names[i]
            if name in earlier:
                copy_of[i] = earlier[name]
                n_rows[name] -= 1
                continue
            if precise[i]:
                for run, row in islice(earlier.items(), MAX_ORIGINALS):
                    met.setdefault((name, run), {})[i] = row
                    originals.setdefault(name, set()).add(run)
            earlier[name] = i
    for name, runs in originals.items():
        for run in sorted(runs, key=first.__getitem__):
            if len(met[name, run]) == n_rows[name]:
                for i, row in met[name, run].items():
                    copy_of[i] = row
                break
    for i in np.flatnonzero(copy_of >= 0).tolist():  # copies of rows that go with their own run
        if copy_of[copy_of[i]] >= 0:
            copy_of[i] = copy_of[copy_of[i]]
    return copy_of


def equal_budgets(C: np.ndarray, N: np.ndarray) -> np.ndarray:
    """(n,) the isoFLOP budget that each run's C shows, in FLOPs; NaN where it shows none.

    Runs are of one budget if their C differ by at most `BUDGET_TOLERANCE`, the next C is further away
    than that and than `BUDGET_GAP` times their spread, and they have three sizes. Nothing is a budget
    unless at least half of the runs are in one: among many C some lie close by chance.

    Args:
        C: (n,) FLOPs that the runs spent at their ends.
        N: (n,) parameters.
    """
    order = np.argsort(C, kind="stable")
    log_C = np.log(C[order])
    sizes = same_values(N)[order]
    apart = np.diff(log_C) > np.log1p(BUDGET_TOLERANCE)
    starts = np.flatnonzero(np.append(True, apart))
    ends = np.append(starts[1:], len(C))
    budget = np.full(len(C), np.nan)
    for i, j in zip(starts, ends, strict=True):
        spread = log_C[j - 1] - log_C[i]
        before = log_C[i] - log_C[i - 1] if i else np.inf
        after = log_C[j] - log_C[j - 1] if j < len(C) else np.inf
        clear = min(before, after) > BUDGET_GAP * spread and spread <= np.log1p(BUDGET_TOLERANCE)
        if clear and len(np.unique(sizes[i:j])) >= BUDGET_SIZES:
            budget[order[i:j]] = _label(float(C[order[i]]), float(C[order[j - 1]]))
    few = np.count_nonzero(np.isfinite(budget)) < BUDGET_SHARE * len(C)
    return np.full(len(C), np.nan) if few else budget


def _label(low: float, high: float) -> float:
    """The budget of runs that spent from `low` to `high`: the number of fewest digits within 1% of that."""
    if low == high:
        return low
    room = 1 + BUDGET_TOLERANCE / 2
    for digits in range(1, 17):
        short = float(f"{(low * high) ** 0.5:.{digits}g}")
        if low / room <= short <= high * room:
            return short
    return low


def shared_configurations(N: np.ndarray, D: np.ndarray, unique_tokens: np.ndarray) -> np.ndarray:
    """(k,) how many runs each (N, D) has, of those that have several from the same data.

    Args:
        N: (n,) parameters.
        D: (n,) tokens at the runs' ends.
        unique_tokens: (n,) those of D that differ, NaN where not recorded.
    """
    triples = np.stack([same_values(x) for x in (N, D, np.nan_to_num(unique_tokens))])
    counts = np.unique(triples, axis=1, return_counts=True)[1]
    return counts[counts > 1]


def best_of_each(N: np.ndarray, D: np.ndarray, L: np.ndarray) -> np.ndarray:
    """(n,) bool: the run of the lowest loss of each (N, D); the first of several.

    Args:
        N: (n,) parameters.
        D: (n,) tokens at the runs' ends.
        L: (n,) nats per token.
    """
    n, d = same_values(N), same_values(D)
    order = np.lexsort((np.arange(len(L)), L, d, n))
    new = np.append(True, (np.diff(n[order]) != 0) | (np.diff(d[order]) != 0))
    keep = np.zeros(len(L), bool)
    keep[order] = new[: len(L)]
    return keep
