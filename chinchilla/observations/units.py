"""Detect wrong units in a table of runs: N in millions, C in PFLOP/s-days, perplexity instead of loss.

C = 6*N*D holds within a factor of two for every usual way of counting, so a factor of a hundred is
an error of units and not another convention.
"""

import itertools
from collections.abc import Mapping

import numpy as np

from chinchilla.core.errors import InputError
from chinchilla.observations.read_table import Table

MAX_FACTOR = 100.0  # 6*N*D/C above it, or below its inverse, is an error of units
USUAL_FACTOR = 2.0  # ... above it is noted: the conventions of N and C should be checked
UNUSUAL_FACTOR = 5.0  # ... of a few rows over the table's median: those rows should be checked
MAX_UNUSUAL_ROWS = 0.1  # fraction of the rows
MAX_BUDGET_SPREAD = 10.0  # between runs, of C / budget_flops
MAX_LOSS = 20.0  # nats per token; a uniform guess over a million tokens has 13.8
MIN_N = 5e3  # parameters; a smaller median is a count in thousands or more
TOKENS_PER_PARAM = (1e-3, 1e6)  # range of D/N

_SCALES = {1e3: "thousands", 1e6: "millions", 1e9: "billions", 1e12: "trillions"}
_FLOP_SCALES = {
    1e9: "GFLOPs", 1e12: "TFLOPs", 1e15: "PFLOPs", 1e18: "EFLOPs", 1e21: "ZFLOPs",
    8.64e19: "PFLOP/s-days",
}  # fmt: skip
_ADVICE = "Give parameters, tokens and FLOPs as plain counts, such as 70e9."

Columns = Mapping[str, np.ndarray]


def check_units(table: Table, columns: Columns, rows: np.ndarray, final: np.ndarray) -> list[str]:
    """Refuse wrong units of the whole table and of single rows.

    Args:
        table: names rows in messages.
        columns: (n,) each; C, N, D, L and budget_flops.
        rows: (n,) row of the table.
        final: (n,) bool, the last row of each run. Only these are checked for their D/N and loss.

    Returns:
        Notes on values that are unusual but possible.

    Raises:
        InputError: naming the rows and the likely unit.
    """
    ends = {name: x[final] for name, x in columns.items()}
    end_rows = rows[final]
    for problem in (_table_problem(ends), _budget_problem(ends)):
        if problem:
            raise InputError(f"{table.name}: {problem}")
    for where, (bad, problem) in (
        (rows, _row_problem(columns)),
        (end_rows, _run_problem(ends)),
        (end_rows, perplexities(ends["L"])),
    ):
        if len(bad):  # lines are named unless most rows are wrong
            lines = f" {table.rows(where[bad])}" if 2 * len(bad) <= len(where) else ""
            raise InputError(f"{table.name}{lines}: {problem}")
    notes = []
    factor = _factor(ends)
    median = float(np.median(factor))
    ratio = float(np.median(ends["D"] / ends["N"]))
    if not 1 / USUAL_FACTOR <= median <= USUAL_FACTOR:
        notes.append(
            f"The median of 6*N*D/C is {median:.2g}, further from 1 than usual conventions explain. "
            "Check how C, N and D are counted."
        )
    elif ratio < 1:
        notes.append(f"The median of D/N is {ratio:.2g}. Check the columns N and D.")
    bad = np.flatnonzero(np.abs(np.log(factor / median)) > np.log(UNUSUAL_FACTOR))
    if 0 < len(bad) <= MAX_UNUSUAL_ROWS * len(factor):
        notes.append(
            f"{table.rows(end_rows[bad])}: 6*N*D/C is {factor[bad[0]]:.2g}, the median of the table is "
            f"{median:.2g}. Check C, N and D there."
        )
    return notes


def perplexities(L: np.ndarray) -> tuple[np.ndarray, str]:
    """Indices of final losses too large for nats per token, and a message about the largest.

    Args:
        L: (n,) final losses.
    """
    bad = np.flatnonzero(L > MAX_LOSS)
    if not len(bad):
        return bad, ""
    return bad, (
        f"L={L.max():.4g} is not a loss in nats per token: it looks like perplexity. Give "
        "ln(perplexity), or bits per token times ln 2. Leave out runs that diverged."
    )


