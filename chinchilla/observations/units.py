"""Detect wrong units in a table of runs: N in millions, C in PFLOP/s-days, perplexity instead of loss.

C = 6*N*D holds within a factor of two for every usual way of counting, so a factor of a hundred is
an error of units and not another convention.
"""

import itertools
import math
from collections.abc import Mapping

import numpy as np

from chinchilla.core.errors import InputError
from chinchilla.observations.read_table import Table

MAX_FACTOR = 100.0  # 6*N*D/C above it, or below its inverse, is an error of units
USUAL_FACTOR = 2.0  # ... above it is noted: the conventions of N and C should be checked
UNUSUAL_FACTOR = 5.0  # ... of a few rows over the table's median: those rows should be checked
UNUSUAL_RATIO = 300.0  # the same for D/N
MAX_UNUSUAL_ROWS = 0.1  # fraction of the rows
MAX_BUDGET_SPREAD = 10.0  # between runs, of C / budget_flops
MAX_LOSS = 20.0  # nats per token; a uniform guess over a million tokens has 13.8
MIN_N = 5e3  # parameters; a smaller median is a count in thousands or more
MIN_SURFACE = 12  # runs from which losses are compared with a surface
SURFACE_STEPS = 20
MAX_SCATTER = 0.02  # of ln L around the surface; with more, a factor of ln 2 is not clear
MIN_OTHER = 0.1  # share of the runs; fewer are noted, as a few runs may have trained badly
MAX_OTHER = 0.4  # share of the runs; with more, it is not clear which unit is the other
LN_BITS = -math.log(math.log(2))  # ln of (loss in bits / loss in nats)
MIN_BITS = 1.3  # largest over smallest loss, below which both units cannot occur
TOKENS_PER_PARAM = (1e-3, 1e6)  # range of D/N

