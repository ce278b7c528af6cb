"""Rows of the runs in a table of points along curves, by comparisons of neighbouring rows.

Points of a curve are usually stored together and in order. Columns are then sliced, and neither names
nor numbers of millions of rows are sorted.
"""

from itertools import pairwise

import numpy as np


def run_numbers(run_id: np.ndarray) -> np.ndarray:
    """(n,) int32, an integer per name, in order of appearance."""
    starts = np.append(True, run_id[1:] != run_id[:-1])[: len(run_id)]
    ids: dict[str, int] = {}
    of_stretch = [ids.setdefault(name, len(ids)) for name in run_id[starts].tolist()]
    numbers: np.ndarray = np.array(of_stretch, np.int32)[np.cumsum(starts, dtype=np.int32) - 1]
    return numbers


def final_of(run: np.ndarray, D: np.ndarray) -> np.ndarray:
    """(n,) bool, the row with the most tokens of each run.

    Args:
        run: (n,) from `run_numbers`.
        D: (n,) tokens.
    """
    if _in_order(run, D):
        return _ends(run)
    order = np.lexsort((D, run))
    final = np.zeros(len(D), bool)
    final[order] = _ends(run[order])
    return final


def rows_of_runs(run_id: np.ndarray, D: np.ndarray) -> list[slice | np.ndarray]:
    """Rows of each run in ascending order of D, as a slice if they are stored so.

    Runs are in the order of their names.
    """
    run = run_numbers(run_id)
    if _in_order(run, D):
        edges = [0, *(np.flatnonzero(_ends(run)) + 1).tolist()]
        rows: list[slice | np.ndarray] = [slice(a, b) for a, b in pairwise(edges)]
    else:
        order = np.lexsort((D, run))
        rows = list(np.split(order, np.flatnonzero(_ends(run[order]))[:-1] + 1))
    return sorted(rows, key=lambda of_run: str(run_id[of_run][0]))


def _ends(run: np.ndarray) -> np.ndarray:
    """(n,) bool, whether the next row belongs to another run."""
    return np.append(run[1:] != run[:-1], True)[: len(run)]


def _in_order(run: np.ndarray, D: np.ndarray) -> bool:
    """Whether each run is one stretch of rows, and D does not fall along it."""
    return bool(np.all((run[1:] > run[:-1]) | ((run[1:] == run[:-1]) & (D[1:] >= D[:-1]))))


def six_digits(values: np.ndarray) -> np.ndarray:
    """(n,) values rounded to six digits, so that 1e19 and 1.0000001e19 are equal."""
    distinct, of_row = np.unique(values, return_inverse=True)
    rounded: np.ndarray = np.array([float(f"{x:.6g}") for x in distinct])[of_row]
    return rounded