def _factor(columns: Columns) -> np.ndarray:
    return 6 * columns["N"] * (columns["D"] / columns["C"])


def _table_problem(ends: Columns) -> str:
    """What is wrong with the units of the whole table; "" if nothing is."""
    N, ratio = float(np.median(ends["N"])), float(np.median(ends["D"] / ends["N"]))
    factor = float(np.median(_factor(ends)))
    if not 1 / MAX_FACTOR <= factor <= MAX_FACTOR:
        cause = _cause(N, float(np.median(ends["D"])), factor)
        return f"the median of 6*N*D/C is {factor:.2g}: {cause}. {_ADVICE}"
    if N < MIN_N:
        return f"the median of N is {N:.3g}: N looks like millions or billions. {_ADVICE}"
    if not TOKENS_PER_PARAM[0] <= ratio <= TOKENS_PER_PARAM[1]:
        column = "D" if ratio < 1 else "N"
        return (
            f"the median of D/N is {ratio:.2g}: {column} looks like millions or billions. {_ADVICE}"
        )
    return ""


def _budget_problem(ends: Columns) -> str:
    """What is wrong with the unit of budget_flops; "" if nothing is, or no budget is given."""
    spent = ends["C"] / ends["budget_flops"]
    spent = spent[np.isfinite(spent)]
    if not len(spent):
        return ""
    if spent.max() > MAX_BUDGET_SPREAD * spent.min():
        return (
            f"C / budget_flops is {spent.min():.3g} in one run and {spent.max():.3g} in another. Check "
            "that each budget is in the row of its run; a budget is the intended C in FLOPs."
        )
    factor = float(np.median(spent))
    if 1 / MAX_FACTOR <= factor <= MAX_FACTOR:
        return ""
    return (
        f"the median of C / budget_flops is {factor:.3g}. Give budgets in FLOPs, such as 6e18, or leave "
        "them empty."
    )


def _row_problem(columns: Columns) -> tuple[np.ndarray, str]:
    """Rows whose 6*N*D/C is impossible and far from the median of the table."""
    factor = _factor(columns)
    median = float(np.median(factor))
    wrong = (factor > MAX_FACTOR) | (factor < 1 / MAX_FACTOR)
    bad = np.flatnonzero(wrong & (np.abs(np.log(factor / median)) > np.log(MAX_FACTOR)))
    if not len(bad):
        return bad, ""
    i = bad[0]
    cause = _cause(columns["N"][i], columns["D"][i], factor[i], max_errors=1)
    return bad, (
        f"6*N*D/C is {factor[i]:.2g}, the median of the table is {median:.2g}: {cause}. {_ADVICE}"
    )


def _run_problem(ends: Columns) -> tuple[np.ndarray, str]:
    """Runs whose D/N is impossible."""
    ratio = ends["D"] / ends["N"]
    bad = np.flatnonzero((ratio < TOKENS_PER_PARAM[0]) | (ratio > TOKENS_PER_PARAM[1]))
    if not len(bad):
        return bad, ""
    first = ratio[bad[0]]
    return bad, (
        f"D/N is {first:.2g}, the median of the table is {np.median(ratio):.2g}: "
        f"{'D' if first < 1 else 'N'} looks like millions or billions. {_ADVICE}"
    )


def _cause(N: float, D: float, factor: float, max_errors: int = 3) -> str:
    """The fewest unit errors that would bring 6*N*D/C close to one; the most plausible first."""
    candidates = []
    scales = [{1.0: "", **scale} for scale in (_SCALES, _SCALES, _FLOP_SCALES)]
    for by in itertools.product(*scales):
        if not 1 / 3 <= factor * by[0] * by[1] / by[2] <= 3:
            continue
        units = zip("NDC", (scale[f] for scale, f in zip(scales, by, strict=True)), strict=True)
        errors = [f"{name} looks like {unit}" for name, unit in units if unit]
        ratio = D * by[1] / (N * by[0])
        implausible = (N * by[0] < MIN_N) + (not 1e-2 <= ratio <= 1e5)
        if len(errors) <= max_errors:
            candidates.append((implausible, len(errors), " and ".join(errors)))
    return min(candidates)[2] if candidates else "the unit of C, N or D is wrong"
