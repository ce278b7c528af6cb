"""Make runs of a table: derive missing columns, drop copies, check units, find IsoFLOP budgets."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from chinchilla.config.checks import require_choice
from chinchilla.config.fit import DUPLICATES
from chinchilla.core.errors import InputError, clean, shortened
from chinchilla.core.units import is_rounded, same_values
from chinchilla.observations.columns import COLUMNS, OPTIONAL, accepted_names
from chinchilla.observations.read_table import NUMERIC, Table, conventions_of, numbers, plain_text
from chinchilla.observations.stretches import final_of, run_numbers
from chinchilla.observations.units import check_units

SEARCH_SIZE = 4  # runs at one (N, D) from which a note mentions best=true
BEST_ADVICE = "best=true keeps the lowest loss of each (N, D)"
BUDGET_TOLERANCE = 0.02  # relative spread of C within a budget
BUDGET_GAP = 3.0  # distance to the next C, in spreads of the budget
BUDGET_MIN_SIZES = 3  # distinct N of a budget
BUDGET_MIN_SHARE = 0.5  # of the runs; with fewer in groups of equal C, the groups may be chance

Columns = dict[str, np.ndarray]


def runs_of(table: Table, stated: dict[str, str], duplicates: str) -> dict[str, Any]:
    """The fields of `Observations` from a table.

    Args:
        table: as read from a file or a frame.
        stated: conventions that the caller gave.
        duplicates: "drop" or "refuse" exact copies.

    Raises:
        InputError: naming the rows and what is wrong with them.
    """
    require_choice("duplicates", duplicates, DUPLICATES)
    conventions = conventions_of(table, stated)
    notes = [*table.notes]
    columns = _numeric_columns(table, conventions["flop_convention"], notes)
    columns["run_id"] = _run_names(table)
    _split_by_budget(columns, notes)
    rows = np.arange(len(table))
    if not table.is_saved:
        rows = _without_copies(table, columns, duplicates, notes)
        columns = {name: x[rows] for name, x in columns.items()}
    run_id, D = columns["run_id"], columns["D"]
    check_distinct(run_id, D, columns["L"], table.name, lambda i: table.row(int(rows[i])))
    final = final_of(run_numbers(run_id), D)
    notes += check_units(table, columns, rows, final)
    ends = {name: x[final] for name, x in columns.items()}
    if not table.is_saved and np.isnan(columns["budget_flops"]).all():
        _assign_budgets(columns, ends, notes)
    configurations = [
        same_values(x) for x in (ends["N"], ends["D"], np.nan_to_num(ends["unique_tokens"]))
    ]
    counts = np.unique(np.stack(configurations), axis=1, return_counts=True)[1]
    if counts.max() >= SEARCH_SIZE:
        notes.append(
            f"{counts[counts > 1].sum()} of {len(ends['N'])} runs share their N and D with other runs, up to "
            f"{counts.max()} runs at one (N, D). If these are a search over learning rates or batch "
            f"sizes, {BEST_ADVICE}. Seeds of one configuration are repeats, and all are kept."
        )
    fields = {name: columns[name] for name in (*COLUMNS, *OPTIONAL)}
    return {**fields, **conventions, "notes": tuple(notes)}


def check_distinct(
    run_id: np.ndarray, D: np.ndarray, L: np.ndarray, table: str, row: Callable[[int], str]
) -> None:
    """Refuse two rows of one run at the same D.

    `row(i)` names row i of `table` in the message.

    Raises:
        InputError: naming both rows.
    """
    tokens, runs = same_values(D), run_numbers(run_id)
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


def _numeric_columns(table: Table, flop_convention: str, notes: list[str]) -> Columns:
    """All columns of numbers; with six_nd, a missing one of C, N and D is computed and noted."""
    missing = [name for name in ("C", "N", "D", "L") if name not in table.columns]
    derived = missing[0] if len(missing) == 1 and missing != ["L"] else ""
    if missing and not (derived and flop_convention == "six_nd"):
        advice = f" With flop_convention=six_nd, {derived} is computed." if derived else ""
        raise InputError(
            f"{table.name}: no column {', '.join(missing)} (found "
            f"{shortened(', '.join(table.header), 300) or 'none'}). A CSV of runs has the columns "
            f"{','.join(COLUMNS)}; run_id and budget_flops are optional.{advice} Accepted names: "
            f'{accepted_names(missing)}. For another name give columns.{missing[0]}="NAME".'
        )
    if not len(table):
        raise InputError(f"{table.name}: no runs, only a header. Add a row for each run.")
    empty = np.full(len(table), np.nan)
    columns = {name: numbers(table, name) if name in table.columns else empty for name in NUMERIC}
    C, N, D = columns["C"], columns["N"], columns["D"]
    if derived:
        formula, columns[derived] = {
            "C": ("6*N*D", 6 * N * D),
            "N": ("C/(6*D)", C / (6 * D)),
            "D": ("C/(6*N)", C / (6 * N)),
        }[derived]
        notes.append(f"{derived} = {formula} in every row: the table has no column {derived}.")
    return columns


def _run_names(table: Table) -> np.ndarray:
    """(n,) run_id, or run0000, run0001, ... if the table has none."""
    names = [f"run{i:04d}" for i in range(len(table))]
    if "run_id" in table.columns:
        given = [plain_text(str(name).strip()) for name in table.columns["run_id"]]
        names = [clean(name).strip() for name in given]
        if names != given:
            _refuse_merged(table, given, names)
    if "" in names:
        raise InputError(f"{table.at(names.index(''))}: run_id is empty. Give every run a name.")
    return np.array(names, dtype=str)


def _refuse_merged(table: Table, given: Sequence[str], names: Sequence[str]) -> None:
    """Refuse two run_ids that differ only in what `clean` removes: they would be read as one run.

    Raises:
        InputError: naming both rows.
    """
    firsts: dict[str, int] = {}
    for i, name in enumerate(names):
        first = firsts.setdefault(name, i)
        if given[first] != given[i]:
            raise InputError(
                f"{table.at(i)}: its run_id differs from that of {table.row(first)} only in control characters or "
                f"spaces beside them (run_id={shortened(name)}). Give each run a name of its own, without them."
            )


def _split_by_budget(columns: Columns, notes: list[str]) -> None:
    """Treat a run_id that occurs at several IsoFLOP budgets as one run per budget.

    Tables that name runs by model size repeat the name at every budget. Read as points along one
    curve, all but the largest budget of each size would be lost.
    """
    run_id = columns["run_id"].tolist()
    labels = [f"{b:.6g}" for b in columns["budget_flops"].tolist()]
    pairs = {pair for pair in zip(run_id, labels, strict=True) if pair[1] != "nan"}
    n_budgets = Counter(run for run, _ in pairs)
    n_split = sum(count > 1 for count in n_budgets.values())
    if not n_split:
        return
    names = [
        f"{run}@{label}" if n_budgets[run] > 1 and label != "nan" else run
        for run, label in zip(run_id, labels, strict=True)
    ]
    columns["run_id"] = np.array(names, dtype=str)
    notes.append(
        f"{n_split} run_ids occur at several budgets. Each run_id and budget is read as one run "
        "(run_id@budget)."
    )


def _without_copies(
    table: Table, columns: Columns, duplicates: str, notes: list[str]
) -> np.ndarray:
    """Indices of the rows that are not exact copies."""
    n = len(table)
    copy_of = _find_copies(
        columns["run_id"] if "run_id" in table.columns else np.full(n, ""),
        [columns[name] for name in ("C", "N", "D", "L")],
        [*table.other_columns, *(columns[name] for name in ("budget_flops", *OPTIONAL))],
    )
    copies = np.flatnonzero(copy_of >= 0)
    if len(copies):
        i = int(copies[0])
        first = f"{table.row(i)}: the same run as {table.row(int(copy_of[i]))}"
        if duplicates == "refuse":
            raise InputError(
                f"{table.name} {first} ({len(copies)} of {n} rows are exact copies). A run that is counted "
                "twice narrows every interval: remove the copies, or give duplicates=drop."
            )
        notes.append(f"{len(copies)} of {n} rows left out: exact copies of other rows ({first}).")
    return np.flatnonzero(copy_of < 0)


def _find_copies(
    run_id: np.ndarray, values: Sequence[np.ndarray], others: Sequence[Any]
) -> np.ndarray:
    """(n,) the earlier row that a row repeats; -1 if it repeats none.

    A row is a copy if all its columns equal those of an earlier row of its run. A run is a copy if it
    has the same rows as an earlier run, but for run_id, and no loss is rounded (`is_rounded`):
    different runs may well share a rounded loss.

    Args:
        run_id: (n,) names.
        values: (n,) each: C, N, D and L, in this order.
        others: (n,) each: all other columns.
    """
    copy_of = np.full(len(run_id), -1)
    ids = [same_values(x).tolist() for x in values]
    texts = ([str(x) for x in column] for column in others)
    rows_of: dict[str, dict[tuple[Any, ...], int]] = {}  # run -> content of a row -> row
    for i, (run, *cells) in enumerate(zip(run_id.tolist(), *ids, *texts, strict=True)):
        first = rows_of.setdefault(run, {}).setdefault(tuple(cells), i)
        if first != i:
            copy_of[i] = first
    rounded = is_rounded(values[-1])
    run_with: dict[frozenset[tuple[Any, ...]], str] = {}
    for run, rows in rows_of.items():
        if rounded[list(rows.values())].any():
            continue
        original = run_with.setdefault(frozenset(rows), run)
        if original != run:
            for content, i in rows.items():
                copy_of[i] = rows_of[original][content]
    return copy_of


def _assign_budgets(columns: Columns, ends: Columns, notes: list[str]) -> None:
    """Fill budget_flops with the IsoFLOP budgets that runs of equal final C form."""
    budgets = _equal_budgets(ends["C"], ends["N"])
    has_budget = np.isfinite(budgets)
    if not has_budget.any():
        return
    of_run = dict(zip(ends["run_id"].tolist(), budgets.tolist(), strict=True))
    columns["budget_flops"] = np.array([of_run[run] for run in columns["run_id"].tolist()], float)
    values = np.unique(budgets[has_budget])
    notes.append(
        f"budget_flops is not given. {has_budget.sum()} of {len(budgets)} runs end at {len(values)} values "
        f"of C to within 2% ({values.min():.3g} to {values.max():.3g} FLOPs), which are used as IsoFLOP "
        "budgets. To use others, give a column budget_flops."
    )


def _equal_budgets(C: np.ndarray, N: np.ndarray) -> np.ndarray:
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
            budget[order[i:j]] = _rounded(C[order[i]], C[order[j - 1]])
    few = np.count_nonzero(np.isfinite(budget)) < BUDGET_MIN_SHARE * len(C)
    return np.full(len(C), np.nan) if few else budget


def _rounded(low: float, high: float) -> float:
    """The number with the fewest digits within 1% of all C from `low` to `high`; `low` if C is exact."""
    digits = (float(f"{(low * high) ** 0.5:.{n}g}") for n in range(1, 17) if low < high)
    return next((c for c in digits if low / 1.01 <= c <= high * 1.01), low)
