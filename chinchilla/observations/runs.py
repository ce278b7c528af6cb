"""A table as the runs it holds: copies left out, units checked row by row, budgets found in equal C.

A Table in, the columns, conventions and notes of Observations out. Floor 0: NumPy only.
"""

from collections import Counter
from typing import Any

import numpy as np

from chinchilla.config.checks import require_choice
from chinchilla.config.fit import DUPLICATES
from chinchilla.core.errors import InputError
from chinchilla.core.units import (
    budget_slip,
    perplexities,
    row_slips,
    unit_slip,
    unusual_factor,
    unusual_rows,
)
from chinchilla.observations.read_table import COLUMNS, OPTIONAL, Table, conventions_of, quantities
from chinchilla.observations.rows import (
    check_distinct,
    equal_budgets,
    final_rows,
    find_copies,
    shared_configurations,
)

CROWDED = 4  # runs at one (N, D) from which a note asks whether they are a search
ASK_BEST = "best=true keeps the lowest loss of each (N, D)"


def runs_of(table: Table, said: dict[str, str], duplicates: str) -> dict[str, Any]:
    """What Observations of a table are made of, once all of it is believable.

    Args:
        table: what a person brought.
        said: conventions that were stated beside it.
        duplicates: drop or refuse, of exact copies.

    Raises:
        InputError: naming the rows and what is wrong with them.
    """
    require_choice("duplicates", duplicates, DUPLICATES)
    conventions = conventions_of(table, said)
    columns, derived = quantities(table, conventions["flop_convention"])
    notes = [*table.notes, *derived]
    names = [f"run{i:04d}" for i in range(len(table))]
    if "run_id" in table.columns:
        names = [str(name).strip() for name in table.columns["run_id"]]
    if "" in names:
        raise InputError(f"{table.at(names.index(''))}: run_id is empty.")
    columns["run_id"] = np.array(names, dtype=str)
    for name in OPTIONAL:
        columns.setdefault(name, np.full(len(names), np.nan))
    _split_by_budget(columns, notes)
    rows = np.arange(len(names))  # of the table
    if not table.is_saved:
        rows = _without_copies(table, columns, duplicates, notes)
        columns = {name: x[rows] for name, x in columns.items()}
    check_distinct(
        columns["run_id"], columns["D"], columns["L"], table.name, lambda i: table.row(int(rows[i]))
    )
    final = final_rows(columns["run_id"], columns["D"])
    ends = {name: x[final] for name, x in columns.items()}
    _check_units(table, columns, rows, ends, rows[final], notes)
    if not table.is_saved and np.isnan(columns["budget_flops"]).all():
        _fill_budgets(columns, ends, notes)
    counts = shared_configurations(ends["N"], ends["D"], ends["unique_tokens"])
    if len(counts) and counts.max() >= CROWDED:
        notes.append(
            f"{counts.sum()} of {len(ends['N'])} runs share their N and D with other runs, up to "
            f"{counts.max()} at one (N, D). If they are a search over learning rates or batch sizes, "
            f"{ASK_BEST}; seeds of one configuration are repeats, and all are kept."
        )
    found = {name: columns[name] for name in (*COLUMNS, *OPTIONAL)}
    return {**found, **conventions, "notes": tuple(notes)}


def _split_by_budget(columns: dict[str, Any], notes: list[str]) -> None:
    """Give a run_id that occurs at several isoFLOP budgets a name for each, and note it.

    A run belongs to one budget. Tables that name runs by their size repeat the name at every budget, and
    read as points along one curve all but the largest budget of each size would be lost.
    """
    labels = np.array([f"{b:.6g}" for b in columns["budget_flops"]])
    named = labels != "nan"
    pairs = {
        (run, label)
        for run, label in zip(
            columns["run_id"][named].tolist(), labels[named].tolist(), strict=True
        )
    }
    times = Counter(run for run, _ in pairs)
    several = np.array([times[run] > 1 for run in columns["run_id"].tolist()], bool) & named
    if not several.any():
        return
    names = [
        f"{run}@{label}" if split else run
        for run, label, split in zip(
            columns["run_id"].tolist(), labels.tolist(), several.tolist(), strict=True
        )
    ]
    n = sum(count > 1 for count in times.values())
    columns["run_id"] = np.array(names, dtype=str)
    notes.append(
        f"{n} run_ids occur at several budgets: a run belongs to one, so that each run_id and budget "
        "counts as a run (run_id@budget)."
    )


def _without_copies(
    table: Table, columns: dict[str, Any], duplicates: str, notes: list[str]
) -> np.ndarray:
    """Indices of the rows that are no exact copies, and a note of how many are."""
    n = len(columns["run_id"])
    copy_of = find_copies(
        columns["run_id"] if "run_id" in table.columns else np.full(n, ""),
        [columns[name] for name in ("C", "N", "D", "L")],
        [*(columns[name] for name in ("budget_flops", *OPTIONAL)), *table.others],
    )
    copies = np.flatnonzero(copy_of >= 0)
    if not len(copies):
        return np.arange(n)
    i = int(copies[0])
    same = f"{table.row(i)}: the same run as {table.row(int(copy_of[i]))}"
    if duplicates == "refuse":
        raise InputError(
            f"{table.name} {same} ({len(copies)} of {n} rows are exact copies). Counting one run twice would narrow "
            "every interval: remove the copies, or give duplicates=drop."
        )
    notes.append(f"{len(copies)} of {n} rows left out: exact copies of other rows (first {same}).")
    return np.flatnonzero(copy_of < 0)


def _check_units(
    table: Table,
    columns: dict[str, Any],
    rows: np.ndarray,
    ends: dict[str, Any],
    end_rows: np.ndarray,
    notes: list[str],
) -> None:
    """Refuse units that cannot be, of the table and of its rows; note what looks odd."""

    def cnd(of: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return of["C"], of["N"], of["D"]

    for slip in (unit_slip(*cnd(ends)), budget_slip(ends["C"], ends["budget_flops"])):
        if slip:
            raise InputError(f"{table.name}: {slip}")
    for at, (bad, slip) in (
        (rows, row_slips(*cnd(columns), ends=False)),
        (end_rows, row_slips(*cnd(ends), ends=True)),
        (end_rows, perplexities(ends["L"])),
    ):
        if len(bad):  # of most rows the column is meant, and no line
            which = f" {table.rows(at[bad])}" if 2 * len(bad) <= len(at) else ""
            raise InputError(f"{table.name}{which}: {slip}")
    if odd := unusual_factor(*cnd(ends)):
        notes.append(odd)
    bad, odd = unusual_rows(*cnd(ends))
    if len(bad):
        notes.append(f"{table.rows(end_rows[bad])}: {odd}")


def _fill_budgets(columns: dict[str, Any], ends: dict[str, Any], notes: list[str]) -> None:
    """Budgets of runs that equal C shows, with their curves, and a note of them."""
    budgets = equal_budgets(ends["C"], ends["N"])
    named = np.isfinite(budgets)
    if not named.any():
        return
    of_run = dict(zip(ends["run_id"].tolist(), budgets.tolist(), strict=True))
    columns["budget_flops"] = np.array([of_run[run] for run in columns["run_id"].tolist()], float)
    found = np.unique(budgets[named])
    notes.append(
        f"budget_flops is not given: {named.sum()} of {len(named)} runs end at {len(found)} values of C "
        f"to within 2% ({found.min():.3g} to {found.max():.3g} FLOPs), and each of these was taken as an "
        "isoFLOP budget. To choose others, name them in a column budget_flops."
    )
