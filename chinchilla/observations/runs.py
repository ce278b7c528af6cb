"""Make runs of a table: derive missing columns, drop copies, check units, find IsoFLOP budgets."""

from collections import Counter
from typing import Any

import numpy as np

from chinchilla.config.checks import require_choice
from chinchilla.config.fit import DUPLICATES
from chinchilla.core.errors import InputError
from chinchilla.observations.columns import COLUMNS, OPTIONAL, accepted_names, shortened
from chinchilla.observations.read_table import NUMERIC, Table, conventions_of, numbers
from chinchilla.observations.rows import (
    check_distinct,
    equal_budgets,
    final_rows,
    find_copies,
    repeats_per_configuration,
)
from chinchilla.observations.units import check_units

SEARCH_SIZE = 4  # runs at one (N, D) from which a note mentions best=true
BEST_ADVICE = "best=true keeps the lowest loss of each (N, D)"

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
    final = final_rows(run_id, D)
    notes += check_units(table, columns, rows, final)
    ends = {name: x[final] for name, x in columns.items()}
    if not table.is_saved and np.isnan(columns["budget_flops"]).all():
        _assign_budgets(columns, ends, notes)
    counts = repeats_per_configuration(ends["N"], ends["D"], ends["unique_tokens"])
    if len(counts) and counts.max() >= SEARCH_SIZE:
        notes.append(
            f"{counts.sum()} of {len(ends['N'])} runs share their N and D with other runs, up to "
            f"{counts.max()} runs at one (N, D). If these are a search over learning rates or batch "
            f"sizes, {BEST_ADVICE}. Seeds of one configuration are repeats, and all are kept."
        )
    fields = {name: columns[name] for name in (*COLUMNS, *OPTIONAL)}
    return {**fields, **conventions, "notes": tuple(notes)}


def _numeric_columns(table: Table, flop_convention: str, notes: list[str]) -> Columns:
    """All columns of numbers; with six_nd, a missing one of C, N and D is computed and noted."""
    missing = [name for name in ("C", "N", "D", "L") if name not in table.columns]
    derived = missing[0] if len(missing) == 1 and missing != ["L"] else ""
    if missing and not (derived and flop_convention == "six_nd"):
        advice = f" With flop_convention=six_nd, {derived} is computed." if derived else ""
        raise InputError(
            f"{table.name}: no column {', '.join(missing)} (found "
            f"{shortened(', '.join(table.header)) or 'none'}). A CSV of runs has the columns "
            f"{','.join(COLUMNS)}; run_id and budget_flops are optional.{advice} Accepted names: "
            f'{accepted_names(missing)}. For another name give columns.{missing[0]}="NAME".{table.hint}'
        )
    if not len(table):
        raise InputError(f"{table.name}: no runs, only a header.")
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
        names = [str(name).strip() for name in table.columns["run_id"]]
    if "" in names:
        raise InputError(f"{table.at(names.index(''))}: run_id is empty. Give every run a name.")
    return np.array(names, dtype=str)


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
    columns["run_id"] = np.array(
        [
            f"{run}@{label}" if n_budgets[run] > 1 and label != "nan" else run
            for run, label in zip(run_id, labels, strict=True)
        ],
        dtype=str,
    )
    notes.append(
        f"{n_split} run_ids occur at several budgets. Each run_id and budget is read as one run "
        "(run_id@budget)."
    )


def _without_copies(
    table: Table, columns: Columns, duplicates: str, notes: list[str]
) -> np.ndarray:
    """Indices of the rows that are not exact copies."""
    n = len(table)
    copy_of = find_copies(
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


def _assign_budgets(columns: Columns, ends: Columns, notes: list[str]) -> None:
    """Fill budget_flops with the IsoFLOP budgets that runs of equal final C form."""
    budgets = equal_budgets(ends["C"], ends["N"])
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