_SCALES = {1.0: "", 1e3: "thousands", 1e6: "millions", 1e9: "billions", 1e12: "trillions"}
_FLOP_SCALES = {
    1.0: "", 1e9: "GFLOPs", 1e12: "TFLOPs", 1e15: "PFLOPs", 1e18: "EFLOPs", 1e21: "ZFLOPs",
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
    N, D = columns["N"], columns["D"]
    factor, ratio = 6 * N * (D / columns["C"]), (D / N)[final]
    median, median_N = float(np.median(factor[final])), float(np.median(N[final]))
    median_ratio = float(np.median(ratio))
    low, high = TOKENS_PER_PARAM

    def scaled(ratio: float) -> str:
        return f"{'D' if ratio < 1 else 'N'} looks like millions or billions. {_ADVICE}"

    spent = (columns["C"] / columns["budget_flops"])[final]
    spent = spent[np.isfinite(spent)] if np.isfinite(spent).any() else np.ones(1)
    budget_factor = float(np.median(spent))
    if not 1 / MAX_FACTOR <= median <= MAX_FACTOR:
        cause = _cause(median_N, float(np.median(D[final])), median)
        problem = f"the median of 6*N*D/C is {median:.2g}: {cause}. {_ADVICE}"
    elif median_N < MIN_N:
        problem = f"the median of N is {median_N:.3g}: {scaled(math.inf)}"
    elif not low <= median_ratio <= high:
        problem = f"the median of D/N is {median_ratio:.2g}: {scaled(median_ratio)}"
    elif spent.max() > MAX_BUDGET_SPREAD * spent.min():
        problem = (
            f"C / budget_flops is {spent.min():.3g} in one run and {spent.max():.3g} in another. Check "
            "that each budget is in the row of its run; a budget is the intended C in FLOPs."
        )
    elif not 1 / MAX_FACTOR <= budget_factor <= MAX_FACTOR:
        problem = (
            f"the median of C / budget_flops is {budget_factor:.3g}. Give budgets in FLOPs, such as 6e18, "
            "or leave them empty."
        )
    else:
        problem = ""
    if problem:
        raise InputError(f"{table.name}: {problem}")

    off, far = (np.abs(np.log(x)) > np.log(MAX_FACTOR) for x in (factor, factor / median))
    wrong = np.flatnonzero(off & far)
    outside = np.flatnonzero((ratio < low) | (ratio > high))
    too_high, perplexity = perplexities(columns["L"][final])
    other = other_loss_unit(N[final], D[final], columns["L"][final])
    unit_of_losses = (
        f"L differs from the losses of similar runs by a factor of about ln 2 in {len(other)} of {len(ratio)} "
        "runs. If these losses are in bits per token, multiply them by 0.6931; if the other losses are, "
        "multiply those. If all are in nats, the training of these runs went wrong: leave them out."
    )
    if len(wrong):
        i = wrong[0]
        cause = _cause(N[i], D[i], factor[i], max_errors=1)
        problem = f"6*N*D/C is {factor[i]:.2g}, the median of the table is {median:.2g}: {cause}. {_ADVICE}"
        bad, n = rows[wrong], len(rows)
    elif len(outside):
        first = ratio[outside[0]]
        problem = (
            f"D/N is {first:.2g}, the median of the table is {median_ratio:.2g}: {scaled(first)}"
        )
        bad, n = rows[final][outside], len(ratio)
    elif len(too_high):
        problem, bad, n = perplexity, rows[final][too_high], len(ratio)
    elif len(other) >= MIN_OTHER * len(ratio):
        problem, bad, n = unit_of_losses, rows[final][other], len(ratio)
    else:
        problem, bad, n = "", rows, len(ratio)
    if problem:  # lines are named unless most rows are wrong
        lines = f" {table.rows(bad)}" if 2 * len(bad) <= n else ""
        raise InputError(f"{table.name}{lines}: {problem}")

    notes = []
    if not 1 / USUAL_FACTOR <= median <= USUAL_FACTOR:
        notes.append(
            f"The median of 6*N*D/C is {median:.2g}, further from 1 than usual conventions explain. "
            "Check how C, N and D are counted."
        )
    elif median_ratio < 1:
        notes.append(f"The median of D/N is {median_ratio:.2g}. Check the columns N and D.")
    unusual = np.flatnonzero(np.abs(np.log(factor[final] / median)) > np.log(UNUSUAL_FACTOR))
    if 0 < len(unusual) <= MAX_UNUSUAL_ROWS * len(ratio):
        notes.append(
            f"{table.rows(rows[final][unusual])}: 6*N*D/C is {factor[final][unusual[0]]:.2g}, the median of "
            f"the table is {median:.2g}. Check C, N and D there."
        )
    distant = np.flatnonzero(np.abs(np.log(ratio / median_ratio)) > np.log(UNUSUAL_RATIO))
    if 0 < len(distant) <= MAX_UNUSUAL_ROWS * len(ratio):  # 6*N*D/C is 1 where C was computed
        notes.append(
            f"{table.rows(rows[final][distant])}: D/N is {ratio[distant[0]]:.2g}, the median of the table is "
            f"{median_ratio:.2g}. Check N and D there."
        )
    if 0 < len(other) < MIN_OTHER * len(ratio):
        notes.append(f"{table.rows(rows[final][other])}: {unit_of_losses}")
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


def other_loss_unit(N: np.ndarray, D: np.ndarray, L: np.ndarray) -> np.ndarray:
    """Indices of losses in bits among losses in nats, or the other way round; empty if there are none.

    They differ by a factor of ln 2 from a quadratic surface in ln N and ln D, which is fitted to
    ln L by least absolute residuals. Several of one sign are needed, as one run may have diverged.

    Args:
        N, D, L: (n,) of the final losses.
    """
    none = np.zeros(0, int)
    if len(L) < MIN_SURFACE or L.max() < MIN_BITS * L.min():
        return none
    x, z, y = (np.log(v) - np.log(v).mean() for v in (N, D, L))
    surface = np.stack([np.ones_like(x), x, z, x * x, x * z, z * z], axis=1)
    r, weights = y, np.ones_like(y)
    for _ in range(SURFACE_STEPS):  # iteratively reweighted least squares
        root = np.sqrt(weights)[:, None]
        r = y - surface @ np.linalg.lstsq(surface * root, y * root[:, 0], rcond=None)[0]
        weights = 1 / np.maximum(np.abs(r), 1e-4)
    scatter = 1.4826 * float(np.median(np.abs(r)))
    if scatter > MAX_SCATTER:
        return none
    distance = np.abs(np.abs(r) - LN_BITS)
    other = np.flatnonzero(distance < max(3 * scatter, MAX_SCATTER))
    one_sign = len(set(np.sign(r[other]))) == 1
    return other if one_sign and 2 <= len(other) <= MAX_OTHER * len(L) else none


def _cause(N: float, D: float, factor: float, max_errors: int = 3) -> str:
    """The fewest unit errors that would bring 6*N*D/C close to one; the most plausible first."""
    candidates = []
    for by_N, by_D, by_C in itertools.product(_SCALES, _SCALES, _FLOP_SCALES):
        if not 1 / 3 <= factor * by_N * by_D / by_C <= 3:
            continue
        units = {"N": _SCALES[by_N], "D": _SCALES[by_D], "C": _FLOP_SCALES[by_C]}
        errors = [f"{name} looks like {unit}" for name, unit in units.items() if unit]
        implausible = (N * by_N < MIN_N) + (not 1e-2 <= D * by_D / (N * by_N) <= 1e5)
        if len(errors) <= max_errors:
            candidates.append((implausible, len(errors), " and ".join(errors)))
    return min(candidates)[2] if candidates else "the unit of C, N or D is wrong"
